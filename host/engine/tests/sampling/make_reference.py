"""Makes what transformers' logits processors leave of random logits.

    python make_reference.py            # needs torch and transformers

`cases.json` has, for each case, the prompt, the options, the logits (float32) and the
probabilities after the processors, in the order in which `generate` applies them: repetition
penalty, temperature, top-k, top-p, min-p.
"""

import itertools
import json
import pathlib

import torch
from transformers.generation import logits_process as processors

VOCABULARY = 48
HERE = pathlib.Path(__file__).parent


def probabilities(prompt, logits, options):
    chain = processors.LogitsProcessorList()
    if options["repetition_penalty"] != 1.0:
        chain.append(
            processors.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"])
        )
    chain.append(processors.TemperatureLogitsWarper(options["temperature"]))
    if options["top_k"]:
        chain.append(processors.TopKLogitsWarper(options["top_k"]))
    if options["top_p"] < 1.0:
        chain.append(processors.TopPLogitsWarper(options["top_p"]))
    if options["min_p"] > 0.0:
        chain.append(processors.MinPLogitsWarper(options["min_p"]))
    scores = chain(torch.tensor([prompt]), logits[None].clone())
    return scores.double().softmax(-1)[0]


def main():
    torch.manual_seed(7)
    cases = []
    grid = itertools.product(
        [1.0, 0.7, 1.6], [0, 5, 20], [1.0, 0.9, 0.5], [0.0, 0.05, 0.4], [1.0, 1.3]
    )
    for number, (temperature, top_k, top_p, min_p, penalty) in enumerate(grid):
        if number % 3:
            continue
        options = dict(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=penalty,
        )
        logits = (torch.randn(VOCABULARY) * (1 + number % 4)).half().float()
        while len(set(logits.tolist())) < VOCABULARY:
            logits = (torch.randn(VOCABULARY) * (1 + number % 4)).half().float()
        prompt = torch.randint(VOCABULARY, (8,)).tolist()
        left = probabilities(prompt, logits, options)
        cases.append(
            options
            | dict(
                prompt=prompt,
                logits=logits.tolist(),
                probabilities={
                    token: round(p, 8) for token, p in enumerate(left.tolist()) if p > 0
                },
            )
        )
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (HERE / "cases.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
