"""Goes on with each line of its input, or answers it where the model can hold a conversation.

The same workload as `sdk/rust/examples/generate.rs` in skep's repository, with the same arguments, and
so the same texts.
"""

from dataclasses import replace
from itertools import cycle

import wit_world
from componentize_py_types import Err
from wit_world.imports import io
from wit_world.imports.text import (
    Constraint_JsonSchema,
    LanguageModel,
    Message,
    Prompt_Chat,
    Prompt_Text,
    Request,
    Sampling,
)
from wit_world.imports.types import Error_Invalid

PIECE = 65536  # bytes that are read in one call


class WitWorld(wit_world.WitWorld):
    """What the node calls."""

    def run(self, arguments: list[str]) -> None:
        template, adapters, stream = options(arguments)
        model = LanguageModel.open("default")
        converses = model.info().has_chat_template

        def request(line: str, adapter: str | None) -> Request:
            prompt = Prompt_Chat([Message("user", line)]) if converses else Prompt_Text(line)
            return replace(template, prompt=prompt, adapter=adapter)

        # All lines in one call, so that they go through the model together.
        requests = [request(*each) for each in zip(read_lines(), cycle(adapters))]
        if stream:
            print_in_order(model.start(requests), len(requests))
            return
        for answer in model.generate(requests):
            if isinstance(answer, Err):
                raise answer
            for text in answer.value:
                write(f"{text.text}\n")


def options(arguments: list[str]) -> tuple[Request, list[str | None], bool]:
    """A request without its prompt and its adapter, the adapters that lines have in turn, and
    whether to write pieces as they come."""
    request = Request(Prompt_Text(""), 64, None, ["\n"], None, 1, None, None)
    adapters: list[str | None] = [None]
    stream = False
    for argument in arguments:
        name, _, value = argument.partition("=")
        try:
            match name:
                case "max-tokens":
                    request.max_tokens = int(value)
                case "temperature":
                    request.sampling = request.sampling or plain_sampling()
                    request.sampling.temperature = float(value)
                case "seed":
                    request.sampling = request.sampling or plain_sampling()
                    request.sampling.seed = int(value)
                case "json-schema":
                    request.constraint = Constraint_JsonSchema(value)
                    request.stop = []  # One line to a line, but JSON may have several.
                case "adapter":
                    adapters = [name or None for name in value.split(",")]
                case "stream":
                    stream = True
                case _:
                    raise ValueError(
                        f"{name} is no argument; there are max-tokens, temperature, seed, "
                        "json-schema, adapter and stream"
                    )
        except ValueError as error:
            raise Err(Error_Invalid(str(error))) from error
    return request, adapters, stream


def plain_sampling() -> Sampling:
    """Draws by the model's own probabilities."""
    return Sampling(1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, [], None)


def print_in_order(generation, answers: int) -> None:
    """Prints answers that are being written at the same time, one after the other."""
    waiting = [""] * answers
    is_open = [True] * answers
    current = 0
    while chunks := generation.next():
        for chunk in chunks:
            waiting[chunk.request] += chunk.text
            is_open[chunk.request] = chunk.finish is None
        while current < answers:
            text, waiting[current] = waiting[current], ""
            write(text if is_open[current] else f"{text}\n")
            if is_open[current]:
                break
            current += 1


def write(text: str) -> None:
    """Writes text to the output."""
    io.write(text.encode())


def read_lines() -> list[str]:
    """The lines of the whole input."""
    pieces = []
    while piece := io.read(PIECE):
        pieces.append(piece)
    lines = b"".join(pieces).decode().split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
