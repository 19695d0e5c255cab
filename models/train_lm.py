#!/usr/bin/env python3
"""Train skep's small language model, skep-mini-lm, from nothing.

A Llama-architecture model (lm_model.py) with a byte-level tokenizer of its own, on texts from
Debian's packages and from the project's own generators (lm_corpus.py). Two CPU cores and about an
hour are enough; what comes out is a model for demos and tests.

Steps, each leaving its files in --work:

  corpus     write the documents, <work>/corpus/KIND.jsonl
  tokenizer  train 4,096 byte-level pieces on the training documents, <work>/tokenizer.json
  encode     cut the documents into tokens, <work>/tokens/KIND.{train,held}.npz
  train      train; <work>/checkpoint.pt now and then, <work>/model.pt at the end
  export     write the GGUF file to --out, and check it (lm_gguf.py)
  all        the five in order

Inputs:

  --avail        the output of `apt-cache dumpavail`
  --translation  Debian's Translation-en file, plain text (README.md says how to get it)
  --wordnet      the folder with WordNet 3.0's data.noun, ... (Debian's package wordnet-base)
  --novels       Rdata.rdb of Debian's package r-cran-janeaustenr
  --tickets      lines of `skep-tickets tickets --with-label`
  --village      lines with a prompt and a completion, of the village's example `dialogues`

Matrices learn by Muon (Jordan et al., 2024: momentum whose matrix is made orthogonal by
Newton-Schulz iterations), embeddings and norms by AdamW. The learning rate is full after a short
warm-up, and falls in a straight line to nothing in the last --decay steps; a file <work>/cool-down
with a number of steps, made while it learns, lets that begin at once. How often each kind of text
is drawn changes on the way (MIXES): first English and copying, then what the model is for. Running
texts are learned in stretches, the others one to a row, padded to one of a few lengths.

The model computes in bfloat16 on f32 weights, compiled by torch.compile, which needs g++ and
Python's headers; a processor with AMX gains most.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

import numpy as np

SEED = 20261
RUNNING = ["debian", "glosses", "novels", "support", "definitions", "packages"]
ASKED = ["tickets", "village", "copying"]
KINDS = RUNNING + ASKED
END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKS = [END, TURN, TURN_END]
VOCABULARY = 4096
# In stored tokens, this bit says that the token belongs to a prompt.
PROMPT = 1 << 15
# What a token counts in the loss, beside 1 for a token of a running text.
PROMPT_WEIGHT = 0.2
ANSWER_WEIGHT = {"tickets": 8.0, "village": 3.0, "copying": 3.0}

# Tokens of a stretch of running text, and of some of them at the end.
STRETCH, LONG_STRETCH = 128, 512
# Rows of asked texts: their tokens, and how many of them are counted: all of the answer, and some of
# the prompt.
ASKED_ROWS = {64: 32, 96: 40, 128: 48, 160: 56}
# A step learns from so many parts of so many tokens.
PARTS, PART_TOKENS = 4, 2048
WARM_UP = 50

# How often each kind is drawn: the share of the tokens, padding with them. First, for so many steps,
# then, and while the learning rate falls; then some of the running text is in long stretches.
BEGIN_STEPS = 250
MIXES = {
    "begin": {"debian": 12, "glosses": 9, "novels": 10, "support": 4, "definitions": 6, "packages": 4, "tickets": 15, "village": 20, "copying": 20},
    "middle": {"debian": 8, "glosses": 6, "novels": 7, "support": 3, "definitions": 5, "packages": 3, "tickets": 22, "village": 42, "copying": 4},
    "end": {"debian": 6, "glosses": 5, "novels": 6, "support": 2, "definitions": 5, "packages": 3, "tickets": 22, "village": 49, "copying": 2},
}
LONG_SHARE = 0.3


# --------------------------------------------------------------------------
# corpus


def step_corpus(a):
    import lm_corpus
    from distill_encoder import read_packages

    folder = a.work / "corpus"
    folder.mkdir(exist_ok=True)

    def missing(kind):
        return not (folder / f"{kind}.jsonl").exists()

    def write(documents):
        rng = random.Random(SEED)
        for kind in sorted({d["kind"] for d in documents}):
            own = [d for d in documents if d["kind"] == kind]
            rng.shuffle(own)
            with open(folder / f"{kind}.jsonl", "w", encoding="utf-8") as f:
                for d in own:
                    f.write(json.dumps(d, ensure_ascii=False) + "\n")
            print(f"  {kind:12s} {len(own):7d} documents, {sum(map(letters, own)) / 1e6:.1f} MB")

    if missing("debian"):
        write(lm_corpus.debian(read_packages(a.avail, a.translation), random.Random(SEED)))
    if missing("glosses"):
        write(lm_corpus.wordnet(a.wordnet, random.Random(SEED)))
    if missing("novels"):
        write(lm_corpus.novels(a.novels))
    if missing("support"):
        write(lm_corpus.support(16000, SEED))
    if missing("tickets"):
        phrases = lm_corpus.Phrases(Path(__file__).parent.parent / "tests/tickets/src/phrases")
        write(lm_corpus.tickets(a.tickets, phrases, random.Random(SEED)) + lm_corpus.topics(16000, SEED))
    if missing("village") or missing("copying"):
        names = lm_corpus.Names(Path(__file__).parent.parent / "guests/village/src/names.rs", a.wordnet)
        write(lm_corpus.village(a.village, names, random.Random(SEED)))
        write(lm_corpus.copying(40000, names, random.Random(SEED)))


def letters(document):
    return sum(len(part[1 if "turns" in document else 0]) for part in document.get("turns") or document["parts"])


def documents(work, kind):
    path = work / "corpus" / f"{kind}.jsonl"
    if path.exists():
        with open(path, encoding="utf-8") as lines:
            yield from map(json.loads, lines)


# --------------------------------------------------------------------------
# tokenizer


def step_tokenizer(a):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    if (a.work / "tokenizer.json").exists():
        return
    tokenizer = Tokenizer(models.BPE())
    # The rule that GGUF files call `smollm`: each digit apart, then as GPT-2 does.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()

    def texts():
        for kind in KINDS:
            used = 0
            for d in documents(a.work, kind):
                if d["held"] or used > 6_000_000:
                    continue
                used += letters(d)
                yield "\n".join(text for _, text in d["turns"]) if "turns" in d else "".join(t for t, _ in d["parts"])

    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(mark, normalized=False, special=True) for mark in MARKS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    tokenizer.save(str(a.work / "tokenizer.json"))


# --------------------------------------------------------------------------
# encode


class Cutter:
    """Cuts documents into tokens; what belongs to a prompt has the bit PROMPT."""

    def __init__(self, work):
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
        self.end, self.turn, self.turn_end = (self.tokenizer.token_to_id(mark) for mark in MARKS)

    def text(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def document(self, d):
        ids = [self.end]
        if "turns" not in d:
            for text, prompt in d["parts"]:
                ids += [i | PROMPT * prompt for i in self.text(text)]
            return ids
        for role, content in d["turns"]:
            prompt = PROMPT * (role != "assistant")
            ids += [i | PROMPT for i in [self.turn] + self.text(f"{role}\n")]
            ids += [i | prompt for i in self.text(content) + [self.turn_end]]
            ids += [i | PROMPT for i in self.text("\n")]
        return ids


def step_encode(a):
    """Tokens of all documents of a kind in one list, and where each begins in it."""
    folder = a.work / "tokens"
    folder.mkdir(exist_ok=True)
    cutter = Cutter(a.work)
    for kind in KINDS:
        if (folder / f"{kind}.train.npz").exists():
            continue
        tokens, starts, size = {0: [], 1: []}, {0: [], 1: []}, 0
        for d in documents(a.work, kind):
            held = d["held"]
            if held > 1:
                continue
            starts[held].append(len(tokens[held]))
            tokens[held] += cutter.document(d)
            size += letters(d)
        for held, name in ((1, "held"), (0, "train")):
            np.savez(folder / f"{kind}.{name}.npz", tokens=np.array(tokens[held], np.uint16), starts=np.array(starts[held], np.int64))
        count = len(tokens[0]) + len(tokens[1])
        print(f"  {kind:12s} {len(tokens[0]):9d} tokens, {size / count:.2f} letters a token; held out {len(tokens[1])}", flush=True)


# --------------------------------------------------------------------------
# train


class Muon:
    """Momentum whose matrix is made orthogonal (Jordan et al., "Muon", 2024): five steps of the
    quintic Newton-Schulz iteration, matrices of one shape together."""

    def __init__(self, parameters, momentum=0.95, decay=0.02):
        import torch

        self.momentum, self.decay = momentum, decay
        self.groups = {}
        for p in parameters:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.mean = {shape: torch.zeros(len(ps), *shape) for shape, ps in self.groups.items()}

    def step(self, rate):
        import torch

        for shape, ps in self.groups.items():
            gradient = torch.stack([p.grad for p in ps])
            mean = self.mean[shape]
            mean.lerp_(gradient, 1 - self.momentum)
            x = gradient.lerp_(mean, self.momentum)
            tall = shape[0] > shape[1]
            x = x.mT if tall else x
            x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
            for _ in range(5):
                square = x @ x.mT
                x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
            x = (x.mT if tall else x).float()
            for p, update in zip(ps, x):
                p.mul_(1 - rate * self.decay).add_(update, alpha=-rate * max(1, shape[0] / shape[1]) ** 0.5)


class Texts:
    """The tokens of all kinds, and random parts of steps made of them."""

    def __init__(self, work, name):
        self.tokens, self.documents = {}, {}
        for kind in KINDS:
            found = np.load(work / "tokens" / f"{kind}.{name}.npz")
            self.tokens[kind], starts = found["tokens"], found["starts"]
            if kind in ASKED:
                ends = np.append(starts[1:], len(self.tokens[kind]))
                self.documents[kind] = self.by_length(starts, ends)

    @staticmethod
    def by_length(starts, ends):
        """For each length of rows, where the documents begin and end that it is the shortest for.
        Longer ones than the longest are left out."""
        out, shortest = {}, 0
        for length in ASKED_ROWS:
            fits = (ends - starts > shortest) & (ends - starts <= length)
            out[length] = np.stack([starts[fits], ends[fits]], 1)
            shortest = length
        return out

    def shares(self, mix, long_share):
        """How often parts of each length are drawn, and in them each kind. Lengths of running text
        are negative."""
        running = sum(mix[kind] for kind in RUNNING)
        kinds = {kind: mix[kind] for kind in RUNNING}
        out = {-STRETCH: (running * (1 - long_share), kinds), -LONG_STRETCH: (running * long_share, kinds)}
        for length in ASKED_ROWS:
            tokens = {kind: len(self.documents[kind][length]) * length for kind in ASKED}
            every = {kind: sum(len(d) * size for size, d in self.documents[kind].items()) for kind in ASKED}
            own = {kind: mix[kind] * tokens[kind] / every[kind] for kind in ASKED}
            out[length] = (sum(own.values()), own)
        return out

    def part(self, step, number, mix, long_share):
        """One of a step's parts: ids [rows, length + 1], the places that are counted, and how much.
        The same for the same step and number."""
        shares = self.shares(mix, long_share)
        lengths = list(shares)
        bounds = np.cumsum([shares[length][0] for length in lengths])
        # The parts of a step are spread evenly over the kinds.
        at = (np.random.default_rng([SEED, step]).random() + number) / PARTS % 1 * bounds[-1]
        length = lengths[min(np.searchsorted(bounds, at, "right"), len(lengths) - 1)]
        rng = np.random.default_rng([SEED, step, number])
        weights = shares[length][1]
        kinds = rng.choice(list(weights), PART_TOKENS // abs(length), p=np.array(list(weights.values())) / sum(weights.values()))
        rows = [self.stretch(kind, -length, rng) if length < 0 else self.asked(kind, length, rng) for kind in kinds]
        ids, chosen, counts = zip(*rows)
        chosen = np.stack(chosen) + np.arange(len(rows))[:, None] * abs(length)
        return np.stack(ids).astype(np.int64), chosen.ravel(), np.stack(counts).ravel().astype(np.float32)

    def stretch(self, kind, length, rng):
        tokens = self.tokens[kind]
        at = rng.integers(0, len(tokens) - length - 1)
        row = tokens[at : at + length + 1]
        return row & (PROMPT - 1), np.arange(length), np.where(row[1:] & PROMPT, PROMPT_WEIGHT, 1.0)

    def asked(self, kind, length, rng):
        documents = self.documents[kind][length]
        start, end = documents[rng.integers(len(documents))]
        row = np.zeros(length + 1, np.uint16)
        # What follows a document is the mark of its end, which is 0 as the padding is.
        row[: end - start] = self.tokens[kind][start:end]
        prompt = row[1 : end - start + 1] & PROMPT > 0
        answer = np.flatnonzero(~prompt)
        rest = rng.permutation(np.flatnonzero(prompt))
        count = ASKED_ROWS[length]
        chosen, counts = np.zeros(count, np.int64), np.zeros(count)
        some = np.concatenate([answer, rest])[:count]
        chosen[: len(some)] = some
        counts[: len(some)] = np.where(prompt[some], PROMPT_WEIGHT, ANSWER_WEIGHT[kind])
        return row & (PROMPT - 1), chosen, counts


def held_out_loss(model, texts, rows=32):
    """Nats a token of the kinds of text, what belongs to prompts left out."""
    import torch

    out = {}
    with torch.inference_mode():
        for kind in KINDS:
            rng = np.random.default_rng(SEED)
            if kind in ASKED:
                length = max(ASKED_ROWS, key=lambda length: len(texts.documents[kind][length]))
                some = [texts.asked(kind, length, rng) for _ in range(rows)]
            else:
                some = [texts.stretch(kind, STRETCH, rng) for _ in range(rows)]
            loss = count = 0.0
            for ids, chosen, counts in some:
                counted = chosen[counts == ANSWER_WEIGHT.get(kind, 1.0)]
                loss += model.losses(torch.from_numpy(ids.astype(np.int64))[None], torch.from_numpy(counted)).sum().item()
                count += len(counted)
            out[kind] = loss / max(count, 1)
    return out


class Workers:
    """Processes that compute the gradient of a step together.

    Each takes a part at a time until none is left, so a core that is busy with other work slows the
    rest down little; threads of one process would wait for it at every operation."""

    def __init__(self, model, texts, count):
        import torch
        from torch import multiprocessing

        model.share_memory()
        self.model, self.texts = model, texts
        self.parameters = list(model.parameters())
        self.losses = torch.compile(self.weighted, dynamic=False)
        self.next = multiprocessing.Value("i", 0)
        self.others = []
        for _ in range(count - 1):
            gradient = torch.zeros(sum(p.numel() for p in self.parameters)).share_memory_()
            here, there = multiprocessing.Pipe()
            process = multiprocessing.get_context("fork").Process(target=self.serve, args=(there, gradient), daemon=True)
            process.start()
            self.others.append((here, gradient))
        # Here first, so that the other processes find what the compiler made. No process may start
        # after a first gradient.
        for length, counted in [(STRETCH, STRETCH), (LONG_STRETCH, LONG_STRETCH), *ASKED_ROWS.items()]:
            began, rows = time.time(), PART_TOKENS // length
            ids, chosen = torch.zeros(rows, length + 1, dtype=torch.long), torch.zeros(rows * counted, dtype=torch.long)
            self.losses(ids, chosen, torch.zeros(rows * counted)).backward()
            print(f"  compiled for rows of {length}, {counted} counted, in {time.time() - began:.0f}s", flush=True)
        model.zero_grad(set_to_none=True)

    def weighted(self, ids, chosen, counts):
        import torch

        with torch.autocast("cpu", torch.bfloat16):
            losses = self.model.losses(ids, chosen)
        return (losses * counts).sum()

    def serve(self, pipe, gradient):
        import torch

        torch.set_num_threads(1)
        parent = os.getppid()
        while True:
            # The pipe does not end with the parent: this process has both of its ends.
            while not pipe.poll(5):
                if os.getppid() != parent:
                    return
            done = self.work(*pipe.recv())
            at = 0
            for p in self.parameters:
                own = gradient[at : at + p.numel()]
                own.zero_() if p.grad is None else own.copy_(p.grad.flatten())
                at += p.numel()
                p.grad = None
            pipe.send(done)

    def work(self, step, mix, long_share):
        """Adds the gradient of parts to the parameters' and returns the loss, its weight, and the
        processor's seconds so far."""
        import torch

        loss = weight = 0.0
        while True:
            with self.next.get_lock():
                number = self.next.value
                self.next.value += 1
            if number >= PARTS:
                return loss, weight, time.process_time()
            ids, chosen, counts = map(torch.from_numpy, self.texts.part(step, number, mix, long_share))
            part = self.losses(ids, chosen, counts)
            part.backward()
            loss += part.item()
            weight += counts.sum().item()

    def gradient(self, *of_step):
        """Leaves the gradient of the mean loss in the parameters; returns the loss and the seconds
        that the processor has worked, in all processes."""
        self.next.value = 0
        for pipe, _ in self.others:
            pipe.send(of_step)
        done = [self.work(*of_step)] + [pipe.recv() for pipe, _ in self.others]
        loss, weight, seconds = map(sum, zip(*done))
        for _, gradient in self.others:
            at = 0
            for p in self.parameters:
                other = gradient[at : at + p.numel()].view_as(p)
                p.grad = other.clone() if p.grad is None else p.grad.add_(other)
                at += p.numel()
        for p in self.parameters:
            p.grad.div_(weight)
        return loss / weight, seconds


