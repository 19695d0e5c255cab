"""What is learned from: one JSON object a line, in one of four forms."""

import json
from dataclasses import dataclass

from settings import BLANK, Wrong


@dataclass
class Completion:
    """What is given, and what is to be written to it."""

    prompt: str
    completion: str


@dataclass
class Chat:
    """A conversation, as roles and what was said; what assistants say is to be learned."""

    turns: list[tuple[str, str]]


@dataclass
class Labelled:
    """A text, and the label that is to be written to it."""

    text: str
    label: str


@dataclass
class Text:
    """A text that is to be learned whole."""

    text: str


@dataclass
class Record:
    """What a line holds, and its number, from 1."""

    line: int
    is_test: bool  # never looked at before all is learned: to say then what it came to
    form: Completion | Chat | Labelled | Text


def parse(whole: bytes) -> list[Record]:
    """Reads all lines. Empty ones count and hold nothing."""
    records = []
    for number, line in enumerate(whole.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode(), parse_constant=refuse)
            if b"\\u" in line:  # half a pair of surrogates is no letter
                json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise Wrong(f"line {number} is not JSON: {error}") from error
        try:
            records.append(Record(number, is_test(value), form(value)))
        except Wrong as wrong:
            raise Wrong(f"line {number}: {wrong}") from wrong
    if not records:
        raise Wrong(
            "there is nothing to learn from: the data have no line; write one JSON object a line, such "
            'as {"prompt": "…", "completion": "…"}'
        )
    return records


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def is_test(value: object) -> bool:
    if not isinstance(value, dict) or "split" not in value:
        return False
    if value["split"] not in ("train", "test"):
        split = json.dumps(value["split"], ensure_ascii=False)
        raise Wrong(f'`split` is {split}; it may be "train" or "test"')
    return value["split"] == "test"


def form(value: object) -> Completion | Chat | Labelled | Text:
    if not isinstance(value, dict):
        raise Wrong("it is no object")
    if "prompt" in value or "completion" in value:
        return Completion(text(value, "prompt"), text_with_something(value, "completion"))
    if "messages" in value:
        return chat(value["messages"])
    if "label" in value:
        return Labelled(text_with_something(value, "text"), text_with_something(value, "label"))
    if "text" in value:
        return Text(text_with_something(value, "text"))
    raise Wrong(
        "it has neither `prompt` and `completion`, nor `messages`, nor `text` with or without `label`"
    )


def chat(messages: object) -> Chat:
    if not isinstance(messages, list):
        raise Wrong("`messages` is no list")
    turns = []
    for place, turn in enumerate(messages):
        if not isinstance(turn, dict):
            raise Wrong(f"`messages[{place}]` is no object")
        turns.append((text(turn, "role"), text(turn, "content")))
    # An answer comes to something that was said.
    if not any(role == "assistant" for role, _ in turns[1:]):
        raise Wrong(
            "no turn of `messages` but the first is of the role `assistant`, whose words are learned"
        )
    return Chat(turns)


def text(value: dict, key: str) -> str:
    if key not in value:
        raise Wrong(f"it has no `{key}`")
    if not isinstance(value[key], str):
        raise Wrong(f"`{key}` is no text")
    return value[key]


def text_with_something(value: dict, key: str) -> str:
    if not text(value, key).strip(BLANK):
        raise Wrong(f"`{key}` is empty")
    return value[key]
