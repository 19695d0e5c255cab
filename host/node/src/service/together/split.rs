//! Who learns which examples.

use std::io;
use std::path::Path;

use serde_json::Value;

/// The examples of each of so many nodes, as files of lines. Lines go around, so that an order in
/// the file is no difference between nodes. Those that are only tested on stay with the first,
/// which is the one that tests.
///
/// # Errors
/// When the file cannot be read.
pub fn split(path: &Path, nodes: usize) -> io::Result<Vec<Vec<u8>>> {
    let text = std::fs::read(path)?;
    let mut parts = vec![Vec::new(); nodes.max(1)];
    let mut next = 0;
    for line in text.split(|byte| *byte == b'\n') {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let part = match is_test(line) {
            true => 0,
            false => {
                next += 1;
                (next - 1) % parts.len()
            }
        };
        parts[part].extend_from_slice(line);
        parts[part].push(b'\n');
    }
    Ok(parts)
}

/// Whether a line is not learned from. One that is no JSON is somebody's to complain about: the
/// recipe's, wherever it lands.
fn is_test(line: &[u8]) -> bool {
    let read: Option<Value> = serde_json::from_slice(line).ok();
    read.is_some_and(|line| line["split"] == "test")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_around_and_tests_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        let text = "{\"n\":1}\n\n{\"n\":2, \"split\":\"test\"}\n{\"n\":3}\nno JSON\n{\"n\":5}";
        std::fs::write(&path, text).unwrap();
        let parts = split(&path, 2).unwrap();
        let texts: Vec<&str> = parts
            .iter()
            .map(|p| std::str::from_utf8(p).unwrap())
            .collect();
        assert_eq!(
            texts[0],
            "{\"n\":1}\n{\"n\":2, \"split\":\"test\"}\nno JSON\n"
        );
        assert_eq!(texts[1], "{\"n\":3}\n{\"n\":5}\n");
        assert!(split(&folder.path().join("none"), 2).is_err());
    }
}
