#!/usr/bin/env python3
"""Train an adapter of skep-mini-lm for each voice of the village, by `skep finetune`.

    cargo run --release -p village --example dialogues -- \\
        --seed 77 --count 12000 > dialogues.jsonl           # in guests/
    python models/train_voices.py dialogues.jsonl target/debug/skep --out models/voices

The dialogues are those of the village's own script. Of each voice that has enough of them, the last
tenth is held out: nothing is learned from it or chosen by it, and `skep finetune` measures the loss
on it at the end, of the model alone too. Another tenth chooses the best of four checkpoints. Writes a folder in PEFT's form for each voice, and `voices.json` with the figures.
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
FILES = ["adapter_config.json", "adapter_model.safetensors", "lineage.json"]


def by_voice(dialogues):
    """Samples by the voice that the second line of their prompt names, each prompt once."""
    voices, seen = defaultdict(list), set()
    for line in dialogues.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        if line in seen:
            continue
        seen.add(line)
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


def train(skep, home, voice, samples, steps):
    tested = len(samples) // 10
    lines = [dict(sample) for sample in samples]
    for sample in lines[len(lines) - tested :]:
        sample["split"] = "test"
    data = home / f"{voice}.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    # A step of no size: what the model alone comes to.
    alone = finetune(skep, home, data, "alone", "steps=1", "warm-up=0", "learning-rate=0")
    every = max(1, steps // 4)
    settings = [f"steps={steps}", f"evaluate-every={every}"]
    trained = finetune(skep, home, data, f"voice-{voice}", *settings)
    return alone["metrics"]["test-loss"], trained, len(lines) - tested, tested


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dialogues", type=Path)
    parser.add_argument("skep", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--samples", type=int, default=700, help="of each voice at most")
    parser.add_argument("--voice", action="append", help="only these")
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        subprocess.run([options.skep, "--home", home, "key", "new"], check=True, capture_output=True)
        for voice, samples in sorted(by_voice(options.dialogues).items()):
            if options.voice and voice not in options.voice:
                continue
            samples = samples[: options.samples]
            alone, trained, learned, tested = train(options.skep, home, voice, samples, options.steps)
            to = options.out / voice
            shutil.rmtree(to, ignore_errors=True)
            to.mkdir(parents=True)
            adapter = home / "trainings" / f"voice-{voice}" / "adapter"
            for name in FILES:
                shutil.copyfile(adapter / name, to / name)
            metrics = trained["metrics"]
            figures[voice] = dict(
                learned_from=learned,
                tested_on=tested,
                steps=trained["steps"],
                loss_of_the_model_alone=round(alone, 4),
                loss_with_the_adapter=round(metrics["test-loss"], 4),
                bytes=(to / FILES[1]).stat().st_size,
            )
            print(json.dumps(dict(voice=voice, **figures[voice])), flush=True)
    (options.out / "voices.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
