//! Streams of blobs, as a Rust guest of the world `async-task` sees them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use skep_registry::Digest;
use skep_tests::{Built, Ended, Node, run};

/// A node that has one blob, and the package of the guest.
struct Setting {
    folder: tempfile::TempDir,
    node: Node,
    content: Vec<u8>,
    digest: String,
}

impl Setting {
    fn new(length: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::start(&Built::skep(), &folder.path().join("home")).unwrap();
        let content: Vec<u8> = (0..length as u64 / 8)
            .flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect();
        let this = Self {
            digest: Digest::of(&content).to_string(),
            folder,
            node,
            content,
        };
        this.package("storing", "blobs", "task", "swarm-write = true");
        this.package(
            "streaming",
            "blob-stream",
            "async-task",
            "swarm-read = [\"*\"]",
        );
        fs::write(this.path("input"), &this.content).unwrap();
        let (input, output) = (this.text("input"), this.text("output"));
        let storing = this.text("storing");
        this.node
            .ask(&[
                "run", &storing, "--input", &input, "--output", &output, "--", "store",
            ])
            .unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn package(&self, name: &str, component: &str, world: &str, grants: &str) {
        let folder = self.path(name);
        fs::create_dir(&folder).unwrap();
        fs::copy(Built::component(component), folder.join("c.wasm")).unwrap();
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nkind = \"component\"\n\
             [component]\nworld = \"{world}\"\npath = \"c.wasm\"\n\
             [grants]\n{grants}\n[limits]\nhandles = 100\n"
        );
        fs::write(folder.join("skep.toml"), manifest).unwrap();
    }

    /// Has the guest do something with the blob.
    fn stream(&self, what: &str, options: &[&str]) -> Ended {
        let (package, output) = (self.text("streaming"), self.text("output"));
        let mut arguments = vec!["--json", "run", &package, "--output", &output];
        arguments.extend(options);
        arguments.extend(["--", what, &self.digest]);
        run(self.node.home(), &arguments).unwrap()
    }

    fn printed(&self) -> String {
        fs::read_to_string(self.path("output")).unwrap()
    }

    /// The node's memory, in bytes.
    #[cfg(target_os = "linux")]
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.node.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kibibytes: u64 = line
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        kibibytes * 1024
    }
}

#[test]
fn a_guest_streams_a_blob_of_some_megabytes() {
    let setting = Setting::new(8_000_000);
    let expected = format!("8000000 {}", setting.digest);
    let ended = setting.stream("hash", &[]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(setting.printed(), expected);
    let ended = setting.stream("two", &[]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(setting.printed(), expected);
    let ended = setting.stream("leave", &[]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(setting.printed(), "10000");
}

#[test]
fn a_stream_of_damaged_content_ends_in_an_error_that_says_so() {
    let setting = Setting::new(1_000_000);
    let data = format!("swarm/blobs/data/{}.data", setting.digest);
    let data = setting.node.home().join(data);
    let mut bytes = fs::read(&data).unwrap();
    bytes[700_000] ^= 1;
    fs::write(&data, bytes).unwrap();
    let ended = setting.stream("hash", &[]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("damaged on disk"), "{}", ended.stderr);
}

#[test]
fn a_stream_that_is_never_read_ends_with_the_run() {
    let setting = Setting::new(8_000_000);
    let began = Instant::now();
    let ended = setting.stream("unread", &["--time", "1 s"]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    // It is named by where it came from.
    let told = "(`--time` on the command line)";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    // Compiling it the first time takes a while.
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[cfg(target_os = "linux")]
#[test]
fn whoever_hoards_streams_is_told_no_and_leaves_nothing_behind() {
    let setting = Setting::new(8_000_000);
    // What the first runs set up stays: the compiled component, the threads, the pools.
    for _ in 0..2 {
        setting.stream("hoard", &[]);
        setting.stream("hash", &[]);
    }
    let before = setting.memory();
    for _ in 0..20 {
        let ended = setting.stream("hoard", &[]);
        assert_eq!(ended.code, 4, "{}", ended.stderr);
        assert!(
            ended
                .stderr
                .contains("over its limit on handles: 100 handles are allowed"),
            "{}",
            ended.stderr
        );
    }
    let after = setting.memory();
    assert!(
        after < before + (16 << 20),
        "the node had {before} bytes and has {after}"
    );
    let ended = setting.stream("hash", &[]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}
