"""From records to examples: tokens, and which of them are learned."""

import json
from collections import Counter
from dataclasses import dataclass, field

from data import Chat, Completion, Labelled, Record, Text
from schedule import shuffled
from settings import Settings, Wrong
from wit_world.imports.text import LanguageModel, Message, Prompt, Prompt_Chat, Prompt_Text
from wit_world.imports.training import Example, Trainer, TrainerInfo

TEXTS = 512  # that are cut into tokens in one call
BYTES = 1 << 20  # of them


@dataclass
class Data:
    """Examples, apart for learning, for looking whether anything was learned, and for the end."""

    training: list[Example] = field(default_factory=list)
    held_out: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)
    # What classes are called, where classes are learned rather than tokens.
    classes: list[str] = field(default_factory=list)
    # For each example that is held out what comes before the words that are learned.
    prompts: list[list[int]] = field(default_factory=list)


@dataclass
class Asked:
    """A text that is learned, and what comes before it."""

    line: int
    is_test: bool
    prompt: Prompt
    answer: str
    label: str | None = None

    def size(self) -> int:
        """Its bytes."""
        if isinstance(self.prompt, Prompt_Text):
            texts = [self.prompt.value]
        else:
            texts = [text for turn in self.prompt.value for text in (turn.role, turn.content)]
        return sum(len(text.encode()) for text in (self.answer, *texts))


def prepare(
    trainer: Trainer, model: LanguageModel, records: list[Record], settings: Settings
) -> Data:
    """Cuts the records into tokens and divides them."""
    info = trainer.info()
    asked = [one for record in records for one in asked_of(record)]
    chat = next((one for one in asked if isinstance(one.prompt, Prompt_Chat)), None)
    if chat and not info.has_chat_template:
        raise Wrong(
            f"line {chat.line}: {info.base_name} has no template for conversations; write `prompt` and "
            "`completion`"
        )
    cut = []
    for part in parts(asked):
        prompts = trainer.encode([one.prompt for one in part])
        answers = model.tokenize([one.answer for one in part])
        for one, prompt, answer in zip(part, prompts, answers):
            cut.append((prompt, example(one.line, prompt, answer, info)))
    return divide(cut, asked, settings)


def classes_of(records: list[Record]) -> list[str]:
    """The names of all classes that records have, in alphabetical order."""
    for record in records:
        if not isinstance(record.form, Labelled):
            raise Wrong(
                f"line {record.line}: a sentence encoder learns to tell texts apart; write `text` and "
                "`label`"
            )
    names = sorted({record.form.label for record in records})
    if len(names) < 2:
        raise Wrong("all lines have one label, and at least two are needed")
    return names


def prepare_classes(
    trainer: Trainer, records: list[Record], classes: list[str], settings: Settings
) -> Data:
    """Cuts texts into tokens and divides them, each with its class."""
    asked = [
        Asked(record.line, record.is_test, Prompt_Text(record.form.text), "", record.form.label)
        for record in records
    ]
    numbers = {name: number for number, name in enumerate(classes)}
    cut = []
    for part in parts(asked):
        texts = trainer.encode([one.prompt for one in part])
        for one, tokens in zip(part, texts):
            cut.append(([], Example(tokens, [], numbers[one.label], [], [], 0.0)))
    data = divide(cut, asked, settings)
    taught = {one.label for one in asked if not one.is_test}
    for one in asked:
        if one.label not in taught:
            label = json.dumps(one.label, ensure_ascii=False)
            raise Wrong(
                f"line {one.line}: the label {label} is only in the part for tests, so that nothing "
                "teaches it"
            )
    data.classes = classes
    return data


def asked_of(record: Record) -> list[Asked]:
    """What a record asks to be learned: of a conversation every answer, each after all before it."""

    def one(prompt: Prompt, answer: str, label: str | None = None) -> Asked:
        return Asked(record.line, record.is_test, prompt, answer, label)

    match record.form:
        case Completion(prompt, completion):
            return [one(Prompt_Text(prompt), completion)]
        case Labelled(text, label):
            return [one(Prompt_Text(f"{text}\nLabel:"), f" {label}", label)]
        case Text(text):
            return [one(Prompt_Text(""), text)]
        case Chat(turns):
            said = [Message(role, content) for role, content in turns]
            answers = [place for place in range(1, len(said)) if said[place].role == "assistant"]
            return [one(Prompt_Chat(said[:place]), said[place].content) for place in answers]


def parts(asked: list[Asked]) -> list[list[Asked]]:
    """Divides what is asked into parts that one call may carry."""
    divided, total = [[]], 0
    for one in asked:
        own = one.size()
        if divided[-1] and (len(divided[-1]) == TEXTS or total + own > BYTES):
            divided.append([])
            total = 0
        divided[-1].append(one)
        total += own
    return divided


def example(line: int, prompt: list[int], answer: list[int], info: TrainerInfo) -> Example:
    """The prompt's tokens, which count nothing, and the answer's with the token that ends it."""
    tokens = [*prompt, *answer, *info.ends[:1]]
    if len(tokens) > info.context:
        raise Wrong(
            f"line {line} has {len(tokens)} tokens and {info.base_name} can look at {info.context} "
            "together; shorten it, or divide it into several lines"
        )
    weights = [0.0] * len(prompt) + [1.0] * (len(tokens) - len(prompt))
    if not any(weights[1:]):
        raise Wrong(f"line {line} has no token that could be learned")
    return Example(tokens, weights, None, [], [], 0.0)


def divide(cut: list[tuple[list[int], Example]], asked: list[Asked], settings: Settings) -> Data:
    """Holds a share out. A label that only the held-out part has would ask for what nobody taught, so
    such examples are learned from instead."""
    left = Counter(one.label for one in asked if not one.is_test)
    count, share = left.total(), settings.held_out
    if count == 0:
        raise Wrong("all lines are of the part for tests, and there is nothing to learn from")
    if share > 0 and count < 2:
        raise Wrong(
            "there is one example, and at least two are needed: one to learn from and one to hold out "
            "(held-out=0 holds none out)"
        )
    most = min(max(int(share * count + 0.5), 1), count - 1) if share > 0 else 0
    held = set()
    for place in shuffled(len(cut), settings.seed, 0):
        label = asked[place].label
        is_spare = not asked[place].is_test and (label is None or left[label] > 1)
        if is_spare and len(held) < most:
            held.add(place)
            left[label] -= 1
    data = Data()
    for place, (prompt, made) in enumerate(cut):
        if asked[place].is_test:
            data.test.append(made)
        elif place in held:
            data.held_out.append(made)
            data.prompts.append(prompt)
        else:
            data.training.append(made)
    return data


def counted(examples: list[Example]) -> float:
    """What the loss of these examples is divided by, to be the mean over the tokens that count, or
    over texts where each has a class."""
    return sum(1.0 if one.label is not None else sum(one.weights[1:]) for one in examples)
