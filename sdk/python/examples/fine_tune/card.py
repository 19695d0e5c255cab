"""What is said of the adapter to people: the model card."""

from settings import BLANK, Settings
from wit_world.imports.training import TrainerInfo


def write(
    info: TrainerInfo,
    settings: Settings,
    classes: int,
    steps: int,
    metrics: list[tuple[str, float]],
    samples: list[tuple[str, str]],
) -> str:
    """The card, in Markdown. Steps are those that there were to be, and samples are prompts, each with
    what the model writes to it."""
    found = dict(metrics)
    kind, losses = ("sentence encoder", "texts") if classes else ("language model", "tokens")
    change = "A low-rank change (LoRA)"
    if settings.dora == "yes":
        change = "A low-rank change with learned magnitudes (DoRA)"
    lines = [
        f"# An adapter of {info.base_name}\n",
        f"{change} of the {kind} {info.base_name} (`{info.base}`), with "
        f"{info.parameters} parameters, made by the recipe `fine-tune`.\n",
    ]
    if classes:
        lines.append(
            f"A linear layer over what the encoder pools of a text tells {classes} classes apart; "
            "`lineage.json` has their names in order.\n"
        )
    lines += [
        "## What it learned from\n",
        f"{found['training-examples']:.0f} examples, and {found['held-out-examples']:.0f} that were held "
        "out. The examples are not part of the adapter.\n",
        "## What came of it\n",
        "| | |\n|---|---|",
        f"| steps | {found['steps']:.0f} of {steps} |",
        f"| tokens | {found['tokens']:.0f} |",
    ]
    if "held-out-loss" in found:
        lines += [
            f"| held-out loss before | {found['held-out-loss-before']:.4f} |",
            f"| held-out loss after | {found['held-out-loss']:.4f}, of step {found['best-step']:.0f} |",
        ]
    for name, what in (
        ("held-out-accuracy", "| held-out accuracy after | {:.4f} |"),
        ("test-examples", "| tests, which were not looked at before | {:.0f} |"),
        ("test-loss", "| loss on them | {:.4f} |"),
        ("test-accuracy", "| accuracy on them | {:.4f} |"),
        ("last-loss", "| loss of the last batch | {:.4f} |"),
    ):
        if name in found:
            lines.append(what.format(found[name]))
    lines += [
        f"\nLosses are means over {losses} of the negative natural logarithm.\n",
        "## How it was trained\n",
        "| | |\n|---|---|",
        *(f"| {name} | {value} |" for name, value in settings.told()),
    ]
    if samples:
        lines.append("\n## What it writes\n")
    for prompt, text in samples:
        lines.append(f"```text\n… {plain(prompt)}\n→ {plain(text)}\n```\n")
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """A text that ends no block of a card."""
    return text.replace("```", "'''").strip(BLANK)
