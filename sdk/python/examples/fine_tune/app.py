"""Trains a LoRA adapter of a language model, or of a sentence encoder, on examples in JSON lines.

The recipe of `guests/fine-tune` in skep's repository, with the same settings, the same forms of
examples and the same words for what is wrong: the same examples are held out, the same batches come
in the same order with the same rates, and so every loss and every weight is the same.

`settings` says what can be said of a training, `data` reads the lines, `examples` cuts them into
tokens and holds a part out, `schedule` has orders, batches and rates, `training` the steps, the
evaluations and the checkpoints, and `card` says what came of it.
"""

from componentize_py_types import Err
from data import parse
from examples import classes_of, prepare, prepare_classes
from settings import Settings, Wrong
from training import Training
from wit_world import exports
from wit_world.imports import io
from wit_world.imports.text import LanguageModel
from wit_world.imports.training import (
    BaseKind,
    BaseWeights,
    LoraConfig,
    Optimizer,
    Options,
    Precision,
    Trainer,
)
from wit_world.imports.types import Error_Invalid

BASE = "default"  # what the base is called that whoever started the run chose
PIECE = 262_144  # bytes that are read in one call


class Recipe(exports.Recipe):
    """What the node calls."""

    def train(self, settings: list[tuple[str, str]]) -> None:
        try:
            train(Settings.parse(settings))
        except Wrong as wrong:
            raise Err(Error_Invalid(str(wrong))) from wrong


def train(settings: Settings) -> None:
    records = parse(read())
    if Trainer.kind_of(BASE) == BaseKind.LANGUAGE_MODEL:
        trainer = open_trainer(settings, None)
        model = LanguageModel.open(BASE)
        data = prepare(trainer, model, records, settings)
    else:
        model, classes = None, classes_of(records)
        trainer = open_trainer(settings, len(classes))
        trainer.name_classes(classes)
        data = prepare_classes(trainer, records, classes, settings)
    Training(settings, trainer, model, data).run()


def open_trainer(settings: Settings, classes: int | None) -> Trainer:
    lora = LoraConfig(
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        rank_stabilized=settings.rank_stabilized == "yes",
        targets=settings.targets,
        seed=settings.seed,
    )
    options = Options(
        base=BaseWeights.NF4 if settings.base_weights == "nf4" else BaseWeights.STORED,
        optimizer=Optimizer.ADAMW if settings.optimizer == "adamw" else Optimizer.ADAMW_8_BIT,
        checkpoint_layers=settings.checkpoint_layers == "yes",
        classes=classes,
    )
    opens = Trainer.open_with_magnitudes if settings.dora == "yes" else Trainer.open
    trainer = opens(BASE, lora, options)
    if settings.precision == "bf16":
        trainer.compute_in(Precision.BFLOAT16)
    if settings.from_ is not None:
        trainer.continue_from(settings.from_)
    return trainer


def read() -> bytes:
    """All of the input."""
    pieces = []
    while piece := io.read(PIECE):
        pieces.append(piece)
    return b"".join(pieces)
