"""Embedding short texts: skep's encoder beside sentence-transformers on PyTorch.

Usage: embed_side_by_side.py EMBED_BENCH MODEL [--texts FILE] [--count 2000] [--threads 2]
                             [--runs 5] [--json]

EMBED_BENCH is the built example `embed_bench` of skep-model, MODEL a folder with all-MiniLM-L6-v2
or another encoder that both can load. Without --texts the texts are one-line descriptions of
Debian packages, as `apt-cache dumpavail` prints them, shuffled with a fixed seed.

Four contestants take turns, so that what else the machine does falls on all alike: skep with its
usual 16-bit integers, skep in f32, PyTorch in f32, PyTorch under bf16 autocast. Figures are medians
of texts per second, and per second of processor time, which other programs disturb less. Then every
embedding of the first three is held against PyTorch's in f32, computed one text at a time, so that
no padding takes part. Exit status 1 if a cosine is below 0.9999.

Needs torch and sentence-transformers.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

BOUND = 0.9999


def debian_descriptions(count: int) -> list[str]:
    listing = subprocess.run(
        ["apt-cache", "dumpavail"], check=True, capture_output=True, text=True
    ).stdout
    found = {}
    for line in listing.splitlines():
        field, _, value = line.partition(": ")
        if field in ("Description", "Description-en") and value.strip():
            found[value.strip()] = None
    texts = sorted(found)
    if len(texts) < count:
        sys.exit(f"apt knows {len(texts)} descriptions, {count} are needed: run `apt-get update`")
    random.Random(1).shuffle(texts)
    return texts[:count]


class Skep:
    def __init__(self, binary: str, model: str, threads: int, texts: Path, *flags: str) -> None:
        self.command = [binary, "--model", model, "--texts", str(texts), "--threads", str(threads)]
        self.command += flags

    def run(self, *more: str) -> dict:
        done = subprocess.run(
            [*self.command, "--repeat", "1", *more], check=True, capture_output=True, text=True
        )
        return json.loads(done.stdout)

    def measure(self, _texts: list[str]) -> tuple[float, float]:
        result = self.run()
        return result["seconds"], result["cpu_seconds"]

    def embed(self, width: int):
        import numpy

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "vectors"
            self.run("--out", str(out))
            return numpy.fromfile(out, "<f4").reshape(-1, width)


class PyTorch:
    def __init__(self, model, autocast: bool) -> None:
        self.model = model
        self.autocast = autocast

    def encode(self, texts, batch_size: int):
        import torch

        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.model.encode(
                texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
            )

    def measure(self, texts: list[str]) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        self.encode(texts, 32)
        return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    import numpy
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(arguments.threads)
    if arguments.texts:
        lines = arguments.texts.read_text(encoding="utf-8").splitlines()
        texts = [line for line in lines if line.strip()][: arguments.count]
    else:
        texts = debian_descriptions(arguments.count)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts"
        file.write_text("\n".join(texts) + "\n", encoding="utf-8")
        model = SentenceTransformer(arguments.model, device="cpu")
        side = (arguments.binary, arguments.model, arguments.threads, file)
        contestants = {
            "skep i16": Skep(*side),
            "skep f32": Skep(*side, "--f32"),
            "PyTorch f32": PyTorch(model, False),
            "PyTorch bf16": PyTorch(model, True),
        }
        for contestant in contestants.values():
            contestant.measure(texts)
        seconds = {name: [] for name in contestants}
        for _ in range(arguments.runs):
            for name, contestant in contestants.items():
                seconds[name].append(contestant.measure(texts))

        want = contestants["PyTorch f32"].encode(texts, 1).astype(numpy.float64)
        width = want.shape[1]
        got = {
            "skep i16": contestants["skep i16"].embed(width),
            "skep f32": contestants["skep f32"].embed(width),
            "PyTorch bf16": contestants["PyTorch bf16"].encode(texts, 32),
        }

    result = {"texts": len(texts), "threads": arguments.threads, "runs": arguments.runs}
    result["contestants"] = {}
    for name, pairs in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs))
        row = {"texts_per_s": len(texts) / wall, "texts_per_cpu_s": len(texts) / cpu}
        if name in got:
            vectors = numpy.asarray(got[name], dtype=numpy.float64)
            norms = numpy.linalg.norm(vectors, axis=1) * numpy.linalg.norm(want, axis=1)
            row["min_cosine"] = float(((vectors * want).sum(axis=1) / norms).min())
        result["contestants"][name] = row
    base = result["contestants"]["PyTorch f32"]["texts_per_s"]
    sound = all(
        row.get("min_cosine", 1.0) >= BOUND
        for name, row in result["contestants"].items()
        if name.startswith("skep")
    )
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{len(texts)} texts, {arguments.threads} threads, median of {arguments.runs} runs\n")
        print(f"{'':14}{'texts/s':>10}{'per cpu-s':>11}{'ratio':>8}{'min cosine':>14}")
        for name, row in result["contestants"].items():
            cosine = f"{row['min_cosine']:.8f}" if "min_cosine" in row else ""
            print(
                f"{name:14}{row['texts_per_s']:10.0f}{row['texts_per_cpu_s']:11.0f}"
                f"{row['texts_per_s'] / base:8.2f}{cosine:>14}"
            )
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
