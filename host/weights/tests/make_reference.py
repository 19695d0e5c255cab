#!/usr/bin/env python3
"""Write the reference files that the tests of skep-weights read, into reference/.

    pip install gguf==0.19.0 numpy==2.4.6 safetensors==0.8.0 blake3==1.0.11
    python make_reference.py

blocks.safetensors   for each packed format, blocks made of edge values ("<format>.blocks", U8)
                     and what `gguf.quants.dequantize` makes of them ("<format>.values", F32)
grouped.safetensors  layers as AutoAWQ and GPTQModel pack them, and their elements in 16-bit floats
digests.json         BLAKE3 digests: for each packed format, of what `gguf.quants.dequantize` makes
                     of 10,000 random blocks; for each layer, of its elements in 32-bit floats
*.gguf               small models written by the `gguf` package, split and whole

Random bytes are those of SplitMix64, so that the tests make the same ones. NaNs are written as
0x7fc00000: which NaN comes out of one is the processor's choice.
"""

import json
from pathlib import Path

import gguf
import numpy as np
from blake3 import blake3
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent / "reference"
FORMATS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
RANDOM_BLOCKS = 10_000
# Where the 16-bit scales of a block lie.
SCALES = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
# Zeros, least and greatest subnormals, least normal, one, greatest, infinities, NaNs.
HALVES = [
    0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00,
    0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0x7D01,
]
WORDS = [
    0x00000000, 0x80000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x3F800000, 0x7F7FFFFF,
    0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7FA00000,
]


def splitmix(seed, length):
    """`length` bytes of SplitMix64, seeded."""
    index = np.arange(1, (length + 7) // 8 + 1, dtype=np.uint64)
    z = np.uint64(seed) + index * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).astype("<u8").view(np.uint8)[:length].copy()


def unpack(name, blocks):
    with np.errstate(all="ignore"):
        values = dequantize(blocks, GGMLQuantizationType[name]).astype("<f4").reshape(-1)
    bits = values.view(np.uint32).copy()
    bits[np.isnan(values)] = 0x7FC00000
    return bits.view("<f4")


def edge_blocks(name, size):
    if name == "F32":
        return np.array(WORDS, dtype="<u4").view(np.uint8).reshape(-1, 4)
    if name == "BF16":
        return np.array([w >> 16 for w in WORDS], dtype="<u2").view(np.uint8).reshape(-1, 2)
    patterns = [
        np.zeros(size, np.uint8),
        np.full(size, 0xFF, np.uint8),
        np.full(size, 0x80, np.uint8),
        (np.arange(size) * 37 + 11).astype(np.uint8),
    ]
    blocks = []
    for at, half in enumerate(HALVES):
        block = patterns[at % len(patterns)].copy()
        for place, scale in enumerate(SCALES[name]):
            value = HALVES[(at + 5 * place) % len(HALVES)] if place else half
            block[scale : scale + 2] = np.array([value], dtype="<u2").view(np.uint8)
        blocks.append(block)
    return np.stack(blocks)


def write_blocks(digests):
    tensors = {}
    for seed, name in enumerate(FORMATS):
        size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
        edges = edge_blocks(name, size)
        tensors[f"{name}.blocks"] = edges
        tensors[f"{name}.values"] = unpack(name, edges)
        random = splitmix(seed + 1, RANDOM_BLOCKS * size).reshape(-1, size)
        digests[name] = blake3(unpack(name, random).tobytes()).hexdigest()
    save_file(tensors, str(HERE / "blocks.safetensors"))


# Layers of 4-bit groups, after AutoAWQ's awq/modules/linear/gemm.py (packing) and
# awq/utils/packing_utils.py (unpacking), AutoGPTQ's
# auto_gptq/nn_modules/qlinear/qlinear_cuda.py and GPTQModel's conversion between the two
# versions of its zero-points.

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def pack_columns(values, order):
    """[a, 8 b] of integers below 16 to [a, b] words, element order[i] of eight at bits 4 i."""
    eights = values.astype(np.uint32).reshape(values.shape[0], -1, 8)
    words = np.zeros(eights.shape[:2], np.uint32)
    for place, column in enumerate(order):
        words |= eights[:, :, column] << np.uint32(4 * place)
    return words


