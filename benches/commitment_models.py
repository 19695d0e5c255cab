"""Other models under the name of a GGUF file, as a dishonest provider would run them.

    python3 benches/commitment_models.py MODEL.gguf FOLDER

writes FOLDER/four_bits.gguf, the same weights as Q4_0, and FOLDER/fewer_layers.gguf, the same
without the last layer: cheaper, and not what was promised. Needs `gguf` from PyPI.
`cargo xtask bench commitments` runs it.
"""

import sys
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants


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
            data, packed = quants.quantize(quants.dequantize(data, packed), kind), kind
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


if __name__ == "__main__":
    main()
