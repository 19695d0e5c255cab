#!/usr/bin/env python3
"""Fine-tuning beside PEFT and PyTorch: speed, memory, losses, and whether PEFT loads the result.

    pip install torch transformers==5.24.0 peft==0.21.2 safetensors
    cargo build -p skep-train --example train_speed
    python benches/train_side_by_side.py target/debug/examples/train_speed
    python benches/train_side_by_side.py target/debug/examples/train_speed --encoder MODEL

Both sides train the same adapter (rank 16, every linear layer) on the same random tokens with
the same first weights, AdamW and gradients clipped to a norm of 1, in 32-bit floats on two
threads; each in a process of its own, in turn. The base is a random decoder of Llama's shape
with 20 million weights, made in a temporary folder. Prints a line of JSON for each run and the
ratios of medians at the end.

With `--encoder` the base is a sentence encoder in a folder, such as all-MiniLM-L6-v2, and what is
learned are twelve classes over the mean of all tokens' states.

With `--qlora` only this side runs: a random base of 0.3 billion weights in NF4, rank 16, one
text of 512 tokens, the layers computed again for the backward pass. Prints where the bytes are,
and what the base comes to by the arithmetic of NF4 with double quantization (arXiv 2305.14314).
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BATCH, LENGTH, STEPS, RANK = 4, 512, 4, 16
# With an encoder: short texts, as classes are learned from.
ENCODER_BATCH, ENCODER_LENGTH, ENCODER_STEPS, CLASSES = 32, 64, 16, 12
THREADS = int(os.environ.get("THREADS", "2"))
MASK = (1 << 64) - 1


def make_base(folder):
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def make_large_base(folder):
    """A decoder of 0.3 billion random weights in bfloat16, without a model in between."""
    import torch
    import transformers
    from safetensors.torch import save_file

    config = transformers.LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    config.save_pretrained(folder)
    width, hidden, keys = 1024, 2816, 512
    shapes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (keys, width)}
    shapes |= {"self_attn.v_proj": (keys, width), "self_attn.o_proj": (width, width)}
    shapes |= {"mlp.gate_proj": (hidden, width), "mlp.up_proj": (hidden, width)}
    shapes |= {"mlp.down_proj": (width, hidden)}
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator).mul_(0.02).bfloat16()

    tensors = {"model.embed_tokens.weight": random(32000, width)}
    tensors["model.norm.weight"] = torch.ones(width).bfloat16()
    for layer in range(24):
        name = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{name}.{norm}.weight"] = torch.ones(width).bfloat16()
        for module, shape in shapes.items():
            tensors[f"{name}.{module}.weight"] = random(*shape)
    save_file(tensors, Path(folder) / "model.safetensors")


def qlora(program):
    with tempfile.TemporaryDirectory() as base:
        make_large_base(base)
        command = [program, base, "--batch", "1", "--length", "512", "--steps", "1"]
        command += ["--rank", str(RANK), "--nf4", "--checkpointing", "--eight-bit"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        result = json.loads(done.stdout.splitlines()[-1])
    weights, held = result["linear_weights"], result["base_bytes"]
    kept = [result[name] for name in ("adapter_bytes", "gradient_bytes", "optimizer_bytes")]
    print(
        json.dumps(
            {
                "weights_in_nf4": weights,
                "bytes_a_weight": result["linear_bytes"] / weights,
                "by_arithmetic": (4 + 8 / 64 + 32 / (64 * 256)) / 8,
                "base": held,
                "adapter": kept[0],
                "gradients": kept[1],
                "optimizer": kept[2],
                "activations": result["charged_peak"] - held - sum(kept),
                "charged_peak": result["charged_peak"],
                "tokens_per_second": result["tokens_per_second"],
            }
        )
    )


def rss():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024


def decoder_of(base):
    """A decoder by transformers, what is learned of it, and its loss of a batch."""
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="sdpa"
    )
    config = peft.LoraConfig(
        r=RANK, lora_alpha=32, task_type="CAUSAL_LM", target_modules=
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )
    model = peft.get_peft_model(model, config)
    return model, lambda batch, _: model(input_ids=batch, labels=batch, use_cache=False).loss


def encoder_of(base):
    """The same of an encoder."""
    import peft
    import torch
    import transformers
    from tune_side_by_side import LINEARS, Classifier

    config = transformers.AutoConfig.from_pretrained(base)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config.classes = CLASSES
    model = Classifier.from_pretrained(base, config=config, dtype=torch.float32)
    torch.nn.init.normal_(model.score.weight, std=0.02)
    torch.nn.init.zeros_(model.score.bias)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=32, target_modules=LINEARS, modules_to_save=["score"]
    )
    model = peft.get_peft_model(model, config)
    net = model.base_model.model

    def loss(batch, labels):
        logits = net.logits(batch, torch.ones_like(batch))
        return torch.nn.functional.cross_entropy(logits, torch.tensor(labels))

    return model, loss


def peft_side(base, first, encoder):
    import time

    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(THREADS)
    before = rss()
    torch.manual_seed(1)
    model, loss_of = (encoder_of if encoder else decoder_of)(base)
    vocabulary = model.config.vocab_size
    model.save_pretrained(first)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    texts, length, steps = (
        (ENCODER_BATCH, ENCODER_LENGTH, ENCODER_STEPS) if encoder else (BATCH, LENGTH, STEPS)
    )
    state = 1

    def tokens():
        nonlocal state
        out = []
        for _ in range(texts * length):
            state = (state * 6364136223846793005 + 1442695040888963407) & MASK
            out.append((state >> 33) % vocabulary)
        return torch.tensor(out).view(texts, length)

    labels = [n % CLASSES for n in range(texts)]
    losses, seconds, processor = [], 0.0, 0.0
    for step in range(steps + 1):
        batch = tokens()
        began, used = time.perf_counter(), time.process_time()
        loss = loss_of(batch, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step > 0:
            seconds += time.perf_counter() - began
            processor += time.process_time() - used
        losses.append(loss.item())
    return dict(
        losses=losses,
        tokens_per_second=steps * texts * length / seconds,
        tokens_per_processor_second=steps * texts * length / processor,
        rss_before=before,
        rss_peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def check_adapter(base, adapter):
    """The loss of a text by PEFT with the adapter that was saved here."""
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, adapter)
    tokens = torch.arange(LENGTH).remainder(model.config.vocab_size)[None]
    with torch.no_grad():
        return model(input_ids=tokens, labels=tokens).loss.item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peft", nargs=2)
    parser.add_argument("--qlora", action="store_true")
    parser.add_argument("--encoder")
    options = parser.parse_args()
    if options.peft:
        print(json.dumps(peft_side(*options.peft, options.encoder)))
        return
    if options.qlora:
        qlora(options.program)
        return
    environment = dict(os.environ, OMP_NUM_THREADS=str(THREADS), MKL_NUM_THREADS=str(THREADS))
    with tempfile.TemporaryDirectory() as scratch:
        base, first, saved = (str(Path(scratch) / name) for name in ("base", "first", "saved"))
        arguments = ["--batch", BATCH, "--length", LENGTH, "--steps", STEPS, "--save", saved]
        as_well = []
        if options.encoder:
            base = options.encoder
            arguments = ["--batch", ENCODER_BATCH, "--length", ENCODER_LENGTH]
            arguments += ["--steps", ENCODER_STEPS, "--classes", CLASSES]
            as_well = ["--encoder", base]
        else:
            print(f"{make_base(base):,} weights", file=sys.stderr)
        arguments = [str(argument) for argument in arguments]
        theirs, ours = [], []
        for _ in range(options.rounds):
            for name, results, command in (
                ("peft", theirs, [sys.executable, __file__, "--peft", base, first] + as_well),
                (
                    "skep",
                    ours,
                    [options.program, base, "--adapter", first, "--rank", str(RANK)]
                    + ["--threads", str(THREADS)]
                    + arguments,
                ),
            ):
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                results.append(json.loads(done.stdout.splitlines()[-1]))
                print(json.dumps({"side": name, **results[-1]}), flush=True)
        check = None if options.encoder else check_adapter(base, saved)

        def median(results, figure):
            return statistics.median(figure(result) for result in results)

        def own(result):
            return result["rss_peak"] - result["rss_before"]

        losses = zip(ours[-1]["losses"], theirs[-1]["losses"])
        print(
            json.dumps(
                {
                    "tokens_per_second": [
                        median(side, lambda r: r["tokens_per_second"]) for side in (ours, theirs)
                    ],
                    "speed_ratio": median(ours, lambda r: r["tokens_per_second"])
                    / median(theirs, lambda r: r["tokens_per_second"]),
                    "speed_ratio_by_processor_time": median(
                        ours, lambda r: r["tokens_per_processor_second"]
                    )
                    / median(theirs, lambda r: r["tokens_per_processor_second"]),
                    "peak_memory_ratio": median(ours, lambda r: r["rss_peak"])
                    / median(theirs, lambda r: r["rss_peak"]),
                    "peak_memory_ratio_without_libraries": median(ours, own)
                    / median(theirs, own),
                    "largest_relative_difference_of_losses": max(
                        abs(a / b - 1) for a, b in losses
                    ),
                    "saved_adapter_in_peft": check and abs(ours[-1]["check_loss"] / check - 1),
                }
            )
        )


if __name__ == "__main__":
    main()
