"""The training itself: steps, evaluations, checkpoints, and when to stop.

All that a later run has to know is in `State`, which is kept in one file with the weights. A
checkpoint is kept only of a training that is sound: `last` is where it goes on, `best` has the lowest
loss on what is held out.
"""

import json
from dataclasses import asdict, dataclass
from math import ceil, isfinite, log

import card
from componentize_py_types import Err
from examples import Data, counted
from schedule import batch, factor, passes
from settings import Settings, Wrong, decimal, f32
from wit_world.imports import training
from wit_world.imports.text import LanguageModel
from wit_world.imports.training import (
    Example,
    HyperParameters,
    Loss_Classification,
    Loss_CrossEntropy,
    Metadata,
    Progress,
    Sampling,
    Signal,
    Trainer,
)
from wit_world.imports.types import Error_Failed

LAST, BEST = "last", "best"
# Of how many examples that were held out the card shows what is written to them, and how much.
SAMPLES = 2
SAMPLE_TOKENS = 24
SAMPLE_PROMPT = 240
# A loss of so many times that of the untrained model, and of a batch so many times that of guessing,
# is none that training comes to by learning.
DIVERGED = 1.25
# The same of a batch of classes: it has few of them, and one that is thought impossible counts for
# several.
DIVERGED_CLASSES = 3.0
# The same of what is held out, of which there is enough to tell from guessing.
AS_GUESSING = 0.99


@dataclass
class Best:
    """The lowest loss on what is held out."""

    step: int
    loss: float
    accuracy: float | None  # the share of classes that were right, where there are any


@dataclass
class State:
    """Where a training is. Its weights are the trainer's."""

    identity: str  # what the settings were, as far as they must not change
    step: int  # steps that were made
    tokens: int = 0  # that were learned from
    loss: float | None = None  # of the last batch
    before: float | None = None  # the held-out loss before the first step
    best: Best | None = None
    worse: int = 0  # evaluations since then


