#!/usr/bin/env python3
"""Write what tests/encoder_adapters.rs and tests/decoder_adapters.rs are held against: what PEFT makes of
texts with adapters of the tiny encoder that make_training.py writes, and of a tiny decoder.

    pip install torch transformers==5.24.0 peft==0.21.2 tokenizers safetensors
    python make_adapters.py

`bert/batch` was made by PEFT, `bert/saved` by this crate (`cargo run -p skep-train --example
save_for_peft` writes it): a classifier on the mean of the tokens' states, of which
PEFT's logarithms of probabilities and embeddings are kept. `bert/masked` is one that PEFT makes here of
a model for another task, whose encoder is a part of it and which has no classes: embeddings alone.

`saved` was saved by this crate too, by the same command: the adapter of `smollm`, in the form that this crate
gives it. Kept are the logarithms of the probabilities that PEFT finds for the tokens of that batch's texts.
"""

import shutil
from pathlib import Path

import peft
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

from make_training import HERE, MeanClassifier, known_texts, log_probabilities, open_adapter

BERT = HERE / "bert"
TEXTS = [
    "w3 w70 w4",
    "w9",
    "w100 w101 w3 w3 nothing",
    " ".join(f"w{3 + n * 7 % 150}" for n in range(60)),
    "w5 w5 w5 w5 w6 w7 w8",
]


def tokens():
    tokenizer = tokenizers.Tokenizer.from_file(str(BERT / "model" / "tokenizer.json"))
    return [torch.tensor([tokenizer.encode(text).ids]) for text in TEXTS]


def embedding(states):
    return torch.nn.functional.normalize(states.mean(dim=1), dim=-1)[0]


def classifier(folder):
    base = MeanClassifier.from_pretrained(
        BERT / "model", dtype=torch.float32, attn_implementation="eager"
    )
    model = peft.PeftModel.from_pretrained(base, folder).eval().base_model.model
    logs, embeddings = [], []
    for ids in tokens():
        states = model(input_ids=ids).last_hidden_state
        logs.append(torch.log_softmax(model.score(states.mean(dim=1))[0], dim=-1))
        embeddings.append(embedding(states))
    save_file(
        dict(logs=torch.stack(logs), embeddings=torch.stack(embeddings)),
        folder / "texts.safetensors",
    )
    print(f"{folder.name}: {logs[0].tolist()}")


def masked(folder):
    torch.manual_seed(60)
    base = transformers.BertForMaskedLM.from_pretrained(
        BERT / "model", dtype=torch.float32, attn_implementation="eager"
    )
    base.name_or_path = base.config._name_or_path = "tiny-bert"
    config = peft.LoraConfig(
        r=2, lora_alpha=3, use_rslora=True, target_modules=["query", "value"], lora_dropout=0.0
    )
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.copy_(torch.randn_like(weight) * 0.3)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    bert = model.base_model.model.bert
    embeddings = [embedding(bert(input_ids=ids).last_hidden_state) for ids in tokens()]
    save_file(dict(embeddings=torch.stack(embeddings)), folder / "texts.safetensors")


def decoder(folder, name):
    model = open_adapter(name, folder).eval()
    logs = torch.cat([log_probabilities(model, tokens) for tokens, _ in known_texts(HERE / name)])
    save_file(dict(logs=logs), folder / "texts.safetensors")
    print(f"{folder.name}: {logs[1:6].tolist()}")


@torch.no_grad()
def main():
    transformers.logging.set_verbosity_error()
    classifier(BERT / "batch")
    classifier(BERT / "saved")
    masked(BERT / "masked")
    decoder(HERE / "saved", "smollm")
    for file in [*BERT.rglob("*"), *(HERE / "saved").rglob("*")]:
        file.chmod(0o755 if file.is_dir() else 0o644)


if __name__ == "__main__":
    main()
