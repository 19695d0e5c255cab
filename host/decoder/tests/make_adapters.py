#!/usr/bin/env python3
"""Write the adapters that tests/adapters.rs reads, into adapters/.

    pip install torch transformers==5.23.0 peft==0.21.2 safetensors==0.8.0
    python make_adapters.py

Each is made by PEFT for the tiny model of models/llama, or the one in BASES, its weights filled with
random numbers, with a reference: the logits of a prompt, computed in 32-bit floats by PEFT without
merging. Magnitudes (DoRA) are those of the base's rows, each times a random number near one.
"""

import json
import shutil
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
ADAPTERS = {
    "plain": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    "stable": dict(r=9, lora_alpha=6, use_rslora=True, target_modules="all-linear"),
    "patterns": dict(
        r=2,
        lora_alpha=4,
        target_modules=r"model\.layers\.\d+\.(self_attn\.[qko]_proj|mlp\.(up|down)_proj)",
        rank_pattern={"layers.1.mlp.up_proj": 12, "k_proj|o_proj": 3},
        alpha_pattern={"down_proj": 1, "o_proj": 7},
    ),
    "layer": dict(r=1, lora_alpha=3, target_modules=["k_proj", "gate_proj"], layers_to_transform=1),
    "dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules="all-linear"),
    "dora-biases": dict(
        r=2, lora_alpha=6, use_dora=True, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"]
    ),
}
# Other bases than llama: this one has biases.
BASES = {"dora-biases": "qwen2"}


def main():
    transformers.logging.set_verbosity_error()
    for seed, (name, settings) in enumerate(ADAPTERS.items()):
        torch.manual_seed(seed)
        kind = BASES.get(name, "llama")
        base = transformers.AutoModelForCausalLM.from_pretrained(
            HERE / "models" / kind, dtype=torch.float32, attn_implementation="eager"
        )
        base.name_or_path = f"tiny-{kind}"
        base.config._name_or_path = f"tiny-{kind}"
        config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.05, **settings)
        model = peft.get_peft_model(base, config).eval()
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_magnitude_vector" in key:
                    weight.mul_(1 + 0.2 * torch.randn_like(weight))
                elif "lora_" in key:
                    weight.copy_(torch.randn_like(weight) * 0.05)
        folder = HERE / "adapters" / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        prompt = torch.randint(3, base.config.vocab_size, (1, 40))
        with torch.no_grad():
            logits = model(input_ids=prompt, use_cache=False).logits[0]
            with model.disable_adapter():
                plain = model(input_ids=prompt, use_cache=False).logits[0]
        positions = torch.arange(3, 40, 4)
        save_file(
            dict(
                prompt=prompt[0].to(torch.int32),
                positions=positions.to(torch.int32),
                logits=logits[positions].contiguous(),
            ),
            folder / "reference.safetensors",
        )
        for file in folder.iterdir():
            file.chmod(0o644)
        size = sum(f.stat().st_size for f in folder.iterdir())
        change = float((logits - plain).abs().max())
        print(f"{name}: {size} bytes, changes logits by {change:.2f}")
    print(json.dumps({"peft": peft.__version__, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
