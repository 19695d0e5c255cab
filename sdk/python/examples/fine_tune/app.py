"""Trains a LoRA adapter of a language model, or of a sentence encoder, on examples in JSON lines.

The recipe of `guests/fine-tune` in skep's repository, with its most common settings and forms of
examples: the same examples are held out, the same batches come in the same order with the same rates,
and so every loss is the same.
"""

import json
import struct
from collections import Counter
from dataclasses import asdict, dataclass
from math import ceil, cos, isfinite, log, pi

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import io, training
from wit_world.imports.text import LanguageModel, Message, Prompt_Chat, Prompt_Text
from wit_world.imports.training import (
    BaseKind,
    BaseWeights,
    Example,
    HyperParameters,
    LoraConfig,
    Loss_Classification,
    Loss_CrossEntropy,
    Metadata,
    Optimizer,
    Options,
    Progress,
    Signal,
    Targets_AllLinear,
    Trainer,
)
from wit_world.imports.types import Error_Failed, Error_Invalid

PIECE = 262_144  # bytes that are read in one call
TEXTS = 512  # texts that are cut into tokens in one call
DIVERGED = 1.25  # times the loss of the untrained model, and for a batch that of guessing
DIVERGED_CLASSES = 3.0  # the same for a batch of classes, of which there are few
AS_GUESSING = 0.99  # the same for what is held out
LAST, BEST = "last", "best"
MASK = 2**64 - 1


@dataclass
class Settings:
    """How to train; the names on the command line have hyphens."""

    rank: int = 8
    seed: int = 0
    epochs: int = 3
    steps: int = 0
    batch: int = 8
    pass_tokens: int = 2048
    learning_rate: float = 5e-4
    warm_up: float = 0.05
    held_out: float = 0.1
    evaluate_every: int = 0
    patience: int = 3

    @classmethod
    def parse(cls, given: list[tuple[str, str]]) -> "Settings":
        settings = cls()
        for name, value in given:
            field = name.replace("-", "_")
            if not hasattr(settings, field):
                known = ", ".join(asdict(settings)).replace("_", "-")
                raise invalid(f"the recipe has no setting `{name}`; it has {known}")
            try:
                setattr(settings, field, type(getattr(settings, field))(value))
            except ValueError as error:
                raise invalid(f"{name} is `{value}`: {error}") from error
        return settings

    def told(self) -> list[tuple[str, str]]:
        return [(name.replace("_", "-"), str(value)) for name, value in asdict(self).items()]


class Recipe(exports.Recipe):
    """What the node calls."""

    def train(self, settings: list[tuple[str, str]]) -> None:
        settings = Settings.parse(settings)
        lines = [(n, line) for n, line in enumerate(read_lines(), 1) if line.strip()]
        if not lines:
            raise invalid("there is nothing to learn from: the data have no line")
        if Trainer.kind_of("default") == BaseKind.SENTENCE_ENCODER:
            records = [labelled(*line) for line in lines]
            classes = sorted({label for _, label in records})
            if len(classes) < 2:
                raise invalid("all lines have one label, and at least two are needed")
            trainer = open_trainer(settings, len(classes))
            trainer.name_classes(classes)
            taught, held_out = prepare_classes(settings, trainer, records, classes)
        else:
            classes = []
            trainer = open_trainer(settings, None)
            model = LanguageModel.open("default")
            taught, held_out = prepare(settings, trainer, model, lines)
        Training(settings, trainer, taught, held_out, classes).run()


def open_trainer(settings: Settings, classes: int | None) -> Trainer:
    options = Options(BaseWeights.STORED, Optimizer.ADAMW, False, classes)
    return Trainer.open("default", lora(settings), options)


def lora(settings: Settings) -> LoraConfig:
    alpha = 2.0 * settings.rank
    return LoraConfig(settings.rank, alpha, 0.0, False, Targets_AllLinear(), settings.seed)


