//! GGUF files as somebody would write them who means harm: each ends in a typed error that says
//! what is wrong, without a panic and without an allocation of what the file says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{GgufFile, sound_gguf, string, token_types};
use proptest::prelude::*;
use skep_weights::{Gguf, GgufError, WeightsError, WeightsFile};

fn read(file: &GgufFile) -> Result<Gguf, GgufError> {
    Gguf::from_parts(vec![file.build()])
}

/// Reads everything of a model that was accepted, and holds it against what must be true of it.
fn use_up(model: &Gguf, file_bytes: usize) {
    let metadata = model.metadata();
    for key in metadata.keys() {
        let value = metadata.value(key).unwrap();
        assert!(value.to_string().len() < 256);
        if let Ok(Some(strings)) = metadata.get::<Vec<&str>>(key) {
            assert!(strings.iter().map(|text| text.len() + 8).sum::<usize>() <= file_bytes);
        }
    }
    let mut total = 0;
    for (_, tensor) in model.tensors() {
        total += tensor.bytes().len();
        assert_eq!(tensor.bytes().len(), tensor.rows() * tensor.row_bytes());
        let mut row = vec![0.0; tensor.columns()];
        tensor.dequantize_row(tensor.rows() - 1, &mut row).unwrap();
        if tensor.check_finite().is_ok() {
            assert!(row.iter().all(|value| value.is_finite()));
        }
    }
    assert!(total <= file_bytes);
    if let Ok(Some(tokenizer)) = model.tokenizer() {
        assert_eq!(tokenizer.kinds.len(), tokenizer.tokens.len());
    }
}

fn refused(file: &GgufFile, words: &str) {
    let error = read(file).unwrap_err().to_string();
    assert!(error.contains(words), "{error:?} lacks {words:?}");
}

#[test]
fn the_sound_file_is_read() {
    let bytes = sound_gguf().build();
    let model = Gguf::from_parts(vec![bytes.clone()]).unwrap();
    assert_eq!(model.tensors().count(), 3);
    assert!(model.tokenizer().unwrap().is_some());
    use_up(&model, bytes.len());
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = sound_gguf().build();
    for len in 0..bytes.len() {
        let error = Gguf::from_parts(vec![bytes[..len].to_vec()]).unwrap_err();
        assert!(
            matches!(
                error,
                GgufError::NotGguf { .. }
                    | GgufError::Truncated { .. }
                    | GgufError::OutsideFile { .. }
            ),
            "cut at {len}: {error}"
        );
    }
}

#[test]
fn headers_of_other_formats_are_refused() {
    let error = Gguf::from_parts(vec![b"PK\x03\x04".to_vec()]).unwrap_err();
    assert!(matches!(error, GgufError::NotGguf { .. }), "{error}");
    assert!(matches!(
        Gguf::from_parts(Vec::new()),
        Err(GgufError::NotGguf { .. })
    ));
    let version = |version| GgufFile {
        version: Some(version),
        ..sound_gguf()
    };
    assert!(read(&version(2)).is_ok());
    refused(&version(1), "version 1");
    refused(&version(4), "version 4");
    refused(&version(3_u32.swap_bytes()), "big-endian");
    refused(&version(2_u32.swap_bytes()), "big-endian");
}

#[test]
fn counts_beyond_the_file_are_refused() {
    for count in [4, 1000, 1 << 16, 1 << 40, u64::MAX] {
        let tensors = GgufFile {
            tensor_count: Some(count),
            ..sound_gguf()
        };
        let error = read(&tensors).unwrap_err();
        assert!(
            matches!(
                error,
                GgufError::TooMany { .. }
                    | GgufError::Truncated { .. }
                    | GgufError::Malformed { .. }
            ),
            "{count} tensors: {error}"
        );
        let entries = GgufFile {
            entry_count: Some(count.saturating_add(20)),
            ..sound_gguf()
        };
        assert!(read(&entries).is_err(), "{count} entries");
    }
}