def step_train(a):
    # No processes of the compiler's own, which are in the way of those that learn.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    import torch
    from lm_model import Llama, Shape

    torch.set_num_threads(1)
    if (a.work / "model.pt").exists():
        return
    shape = Shape(**json.loads(a.shape))
    model = Llama(shape).start(SEED)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name != "embedding"]
    rest = [p for name, p in model.named_parameters() if p.ndim == 1 or name == "embedding"]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(rest, lr=0, betas=(0.9, 0.95), weight_decay=0)
    texts, held = Texts(a.work, "train"), Texts(a.work, "held")
    # `cooling`: the step at which the learning rate began to fall, and in how many it does.
    state = {"step": 0, "tokens": 0, "wall": 0.0, "processor": 0.0, "cooling": None, "mixes": {}}
    checkpoint, cool_down = a.work / "checkpoint.pt", a.work / "cool-down"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(saved["model"])
        adam.load_state_dict(saved["adam"])
        muon.mean = saved["muon"]
        state = saved["state"]
    workers = Workers(model, texts, a.workers)
    count = sum(p.numel() for p in model.parameters())
    print(f"train: {count / 1e6:.2f} M parameters, from step {state['step']}", flush=True)
    began, wall, processor = time.time(), state["wall"], state["processor"]
    average = first = None
    told, told_tokens = began, state["tokens"]

    def save():
        part = a.work / "checkpoint.part"
        torch.save({"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.mean, "shape": shape.to_dict(), "state": state}, part)
        part.rename(checkpoint)
        print("  held out: " + ", ".join(f"{k} {v:.3f}" for k, v in held_out_loss(model, held).items()), flush=True)

    while True:
        step = state["step"]
        if cool_down.exists():
            # The file may be written again, to lengthen or to shorten what is under way.
            asked = int(cool_down.read_text().strip() or a.decay)
            state["cooling"] = (state["cooling"][0] if state["cooling"] else step, asked)
        elif state["cooling"] is None and step >= a.steps - a.decay:
            state["cooling"] = (step, a.decay)
        factor = min((step + 1) / WARM_UP, 1.0)
        phase = "begin" if step < BEGIN_STEPS else "middle"
        if state["cooling"]:
            at, length = state["cooling"]
            phase, factor = "end", 1 - (step - at) / length
            if factor <= 0:
                break
        loss, seconds = workers.gradient(step, MIXES[phase], LONG_SHARE * (phase == "end"))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = a.rate_embedding * factor
        with torch.no_grad():
            muon.step(a.rate * factor)
        adam.step()
        model.zero_grad(set_to_none=True)
        first = first if first is not None else seconds
        state["step"] += 1
        state["tokens"] += PARTS * PART_TOKENS
        state["mixes"][phase] = state["mixes"].get(phase, 0) + 1
        now = time.time()
        state["wall"], state["processor"] = wall + now - began, processor + seconds - first
        average = loss if average is None else 0.97 * average + 0.03 * loss
        if state["step"] % 20 == 0:
            speed, told, told_tokens = (state["tokens"] - told_tokens) / (now - told), now, state["tokens"]
            print(f"  step {state['step']} {state['wall']:.0f}s, processor {state['processor']:.0f}s, loss {average:.4f} rate {a.rate * factor:.4f} {speed:.0f} tokens/s", flush=True)
        if state["step"] % 50 == 0:
            save()
    save()
    torch.save({"model": model.state_dict(), "shape": shape.to_dict(), "state": state}, a.work / "model.pt")
    print(f"train: {state}")


# --------------------------------------------------------------------------
# export


def step_export(a):
    import lm_gguf

    lm_gguf.write(a.work, a.out)
    lm_gguf.check(a.work, a.out)


def main():
    p = argparse.ArgumentParser(description="Train skep's small language model.")
    p.add_argument("step", choices=["corpus", "tokenizer", "encode", "train", "export", "all"])
    p.add_argument("--work", type=Path, required=True, help="folder for everything in between")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "skep-mini-lm" / "skep-mini-lm.gguf")
    p.add_argument("--avail", type=Path, help="output of `apt-cache dumpavail`")
    p.add_argument("--translation", type=Path, help="Debian's Translation-en, plain text")
    p.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    p.add_argument("--novels", type=Path, default=Path("/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"))
    p.add_argument("--tickets", type=Path, help="output of `skep-tickets tickets --with-label`")
    p.add_argument("--village", type=Path, help="output of the village's example `dialogues`")
    p.add_argument("--shape", default="{}", help="what differs from lm_model.Shape, as JSON")
    p.add_argument("--steps", type=int, default=4000, help="of some 8,000 tokens")
    p.add_argument("--decay", type=int, default=1200, help="the last steps, in which the learning rate falls")
    p.add_argument("--rate", type=float, default=0.02, help="Muon's learning rate")
    p.add_argument("--rate-embedding", type=float, default=0.004, help="AdamW's learning rate")
    p.add_argument("--workers", type=int, default=2, help="processes, one for each core")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    steps = {"corpus": step_corpus, "tokenizer": step_tokenizer, "encode": step_encode, "train": step_train, "export": step_export}
    for name in steps if a.step == "all" else [a.step]:
        steps[name](a)


if __name__ == "__main__":
    main()
