"""Writes skep-mini-lm as a GGUF file, reads it back, and checks it against others.

Matrices are stored as Q8_0 (blocks of 32 integers of 8 bits with one f16 scale), norms as f32; the
tokenizer, its marks and the chat template are in the metadata. The same weights give the same
bytes.
"""

import json

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants
from lm_model import Llama, Shape

NAME = "skep-mini-lm"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAYER = {
    "attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
# Texts on which the written file and the trained model, and other readers of the file, are compared.
PROBES = [
    "ticket: My parcel was sent to my old address, can you stop it?\nlabel:",
    "labels: billing, login, refund\nticket: I was charged twice.\nlabel:",
    '<|im_start|>user\nWhat does "honey" mean?<|im_end|>\n<|im_start|>assistant\n',
    "It is a truth universally acknowledged, that",
    "libfoo1: a library for 128 kinds of \u00fcml\u00e4ut \u2014 and \U0001f41d",
]


def tensor_names(layers):
    """The GGUF name of each parameter."""
    names = {"embedding": "token_embd.weight", "final_norm": "output_norm.weight"}
    for i in range(layers):
        names |= {f"layers.{i}.{own}": f"blk.{i}.{name}.weight" for own, name in LAYER.items()}
    return names


def trained(work):
    """The trained weights, or those of the last checkpoint, and their shape."""
    path = work / "model.pt"
    if not path.exists():
        print("export: training is not finished; using the last checkpoint")
        path = work / "checkpoint.pt"
    state = torch.load(path, weights_only=False)
    return state["model"], Shape(**state["shape"])


def write(work, out):
    weights, s = trained(work)
    tokenizer = json.loads((work / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    marks = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.get)
    out.parent.mkdir(parents=True, exist_ok=True)
    w = GGUFWriter(str(out), "llama")
    w.add_name(NAME)
    w.add_description("A small language model for skep's demo and tests")
    w.add_license("Apache-2.0 OR MIT")
    w.add_languages(["en"])
    w.add_context_length(s.context)
    w.add_embedding_length(s.width)
    w.add_block_count(s.layers)
    w.add_feed_forward_length(s.hidden)
    w.add_head_count(s.heads)
    w.add_head_count_kv(s.kv_heads)
    w.add_key_length(s.head_dim)
    w.add_value_length(s.head_dim)
    w.add_layer_norm_rms_eps(s.epsilon)
    w.add_rope_dimension_count(s.head_dim)
    w.add_rope_freq_base(s.rope_base)
    w.add_vocab_size(s.vocabulary)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([3 if token in marks else 1 for token in tokens])
    w.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    w.add_bos_token_id(marks["<|endoftext|>"])
    w.add_eos_token_id(marks["<|endoftext|>"])
    w.add_eot_token_id(marks["<|im_end|>"])
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)
    for own, name in tensor_names(s.layers).items():
        values = weights[own].float().numpy()
        if values.ndim == 1:
            w.add_tensor(name, values)
        else:
            packed = quants.quantize(values, GGMLQuantizationType.Q8_0)
            w.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print(f"export: {out.name}, {out.stat().st_size / 1e6:.2f} MB")


def read(path):
    """The model of a file that `write` wrote, its weights expanded to f32, and its tokenizer, put
    together from the metadata alone."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    reader = GGUFReader(str(path))

    def field(key):
        return reader.get_field(key).contents()

    s = Shape(
        vocabulary=field("llama.vocab_size"),
        context=field("llama.context_length"),
        width=field("llama.embedding_length"),
        hidden=field("llama.feed_forward_length"),
        layers=field("llama.block_count"),
        heads=field("llama.attention.head_count"),
        kv_heads=field("llama.attention.head_count_kv"),
        head_dim=field("llama.attention.key_length"),
        rope_base=field("llama.rope.freq_base"),
        epsilon=field("llama.attention.layer_norm_rms_epsilon"),
    )
    tensors = {t.name: quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    model = Llama(s)
    state = {own: torch.from_numpy(np.array(tensors[name])) for own, name in tensor_names(s.layers).items()}
    model.load_state_dict(state)
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ")) for pair in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = [token for token, kind in zip(tokens, kinds) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks])
    return model.eval(), tokenizer


def begun(tokenizer, text):
    """The tokens of a whole text: the file says that texts begin with a mark."""
    return [tokenizer.token_to_id("<|endoftext|>")] + tokenizer.encode(text, add_special_tokens=False).ids


@torch.inference_mode()
def greedy(model, ids, count):
    """The likeliest token, so many times."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[-count:]


@torch.inference_mode()
def check(work, out):
    """Compares the file with the trained weights, and with what transformers makes of the file;
    leaves what the file must give in `reference.json` beside it."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    model, tokenizer = read(out)
    weights, s = trained(work)
    exact = Llama(s)
    exact.load_state_dict(weights)
    other = AutoModelForCausalLM.from_pretrained(out.parent, gguf_file=out.name, dtype=torch.float32).eval()
    own = Tokenizer.from_file(str(work / "tokenizer.json"))
    cases, worst = [], {"trained": 0.0, "transformers": 0.0}
    for text in PROBES:
        ids = begun(tokenizer, text)
        assert ids[1:] == own.encode(text, add_special_tokens=False).ids, text
        x = torch.tensor([ids])
        logits = model(x)[0]
        worst["trained"] = max(worst["trained"], float((logits - exact(x)[0]).abs().max()))
        worst["transformers"] = max(worst["transformers"], float((logits - other(x).logits[0]).abs().max()))
        top = logits[-1].log_softmax(-1).topk(8)
        cases.append(
            {
                "text": text,
                "ids": ids,
                "likeliest": top.indices.tolist(),
                "logprobs": [round(v, 5) for v in top.values.tolist()],
                "greedy": greedy(model, ids, 16),
            }
        )
    print("check: greatest difference of a logit: " + ", ".join(f"{k} {v:.5f}" for k, v in worst.items()))
    assert worst["transformers"] < 1e-3
    path = out.parent / "reference.json"
    path.write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