#[test]
fn arrays_and_strings_longer_than_the_file_are_refused() {
    for len in [1_u64 << 20, 1 << 61, 1 << 62, u64::MAX] {
        refused(
            &GgufFile::default().entry("a", 8, &len.to_le_bytes()),
            "ends too early",
        );
        for kind in [0_u32, 4, 7, 8, 10, 12] {
            let mut value = kind.to_le_bytes().to_vec();
            value.extend(len.to_le_bytes());
            refused(&GgufFile::default().entry("a", 9, &value), "ends too early");
        }
        let mut long_name = len.to_le_bytes().to_vec();
        long_name.extend([0; 40]);
        let file = GgufFile {
            tensors: vec![long_name],
            ..GgufFile::default()
        };
        refused(&file, "ends too early");
    }
}

#[test]
fn values_that_are_none_are_refused() {
    refused(
        &GgufFile::default().entry("a", 13, &[0; 8]),
        "no metadata type 13",
    );
    refused(&GgufFile::default().entry("a", 7, &[2]), "neither 0 nor 1");
    refused(
        &GgufFile::default().array("a", 7, &[vec![1], vec![9]]),
        "neither 0 nor 1",
    );
    refused(
        &GgufFile::default().array("a", 9, &[vec![0; 12]]),
        "array of arrays",
    );
    let mut not_text = 2_u64.to_le_bytes().to_vec();
    not_text.extend([0xc3, 0x28]);
    refused(&GgufFile::default().entry("a", 8, &not_text), "not UTF-8");
    refused(&GgufFile::default().u32("", 1), "0 bytes");
    refused(&GgufFile::default().u32(&"k".repeat(257), 1), "257 bytes");
    refused(
        &GgufFile::default().u32("a", 1).u32("a", 2),
        "two metadata keys",
    );
}

#[test]
fn alignments_that_are_none_are_refused() {
    for alignment in [0, 3, 33, 1 << 21, u32::MAX] {
        let file = GgufFile::default().u32("general.alignment", alignment);
        refused(&file, "power of two");
    }
    refused(
        &GgufFile::default().text("general.alignment", "32"),
        "general.alignment",
    );
    let unaligned = GgufFile::default().tensor("a", &[4], 0, 16).data(&[0; 64]);
    refused(&unaligned, "no multiple of 32");
    let eights = GgufFile::default()
        .u32("general.alignment", 8)
        .tensor("a", &[4], 0, 16)
        .data(&[0; 64]);
    assert!(read(&eights).is_ok());
}

#[test]
fn tensors_outside_the_file_or_over_each_other_are_refused() {
    let with = |shape: &[u64], kind, offset| {
        GgufFile::default()
            .tensor("a", shape, kind, offset)
            .data(&[0; 256])
    };
    assert!(read(&with(&[64], 0, 0)).is_ok());
    refused(&with(&[64], 0, 32), "it is cut short");
    refused(&with(&[65], 0, 0), "it is cut short");
    refused(&with(&[64], 0, u64::MAX - 31), "it is cut short");
    refused(&with(&[1 << 62], 0, 0), "larger than any memory");
    refused(
        &with(&[1 << 32, 1 << 32, 4], 0, 0),
        "larger than any memory",
    );
    refused(&with(&[0, 4], 0, 0), "length 0");
    refused(&with(&[1; 5], 0, 0), "5 dimensions");
    refused(&with(&[33], 8, 0), "no multiple");
    refused(&with(&[255], 12, 0), "no multiple");
    let two = |second: &str, offset| {
        GgufFile::default()
            .tensor("a", &[16], 0, 32)
            .tensor(second, &[16], 0, offset)
            .data(&[0; 256])
    };
    assert!(read(&two("b", 96)).is_ok());
    refused(&two("b", 64), "\"a\" and \"b\" overlap");
    refused(&two("b", 0), "\"b\" and \"a\" overlap");
    refused(&two("b", 32), "overlap");
    refused(&two("a", 96), "two tensors named");
}