class Training:
    """What is trained, on what and how. `model` writes, where the base is one that does."""

    def __init__(
        self, settings: Settings, trainer: Trainer, model: LanguageModel | None, data: Data
    ):
        self.settings, self.trainer, self.model, self.data = settings, trainer, model, data
        by_epoch = ceil(len(data.training) / settings.batch)
        self.steps = settings.steps or settings.epochs * by_epoch
        self.evaluate_every = settings.evaluate_every or max(ceil(by_epoch / 4), 1)
        self.loss = Loss_Classification() if data.classes else Loss_CrossEntropy()
        # The loss of a model that finds everything as likely as anything else.
        self.guessing = log(len(data.classes) or trainer.info().vocabulary)
        self.state = self.begin()

    def run(self) -> None:
        """Trains, and saves an adapter unless it is asked to stop."""
        state, patience = self.state, self.settings.patience
        while state.step < self.steps and not 0 < patience <= state.worse:
            if self.step() == Signal.STOP:
                self.keep(LAST)
                return
        self.keep(LAST)
        if state.best and state.best.step != state.step:
            self.take(BEST)
        self.save()

    def begin(self) -> State:
        """Where an earlier run was when it stopped, or the beginning."""
        identity = self.settings.identity()
        state = self.take(LAST)
        if state and state.identity != identity:
            raise Wrong(
                f"the training that was begun here has other settings ({state.identity}) than this one "
                f"({identity}), and only its rates and its patience may change; give the same, or begin "
                "anew under another name"
            )
        if state:
            return state
        self.state = State(identity, self.settings.steps_made)
        if self.data.held_out:
            self.state.before, _ = self.evaluate(self.data.held_out)
        self.tell(None, self.state.before, 0.0)
        self.keep(LAST)
        return self.state

    def step(self) -> Signal:
        """One step, and what belongs after it."""
        state, settings = self.state, self.settings
        warm_up = int(settings.warm_up * self.steps + 0.5)
        change = factor(settings.schedule, warm_up, self.steps, state.step)
        rate = f32(settings.learning_rate * change)
        taught = self.data.training
        chosen = batch(len(taught), settings.batch, settings.seed, state.step)
        examples = [taught[number] for number in chosen]
        divisor = counted(examples)
        loss = 0.0
        for part in self.passes(examples):
            done = self.trainer.forward_backward(part, self.loss, divisor)
            loss += done.loss
            state.tokens += done.tokens
        self.check(loss, "the loss", DIVERGED_CLASSES if self.data.classes else DIVERGED)
        hyper = HyperParameters(rate, 0.9, 0.999, 1e-8, settings.weight_decay, settings.clip)
        made = self.trainer.optim_step(hyper)
        if not isfinite(made.gradient_norm):
            raise self.has_diverged("the gradient is not finite")
        state.step += 1
        state.loss = loss
        is_due = state.step % self.evaluate_every == 0 or state.step == self.steps
        held_out = self.judge() if is_due and self.data.held_out else None
        return self.tell(loss, held_out, rate)

    def judge(self) -> float:
        """Evaluates, and keeps what is the best so far."""
        state = self.state
        loss, accuracy = self.evaluate(self.data.held_out)
        self.check(loss, "the held-out loss", AS_GUESSING)
        if state.best is None or loss < state.best.loss:
            state.best = Best(state.step, loss, accuracy)
            state.worse = 0
            self.keep(BEST)
        else:
            state.worse += 1
        self.keep(LAST)
        return loss

    def evaluate(self, examples: list[Example]) -> tuple[float, float | None]:
        """The mean loss over examples, and the share of classes that are right, if there are any."""
        total, count, right = 0.0, 0.0, 0
        for part in self.passes(examples):
            done = self.trainer.evaluate(part, self.loss)
            total += done.outcome.loss * done.outcome.divisor
            count += done.outcome.divisor
            if self.data.classes:
                answers = zip(part, done.log_probabilities)
                right += sum(one.label == likeliest(logs) for one, logs in answers)
        loss = total / count
        if not isfinite(loss):
            raise self.has_diverged("the loss on what was not learned is not finite")
        return loss, right / len(examples) if self.data.classes else None

    def passes(self, examples: list[Example]) -> list[list[Example]]:
        """Examples, divided into passes."""
        lengths = [len(example.tokens) for example in examples]
        return [examples[part] for part in passes(lengths, self.settings.pass_tokens)]

    def check(self, loss: float, what: str, times_guessing: float) -> None:
        """Refuses a loss that no training comes to by learning."""
        most = max(DIVERGED * (self.state.before or 0.0), times_guessing * self.guessing)
        # What the untrained model comes to is not the training's doing.
        if not isfinite(loss) or (loss >= most and self.state.step > 0):
            reason = f"{what} is {loss:.2f}, where guessing has {self.guessing:.2f}"
            raise self.has_diverged(reason)

    def has_diverged(self, reason: str) -> Err:
        state, kept = self.state, "the checkpoint of its beginning is kept"
        if state.best:
            kept = (
                f"the last good checkpoint is kept, with a held-out loss of {state.best.loss:.4f} at "
                f"step {state.best.step}"
            )
        return Err(
            Error_Failed(
                f"the training diverged after step {state.step}: {reason}. It was stopped, and {kept}. "
                f"Train on with a smaller learning-rate than {decimal(self.settings.learning_rate)}"
            )
        )

    def tell(self, loss: float | None, held_out: float | None, rate: float) -> Signal:
        state = self.state
        progress = Progress(state.step, self.steps, loss, held_out, rate, state.tokens)
        return training.report(progress)

    def keep(self, name: str) -> None:
        self.trainer.checkpoint(name, json.dumps(asdict(self.state)).encode())

    def take(self, name: str) -> State | None:
        """Goes on from a checkpoint, if there is one."""
        kept = self.trainer.resume(name)
        if kept is None:
            return None
        state = State(**json.loads(kept))
        state.best = Best(**state.best) if state.best else None
        return state

    def save(self) -> None:
        """Saves the adapter, with what came of it."""
        state, data = self.state, self.data
        metrics = [
            ("steps", state.step),
            ("tokens", state.tokens),
            ("training-examples", len(data.training)),
            ("held-out-examples", len(data.held_out)),
            ("last-loss", state.loss),
            ("held-out-loss-before", state.before),
        ]
        if state.best:
            metrics += [
                ("held-out-loss", state.best.loss),
                ("best-step", state.best.step),
                ("held-out-accuracy", state.best.accuracy),
            ]
        if data.test:
            loss, accuracy = self.evaluate(data.test)
            metrics += [
                ("test-examples", len(data.test)),
                ("test-loss", loss),
                ("test-accuracy", accuracy),
            ]
        metrics = [(name, float(value)) for name, value in metrics if value is not None]
        samples = self.samples() if self.model else []
        info, classes = self.trainer.info(), len(data.classes)
        text = card.write(info, self.settings, classes, self.steps, metrics, samples)
        self.trainer.save(Metadata(text, self.settings.told(), metrics))

    def samples(self) -> list[tuple[str, str]]:
        """What is written now to some of what was held out."""
        prompts = [prompt for prompt in self.data.prompts if prompt][:SAMPLES]
        written = self.trainer.sample(prompts, Sampling(0.0, 0, SAMPLE_TOKENS))
        texts = self.model.detokenize(written)
        asked = self.model.detokenize(prompts)
        return [(prompt[-SAMPLE_PROMPT:], text) for prompt, text in zip(asked, texts)]


def likeliest(logs: list[float]) -> int:
    """The class with the largest logarithm, of equal ones the last."""
    return max(range(len(logs)), key=lambda number: (logs[number], number))
