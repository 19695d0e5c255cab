"""In which order examples come, and with which rates."""

from functools import lru_cache
from math import cos, pi

from settings import f32

MASK = 2**64 - 1


def factor(schedule: str, warm_up: int, steps: int, step: int) -> float:
    """What the learning rate is multiplied with in a step, counted from 0. In the first `warm_up` it
    rises in a line, so that none has no effect; then it stays, or falls to nothing."""
    if step < warm_up:
        return f32((step + 1) / (warm_up + 1))
    done = min((step - warm_up) / max(steps - warm_up, 1), 1.0)
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return f32(1.0 - done)
        case _:
            return f32(0.5 * (1.0 + cos(pi * done)))


@lru_cache(maxsize=1)  # all steps of an epoch have one order
def shuffled(count: int, seed: int, turn: int) -> tuple[int, ...]:
    """The numbers below `count` in an order that looks like chance and is the same on every machine
    (SplitMix64)."""
    chance = seed ^ (turn * 0xD134_2543_DE82_EF95 & MASK)
    order = list(range(count))
    for place in range(count - 1, 0, -1):
        chance = (chance + 0x9E37_79B9_7F4A_7C15) & MASK
        x = chance
        x = (x ^ (x >> 30)) * 0xBF58_476D_1CE4_E5B9 & MASK
        x = (x ^ (x >> 27)) * 0x94D0_49BB_1331_11EB & MASK
        other = (x ^ (x >> 31)) % (place + 1)
        order[place], order[other] = order[other], order[place]
    return tuple(order)


def batch(count: int, size: int, seed: int, step: int) -> tuple[int, ...]:
    """Which of `count` examples a step learns from."""
    epoch, place = divmod(step, -(-count // size))
    # Turn 0 is the split's.
    return shuffled(count, seed, epoch + 1)[place * size : (place + 1) * size]


def passes(lengths: list[int], most: int) -> list[slice]:
    """Divides a batch into passes of at most so many tokens, in their order. One that has more alone
    is a pass alone."""
    parts, start, tokens = [], 0, 0
    for place, length in enumerate(lengths):
        if place > start and tokens + length > most:
            parts.append(slice(start, place))
            start, tokens = place, 0
        tokens += length
    if start < len(lengths):
        parts.append(slice(start, len(lengths)))
    return parts