#[test]
fn types_that_are_not_supported_are_named() {
    let of = |kind| {
        GgufFile::default()
            .tensor("a", &[256], kind, 0)
            .data(&[0; 1024])
    };
    for (kind, name) in [
        (9, "Q8_1"),
        (10, "Q2_K"),
        (20, "IQ4_NL"),
        (39, "MXFP4"),
        (999, "type 999"),
    ] {
        let error = read(&of(kind)).unwrap_err();
        assert!(
            matches!(error, GgufError::UnsupportedType { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
}

fn part(number: u32, count: u32, tensor: &str) -> GgufFile {
    GgufFile::default()
        .u32("split.no", number)
        .u32("split.count", count)
        .u32("split.tensors.count", count)
        .tensor(tensor, &[8], 0, 0)
        .data(&[0; 32])
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let read = |parts: &[GgufFile]| Gguf::from_parts(parts.iter().map(GgufFile::build).collect());
    let sound = [part(0, 3, "a"), part(1, 3, "b"), part(2, 3, "c")];
    let model = read(&sound).unwrap();
    assert_eq!((model.parts(), model.tensors().count()), (3, 3));
    let whole = GgufFile::default().tensor("b", &[8], 0, 0).data(&[0; 32]);
    for (parts, words) in [
        (vec![part(0, 3, "a"), part(1, 3, "b")], "missing"),
        // One that comes round to the first.
        (
            vec![part(0, 3, "a"), part(0, 3, "a"), part(2, 3, "c")],
            "calls itself part 1 of 3",
        ),
        (
            vec![part(0, 3, "a"), part(2, 3, "b"), part(1, 3, "c")],
            "calls itself part 3 of 3",
        ),
        (
            vec![part(0, 3, "a"), part(1, 4, "b"), part(2, 3, "c")],
            "part 2 of 4",
        ),
        (vec![part(0, 3, "a"), whole, part(2, 3, "c")], "split.no"),
        (
            vec![part(0, 3, "a"), part(1, 3, "a"), part(2, 3, "c")],
            "two tensors",
        ),
        (
            vec![part(1, 3, "b"), part(0, 3, "a"), part(2, 3, "c")],
            "open the first",
        ),
        (vec![part(0, u32::MAX, "a")], "4294967295 parts"),
        (
            vec![
                part(0, 3, "a"),
                part(1, 3, "b"),
                part(2, 3, "c").tensor("d", &[8], 0, 32).data(&[0; 32]),
            ],
            "announces 3 tensors",
        ),
    ] {
        let error = read(&parts).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    }
}

#[test]
fn parts_on_disk_are_found_by_name_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, file: &GgufFile| std::fs::write(at(name), file.build()).unwrap();
    write("m-00001-of-00002.gguf", &part(0, 2, "a"));
    let missing = Gguf::open(&at("m-00001-of-00002.gguf")).unwrap_err();
    assert!(matches!(missing, GgufError::Io { .. }), "{missing}");
    assert!(
        missing.to_string().contains("m-00002-of-00002.gguf"),
        "{missing}"
    );
    write("m-00002-of-00002.gguf", &part(1, 2, "b"));
    assert_eq!(Gguf::open(&at("m-00001-of-00002.gguf")).unwrap().parts(), 2);
    write("renamed.gguf", &part(0, 2, "a"));
    let renamed = Gguf::open(&at("renamed.gguf")).unwrap_err().to_string();
    assert!(renamed.contains("-00001-of-00002.gguf"), "{renamed}");
    assert!(matches!(
        Gguf::open(folder.path()),
        Err(GgufError::Io { .. })
    ));
    #[cfg(unix)]
    {
        std::fs::remove_file(at("m-00002-of-00002.gguf")).unwrap();
        std::os::unix::fs::symlink(at("m-00001-of-00002.gguf"), at("m-00002-of-00002.gguf"))
            .unwrap();
        let cyclic = Gguf::open(&at("m-00001-of-00002.gguf")).unwrap_err();
        assert!(matches!(cyclic, GgufError::Split { .. }), "{cyclic}");
    }
}

#[test]
fn scales_that_are_not_finite_are_refused_on_loading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for scale in [[0x00, 0x7c], [0x00, 0xfc], [0x01, 0x7e]] {
        let mut block = [0; 34];
        block[..2].copy_from_slice(&scale);
        let file = GgufFile::default().tensor("a", &[32], 8, 0).data(&block);
        std::fs::write(&path, file.build()).unwrap();
        let weights = WeightsFile::open(&path).unwrap();
        let error = weights.load("a", &[32]).unwrap_err();
        assert!(matches!(error, WeightsError::Unsound { .. }), "{error}");
    }
}

/// A tokenizer of kind `gpt2` that a test then spoils.
fn byte_level() -> GgufFile {
    GgufFile::default()
        .text("tokenizer.ggml.model", "gpt2")
        .strings("tokenizer.ggml.tokens", &["a", "b", "ab"])
}

#[test]
fn tokenizers_that_contradict_themselves_are_refused() {
    let merges = |merges: &[&str]| byte_level().strings("tokenizer.ggml.merges", merges);
    let pieces = || {
        GgufFile::default()
            .text("tokenizer.ggml.model", "llama")
            .strings("tokenizer.ggml.tokens", &["a", "b", "ab"])
    };
    let scored = || pieces().floats("tokenizer.ggml.scores", &[0.0, 1.0, 2.0]);
    let sound = |file: &GgufFile| read(file).unwrap().tokenizer().unwrap().is_some();
    assert!(sound(&merges(&["a b"])));
    assert!(sound(&scored()));
    assert!(sound(
        &scored().u32("tokenizer.ggml.padding_token_id", u32::MAX)
    ));
    for (file, words) in [
        (byte_level(), "no merges"),
        (merges(&["a b", "ab"]), "merge 1 is no pair"),
        (pieces(), "no scores"),
        (
            pieces().floats("tokenizer.ggml.scores", &[0.0]),
            "1 entries for 3 tokens",
        ),
        (
            pieces().floats("tokenizer.ggml.scores", &[0.0, f32::NAN, 1.0]),
            "scores",
        ),
        (
            pieces().floats("tokenizer.ggml.scores", &[0.0, f32::INFINITY, 1.0]),
            "scores",
        ),
        (
            scored().array("tokenizer.ggml.token_type", 5, &token_types(&[1, 1])),
            "2 entries for 3 tokens",
        ),
        (
            scored().array("tokenizer.ggml.token_type", 5, &token_types(&[1, 1, 9])),
            "token 2 is of type 9",
        ),
        (
            scored().u32("tokenizer.ggml.eos_token_id", 3),
            "eos_token_id is 3",
        ),
        (
            scored().text("tokenizer.ggml.bos_token_id", "1"),
            "bos_token_id",
        ),
        (
            GgufFile::default().text("tokenizer.ggml.model", "rwkv"),
            "\"rwkv\"",
        ),
        (
            GgufFile::default().text("tokenizer.ggml.model", "llama"),
            "no tokens",
        ),
        (
            GgufFile::default()
                .text("tokenizer.ggml.model", "llama")
                .strings("tokenizer.ggml.tokens", &[]),
            "no tokens",
        ),
        (
            GgufFile::default()
                .text("tokenizer.ggml.model", "llama")
                .floats("tokenizer.ggml.tokens", &[1.0]),
            "tokenizer.ggml.tokens",
        ),
    ] {
        let error = read(&file).unwrap().tokenizer().unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    }
}

#[test]
fn errors_do_not_repeat_long_texts() {
    let long = "x".repeat(100_000);
    let file = GgufFile::default()
        .text("tokenizer.ggml.model", &long)
        .text("general.architecture", &long);
    let model = read(&file).unwrap();
    let tokenizer = model.tokenizer().unwrap_err().to_string();
    let number = model
        .metadata()
        .need::<u64>("general.architecture")
        .unwrap_err()
        .to_string();
    assert!(tokenizer.len() < 300 && number.len() < 300);
    assert_eq!(string("ab").len(), 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_changed_file_is_refused_or_sound(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = sound_gguf().build();
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let len = bytes.len();
        match Gguf::from_parts(vec![bytes]) {
            Ok(model) => use_up(&model, len),
            Err(error) => prop_assert!(error.to_string().len() < 2000),
        }
    }

    #[test]
    fn a_number_put_anywhere_is_refused_or_sound(
        at in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just(u64::MAX), Just(1 << 63), Just(1 << 32), Just(u64::from(u32::MAX)), 0_u64..300,
        ],
    ) {
        let mut bytes = sound_gguf().build();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let len = bytes.len();
        if let Ok(model) = Gguf::from_parts(vec![bytes]) {
            use_up(&model, len);
        }
    }
}