def grouped_layer(seed, inputs, outputs, group, method, act_order=False, sym=False):
    random = np.random.default_rng(seed)
    groups = inputs // group
    quants = random.integers(0, 16, (inputs, outputs))
    zeros = np.full((groups, outputs), 8) if sym else random.integers(0, 16, (groups, outputs))
    scales = (random.standard_normal((groups, outputs)) * 0.02).astype(np.float16)
    scales[0, :4] = np.array([0x0001, 0x03FF, 0x7BFF, 0x8000], np.uint16).view(np.float16)
    of_input = np.arange(inputs) // group
    if act_order:
        of_input = of_input[random.permutation(inputs)]
    # As both projects unpack them, multiplying in 16-bit floats.
    with np.errstate(over="ignore"):
        halves = (quants - zeros[of_input]).astype(np.float16) * scales[of_input]
    # And without the rounding of the product: a 5-bit times an 11-bit number fits 24 bits.
    exact = (quants - zeros[of_input]).astype(np.float32) * scales[of_input].astype(np.float32)
    parts = {"scales": scales, "halves": halves.T, "exact": np.ascontiguousarray(exact.T)}
    if method == "awq":
        parts["qweight"] = pack_columns(quants, AWQ_ORDER)
        parts["qzeros"] = pack_columns(zeros, AWQ_ORDER)
    else:
        parts["qweight"] = pack_columns(quants.T, range(8)).T
        parts["qzeros"] = pack_columns(zeros, range(8))
        if method != "gptq_v2":
            parts["qzeros"] = parts["qzeros"] - np.uint32(0x11111111)
        if act_order is not None:
            parts["g_idx"] = of_input.astype(np.int32)
    return parts


def write_grouped(digests):
    layers = {
        "awq.128": grouped_layer(1, 256, 16, 128, "awq"),
        "awq.32": grouped_layer(2, 96, 72, 32, "awq"),
        "awq.all": grouped_layer(3, 64, 8, 64, "awq"),
        "gptq.64": grouped_layer(4, 128, 24, 64, "gptq"),
        "gptq.sym": grouped_layer(5, 128, 16, 128, "gptq", sym=True),
        "gptq.order": grouped_layer(6, 256, 16, 64, "gptq", act_order=True),
        "gptq.bare": grouped_layer(7, 64, 8, 32, "gptq", act_order=None),
        "gptq_v2.32": grouped_layer(8, 64, 72, 32, "gptq_v2", act_order=True),
        "gptq_v2.all": grouped_layer(9, 96, 8, 96, "gptq_v2"),
    }
    tensors = {}
    for layer, parts in layers.items():
        digests[layer] = blake3(parts.pop("exact").tobytes()).hexdigest()
        for part, values in parts.items():
            if values.dtype == np.uint32:
                values = values.view(np.int32)
            tensors[f"{layer}.{part}"] = np.ascontiguousarray(values)
    save_file(tensors, str(HERE / "grouped.safetensors"))


def gguf_tensors():
    random = np.random.default_rng(10)
    tensors = {}
    for name in FORMATS:
        kind = GGMLQuantizationType[name]
        block, size = GGML_QUANT_SIZES[kind]
        columns = max(block, 32)
        raw = random.integers(0, 256, (3, columns // block * size), dtype=np.uint8)
        tensors[f"weights.{name}"] = (raw, kind)
    tensors["norm.weight"] = (np.arange(8, dtype=np.float32), GGMLQuantizationType.F32)
    return tensors


def add_tensors(writer, tensors):
    for name, (raw, kind) in tensors.items():
        if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16) and raw.dtype == np.uint8:
            raw = raw.view(np.float32 if kind == GGMLQuantizationType.F32 else np.float16)
        writer.add_tensor(name, raw, raw_dtype=kind)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf():
    tensors = gguf_tensors()
    writer = gguf.GGUFWriter(str(HERE / "whole.gguf"), "llama")
    writer.add_name("small")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_array("test.numbers", [1, -2, 3])
    writer.add_array("test.flags", [True, False, True])
    writer.add_uint64("test.large", 2**63 + 1)
    writer.add_float64("test.double", 0.1)
    writer.add_int8("test.negative", -5)
    writer.add_string("test.text", "Bienenkörbe 蜂")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁a", "b", "▁ab", ""]
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -0.5, -3.0])
    writer.add_token_types([2, 3, 3, 6, 1, 1, 1, 4])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template("{{ messages[0].content }}")
    add_tensors(writer, tensors)
    finish(writer)

    writer = gguf.GGUFWriter(str(HERE / "bpe.gguf"), "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["a", "b", "ab", "Ġ", "Ġab", "<|endoftext|>"])
    writer.add_token_types([1, 1, 1, 1, 1, 3])
    writer.add_token_merges(["a b", "Ġ ab"])
    writer.add_eos_token_id(5)
    finish(writer)

    names = list(tensors)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    for number, own in enumerate(halves):
        path = HERE / f"split-{number + 1:05}-of-{len(halves):05}.gguf"
        writer = gguf.GGUFWriter(str(path), "llama")
        if number == 0:
            writer.add_name("small, in parts")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", len(halves))
        writer.add_int32("split.tensors.count", len(names))
        add_tensors(writer, {name: tensors[name] for name in own})
        finish(writer)

    expected = {}
    for name, (raw, kind) in tensors.items():
        values = raw if raw.dtype == np.float32 else unpack(kind.name, raw)
        expected[name] = np.ascontiguousarray(values.reshape(-1))
    save_file(expected, str(HERE / "gguf_values.safetensors"))


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    digests = {}
    write_blocks(digests)
    write_grouped(digests)
    (HERE / "digests.json").write_text(json.dumps(digests, indent=2) + "\n")
    write_gguf()
    for path in sorted(HERE.iterdir()):
        path.chmod(0o644)
        print(path.name, path.stat().st_size)
