//! Folders of safetensors, and layers of 4-bit groups in them, from somebody who means harm.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::safetensors;
use proptest::prelude::*;
use skep_weights::grouped::GroupedMethod;
use skep_weights::{
    FolderError, GroupInt4, GroupedConfig, GroupedError, Matrix, SafetensorsFolder, WeightsError,
    WeightsFile,
};
use tempfile::TempDir;

const HEADER: &str = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I32","shape":[2],"data_offsets":[24,32]}}"#;

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn open(files: &[(&str, Vec<u8>)]) -> Result<SafetensorsFolder, FolderError> {
    SafetensorsFolder::open(folder(files).path())
}

fn index(map: &str) -> Vec<u8> {
    format!(r#"{{"metadata": {{"total_size": 1}}, "weight_map": {map}}}"#).into_bytes()
}

fn shard(names: &[&str]) -> Vec<u8> {
    let entries: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let (start, end) = (8 * at, 8 * at + 8);
            format!(r#""{name}":{{"dtype":"F16","shape":[4],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    safetensors(
        &format!("{{{}}}", entries.join(",")),
        &vec![0x11; 8 * names.len()],
    )
}

const INDEX: &str = "model.safetensors.index.json";

#[test]
fn a_sound_file_and_sound_shards_are_read() {
    let whole = open(&[("model.safetensors", safetensors(HEADER, &[1; 32]))]).unwrap();
    assert_eq!(whole.tensor("a").unwrap().shape(), [2, 3]);
    assert!(whole.tensor("b").is_none(), "integers are no weights");
    assert_eq!(whole.raw("b").unwrap().bytes(), [1; 8]);
    let sharded = open(&[
        (
            INDEX,
            index(r#"{"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"}"#),
        ),
        ("1.safetensors", shard(&["a", "unlisted"])),
        ("2.safetensors", shard(&["b", "c"])),
    ])
    .unwrap();
    assert_eq!(sharded.shards(), 2);
    let names: Vec<&str> = sharded.tensors().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(sharded.tensor("c").unwrap().bytes(), [0x11; 8]);
}

#[test]
fn an_index_that_lies_is_refused() {
    let lies = |map: &str| {
        open(&[
            (INDEX, index(map)),
            ("1.safetensors", shard(&["a"])),
            ("2.safetensors", shard(&["b"])),
            ("notes.txt", Vec::new()),
        ])
        .unwrap_err()
    };
    for name in [
        "../1.safetensors",
        "/etc/1.safetensors",
        "./1.safetensors",
        "sub/1.safetensors",
        "sub\\\\1.safetensors",
        "1.safetensors/",
        "..",
        ".",
        "",
        "notes.txt",
        "1.safetensors\\u0000",
    ] {
        let error = lies(&format!(r#"{{"a": "{name}"}}"#));
        assert!(
            matches!(error, FolderError::OutsideFolder { .. }),
            "{name}: {error}"
        );
    }
    let missing = lies(r#"{"a": "3.safetensors"}"#);
    assert!(matches!(missing, FolderError::Io { .. }), "{missing}");
    let elsewhere = lies(r#"{"a": "2.safetensors"}"#);
    assert!(
        matches!(elsewhere, FolderError::NotInShard { .. }),
        "{elsewhere}"
    );
    for map in ["[]", "3", r#"{"a": 3}"#, "{"] {
        assert!(matches!(lies(map), FolderError::Malformed { .. }), "{map}");
    }
    let many: Vec<String> = (0..2000)
        .map(|i| format!(r#""{i}": "{i}.safetensors""#))
        .collect();
    let error = lies(&format!("{{{}}}", many.join(",")));
    assert!(error.to_string().contains("2000 shards"), "{error}");
}

#[test]
fn a_folder_without_weights_says_so() {
    let error = open(&[("pytorch_model.bin", vec![0; 9])]).unwrap_err();
    assert!(matches!(error, FolderError::NoWeights { .. }), "{error}");
    let folder = folder(&[]);
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    let error = SafetensorsFolder::open(folder.path()).unwrap_err();
    assert!(matches!(error, FolderError::Io { .. }), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = safetensors(HEADER, &[1; 32]);
    for len in 0..bytes.len() {
        let error = open(&[("model.safetensors", bytes[..len].to_vec())]).unwrap_err();
        assert!(
            matches!(error, FolderError::Malformed { .. }),
            "cut at {len}: {error}"
        );
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let refused = |bytes: Vec<u8>| {
        open(&[("model.safetensors", bytes)])
            .unwrap_err()
            .to_string()
    };
    for len in [1 << 25, 1 << 62, u64::MAX] {
        let mut bytes = safetensors(HEADER, &[1; 32]);
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        assert!(refused(bytes).contains("at most"));
    }
    for header in [
        r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,28]}}"#,
        r#"{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,32]}}"#,
        r#"{"a":{"dtype":"F32","shape":[7],"data_offsets":[4,32]}}"#,
        r#"{"a":{"dtype":"F32","shape":[8],"data_offsets":[32,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,32]}}"#,
        r#"{"a":{"dtype":"X","shape":[8],"data_offsets":[0,32]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-8],"data_offsets":[0,32]}}"#,
        // Two tensors over each other, and a hole.
        r#"{"a":{"dtype":"U8","shape":[20],"data_offsets":[0,20]},"b":{"dtype":"U8","shape":[20],"data_offsets":[12,32]}}"#,
        r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[24,32]}}"#,
        "[]",
        "",
    ] {
        let _ = refused(safetensors(header, &[0; 32]));
    }
}

#[test]
fn lengths_whose_sum_is_no_length_are_refused() {
    let side = (1_usize << 61) - 1;
    let mut entries: Vec<String> = (0..8)
        .map(|i| {
            let (start, end) = (i * side, (i + 1) * side);
            format!(r#""{i}":{{"dtype":"U8","shape":[{side}],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    let (start, end) = (8 * side, usize::MAX);
    let rest = end - start;
    entries.push(format!(
        r#""r":{{"dtype":"U8","shape":[{rest}],"data_offsets":[{start},{end}]}}"#
    ));
    let bytes = safetensors(&format!("{{{}}}", entries.join(",")), &[0; 64]);
    let error = open(&[("model.safetensors", bytes)]).unwrap_err();
    assert!(error.to_string().contains("but 64 are there"), "{error}");
}

/// Files of a folder with one layer of 64 inputs and 16 outputs in groups of 32.
fn layer(g_idx: &[i32], scale: u16) -> Vec<(&'static str, Vec<u8>)> {
    let config = r#"{"quantization_config": {"quant_method": "gptq", "bits": 4,
        "group_size": 32, "desc_act": true}}"#;
    let g_end = 592 + 4 * g_idx.len();
    let header = format!(
        r#"{{"l.qweight":{{"dtype":"I32","shape":[8,16],"data_offsets":[0,512]}},
        "l.qzeros":{{"dtype":"I32","shape":[2,2],"data_offsets":[512,528]}},
        "l.scales":{{"dtype":"F16","shape":[2,16],"data_offsets":[528,592]}},
        "l.g_idx":{{"dtype":"I32","shape":[{}],"data_offsets":[592,{g_end}]}}}}"#,
        g_idx.len()
    );
    let mut data = vec![0x5a; 528];
    data.extend([scale.to_le_bytes(), [0, 0x3c]].concat().repeat(16));
    data.extend(g_idx.iter().flat_map(|index| index.to_le_bytes()));
    vec![
        ("config.json", config.as_bytes().to_vec()),
        ("model.safetensors", safetensors(&header, &data)),
    ]
}

fn load(files: &[(&'static str, Vec<u8>)]) -> Result<GroupInt4, WeightsError> {
    let folder = folder(files);
    let weights = WeightsFile::open(folder.path())?;
    match weights.load_matrix("l", 16, 64)? {
        Matrix::Grouped(matrix) => Ok(matrix),
        other => panic!("{other:?} is not grouped"),
    }
}

fn halves() -> Vec<i32> {
    (0..64).map(|i| i / 32).collect()
}

#[test]
fn groups_of_inputs_that_are_none_are_refused() {
    let sound = load(&layer(&halves(), 0x3800)).unwrap();
    assert!(sound.permutation().is_none());
    let alternating: Vec<i32> = (0..64).map(|i| i % 2).collect();
    let permuted = load(&layer(&alternating, 0x3800)).unwrap();
    assert_eq!(&permuted.permutation().unwrap()[..3], [0, 2, 4]);
    assert_eq!(load(&layer(&[0; 64], 0x3800)).unwrap(), sound);
    let spoilt = |at: usize, value: i32| {
        let mut indices = halves();
        indices[at] = value;
        indices
    };
    for indices in [
        spoilt(0, 1),
        spoilt(63, 0),
        spoilt(5, -1),
        spoilt(5, 2),
        spoilt(5, i32::MAX),
    ] {
        let error = load(&layer(&indices, 0x3800)).unwrap_err();
        assert!(
            matches!(
                error,
                WeightsError::Grouped(GroupedError::GroupIndex { .. })
            ),
            "{error}"
        );
    }
    let short = load(&layer(&halves()[..63], 0x3800)).unwrap_err();
    assert!(
        matches!(
            short,
            WeightsError::Grouped(GroupedError::WrongShape { .. })
        ),
        "{short}"
    );
}

#[test]
fn scales_that_are_not_finite_are_refused() {
    for scale in [0x7c00, 0xfc00, 0x7e00] {
        let error = load(&layer(&halves(), scale)).unwrap_err();
        assert!(
            matches!(error, WeightsError::Grouped(GroupedError::NotFinite { .. })),
            "{error}"
        );
    }
}

#[test]
fn a_layer_of_another_shape_or_with_a_part_missing_is_refused() {
    let files = layer(&halves(), 0x3800);
    let folder = folder(&files);
    let weights = WeightsFile::open(folder.path()).unwrap();
    let wrong = weights.load_matrix("l", 16, 128).unwrap_err();
    assert!(matches!(wrong, WeightsError::WrongShape { .. }), "{wrong}");
    let missing = weights.load_matrix("m", 16, 64).unwrap_err();
    assert!(missing.to_string().contains("m.weight"), "{missing}");
    let config = GroupedConfig {
        method: GroupedMethod::Gptq,
        group: Some(32),
        zeros_minus_one: true,
    };
    let bare = SafetensorsFolder::open(folder.path()).unwrap();
    let missing = GroupInt4::load(&bare, &config, "m").unwrap_err();
    assert!(matches!(missing, GroupedError::Missing { .. }), "{missing}");
    // Groups that the inputs are no multiple of, and the other project's packing.
    for (method, group) in [
        (GroupedMethod::Gptq, Some(96)),
        (GroupedMethod::Gptq, Some(64)),
        (GroupedMethod::Awq, Some(32)),
        (GroupedMethod::Awq, None),
    ] {
        let config = GroupedConfig {
            method,
            group,
            zeros_minus_one: false,
        };
        let error = GroupInt4::load(&bare, &config, "l").unwrap_err();
        assert!(
            matches!(error, GroupedError::WrongShape { .. }),
            "{method:?} {group:?}: {error}"
        );
    }
}

/// Opens a folder and reads all of it.
fn use_up(folder: &Path) {
    let Ok(weights) = WeightsFile::open(folder) else {
        return;
    };
    for name in weights.names() {
        if let Some(tensor) = weights.tensor(name) {
            let mut values = vec![0.0; tensor.columns()];
            if tensor.rows() > 0 {
                tensor.dequantize_row(0, &mut values).unwrap();
            }
        }
    }
    if let Ok(Matrix::Grouped(matrix)) = weights.load_matrix("l", 16, 64) {
        let mut row = [f32::NAN; 64];
        matrix.dequantize_row(15, &mut row);
        assert!(row.iter().all(|value| value.is_finite()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_changed_folder_is_refused_or_sound(
        which in 0_usize..2,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut files = layer(&halves(), 0x3800);
        let bytes = &mut files[which].1;
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        use_up(folder(&files).path());
    }

    #[test]
    fn a_changed_index_is_refused_or_sound(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = index(r#"{"a": "1.safetensors", "b": "2.safetensors"}"#);
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        let files = [(INDEX, bytes), ("1.safetensors", shard(&["a"])), ("2.safetensors", shard(&["b"]))];
        use_up(folder(&files).path());
    }
}
