"""Makes activation_fixtures.json with the reference implementation of TOPLOC.

    pip install toploc==0.1.6 torch numpy
    python host/evidence/tests/make_activation_fixtures.py

Each case has the activations of a prover and of a verifier at some places of a chunk (everywhere
else there is a number too small to matter), the prover's commitment, and how the verifier compares
it with its own. Commitments are made by the reference alone. Its comparison is computed here from
the reference's polynomial: its own function leaves out the modulus when it is called from Python,
and it does not look at signs.
"""

import json
import random
from pathlib import Path
from statistics import median

import torch
from toploc.poly import ProofPoly, build_proofs_bytes

LARGEST = 128
BACKGROUND = 0.001


def as_bits(values: torch.Tensor) -> list[int]:
    return [int(bits) & 0xFFFF for bits in values.view(torch.int16).tolist()]


def from_bits(bits: list[int]) -> torch.Tensor:
    signed = [value - 0x10000 if value >= 0x8000 else value for value in bits]
    return torch.tensor(signed, dtype=torch.int16).view(torch.bfloat16)


def dense(count: int, places: list[int], bits: list[int]) -> torch.Tensor:
    states = torch.full((count,), BACKGROUND, dtype=torch.bfloat16)
    states[torch.tensor(places)] = from_bits(bits)
    return states


def case(count: int, seed: int, spread: int) -> dict:
    chance = random.Random(seed)
    points = 200
    places = sorted(chance.sample(range(count), points))
    # Magnitudes from 1 to 64, all different: the reference does not say which of equals it takes.
    magnitudes = chance.sample(range(0x3F80, 0x4280), points)
    signs = [chance.choice([0, 0x8000]) for _ in places]
    used, moved = set(), []
    for magnitude in magnitudes:
        reach = spread
        while (other := magnitude + chance.randint(-reach, reach)) in used:
            reach += 1
        used.add(other)
        moved.append(other)
    prover = [sign | magnitude for sign, magnitude in zip(signs, magnitudes)]
    verifier = [sign | magnitude for sign, magnitude in zip(signs, moved)]
    states = dense(count, places, prover)
    (commitment,) = build_proofs_bytes([states.view(1, -1)], 32, LARGEST)

    polynomial = ProofPoly.from_bytes(commitment)
    modulus = int.from_bytes(commitment[:2], "big")
    theirs = dense(count, places, verifier)
    indices = theirs.abs().topk(LARGEST).indices.tolist()
    differences = []
    for index, bits in zip(indices, as_bits(theirs[torch.tensor(indices)])):
        claimed = polynomial(index % modulus)
        if claimed >> 7 == bits >> 7:
            differences.append(abs((claimed & 0x7F) - (bits & 0x7F)))
    return {
        "states": count,
        "places": places,
        "prover": "".join(f"{bits:04x}" for bits in prover),
        "verifier": "".join(f"{bits:04x}" for bits in verifier),
        "commitment": commitment.hex(),
        "matches": len(differences),
        "mantissa_sum": sum(differences),
        "mantissa_median_doubled": int(2 * median(differences)) if differences else 0,
    }


def main() -> None:
    cases = [
        case(count, seed, spread)
        for seed, (count, spread) in enumerate(
            [
                (1_000, 0),
                (32 * 64, 2),
                (32 * 896, 5),
                (65_497, 1),
                (32 * 4_096, 0),
                (32 * 4_096, 3),
                (1_500 * 2_048, 4),
                (32 * 8_192, 60),
            ]
        )
    ]
    # Places of which two differ by the prime, so that the modulus is a smaller one.
    seed = 100
    while (apart := case(32 * 4_096, seed, 2))["commitment"].startswith("ffd9"):
        seed += 1
    cases.append(apart)
    target = Path(__file__).with_name("activation_fixtures.json")
    with target.open("w") as file:
        file.write('{"cases":[\n')
        file.write(",\n".join(json.dumps(case, separators=(",", ":")) for case in cases))
        file.write("\n]}\n")


if __name__ == "__main__":
    main()