class Training:
    """Steps, evaluations, checkpoints, and when to stop. `state` is all that a later run needs."""

    def __init__(
        self, settings: Settings, trainer: Trainer, taught: list, held_out: list, classes: list
    ):
        self.settings, self.trainer = settings, trainer
        self.taught, self.held_out = taught, held_out
        self.loss = Loss_Classification() if classes else Loss_CrossEntropy()
        self.diverged_at = DIVERGED_CLASSES if classes else DIVERGED
        by_epoch = ceil(len(taught) / settings.batch)
        self.steps = settings.steps or settings.epochs * by_epoch
        self.evaluate_every = settings.evaluate_every or max(ceil(by_epoch / 4), 1)
        self.guessing = log(len(classes) or trainer.info().vocabulary)
        self.state = self.take(LAST)

    def run(self) -> None:
        if self.state is None:
            self.state = {"step": 0, "tokens": 0, "before": None, "best": None, "worse": 0}
            if self.held_out:
                self.state["before"] = self.evaluate()
            self.tell(None, self.state["before"], 0.0)
            self.keep(LAST)
        state = self.state
        patience = self.settings.patience
        while state["step"] < self.steps and not (patience and state["worse"] >= patience):
            if self.step() == Signal.STOP:
                self.keep(LAST)
                return
        self.keep(LAST)
        if state["best"] and state["best"]["step"] != state["step"]:
            self.take(BEST)
        self.save()

    def step(self) -> Signal:
        state, settings = self.state, self.settings
        rate = f32(f32(settings.learning_rate) * factor(settings, self.steps, state["step"]))
        chosen = batch(len(self.taught), settings, state["step"])
        examples = [self.taught[number] for number in chosen]
        divisor = float(sum(counted(example) for example in examples))
        loss = 0.0
        for part in passes(examples, settings.pass_tokens):
            done = self.trainer.forward_backward(part, self.loss, divisor)
            loss += done.loss
            state["tokens"] += done.tokens
        self.check(loss, self.diverged_at)
        made = self.trainer.optim_step(HyperParameters(rate, 0.9, 0.999, 1e-8, 0.01, 1.0))
        if not isfinite(made.gradient_norm):
            raise self.diverged("the gradient is not finite")
        state["step"] += 1
        held_out = None
        is_due = state["step"] % self.evaluate_every == 0 or state["step"] == self.steps
        if is_due and self.held_out:
            held_out = self.judge()
        return self.tell(loss, held_out, rate)

    def judge(self) -> float:
        """Evaluates, and keeps what is the best so far."""
        loss, state = self.evaluate(), self.state
        if state["best"] is None or loss < state["best"]["loss"]:
            state["best"] = {"step": state["step"], "loss": loss}
            state["worse"] = 0
            self.keep(BEST)
        else:
            state["worse"] += 1
        self.keep(LAST)
        return loss

    def evaluate(self) -> float:
        total, count = 0.0, 0.0
        for part in passes(self.held_out, self.settings.pass_tokens):
            done = self.trainer.evaluate(part, self.loss).outcome
            total += done.loss * done.divisor
            count += done.divisor
        self.check(total / count, AS_GUESSING)
        return total / count

    def check(self, loss: float, times_guessing: float) -> None:
        most = max(DIVERGED * (self.state["before"] or 0.0), times_guessing * self.guessing)
        if not isfinite(loss) or (loss >= most and self.state["step"] > 0):
            raise self.diverged(f"a loss is {loss:.2f}, where guessing has {self.guessing:.2f}")

    def diverged(self, reason: str) -> Err:
        step, rate = self.state["step"], self.settings.learning_rate
        return Err(
            Error_Failed(
                f"the training diverged after step {step}: {reason}. The last good checkpoint is "
                f"kept; train on with a smaller learning-rate than {rate}"
            )
        )

    def tell(self, loss: float | None, held_out: float | None, rate: float) -> Signal:
        state = self.state
        progress = Progress(state["step"], self.steps, loss, held_out, rate, state["tokens"])
        return training.report(progress)

    def keep(self, name: str) -> None:
        self.trainer.checkpoint(name, json.dumps(self.state).encode())

    def take(self, name: str) -> dict | None:
        state = self.trainer.resume(name)
        return None if state is None else json.loads(state)

    def save(self) -> None:
        info, state = self.trainer.info(), self.state
        metrics = [("steps", float(state["step"])), ("tokens", float(state["tokens"]))]
        if state["best"]:
            metrics.append(("held-out-loss-before", state["before"]))
            metrics.append(("held-out-loss", state["best"]["loss"]))
        card = f"# An adapter of {info.base_name}\n\n" + "".join(
            f"- {name}: {value}\n" for name, value in [*self.settings.told(), *metrics]
        )
        self.trainer.save(Metadata(card, self.settings.told(), metrics))


def prepare(
    settings: Settings, trainer: Trainer, model: LanguageModel, lines: list[tuple[int, str]]
) -> tuple[list[Example], list[Example]]:
    """The examples to learn from, and those that are held out."""
    info = trainer.info()
    asked = [(number, *pair) for number, line in lines for pair in asked_of(number, line)]
    if not asked:
        raise invalid("there is nothing to learn from: no assistant says anything")
    examples = []
    for start in range(0, len(asked), TEXTS):
        part = asked[start : start + TEXTS]
        prompts = trainer.encode([prompt for _, prompt, _ in part])
        answers = model.tokenize([answer for _, _, answer in part])
        for (number, _, _), prompt, answer in zip(part, prompts, answers):
            tokens = [*prompt, *answer, *info.ends[:1]]
            if len(tokens) > info.context:
                raise invalid(f"line {number} has {len(tokens)} tokens, and {info.context} fit")
            weights = [0.0] * len(prompt) + [1.0] * (len(tokens) - len(prompt))
            examples.append(Example(tokens, weights, None, [], [], 0.0))
    return divide(settings, examples)


