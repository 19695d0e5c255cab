//! Against the reference implementations: what `make_reference.py` wrote, bit for bit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use skep_weights::format::{check_finite, dequantize};
use skep_weights::gguf::{GgufTokenizer, TokenKind, TokenizerKind};
use skep_weights::grouped::{GroupTensors, GroupedMethod};
use skep_weights::{
    Gguf, GroupInt4, GroupedConfig, GroupedError, PackedFormat, SafetensorsFolder, WeightsFile,
};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference")
        .join(name)
}

fn digests() -> BTreeMap<String, String> {
    serde_json::from_slice(&std::fs::read(file("digests.json")).unwrap()).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let chunks = bytes.as_chunks::<4>().0.iter();
    chunks.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The bits of a float, all NaNs being one.
fn bits(value: f32) -> u32 {
    match value.is_nan() {
        true => 0x7fc0_0000,
        false => value.to_bits(),
    }
}

fn digest(values: &[f32]) -> String {
    let mut hasher = blake3::Hasher::new();
    for &value in values {
        hasher.update(&bits(value).to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The same bytes as the function of that name in the script.
fn splitmix(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut state = seed;
    while bytes.len() < length {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bytes.extend((z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn edge_values_unpack_as_the_reference_does() {
    let reference = SafetensorsFolder::open_file(&file("blocks.safetensors")).unwrap();
    for format in PackedFormat::ALL {
        let blocks = reference.raw(&format!("{format}.blocks")).unwrap();
        let values = floats(reference.raw(&format!("{format}.values")).unwrap().bytes());
        let mut unpacked = vec![0.0; values.len()];
        dequantize(format, blocks.bytes(), &mut unpacked).unwrap();
        for (at, (got, want)) in unpacked.iter().zip(&values).enumerate() {
            assert_eq!(
                bits(*got),
                bits(*want),
                "{format}, element {at}: {got} for {want}"
            );
        }
        // Exactly the blocks whose scales are not finite are refused.
        let size = format.block_bytes();
        for (block, values) in blocks
            .bytes()
            .chunks(size)
            .zip(values.chunks(format.block_len()))
        {
            let finite = values.iter().all(|value| value.is_finite());
            assert_eq!(
                check_finite(format, block).is_ok(),
                finite,
                "{format}: {block:?}"
            );
        }
    }
}

#[test]
fn random_blocks_unpack_as_the_reference_does() {
    let digests = digests();
    for (seed, format) in PackedFormat::ALL.into_iter().enumerate() {
        let bytes = splitmix(seed as u64 + 1, 10_000 * format.block_bytes());
        let mut values = vec![0.0; 10_000 * format.block_len()];
        dequantize(format, &bytes, &mut values).unwrap();
        assert_eq!(digest(&values), digests[format.name()], "{format}");
    }
}

fn config(layer: &str) -> GroupedConfig {
    let (family, size) = layer.split_once('.').unwrap();
    GroupedConfig {
        method: match family {
            "awq" => GroupedMethod::Awq,
            _ => GroupedMethod::Gptq,
        },
        group: match size {
            "all" => None,
            "sym" => Some(128),
            "order" => Some(64),
            "bare" => Some(32),
            size => Some(size.parse().unwrap()),
        },
        zeros_minus_one: family == "gptq",
    }
}

#[test]
fn groups_of_four_bits_unpack_as_the_reference_does() {
    let reference = SafetensorsFolder::open_file(&file("grouped.safetensors")).unwrap();
    let digests = digests();
    let mut permuted = Vec::new();
    for layer in [
        "awq.128",
        "awq.32",
        "awq.all",
        "gptq.64",
        "gptq.sym",
        "gptq.order",
        "gptq.bare",
        "gptq_v2.32",
        "gptq_v2.all",
    ] {
        let config = config(layer);
        let matrix = GroupInt4::load(&reference, &config, layer).unwrap();
        let halves = reference.raw(&format!("{layer}.halves")).unwrap();
        assert_eq!(
            halves.shape(),
            [matrix.rows() as u64, matrix.columns() as u64]
        );
        let mut values = vec![f32::NAN; matrix.rows() * matrix.columns()];
        for (row, values) in values.chunks_mut(matrix.columns()).enumerate() {
            matrix.dequantize_row(row, values);
        }
        for (at, (value, half)) in values
            .iter()
            .zip(halves.bytes().as_chunks::<2>().0)
            .enumerate()
        {
            let rounded = f16::from_f32(*value);
            assert_eq!(rounded.to_le_bytes(), *half, "{layer}, element {at}");
        }
        assert_eq!(digest(&values), digests[layer], "{layer}");
        if matrix.permutation().is_some() {
            permuted.push(layer);
        }
        let packed: usize = ["qweight", "qzeros", "scales", "g_idx"]
            .iter()
            .filter_map(|part| reference.raw(&format!("{layer}.{part}")))
            .map(|part| part.bytes().len())
            .sum();
        assert!(matrix.bytes() <= packed * 21 / 20, "{layer}");
    }
    assert_eq!(permuted, ["gptq.order", "gptq_v2.32"]);
}

#[test]
fn tensors_of_one_layer_do_not_pass_for_those_of_another() {
    let reference = SafetensorsFolder::open_file(&file("grouped.safetensors")).unwrap();
    let part = |name: &str| reference.raw(name).unwrap();
    let own = GroupTensors {
        qweight: part("gptq.64.qweight"),
        qzeros: part("gptq.64.qzeros"),
        scales: part("gptq.64.scales"),
        g_idx: None,
    };
    let config = config("gptq.64");
    assert!(GroupInt4::repack("own", &config, own).is_ok());
    for (name, mixed) in [
        (
            "qweight",
            GroupTensors {
                qweight: part("gptq.sym.qweight"),
                ..own
            },
        ),
        (
            "qzeros",
            GroupTensors {
                qzeros: part("gptq.sym.qzeros"),
                ..own
            },
        ),
        (
            "scales",
            GroupTensors {
                scales: part("gptq.sym.scales"),
                ..own
            },
        ),
        (
            "g_idx",
            GroupTensors {
                g_idx: Some(part("gptq.order.g_idx")),
                ..own
            },
        ),
        (
            "g_idx",
            GroupTensors {
                g_idx: Some(part("gptq.sym.g_idx")),
                ..own
            },
        ),
        (
            "types",
            GroupTensors {
                scales: part("gptq.64.qzeros"),
                ..own
            },
        ),
    ] {
        let refused = GroupInt4::repack("own", &config, mixed);
        match name {
            // A symmetric layer's inputs are all in group 0, as in an index never filled in.
            "g_idx" if mixed.g_idx.unwrap().shape() == [128] => assert!(refused.is_ok()),
            "types" => assert!(matches!(refused, Err(GroupedError::WrongType { .. }))),
            _ => assert!(
                matches!(refused, Err(GroupedError::WrongShape { .. })),
                "{name}"
            ),
        }
    }
}

fn check_tensors(model: &Gguf) {
    let reference = SafetensorsFolder::open_file(&file("gguf_values.safetensors")).unwrap();
    let names: Vec<&str> = model.tensors().map(|(name, _)| name).collect();
    let expected: Vec<&str> = reference.tensors().map(|(name, _)| name).collect();
    assert_eq!(names, expected);
    for (name, tensor) in model.tensors() {
        let values = floats(reference.raw(name).unwrap().bytes());
        match name.strip_prefix("weights.") {
            Some(format) => {
                assert_eq!(tensor.format().name(), format);
                assert_eq!(tensor.rows(), 3);
                assert_eq!(tensor.shape(), [3, values.len() as u64 / 3]);
            }
            None => assert_eq!(tensor.shape(), [8]),
        }
        let mut unpacked = vec![0.0; values.len()];
        tensor.dequantize(&mut unpacked).unwrap();
        let same = unpacked
            .iter()
            .zip(&values)
            .all(|(a, b)| bits(*a) == bits(*b));
        assert!(same, "{name}");
        for (row, values) in values.chunks(tensor.columns()).enumerate() {
            let mut unpacked = vec![0.0; tensor.columns()];
            tensor.dequantize_row(row, &mut unpacked).unwrap();
            let same = unpacked
                .iter()
                .zip(values)
                .all(|(a, b)| bits(*a) == bits(*b));
            assert!(same, "{name}, row {row}");
        }
    }
}

#[test]
fn a_file_of_the_gguf_package_is_read() {
    let model = Gguf::open(&file("whole.gguf")).unwrap();
    assert_eq!((model.version(), model.parts()), (3, 1));
    check_tensors(&model);
    let metadata = model.metadata();
    assert_eq!(
        metadata.need::<&str>("general.architecture").unwrap(),
        "llama"
    );
    assert_eq!(metadata.need::<u64>("llama.block_count").unwrap(), 2);
    assert_eq!(
        metadata
            .need::<f32>("llama.attention.layer_norm_rms_epsilon")
            .unwrap(),
        1e-5
    );
    assert_eq!(
        metadata.need::<Vec<i64>>("test.numbers").unwrap(),
        [1, -2, 3]
    );
    assert_eq!(
        metadata.need::<Vec<bool>>("test.flags").unwrap(),
        [true, false, true]
    );
    assert_eq!(metadata.need::<u64>("test.large").unwrap(), (1 << 63) + 1);
    assert_eq!(metadata.need::<f32>("test.double").unwrap(), 0.1);
    assert_eq!(metadata.need::<i64>("test.negative").unwrap(), -5);
    assert_eq!(
        metadata.need::<&str>("test.text").unwrap(),
        "Bienenkörbe 蜂"
    );
    assert_eq!(metadata.get::<u64>("absent").unwrap(), None);
    for wrong in [
        metadata.need::<u64>("test.negative").unwrap_err(),
        metadata.need::<i64>("test.large").unwrap_err(),
        metadata.need::<u64>("test.text").unwrap_err(),
        metadata.need::<Vec<u64>>("test.numbers").unwrap_err(),
        metadata.need::<u64>("absent").unwrap_err(),
    ] {
        assert!(wrong.to_string().contains("whole.gguf"), "{wrong}");
    }
}

#[test]
fn the_same_file_is_read_as_version_2() {
    let mut bytes = std::fs::read(file("whole.gguf")).unwrap();
    bytes[4] = 2;
    let model = Gguf::from_parts(vec![bytes]).unwrap();
    assert_eq!(model.version(), 2);
    check_tensors(&model);
}

#[test]
fn a_split_model_is_read_from_its_first_part() {
    let model = Gguf::open(&file("split-00001-of-00002.gguf")).unwrap();
    assert_eq!(model.parts(), 2);
    assert_eq!(
        model.metadata().need::<&str>("general.name").unwrap(),
        "small, in parts"
    );
    check_tensors(&model);
    let second = Gguf::open(&file("split-00002-of-00002.gguf")).unwrap_err();
    assert!(second.to_string().contains("open the first"), "{second}");
}

fn tokenizer(name: &str) -> GgufTokenizer {
    let model = Gguf::open(&file(name)).unwrap();
    model.tokenizer().unwrap().unwrap()
}

#[test]
fn a_sentencepiece_tokenizer_is_read() {
    let tokenizer = tokenizer("whole.gguf");
    assert_eq!(tokenizer.kind, TokenizerKind::Llama);
    assert_eq!(tokenizer.pre.as_deref(), Some("default"));
    assert_eq!(tokenizer.tokens[6], "▁ab");
    assert_eq!(tokenizer.tokens[7], "");
    assert_eq!(tokenizer.scores[6], -0.5);
    assert_eq!(tokenizer.kinds[3], TokenKind::Byte);
    assert_eq!(tokenizer.special.bos, Some(1));
    assert_eq!(tokenizer.special.eos, Some(2));
    assert_eq!(tokenizer.special.unknown, Some(0));
    assert_eq!(tokenizer.special.padding, None);
    assert_eq!(tokenizer.add_bos, Some(true));
    assert_eq!(tokenizer.add_eos, None);
    assert_eq!(tokenizer.add_space_prefix, Some(false));
    assert_eq!(
        tokenizer.chat_template.as_deref(),
        Some("{{ messages[0].content }}")
    );
    let model = Gguf::open(&file("whole.gguf")).unwrap();
    assert!(tokenizer.check_vocabulary(model.metadata(), 8).is_ok());
    assert!(tokenizer.check_vocabulary(model.metadata(), 7).is_err());
}

#[test]
fn a_byte_level_tokenizer_is_read() {
    let tokenizer = tokenizer("bpe.gguf");
    assert_eq!(tokenizer.kind, TokenizerKind::Gpt2);
    assert_eq!(tokenizer.pre.as_deref(), Some("qwen2"));
    assert_eq!(tokenizer.merges[1], ("Ġ".to_owned(), "ab".to_owned()));
    assert!(tokenizer.scores.is_empty());
    assert_eq!(tokenizer.special.eos, Some(5));
    let split = Gguf::open(&file("split-00001-of-00002.gguf")).unwrap();
    assert!(split.tokenizer().unwrap().is_none());
}

#[test]
fn weights_are_taken_by_name_and_shape() {
    let weights = WeightsFile::open(&file("whole.gguf")).unwrap();
    assert_eq!(weights.names().count(), 12);
    assert_eq!(weights.load("norm.weight", &[8]).unwrap().rows(), 1);
    let wrong = weights.load("norm.weight", &[9]).unwrap_err();
    assert!(wrong.to_string().contains("[9]"), "{wrong}");
    let missing = weights.load("norm.bias", &[8]).unwrap_err();
    assert!(missing.to_string().contains("norm.bias"), "{missing}");
    assert!(weights.tensor("norm.bias").is_none());
}
