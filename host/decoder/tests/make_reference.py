"""Makes the tiny models that the tests load, and what PyTorch makes of them.

    python make_reference.py            # needs torch, transformers and safetensors

Each model is of a real architecture with random weights (bfloat16, so that they are small and
exact in every implementation) and comes with `reference.safetensors`: a prompt of 200 tokens,
the logits of every eighth of its positions in float32, and the 64 tokens that greedy decoding
adds to it.
"""

import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent / "models"
COMMON = dict(
    vocab_size=160,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    initializer_range=0.2,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)

MODELS = {
    # Llama 3.1: stretched rotary positions, an output layer of its own.
    "llama": transformers.LlamaConfig(
        **COMMON,
        tie_word_embeddings=False,
        rope_theta=500000.0,
        rope_scaling=dict(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    # SmolLM is Llama with the embedding as its output layer and three heads to a group.
    "smollm": transformers.LlamaConfig(
        **{**COMMON, "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48},
        tie_word_embeddings=True,
    ),
    "mistral": transformers.MistralConfig(
        **COMMON, sliding_window=48, tie_word_embeddings=False
    ),
    "qwen2": transformers.Qwen2Config(
        **COMMON, tie_word_embeddings=True, rope_theta=1000000.0
    ),
    "qwen3": transformers.Qwen3Config(
        **COMMON, head_dim=16, tie_word_embeddings=True, rope_theta=1000000.0
    ),
    "gemma3": transformers.Gemma3TextConfig(
        **{**COMMON, "num_hidden_layers": 3},
        head_dim=16,
        sliding_window=40,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=24,
        rope_scaling=dict(rope_type="linear", factor=8.0),
    ),
    # Llama 2: as many heads of keys and values as of queries.
    "llama2": transformers.LlamaConfig(
        **{**COMMON, "num_key_value_heads": 4}, tie_word_embeddings=False, rms_norm_eps=1e-5
    ),
}


def main():
    transformers.logging.set_verbosity_error()
    for seed, (name, config) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        config.dtype = "bfloat16"
        config._attn_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                # Norms and biases begin as ones and zeros, which would hide a mistake.
                if weight.ndim == 1:
                    weight.add_(torch.randn_like(weight) * 0.2)
        model = model.to(torch.bfloat16)
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)

        # Loaded again: converting the model would have rounded its rotary frequencies as well.
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        prompt = torch.randint(3, config.vocab_size, (1, 200))
        with torch.no_grad():
            logits = model(prompt, use_cache=False).logits[0]
        tokens, margins = prompt, []
        for _ in range(64):
            with torch.no_grad():
                last = model(tokens, use_cache=False).logits[0, -1]
            best = torch.topk(last, 2).values
            margins.append(float(best[0] - best[1]))
            tokens = torch.cat([tokens, last.argmax().view(1, 1)], dim=1)
        positions = torch.arange(7, 200, 8)
        save_file(
            dict(
                prompt=prompt[0].to(torch.int32),
                positions=positions.to(torch.int32),
                logits=logits[positions].contiguous(),
                generated=tokens[0, 200:].to(torch.int32).contiguous(),
            ),
            folder / "reference.safetensors",
        )
        size = sum(f.stat().st_size for f in folder.iterdir())
        spread = float(logits.std())
        print(f"{name}: {size} bytes, logits ±{spread:.2f}, smallest margin {min(margins):.4f}")
    print(json.dumps({"transformers": transformers.__version__, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