def prepare_classes(
    settings: Settings, trainer: Trainer, records: list[tuple[str, str]], classes: list[str]
) -> tuple[list[Example], list[Example]]:
    """The same of texts with labels, for an encoder."""
    examples = []
    for start in range(0, len(records), TEXTS):
        part = records[start : start + TEXTS]
        texts = trainer.encode([Prompt_Text(text) for text, _ in part])
        for tokens, (_, label) in zip(texts, part):
            examples.append(Example(tokens, [], classes.index(label), [], [], 0.0))
    return divide(settings, examples)


def divide(settings: Settings, examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Holds a share out. A label that only the held-out part would have is learned instead."""
    count, share = len(examples), f32(settings.held_out)
    if share > 0 and count < 2:
        raise invalid("there is one example, and at least two are needed")
    held = min(max(int(share * count + 0.5), 1), count - 1) if share > 0 else 0
    left = Counter(example.label for example in examples)
    chosen = set()
    for number in shuffled(count, settings.seed, 0):
        label = examples[number].label
        if len(chosen) < held and (label is None or left[label] > 1):
            chosen.add(number)
            left[label] -= 1
    taught = [example for number, example in enumerate(examples) if number not in chosen]
    return taught, [examples[number] for number in sorted(chosen)]


def labelled(number: int, line: str) -> tuple[str, str]:
    """A text and its label."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise invalid(f"line {number} is not JSON: {error}") from error
    record = record if isinstance(record, dict) else {}
    if "split" in record:
        raise invalid(f"line {number}: this recipe puts no lines aside; leave out `split`")
    text, label = record.get("text"), record.get("label")
    if not all(isinstance(part, str) and part.strip() for part in (text, label)):
        raise invalid(
            f"line {number}: a sentence encoder learns to tell texts apart; write `text` and `label`"
        )
    return text, label


def asked_of(number: int, line: str) -> list[tuple]:
    """What a line asks to be learned: prompts, and what is to be written to each."""
    try:
        record = json.loads(line)
        if "messages" in record:
            turns = [Message(turn["role"], turn["content"]) for turn in record["messages"]]
            answers = [place for place in range(1, len(turns)) if turns[place].role == "assistant"]
            return [(Prompt_Chat(turns[:place]), turns[place].content) for place in answers]
        return [(Prompt_Text(record.get("prompt", "")), record["completion"])]
    except ValueError as error:
        raise invalid(f"line {number} is not JSON: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise invalid(
            f"line {number} has neither `prompt` and `completion` nor `messages`"
        ) from error


def counted(example: Example) -> int:
    """What of an example has a loss: its class, or tokens."""
    return 1 if example.label is not None else int(sum(example.weights[1:]))


def passes(examples: list[Example], most: int) -> list[list[Example]]:
    """Divides examples into passes of at most so many tokens."""
    parts, tokens = [], most + 1
    for example in examples:
        length = len(example.tokens)
        if tokens + length > most:
            parts.append([])
            tokens = 0
        parts[-1].append(example)
        tokens += length
    return parts


def factor(settings: Settings, steps: int, step: int) -> float:
    """What the learning rate is multiplied with: it rises in a line and falls along a cosine."""
    warm_up = int(f32(settings.warm_up) * steps + 0.5)
    if step < warm_up:
        return f32((step + 1) / (warm_up + 1))
    done = min((step - warm_up) / max(steps - warm_up, 1), 1.0)
    return f32(0.5 * (1.0 + cos(pi * done)))


def batch(count: int, settings: Settings, step: int) -> list[int]:
    """Which examples a step learns from."""
    epoch, place = divmod(step, ceil(count / settings.batch))
    order = shuffled(count, settings.seed, epoch + 1)
    return order[place * settings.batch : (place + 1) * settings.batch]


def shuffled(count: int, seed: int, turn: int) -> list[int]:
    """Numbers in an order that looks like chance and is the same everywhere (SplitMix64)."""
    chance = seed ^ (turn * 0xD134_2543_DE82_EF95 & MASK)
    order = list(range(count))
    for place in range(count - 1, 0, -1):
        chance = (chance + 0x9E37_79B9_7F4A_7C15) & MASK
        x = chance
        x = (x ^ (x >> 30)) * 0xBF58_476D_1CE4_E5B9 & MASK
        x = (x ^ (x >> 27)) * 0x94D0_49BB_1331_11EB & MASK
        other = (x ^ (x >> 31)) % (place + 1)
        order[place], order[other] = order[other], order[place]
    return order


def f32(number: float) -> float:
    """The nearest number of 32 bits, as which the node takes it."""
    return struct.unpack("f", struct.pack("f", number))[0]


def read_lines() -> list[str]:
    """The lines of the whole input."""
    pieces = []
    while piece := io.read(PIECE):
        pieces.append(piece)
    return b"".join(pieces).decode().split("\n")


def invalid(reason: str) -> Err:
    return Err(Error_Invalid(reason))
