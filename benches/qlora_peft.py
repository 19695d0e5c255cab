#!/usr/bin/env python3
"""QLoRA of a 7 B-shaped random base by PEFT and bitsandbytes: speed and memory on a card.

    pip install torch transformers peft accelerate bitsandbytes
    cargo run -p skep-train-device --features cuda --example qlora_rate
    python benches/qlora_peft.py

The peer of `qlora_rate`: the shape of Mistral 7B, weights made on the card at random and rounded
there to NF4 with double quantization, matrix by matrix; rank 16 on every linear layer of the
layers, products in bfloat16 (autocast, as the Trainer of transformers does it), gradient
checkpointing, attention by PyTorch's scaled_dot_product_attention, fused AdamW, gradients clipped
to a norm of 1. The embedding and the output layer are in bfloat16 on both sides. Nothing is
downloaded. For each batch size it prints a line of JSON: the median of tokens a second over whole
steps, and bytes by PyTorch's allocator and by the driver. With `--device cpu` it runs without a
card, which says nothing of speed, and tells of the process's memory. The random base of 0.3 billion
weights of `train_side_by_side.py --qlora`:

    python benches/qlora_peft.py --device cpu --layers 24 --width 1024 --hidden 2816 --heads 16 \\
        --kv-heads 8 --batch 1 --steps 1
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")


def driver_mib():
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        return int(said.splitlines()[0])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None


def resident():
    """Bytes of memory of this process now, and at the most."""
    now = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(now.split()[1]) * 1024, most * 1024


def quantized_model(given):
    """A model of random weights whose linear layers are rounded to NF4 one after the other."""
    import bitsandbytes as bnb
    import torch
    from accelerate import init_empty_weights
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=given.vocabulary,
        hidden_size=given.width,
        intermediate_size=given.hidden,
        num_hidden_layers=given.layers,
        num_attention_heads=given.heads,
        num_key_value_heads=given.kv_heads,
        max_position_embeddings=max(given.sequence, 4096),
        sliding_window=None,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    # Parameters are nowhere yet; buffers, which rotary positions have, are real.
    with init_empty_weights(include_buffers=False):
        model = MistralForCausalLM(config)
    bfloat16, device = torch.bfloat16, given.device
    weights, linear_bytes = 0, 0
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        with init_empty_weights():
            replaced = bnb.nn.Linear4bit(
                module.in_features,
                module.out_features,
                bias=False,
                compute_dtype=bfloat16,
                compress_statistics=True,
                quant_type="nf4",
            )
        shape = (module.out_features, module.in_features)
        values = torch.randn(shape, dtype=bfloat16, device=device) * shape[1] ** -0.5
        parameter = bnb.nn.Params4bit(
            values, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        replaced.weight = parameter.to(device)
        del values, parameter
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, replaced)
        state = replaced.weight.quant_state
        weights += shape[0] * shape[1]
        linear_bytes += replaced.weight.numel() * replaced.weight.element_size()
        linear_bytes += state.absmax.numel() * state.absmax.element_size()
        linear_bytes += 4 * state.state2.absmax.numel()
    for name, parameter in list(model.named_parameters()):
        if not parameter.is_meta:
            continue
        if "norm" in name:
            values = torch.ones(parameter.shape, dtype=bfloat16, device=device)
        else:
            values = torch.randn(parameter.shape, dtype=bfloat16, device=device) * 0.02
        parent, _, child = name.rpartition(".")
        real = torch.nn.Parameter(values, requires_grad=False)
        setattr(model.get_submodule(parent), child, real)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    model.is_loaded_in_4bit = True
    return model, weights, linear_bytes


def main():
    parser = argparse.ArgumentParser()
    for name, usual in [
        ("layers", 32), ("width", 4096), ("hidden", 14336), ("heads", 32), ("kv-heads", 8),
        ("vocabulary", 32000), ("sequence", 512), ("steps", 8), ("rank", 16),
    ]:
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()

    import torch
    from peft import LoraConfig, get_peft_model

    on_card = given.device == "cuda"
    before = driver_mib()
    torch.manual_seed(0)
    import bitsandbytes  # noqa: F401, so that it is there before memory is looked at

    libraries, _ = resident()
    began = time.perf_counter()
    model, weights, linear_bytes = quantized_model(given)
    lora = LoraConfig(
        r=given.rank,
        lora_alpha=2 * given.rank,
        lora_dropout=0.0,
        target_modules=[
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        ],
        task_type="CAUSAL_LM",
    )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    model = get_peft_model(model, lora)
    model.train()
    made = time.perf_counter() - began
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.to(given.device)

    def wait():
        if on_card:
            torch.cuda.synchronize()

    for batch in map(int, given.batch.split(",")):
        optimizer = torch.optim.AdamW(
            parameters, lr=1e-4, weight_decay=0.0, fused=on_card or None
        )
        if on_card:
            torch.cuda.reset_peak_memory_stats()
        rates, losses, first = [], [], 0.0
        for step in range(given.steps + 2):
            shape = (batch, given.sequence)
            tokens = torch.randint(given.vocabulary, shape, device=given.device)
            wait()
            began = time.perf_counter()
            with torch.autocast(given.device, dtype=torch.bfloat16):
                loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            wait()
            seconds = time.perf_counter() - began
            if step == 0:
                first = seconds
            elif step > 1:
                rates.append(batch * given.sequence / seconds)
        result = {
            "peer": "peft",
            "batch": batch,
            "sequence": given.sequence,
            "tokens_per_second": statistics.median(rates),
            "seconds_of_the_first_step": first,
            "losses": losses,
            "linear_weights": weights,
            "bytes_a_weight": linear_bytes / weights,
            "parameters": sum(p.numel() for p in parameters),
            "driver_mib_before": before,
            "driver_mib": driver_mib(),
            "seconds_to_make": made,
        }
        if on_card:
            result["allocated_peak_bytes"] = torch.cuda.max_memory_allocated()
            result["reserved_peak_bytes"] = torch.cuda.max_memory_reserved()
        else:
            result["resident_before_the_model"] = libraries
            result["resident_peak"] = resident()[1]
        print(json.dumps(result), flush=True)
        del optimizer


if __name__ == "__main__":
    main()
