"""Other models under the name of a GGUF file in Q8_0, and the same model in other formats.

    python3 benches/commitment_models.py MODEL.gguf FOLDER

writes FOLDER/four_bits.gguf, the same weights as Q4_0, and FOLDER/fewer_layers.gguf, the same
without the last layer: cheaper, and not what was promised, as a dishonest provider would run them.
Beside these FOLDER/float.gguf, FOLDER/half.gguf and FOLDER/brain.gguf, in 32-bit floats, 16-bit floats
and bfloat16, and FOLDER/q4_k.gguf, in Q4_K where rows are long enough, for the thresholds of each format.
Needs `gguf` and `numpy` from PyPI.
`cargo xtask bench commitments` runs it.
"""

import sys
from pathlib import Path

import numpy
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

BLOCK = 256


def q4_k(weights):
    """Packs rows of f32 as Q4_K: a scale and an offset of 6 bits for each 32 of 256 weights.

    The least and the largest weight of each 32 are met, without a search for anything closer.
    `gguf` itself only unpacks the format.
    """
    blocks = weights.astype(numpy.float32).reshape(-1, 8, 32)
    least = numpy.minimum(blocks.min(axis=-1), 0)
    steps = (blocks.max(axis=-1).clip(0) - least) / 15
    scale, offset = ((part.max(axis=-1) / 63).astype(numpy.float16) for part in (steps, -least))

    def six_bits(part, unit):
        unit = unit.astype(numpy.float32)[:, None]
        ratio = numpy.divide(part, unit, out=numpy.zeros_like(part), where=unit > 0)
        return numpy.rint(ratio).clip(0, 63).astype(numpy.uint8)

    scales, offsets = six_bits(steps, scale), six_bits(-least, offset)
    step = scale.astype(numpy.float32)[:, None] * scales
    shift = offset.astype(numpy.float32)[:, None] * offsets
    codes = numpy.divide(
        blocks + shift[..., None],
        step[..., None],
        out=numpy.zeros_like(blocks),
        where=step[..., None] > 0,
    )
    codes = numpy.rint(codes).clip(0, 15).astype(numpy.uint8).reshape(-1, 4, 2, 32)
    packed = numpy.concatenate(
        [
            scale[:, None].view(numpy.uint8),
            offset[:, None].view(numpy.uint8),
            (scales[:, :4] & 63) | (scales[:, 4:] >> 4) << 6,
            (offsets[:, :4] & 63) | (offsets[:, 4:] >> 4) << 6,
            (scales[:, 4:] & 15) | (offsets[:, 4:] & 15) << 4,
            (codes[:, :, 0] | codes[:, :, 1] << 4).reshape(-1, BLOCK // 2),
        ],
        axis=-1,
    )
    packed = packed.reshape(weights.shape[0], -1)
    unpacked = quants.dequantize(packed, GGMLQuantizationType.Q4_K).reshape(weights.shape)
    furthest = numpy.abs(unpacked - weights).reshape(-1, 8, 32).max(axis=-1)
    bound = step + (8 * scale + offset).astype(numpy.float32)[:, None]
    assert (furthest <= bound).all(), "what was packed does not unpack to the same"
    return packed


def copy(reader, out, *, layers, kind):
    """Writes the file again with so many layers, matrices packed as `kind` or as they are."""
    w = GGUFWriter(str(out), "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = field.contents()
        if field.name == "llama.block_count":
            value = layers
        of = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
        w.add_key_value(field.name, value, field.types[0], sub_type=of)
    for tensor in reader.tensors:
        part = tensor.name.split(".")
        if part[0] == "blk" and int(part[1]) >= layers:
            continue
        data, packed = tensor.data, tensor.tensor_type
        if kind is not None and packed == GGMLQuantizationType.Q8_0:
            weights = quants.dequantize(data, packed)
            if kind != GGMLQuantizationType.Q4_K:
                data, packed = quants.quantize(weights, kind), kind
            elif weights.shape[-1] % BLOCK == 0:
                data, packed = q4_k(weights), kind
        w.add_tensor(tensor.name, data, raw_dtype=packed)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    model, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    reader = GGUFReader(str(model))
    layers = int(reader.fields["llama.block_count"].contents())
    copy(reader, folder / "four_bits.gguf", layers=layers, kind=GGMLQuantizationType.Q4_0)
    copy(reader, folder / "fewer_layers.gguf", layers=layers - 1, kind=None)
    copy(reader, folder / "float.gguf", layers=layers, kind=GGMLQuantizationType.F32)
    copy(reader, folder / "half.gguf", layers=layers, kind=GGMLQuantizationType.F16)
    copy(reader, folder / "brain.gguf", layers=layers, kind=GGMLQuantizationType.BF16)
    copy(reader, folder / "q4_k.gguf", layers=layers, kind=GGMLQuantizationType.Q4_K)


if __name__ == "__main__":
    main()
