#!/usr/bin/env python3
"""What `skep finetune` does with an encoder and labelled texts, done by PEFT and PyTorch.

    python tune_side_by_side.py packages.jsonl MODEL rank=16 epochs=8 batch=32 learning-rate=0.001 [seed=0]

The same lines are learned and tested, in as many steps of as many examples: an adapter of every
linear layer and a linear layer over the mean of all tokens' states, AdamW with gradients clipped to
1, a rate that rises for a twentieth of the steps and falls along half a cosine. Batches are padded to
their longest text. Prints the accuracy on the tests, and seconds of training and of testing, as the
last line.
"""

import json
import math
import os
import sys
import time

import peft
import torch
import transformers

LINEARS = r".*encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)"


class Classifier(transformers.BertModel):
    """An encoder with a linear layer over the mean of all tokens' states."""

    def __init__(self, config):
        super().__init__(config, add_pooling_layer=False)
        self.score = torch.nn.Linear(config.hidden_size, config.classes)

    def logits(self, input_ids, attention_mask):
        states = super().forward(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask[..., None].float()
        return self.score((states * mask).sum(dim=1) / mask.sum(dim=1))


def factor(step, steps):
    warm_up = round(0.05 * steps)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def main():
    data, folder = sys.argv[1:3]
    settings = dict(setting.split("=") for setting in sys.argv[3:])
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    torch.manual_seed(int(settings.get("seed", 0)))
    transformers.logging.set_verbosity_error()
    lines = [json.loads(line) for line in open(data, encoding="utf-8")]
    names = sorted({line["label"] for line in lines})
    learned = [line for line in lines if line["split"] == "train"]
    tests = [line for line in lines if line["split"] == "test"]

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    # The adapter drops what it is told to, and the encoder nothing, as here.
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config.classes = len(names)
    base = Classifier.from_pretrained(folder, config=config, dtype=torch.float32)
    torch.nn.init.normal_(base.score.weight, std=0.02)
    torch.nn.init.zeros_(base.score.bias)
    rank = int(settings["rank"])
    lora = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=float(settings.get("dropout", 0)),
        target_modules=LINEARS,
        modules_to_save=["score"],
    )
    model = peft.get_peft_model(base, lora)
    net = model.base_model.model

    def logits_of(batch):
        texts = tokenizer([line["text"] for line in batch], padding=True, truncation=True,
                          max_length=256, return_tensors="pt")
        return net.logits(texts["input_ids"], texts["attention_mask"])

    def labels_of(batch):
        return torch.tensor([names.index(line["label"]) for line in batch])

    size, epochs = int(settings["batch"]), int(settings["epochs"])
    rate = float(settings["learning-rate"])
    steps = epochs * math.ceil(len(learned) / size)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    began, processor = time.perf_counter(), time.process_time()
    step = 0
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(learned)).tolist()
        for start in range(0, len(learned), size):
            batch = [learned[n] for n in order[start:start + size]]
            loss = torch.nn.functional.cross_entropy(logits_of(batch), labels_of(batch))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate * factor(step, steps)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    seconds, processor = time.perf_counter() - began, time.process_time() - processor

    model.eval()
    began = time.perf_counter()
    right = 0
    with torch.no_grad():
        for start in range(0, len(tests), 64):
            batch = tests[start:start + 64]
            right += int((logits_of(batch).argmax(dim=1) == labels_of(batch)).sum())
    print(json.dumps({
        "accuracy": right / len(tests),
        "training_seconds": seconds,
        "training_processor_seconds": processor,
        "testing_seconds": time.perf_counter() - began,
    }))


if __name__ == "__main__":
    main()
