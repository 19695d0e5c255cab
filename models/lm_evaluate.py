#!/usr/bin/env python3
"""Measure skep-mini-lm, from the GGUF file alone: loss on documents that were held out, samples,
and how often the likeliest label of a ticket is the right one.

    python lm_evaluate.py --work WORK --json WORK/results.json

WORK is the folder of train_lm.py, for the held-out documents. All figures are of the weights as
they are stored (Q8_0), computed in f32. Samples are taken in order, with fixed seeds: none is
picked.
"""

import argparse
import json
import math
import random
import re
from collections import Counter
from pathlib import Path

import lm_corpus
import lm_gguf
import lm_scene
import numpy as np
import torch
import torch.nn.functional as F
from train_lm import KINDS, PROMPT, SEED, Cutter, documents

LABEL_FORMS = {
    "label only": "ticket: {text}\nlabel:",
    "labels and ticket": "labels: {labels}\nticket: {text}\nlabel:",
    "conversation": None,
}


def lists_of_losses(model, lists, tokens_per_batch=8192):
    """For each list of token ids, the loss of each token but the first, in nats."""
    order = sorted(range(len(lists)), key=lambda i: len(lists[i]))
    out = [None] * len(lists)
    with torch.inference_mode():
        while order:
            longest = len(lists[order[-1]])
            some = [order.pop() for _ in range(min(len(order), max(1, tokens_per_batch // longest)))]
            x = torch.zeros(len(some), longest, dtype=torch.long)
            for row, i in enumerate(some):
                x[row, : len(lists[i])] = torch.tensor(lists[i])
            losses = model.losses(x)
            for row, i in enumerate(some):
                out[i] = losses[row, : len(lists[i]) - 1].numpy()
    return out


def held_out(model, cutter, work, limit):
    """Nats a token and bits a byte of each kind's held-out documents, prompts left out."""
    out = {}
    for kind in KINDS:
        found = [d for d in documents(work, kind) if d["held"] == 1][:limit]
        lists = [cutter.document(d)[: model.s.context] for d in found]
        if not lists:
            continue
        nats = tokens = size = 0
        for ids, losses in zip(lists, lists_of_losses(model, [[i & (PROMPT - 1) for i in ids] for ids in lists])):
            counted = np.array([not i & PROMPT for i in ids[1:]])
            nats += float(losses[counted].sum())
            tokens += int(counted.sum())
            text = cutter.tokenizer.decode([i for i in ids[1:] if not i & PROMPT], skip_special_tokens=True)
            size += len(text.encode())
        out[kind] = {
            "documents": len(lists),
            "tokens": tokens,
            "loss": round(nats / tokens, 3),
            "bits_per_byte": round(nats / math.log(2) / size, 3),
        }
    return out


def template(tokenizer, prompt):
    text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    return lm_gguf.begun(tokenizer, text)


def classify(model, tokenizer, rows, labels, form):
    """The share of tickets whose label's tokens are the likeliest, by the sum of logarithms."""
    lists, starts = [], []
    for row in rows:
        names = ", ".join(labels)
        if LABEL_FORMS[form]:
            prompt = lm_gguf.begun(tokenizer, LABEL_FORMS[form].format(text=row["ticket"], labels=names))
        else:
            question = lm_corpus.TICKET_QUESTIONS[0].format(text=row["ticket"], labels=names)
            prompt = template(tokenizer, question)
        for label in labels:
            choice = tokenizer.encode(f" {label}" if LABEL_FORMS[form] else label, add_special_tokens=False).ids
            lists.append(prompt + choice)
            starts.append(len(prompt) - 1)
    sums = [losses[start:].sum() for losses, start in zip(lists_of_losses(model, lists), starts)]
    best = np.array(sums).reshape(len(rows), len(labels)).argmin(1)
    return sum(labels[b] == row["label"] for b, row in zip(best, rows)) / len(rows)


def tickets(model, tokenizer, work, count):
    """Accuracy on tickets made of phrases that were learned, and of phrases that were not."""
    rows = [d for d in documents(work, "tickets") if "ticket" in d]
    labels = sorted({row["label"] for row in rows})
    out = {"chance": round(1 / len(labels), 3)}
    for held, name in ((1, "phrases that were learned"), (2, "phrases that were not")):
        some = [row for row in rows if row["held"] == held][:count]
        out[name] = {"tickets": len(some)}
        out[name] |= {form: round(classify(model, tokenizer, some, labels, form), 3) for form in LABEL_FORMS}
    return out


@torch.inference_mode()
def write(model, ids, ends, temperature, generator, limit=60):
    """What the model writes after these tokens, until one of `ends`."""
    ids, start, read = list(ids), len(ids), 0
    kept = [[] for _ in model.layers]
    while len(ids) - start < limit and len(ids) < model.s.context:
        logits = model(torch.tensor([ids[read:]]), kept)[0, -1]
        read = len(ids)
        if temperature:
            chosen = int(torch.multinomial(F.softmax(logits / temperature, -1), 1, generator=generator))
        else:
            chosen = int(logits.argmax())
        if chosen in ends:
            break
        ids.append(chosen)
    return ids[start:]


def scenes(work, count):
    """Held-out scenes, the first of a shuffle: any, and such in which something may be done."""
    found = [d["parts"] for d in documents(work, "village") if d["held"] == 1]
    random.Random(SEED).shuffle(found)
    able = [parts for parts in found if lm_corpus.may_act(parts[0][0])]
    return {"any scenes": found[:count], "scenes in which something can be done": able[:count]}


@torch.inference_mode()
def village(model, tokenizer, some):
    """What becomes of scenes at temperature 0. Shares of replies: that are a line and an action that
    the scene allows; in which every sentence is a claim that the prompt has, or small talk; that
    make a claim, and one of what was asked about where the generator's script does; whose action is
    the script's. Shares of sentences. How often each action was done, beside the script. Of the
    replies that mention people, or things, those that mention none but the prompt's."""
    voices = lm_scene.Voices()
    ends = {tokenizer.token_to_id("<|endoftext|>")}
    known = " ".join(re.search(r"^knows: (.*)$", parts[0][0], re.M).group(1) for parts in some)
    people = set(re.findall(r"\b[A-Z][a-z]+", known))
    things = set(re.findall(r"\b(?:has|wants|owns) ([a-z]+)", known)) - {"nothing"}
    formed = faithful = claiming = same = asked = answered = 0
    sentences, actions, script = Counter(), Counter(), Counter()
    mentioned = {"people": [0, 0], "things": [0, 0]}
    for (prompt, _), (truth, _) in some:
        ids = write(model, lm_gguf.begun(tokenizer, prompt), ends, 0, None)
        line, mark, action = tokenizer.decode(ids).strip().rpartition(" | ")
        allowed = re.search(r"^may: (.*)$", prompt, re.M).group(1).split("; ")
        fits = bool(mark and line and action in allowed)
        kinds, claims = lm_scene.verdict(voices, prompt, line, action)
        formed += fits
        sentences.update(kinds)
        faithful += fits and set(kinds) <= {"true", "talk"}
        claiming += bool(claims)
        true_line, _, true_action = truth.strip().rpartition(" | ")
        topics = set(lm_corpus.heard(prompt)[1])
        about = [any(topics & set(terms.values()) for _, terms in found) for found in (lm_scene.verdict(voices, prompt, true_line, true_action)[1], claims)]
        asked += about[0]
        answered += all(about) and "false" not in kinds
        same += action == true_action
        actions[action.split(" ")[0] if fits else "none that is allowed"] += 1
        script[true_action.split(" ")[0]] += 1
        words = set(re.findall(r"[A-Za-z]+", line))
        for name, group in (("people", people), ("things", things)):
            if words & group:
                mentioned[name][0] += words & group <= set(re.findall(r"[A-Za-z]+", prompt))
                mentioned[name][1] += 1
    every, count = sum(sentences.values()), len(some)
    return {
        "scenes": count,
        "well formed, action allowed": round(formed / count, 3),
        "true to the prompt": round(faithful / count, 3),
        "make a claim": round(claiming / count, 3),
        "answer truly what was asked": [answered, asked],
        "the script's action": round(same / count, 3),
        "sentences": {kind: round(n / every, 3) for kind, n in sentences.most_common()},
        "actions": dict(actions.most_common()),
        "the script's actions": dict(script.most_common()),
        "mention only the prompt's": mentioned,
    }


def samples(model, tokenizer, work):
    """Prompts and what the model writes, at temperature 0 and 0.8."""
    ends = {tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|im_end|>")}
    prompts = []
    for kind in ("village", "definitions", "packages"):
        found = [d for d in documents(work, kind) if d["held"] == 1]
        random.Random(SEED).shuffle(found)
        for d in found[: 8 if kind == "village" else 3]:
            first, second = d.get("turns") or d["parts"]
            prompts.append((kind, first[1], second[1]) if "turns" in d else (None, first[0], second[0]))
    prompts += [(None, text, None) for text in ("She had not expected", "The bees", "libskep1: a library for")]
    prompts += [("unlike training", text, None) for text in ("What is the capital of France?", "Write a poem about rain.")]
    out = []
    for kind, prompt, truth in prompts:
        ids = template(tokenizer, prompt) if kind else lm_gguf.begun(tokenizer, prompt)
        row = {"kind": kind or "text", "prompt": prompt}
        if truth:
            row["held out"] = truth
        for temperature in (0, 0.8):
            written = write(model, ids, ends, temperature, torch.Generator().manual_seed(SEED))
            row[f"temperature {temperature}"] = tokenizer.decode(written)
        out.append(row)
    return out


def main():
    p = argparse.ArgumentParser(description="Measure skep-mini-lm.")
    p.add_argument("--work", type=Path, required=True, help="the folder of train_lm.py")
    p.add_argument("--model", type=Path, default=Path(__file__).parent / "skep-mini-lm" / "skep-mini-lm.gguf")
    p.add_argument("--json", type=Path, help="where the figures go")
    p.add_argument("--documents", type=int, default=300, help="held-out documents of each kind")
    p.add_argument("--tickets", type=int, default=300, help="tickets of each group")
    p.add_argument("--scenes", type=int, default=200, help="scenes of the village, of each group")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    model, tokenizer = lm_gguf.read(a.model)
    results = {"held_out": held_out(model, Cutter(a.work), a.work, a.documents)}
    print(json.dumps(results, indent=1), flush=True)
    results["samples"] = samples(model, tokenizer, a.work)
    print(json.dumps(results["samples"], indent=1, ensure_ascii=False), flush=True)
    results["tickets"] = tickets(model, tokenizer, a.work, a.tickets)
    print(json.dumps(results["tickets"], indent=1), flush=True)
    results["village"] = {name: village(model, tokenizer, some) for name, some in scenes(a.work, a.scenes).items()}
    print(json.dumps(results["village"], indent=1), flush=True)
    if a.json:
        a.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
