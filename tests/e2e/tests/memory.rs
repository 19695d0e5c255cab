//! Loading a language model costs its file and next to nothing else, because the weights are used
//! where the file is mapped.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod language;

use std::fs;
use std::path::Path;

use language::Native;
use skep_tests::random::{self, Shape};

/// A model of about 70 MB.
const SHAPE: Shape = Shape {
    layers: 16,
    width: 640,
    hidden: 1728,
    heads: 10,
    kv_heads: 2,
    vocabulary: 512,
    context: 512,
};

/// Bytes of memory that this process has of its own.
fn own() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    kibibytes(status.lines().find(|line| line.starts_with("RssAnon:")))
}

/// Bytes of a mapped file that are in memory.
fn mapped(path: &Path) -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut bytes, mut inside) = (0, false);
    for line in maps.lines() {
        // A mapping begins with its addresses; lines about it begin with a word and a colon.
        if !line.split(' ').next().unwrap().ends_with(':') {
            inside = line.ends_with(path.to_str().unwrap());
        } else if inside && line.starts_with("Rss:") {
            bytes += kibibytes(Some(line));
        }
    }
    bytes
}

fn kibibytes(line: Option<&str>) -> u64 {
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() * 1024
}

// One test alone, so that nothing else takes memory meanwhile.
#[test]
fn a_loaded_model_takes_its_file_and_at_most_five_percent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    random::gguf(&path, &SHAPE, 1).unwrap();
    let file = fs::metadata(&path).unwrap().len();
    assert!(file > 64 << 20, "{file}");
    let before = own();
    let native = Native::load(&path);
    let loaded = own().saturating_sub(before);
    // Every weight is read now.
    let request = native.request("Once upon a time there was", 8);
    native.write(vec![request]);
    let used = own().saturating_sub(before);
    let mapped = mapped(&path);
    let memory = native.engine.memory();
    let percent = |bytes: u64| 100.0 * bytes as f64 / file as f64;
    println!(
        "file {file} bytes; memory of its own {:.2} % of it when loaded, {:.2} % after writing; \
         mapped {:.1} %; {memory:?}",
        percent(loaded),
        percent(used),
        percent(mapped)
    );
    assert!(memory.weights <= file && memory.weights > file / 10 * 9);
    assert!(
        mapped > file / 10 * 9,
        "{mapped} bytes of a file of {file} were read"
    );
    assert!(
        percent(loaded) <= 5.0,
        "{loaded} bytes beside a file of {file}"
    );
    assert!(
        percent(mapped + used) <= 105.0,
        "{mapped} and {used} bytes for a file of {file}"
    );
}
