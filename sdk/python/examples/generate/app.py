"""Goes on with each line of its input, or answers it where the model can hold a conversation.

The same workload as `sdk/rust/examples/generate.rs` in skep's repository, and so the same texts. Its
argument, if there is one, is the number of tokens to write at most.
"""

import wit_world
from componentize_py_types import Err
from wit_world.imports import io
from wit_world.imports.text import (
    LanguageModel,
    Message,
    Prompt_Chat,
    Prompt_Text,
    Request,
)
from wit_world.imports.types import Error_Invalid

PIECE = 65536  # bytes that are read in one call


class WitWorld(wit_world.WitWorld):
    """What the node calls."""

    def run(self, arguments: list[str]) -> None:
        if len(arguments) > 1 or not all(argument.isdecimal() for argument in arguments):
            raise Err(Error_Invalid("give one argument at most, a number"))
        most = int(arguments[0]) if arguments else 64
        model = LanguageModel.open("default")
        converses = model.info().has_chat_template

        def request(line: str) -> Request:
            prompt = Prompt_Chat([Message("user", line)]) if converses else Prompt_Text(line)
            return Request(prompt, most, None, ["\n"], None, 1, None, None)

        # All lines in one call, so that they go through the model together.
        for answer in model.generate([request(line) for line in read_lines()]):
            if isinstance(answer, Err):
                raise answer
            for text in answer.value:
                io.write(f"{text.text.strip()}\n".encode())


def read_lines() -> list[str]:
    """The lines of the whole input."""
    pieces = []
    while piece := io.read(PIECE):
        pieces.append(piece)
    return b"".join(pieces).decode().splitlines()
