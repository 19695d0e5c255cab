"""What whoever starts the training may say of it."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, nan

from wit_world.imports.training import Targets, Targets_AllLinear, Targets_Named, Targets_Pattern

LARGEST = 3.4028234663852886e38  # number of 32 bits
DIGITS = frozenset("0123456789+-.eE")
# What is blank to Rust; to Python four control characters are too.
BLANK = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and not "\x1c" <= c <= "\x1f")


class Wrong(Exception):
    """What is wrong with the settings or the data, in words for whoever started the training."""


def f32(number: float) -> float:
    """The nearest number of 32 bits, which is how the node takes it; infinity if it is too large."""
    try:
        return struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        return inf


def decimal(number: float) -> str:
    """A number of 32 bits, not below 0, as Rust writes it: in the fewest digits that tell it from
    all others, and without an exponent."""
    text = ""
    for places in range(9):
        text = f"{number:.{places}e}"
        if f32(float(text)) == number:
            break
    digits, exponent = text.replace(".", "").split("e")
    point = int(exponent) + 1
    if point <= 0:
        return "0." + "0" * -point + digits
    before, after = digits[:point].ljust(point, "0"), digits[point:]
    return f"{before}.{after}" if after else before


def shown(value: object) -> str:
    """A value as it is read."""
    match value:
        case float():
            return decimal(value)
        case Targets_AllLinear():
            return "all-linear"
        case Targets_Named(names):
            return ",".join(names) or "none"
        case Targets_Pattern(pattern):
            return f"/{pattern}/"
    return str(value)


# What makes a setting's value of its name and of what was said.
Reader = Callable[[str, str], object]


def number(kind: Callable[[str], float], least: float, most: float) -> Reader:
    """Reads a number from `least` to `most`."""

    def read(name: str, value: str) -> float:
        try:
            given = kind(value) if DIGITS.issuperset(value) else nan
        except ValueError:
            given = nan
        if not least <= given <= most:
            between = f"from {shown(least)} to {shown(most)}"
            raise Wrong(f"{name} is `{value}`; it must be a number {between}")
        return given

    return read


def whole(least: int, most: int) -> Reader:
    return number(int, least, most)


def real(least: float, most: float) -> Reader:
    return number(lambda value: f32(float(value)), f32(least), f32(most))


def one_of(*words: str) -> Reader:
    """Reads one of these words."""

    def read(name: str, value: str) -> str:
        if value not in words:
            raise Wrong(f"{name} is `{value}`; it must be one of {', '.join(words)}")
        return value

    return read


def targets(_: str, value: str) -> Targets:
    """Reads names with commas between them, or a pattern between slashes, of which no name has any."""
    if value == "none":
        return Targets_Named([])
    if len(value) > 1 and value[0] == value[-1] == "/":
        return Targets_Pattern(value[1:-1])
    names = [name.strip(BLANK) for name in value.split(",")]
    names = [name for name in names if name]
    return Targets_AllLinear() if names in ([], ["all-linear"]) else Targets_Named(names)


# All settings, and what reads each.
KNOWN: dict[str, Reader] = {
    "rank": whole(1, 1024),
    "alpha": real(1e-6, 1e6),
    "dropout": real(0.0, 0.99),
    "rank-stabilized": one_of("yes", "no"),
    "dora": one_of("yes", "no"),
    "targets": targets,
    "seed": whole(0, 2**64 - 1),
    "epochs": whole(1, 10_000),
    "steps": whole(1, 10_000_000),
    "batch": whole(1, 4096),
    "pass-tokens": whole(1, 1 << 20),
    "learning-rate": real(0.0, LARGEST),
    "schedule": one_of("cosine", "linear", "constant"),
    "warm-up": real(0.0, 1.0),
    "weight-decay": real(0.0, 1.0),
    "clip": real(1e-6, LARGEST),
    "held-out": real(0.0, 0.9),
    "evaluate-every": whole(1, 2**64 - 1),
    "patience": whole(0, 2**32 - 1),
    "base-weights": one_of("stored", "nf4"),
    "optimizer": one_of("adamw", "adamw-8-bit"),
    "checkpoint-layers": one_of("yes", "no"),
    "precision": one_of("f32", "bf16"),
    "from": lambda _, value: value,
    "steps-made": whole(0, 10_000_000),
}

# What has to be the same for a training to be gone on with: all that the order of examples and the
# parameters depend on. Rates and patience may change.
KEPT = (
    *("rank", "alpha", "dropout", "rank-stabilized", "dora", "targets", "seed", "epochs", "steps"),
    *("batch", "pass-tokens", "held-out", "base-weights", "optimizer", "from", "precision", "steps-made"),
)


@dataclass
class Settings:
    """How to train. The names on the command line have hyphens."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilized: str = "no"
    dora: str = "no"  # whether the lengths of rows are learned apart from their directions
    # Of no names the model stays as it is, and only the layer learns that tells classes apart.
    targets: Targets = field(default_factory=Targets_AllLinear)
    seed: int = 0
    epochs: int = 3
    steps: int | None = None  # in place of epochs
    batch: int = 8  # examples of a step
    pass_tokens: int = 2048  # that go through the model together; a step of more makes several passes
    learning_rate: float = f32(5e-4)
    schedule: str = "cosine"
    warm_up: float = f32(0.05)  # the share of all steps in which the learning rate rises
    weight_decay: float = f32(0.01)
    clip: float = 1.0
    held_out: float = f32(0.1)  # the share of examples that is held out
    evaluate_every: int | None = None  # steps; none is four times an epoch
    patience: int = 3  # evaluations in a row that may find nothing better; 0 is any number
    base_weights: str = "stored"
    optimizer: str = "adamw"
    checkpoint_layers: str = "no"
    precision: str = "f32"
    from_: str | None = None  # the adapter to go on from
    # Steps that others have made of this training before it was begun here: it takes its place in the
    # order of examples and in the course of the rate as if they had been made here.
    steps_made: int = 0

    @classmethod
    def parse(cls, given: list[tuple[str, str]]) -> "Settings":
        """Reads names and values. What is not said is as by default."""
        said = {}
        for name, value in given:
            if name not in KNOWN:
                raise Wrong(f"the recipe has no setting `{name}`; it has {', '.join(KNOWN)}")
            said[field_of(name)] = KNOWN[name](name, value)
        # Twice the rank scales what is learned alike at every rank.
        said.setdefault("alpha", 2.0 * said.get("rank", cls.rank))
        return cls(**said)

    def shown(self, name: str) -> str:
        """The value of a setting."""
        return shown(getattr(self, field_of(name)))

    def identity(self) -> str:
        """What has to be the same for a training to be gone on with."""
        return " ".join(f"{name}={self.shown(name)}" for name in KEPT)

    def told(self) -> list[tuple[str, str]]:
        """What the training was made with, as names and values, for the record."""
        names = (
            *("rank", "alpha", "dropout", "rank-stabilized", "dora", "targets", "seed"),
            "epochs" if self.steps is None else "steps",
            *("batch", "learning-rate", "schedule", "warm-up", "weight-decay", "clip", "held-out"),
            *("base-weights", "optimizer", "precision"),
        )
        return [(name, self.shown(name)) for name in names]


def field_of(name: str) -> str:
    """What a setting is called in Python, where `from` is a word of the language."""
    return "from_" if name == "from" else name.replace("-", "_")
