#!/usr/bin/env python3
"""Train skep's small language model, skep-mini-lm, from nothing.

A Llama-architecture model (lm_model.py) with a byte-level tokenizer of its own, on texts from
Debian's packages and from the project's own generators (lm_corpus.py). One or two CPU cores and
about an hour are enough; what comes out is a model for demos and tests.

Steps, each leaving its files in --work:

  corpus     write the documents, <work>/corpus/KIND.jsonl
  tokenizer  train 4,096 byte-level pieces on the training documents, <work>/tokenizer.json
  encode     cut the documents into tokens, <work>/tokens/KIND.{train,held}.npy
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
Newton-Schulz iterations), embeddings and norms by AdamW. The learning rate follows the time: full
after a short warm-up until half of --minutes have passed, then a straight line to nothing.
Stretches of the kinds of text are drawn by the weights in MIXES, which change on the way:
first English in general, then what the model is for. Of prompts, which the model need not write,
the loss counts a fifth.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

import numpy as np

SEED = 20261
KINDS = ["debian", "glosses", "novels", "support", "tickets", "definitions", "packages", "village"]
END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MARKS = [END, TURN, TURN_END]
VOCABULARY = 4096
# In stored tokens, this bit says that the token belongs to a prompt.
PROMPT = 1 << 15
PROMPT_WEIGHT = 0.2

# From which part of the time on, how often each kind is drawn, and the length of a stretch.
MIXES = [
    (0.0, 256, {"debian": 22, "glosses": 14, "novels": 15, "support": 4, "tickets": 12, "definitions": 11, "packages": 6, "village": 16}),
    (0.45, 256, {"debian": 11, "glosses": 8, "novels": 8, "support": 2, "tickets": 17, "definitions": 10, "packages": 6, "village": 38}),
    (0.55, 256, {"debian": 8, "glosses": 6, "novels": 7, "support": 2, "tickets": 14, "definitions": 8, "packages": 4, "village": 51}),
    (0.88, 512, {"debian": 8, "glosses": 6, "novels": 7, "support": 2, "tickets": 14, "definitions": 8, "packages": 4, "village": 51}),
]


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
    if missing("village"):
        write(lm_corpus.village(a.village))


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
    folder = a.work / "tokens"
    folder.mkdir(exist_ok=True)
    cutter = Cutter(a.work)
    for kind in KINDS:
        if (folder / f"{kind}.train.npy").exists():
            continue
        split = {0: [], 1: []}
        size = {0: 0, 1: 0}
        for d in documents(a.work, kind):
            if d["held"] > 1:
                continue
            split[d["held"]] += cutter.document(d)
            size[d["held"]] += letters(d)
        if split[0]:
            for held, name in ((1, "held"), (0, "train")):
                np.save(folder / f"{kind}.{name}.npy", np.array(split[held], np.uint16))
            print(f"  {kind:12s} {len(split[0]):9d} tokens, {size[0] / len(split[0]):.2f} letters a token; held out {len(split[1])}")


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
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                square = x @ x.mT
                x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
            x = x.mT if tall else x
            for p, update in zip(ps, x):
                p.mul_(1 - rate * self.decay).add_(update, alpha=-rate * max(1, shape[0] / shape[1]) ** 0.5)


def load_tokens(work, name):
    found = {kind: work / "tokens" / f"{kind}.{name}.npy" for kind in KINDS}
    return {kind: np.load(path) for kind, path in found.items() if path.exists()}


def batch_of(tokens, weights, length, tokens_per_batch, rng):
    """Stretches of the kinds of text, [rows, length + 1]."""
    kinds = [kind for kind in weights if kind in tokens]
    share = np.array([weights[kind] for kind in kinds], float)
    rows = []
    for kind in rng.choice(kinds, tokens_per_batch // length, p=share / share.sum()):
        at = rng.integers(0, len(tokens[kind]) - length - 1)
        rows.append(tokens[kind][at : at + length + 1])
    return np.stack(rows)


def split_bits(rows):
    """Token ids, and the weight of each token but the first in the loss."""
    import torch

    ids = torch.from_numpy((rows & (PROMPT - 1)).astype(np.int64))
    weight = torch.from_numpy(np.where(rows[:, 1:] & PROMPT, PROMPT_WEIGHT, 1.0).astype(np.float32))
    return ids, weight


def held_out_loss(model, tokens, limit=16384, length=256):
    """Nats a token of the kinds of text, what belongs to prompts left out."""
    import torch

    out = {}
    with torch.inference_mode():
        for kind, ids in tokens.items():
            ids = ids[: limit - limit % (length + 1)]
            rows = ids[: len(ids) // (length + 1) * (length + 1)].reshape(-1, length + 1)
            loss = count = 0.0
            for part in np.array_split(rows, max(1, len(rows) // 16)):
                x, weight = split_bits(part)
                weight = (weight == 1).float()
                loss += (model.losses(x) * weight).sum().item()
                count += weight.sum().item()
            out[kind] = loss / max(count, 1)
    return out


class Workers:
    """Processes that compute the gradient of a batch together.

    Each takes a few rows at a time until none is left, so a core that is busy with other work
    slows the rest down little; threads of one process would wait for it at every operation."""

    def __init__(self, model, count, rows, tokens_per_part):
        import torch
        from torch import multiprocessing

        model.share_memory()
        self.model, self.tokens_per_part = model, tokens_per_part
        self.parameters = list(model.parameters())
        self.rows = torch.zeros(rows, dtype=torch.int32).share_memory_()
        self.next = multiprocessing.Value("i", 0)
        self.others = []
        for _ in range(count - 1):
            gradient = torch.zeros(sum(p.numel() for p in self.parameters)).share_memory_()
            here, there = multiprocessing.Pipe()
            process = multiprocessing.get_context("fork").Process(target=self.serve, args=(there, gradient), daemon=True)
            process.start()
            self.others.append((here, gradient))

    def serve(self, pipe, gradient):
        import torch

        torch.set_num_threads(1)
        parent = os.getppid()
        while True:
            # The pipe does not end with the parent: this process has both of its ends.
            while not pipe.poll(5):
                if os.getppid() != parent:
                    return
            shape, total = pipe.recv()
            loss = self.work(shape, total)
            at = 0
            for p in self.parameters:
                own = gradient[at : at + p.numel()]
                own.zero_() if p.grad is None else own.copy_(p.grad.flatten())
                at += p.numel()
                p.grad = None
            pipe.send(loss)

    def work(self, shape, total):
        rows = self.rows[: shape[0] * shape[1]].view(shape).numpy()
        few = max(1, self.tokens_per_part // shape[1])
        loss = 0.0
        while True:
            with self.next.get_lock():
                at = self.next.value
                self.next.value += few
            if at >= shape[0]:
                return loss
            ids, weight = split_bits(rows[at : at + few])
            part = (self.model.losses(ids) * weight).sum() / total
            part.backward()
            loss += part.item()

    def gradient(self, rows):
        """Leaves the gradient of the mean loss in the parameters and returns the loss."""
        import torch

        total = split_bits(rows)[1].sum().item()
        self.rows[: rows.size] = torch.from_numpy(rows.astype(np.int32)).flatten()
        self.next.value = 0
        for pipe, _ in self.others:
            pipe.send((rows.shape, total))
        loss = self.work(rows.shape, total)
        for pipe, gradient in self.others:
            loss += pipe.recv()
            at = 0
            for p in self.parameters:
                other = gradient[at : at + p.numel()].view_as(p)
                p.grad = other.clone() if p.grad is None else p.grad.add_(other)
                at += p.numel()
        return loss


def step_train(a):
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
    rng = np.random.default_rng(SEED)
    tokens, held = load_tokens(a.work, "train"), load_tokens(a.work, "held")
    step, seen, spent = 0, {}, 0.0
    checkpoint = a.work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        muon.mean = state["muon"]
        rng.bit_generator.state = state["rng"]
        step, seen, spent = state["step"], state["seen"], state["spent"]
    workers = Workers(model, a.workers, 2 * a.batch, 1024)
    count = sum(p.numel() for p in model.parameters())
    print(f"train: {count / 1e6:.2f} M parameters, from step {step}, {spent:.0f}s of {a.minutes * 60:.0f}s", flush=True)
    began = told = saved = time.time()
    average, told_step = None, step

    def save():
        part = a.work / "checkpoint.part"
        state = {"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.mean, "rng": rng.bit_generator.state}
        state |= {"step": step, "seen": seen, "spent": spent + time.time() - began, "shape": shape.to_dict()}
        torch.save(state, part)
        part.rename(checkpoint)

    def report():
        print("  held out: " + ", ".join(f"{k} {v:.3f}" for k, v in held_out_loss(model, held).items()), flush=True)

    while True:
        done = (spent + time.time() - began) / (a.minutes * 60)
        if done >= 1 or (a.steps and step >= a.steps):
            break
        length, weights = [mix[1:] for mix in MIXES if mix[0] <= done][-1]
        rows = batch_of(tokens, weights, length, a.batch, rng)
        loss = workers.gradient(rows)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = min((step + 1) / 30, 1.0, (1 - done) / 0.5 + 0.005)
        for group in adam.param_groups:
            group["lr"] = a.rate_embedding * factor
        with torch.no_grad():
            muon.step(a.rate * factor)
        adam.step()
        model.zero_grad(set_to_none=True)
        step += 1
        seen[length] = seen.get(length, 0) + len(rows) * length
        average = loss if average is None else 0.97 * average + 0.03 * loss
        now = time.time()
        if now - told > 30:
            speed = (step - told_step) * a.batch / (now - told)
            told, told_step = now, step
            print(f"  step {step} {100 * done:.1f}% {spent + now - began:.0f}s loss {average:.4f} lr {a.rate * factor:.4f} {speed:.0f} tokens/s", flush=True)
        if now - saved > 180:
            save()
            saved = time.time()
            if step % 3 == 0:
                report()
    save()
    if not a.steps:
        torch.save({"model": model.state_dict(), "shape": shape.to_dict(), "step": step, "seen": seen}, a.work / "model.pt")
    print(f"train: {step} steps, {sum(seen.values()) / 1e6:.2f} M tokens, {spent + time.time() - began:.0f}s")
    report()


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
    p.add_argument("--minutes", type=float, default=60)
    p.add_argument("--steps", type=int, help="stop after so many steps, to measure")
    p.add_argument("--batch", type=int, default=4096, help="tokens")
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
