#!/usr/bin/env python3
"""Train an adapter of skep-mini-lm for each voice of the village, by `skep finetune`.

    cargo run --release -p village --example dialogues -- \\
        --seed 77 --count 40000 > dialogues.jsonl           # in guests/
    cargo run --release -p village --example dialogues -- \\
        --seed 78 --count 4000 > held-out.jsonl
    python models/train_voices.py dialogues.jsonl held-out.jsonl target/debug/skep --out models/voices

The dialogues are those of the village's own script. Nothing is learned from those that are held out,
which are of villages of their own, nor chosen by them: a tenth of the others chooses the best of
the checkpoints. `skep finetune` measures the loss on what is held out, of the model alone too.

Writes a folder in PEFT's form for each voice, what was held out to `held-out.jsonl`, and the figures
to `voices.json`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

# Small ones: each is held in some hundred kilobytes.
SETTINGS = ["rank=2", "batch=8", "learning-rate=0.003", "held-out=0.1", "patience=0"]
FILES = ["adapter_config.json", "adapter_model.safetensors"]
# Times that the held-out part of the others is looked at.
LOOKS = 8


def by_voice(dialogues, without=frozenset()):
    """Samples by the voice that the second line of their prompt names, each prompt once."""
    voices, seen = defaultdict(list), set(without)
    for line in dialogues.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        if sample["prompt"] in seen:
            continue
        seen.add(sample["prompt"])
        voice = sample["prompt"].split("\n")[1].rsplit(", ", 1)[1]
        voices[voice].append(sample)
    return voices


def finetune(skep, home, data, name, *settings):
    command = [skep, "--home", home, "--json", "finetune", "--data", data]
    command += ["--out", name, "--", *SETTINGS, *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def train(skep, home, voice, learned, tested, steps):
    lines = learned + [dict(sample, split="test") for sample in tested]
    data = home / f"{voice}.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    # A step of no size: what the model alone comes to.
    alone = finetune(skep, home, data, "alone", "steps=1", "warm-up=0", "learning-rate=0")
    settings = [f"steps={steps}", f"evaluate-every={max(1, steps // LOOKS)}"]
    trained = finetune(skep, home, data, f"voice-{voice}", *settings)
    return alone["metrics"]["test-loss"], trained


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dialogues", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("skep", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--samples", type=int, default=4000, help="of each voice at most")
    parser.add_argument("--tested", type=int, default=40, help="of each voice at most")
    parser.add_argument("--voice", action="append", help="only these")
    options = parser.parse_args()
    tests = by_voice(options.held_out)
    tests = {voice: samples[: options.tested] for voice, samples in sorted(tests.items())}
    held_out = [sample for samples in tests.values() for sample in samples]
    dialogues = by_voice(options.dialogues, {sample["prompt"] for sample in held_out})
    options.out.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(sample) + "\n" for sample in held_out)
    (options.out / "held-out.jsonl").write_text("".join(lines), encoding="utf-8")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        subprocess.run([options.skep, "--home", home, "key", "new"], check=True, capture_output=True)
        for voice, tested in tests.items():
            if options.voice and voice not in options.voice:
                continue
            learned = dialogues[voice][: options.samples]
            alone, trained = train(options.skep, home, voice, learned, tested, options.steps)
            to = options.out / voice
            shutil.rmtree(to, ignore_errors=True)
            to.mkdir()
            adapter = home / "trainings" / f"voice-{voice}" / "adapter"
            for name in FILES:
                shutil.copyfile(adapter / name, to / name)
            figures[voice] = dict(
                learned_from=len(learned),
                tested_on=len(tested),
                steps=trained["steps"],
                loss_of_the_model_alone=round(alone, 4),
                loss_with_the_adapter=round(trained["metrics"]["test-loss"], 4),
                bytes=(to / FILES[1]).stat().st_size,
            )
            print(json.dumps(dict(voice=voice, **figures[voice])), flush=True)
    (options.out / "voices.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
