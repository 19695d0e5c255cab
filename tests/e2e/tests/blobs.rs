//! Blobs between two nodes, as guests see them: one stores, the other opens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_tests::{Built, Ended, Node, configure, run};

/// Packages of the same component with different grants, and content to move.
struct Setting(tempfile::TempDir);

impl Setting {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A package that may do with blobs what `grants` says, within `limits`.
    fn package(&self, name: &str, grants: &str, limits: &str) -> String {
        let folder = self.path(name);
        fs::create_dir(&folder).unwrap();
        fs::copy(Built::component("blobs"), folder.join("c.wasm")).unwrap();
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nkind = \"component\"\n\
             [component]\nworld = \"task\"\npath = \"c.wasm\"\n\
             [grants]\n{grants}\n[limits]\n{limits}\n"
        );
        fs::write(folder.join("skep.toml"), manifest).unwrap();
        self.text(name)
    }

    fn node(&self, name: &str) -> Node {
        Node::start(&Built::skep(), &self.path(name)).unwrap()
    }

    /// Has a guest on a node store content, and returns its digest.
    fn store(&self, node: &Node, content: &[u8]) -> String {
        fs::write(self.path("input"), content).unwrap();
        if !self.path("storing").exists() {
            self.package("storing", "swarm-write = true", "");
        }
        node.ask(&[
            "run",
            &self.text("storing"),
            "--input",
            &self.text("input"),
            "--output",
            &self.text("digest"),
            "--",
            "store",
        ])
        .unwrap();
        let digest = fs::read_to_string(self.path("digest")).unwrap();
        let digest = digest.trim().to_owned();
        assert_eq!(digest, blake3(content));
        digest
    }

    /// Has a guest in a home load a blob into the file `output`.
    fn load(&self, home: &Path, package: &str, digest: &str, from: &[&str]) -> Ended {
        let output = self.text("output");
        let mut arguments = vec!["--json", "run", package, "--output", &output];
        for ticket in from {
            arguments.extend(["--from", ticket]);
        }
        arguments.extend(["--", "load", digest]);
        run(home, &arguments).unwrap()
    }
}

fn blake3(content: &[u8]) -> String {
    skep_registry::Digest::of(content).to_string()
}

/// Bytes that do not repeat.
fn content(length: usize) -> Vec<u8> {
    let mut state = length as u64 | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn ticket(node: &Node) -> &str {
    node.status["ticket"].as_str().unwrap()
}

#[test]
fn a_guest_opens_what_only_another_node_has() {
    let setting = Setting::new();
    let content = content(3_000_000);
    let (a, b) = (setting.node("a"), setting.node("b"));
    let digest = setting.store(&a, &content);
    let package = setting.package("loading", "swarm-read = [\"*\"]", "");

    let ended = setting.load(b.home(), &package, &digest, &[ticket(&a)]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(fs::read(setting.path("output")).unwrap() == content);
    let report: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report["stored_bytes"], 3_000_000);

    // What was fetched is still there after the publisher has gone, and costs nothing then.
    drop(a);
    let ended = setting.load(b.home(), &package, &digest, &[]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let report: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report["stored_bytes"], 0);
}

#[test]
fn the_peers_of_the_configuration_are_asked() {
    let setting = Setting::new();
    let content = content(50_000);
    let a = setting.node("a");
    let digest = setting.store(&a, &content);
    let home = setting.path("b");
    configure(&home, &format!("peers = [\"{}\"]\n", ticket(&a))).unwrap();
    let package = setting.package("loading", &format!("swarm-read = [\"{digest}\"]"), "");
    // No node runs in this home: the command itself asks.
    let ended = setting.load(&home, &package, &digest, &[]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(fs::read(setting.path("output")).unwrap() == content);
}

#[test]
fn a_guest_is_told_why_it_does_not_get_a_blob() {
    let setting = Setting::new();
    let a = setting.node("a");
    let home = setting.path("b");
    let digest = setting.store(&a, &content(2_000_000));
    let nobodys = blake3(b"nobody has this");

    let anything = setting.package("anything", "swarm-read = [\"*\"]", "");
    let ended = setting.load(&home, &anything, &nobodys, &[ticket(&a)]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let said = format!("not found: {nobodys}");
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);

    let another = setting.package("another", &format!("swarm-read = [\"{nobodys}\"]"), "");
    let ended = setting.load(&home, &another, &digest, &[ticket(&a)]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("denied"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("grants.swarm-read"),
        "{}",
        ended.stderr
    );

    let small = setting.package("small", "swarm-read = [\"*\"]", "storage = \"1 MiB\"");
    let ended = setting.load(&home, &small, &digest, &[ticket(&a)]);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .contains("over its limit on storage: 1 MiB are allowed"),
        "{}",
        ended.stderr
    );
    // Refused before it was fetched: nothing of it is on the disk.
    let data = home.join("swarm/blobs/data");
    let kept = fs::read_dir(data)
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_str().unwrap().starts_with(&digest)
        })
        .count();
    assert_eq!(kept, 0);
}

#[test]
fn what_was_being_stored_when_a_node_was_killed_is_gone_once_it_is_back() {
    let setting = Setting::new();
    let a = setting.node("a");
    let storing = setting.package("storing", "swarm-write = true", "");
    let pipe = setting.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let mut command = Command::new(Built::skep())
        .arg("--home")
        .arg(a.home())
        .args(["run", &storing, "--input"])
        .arg(&pipe)
        .args(["--output", "/dev/null", "--", "store"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It takes more than a pipe holds only once the guest reads, and the guest never sees the end.
    let mut writer = fs::File::options().write(true).open(&pipe).unwrap();
    writer.write_all(&content(1 << 20)).unwrap();
    let drafts = a.home().join("drafts");
    let drafted = || {
        let entries = fs::read_dir(&drafts).unwrap();
        let bytes = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
        bytes.sum::<u64>()
    };
    let begun = Instant::now();
    while drafted() == 0 {
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(60), "nothing is stored");
    }
    a.kill().unwrap();
    let _ = command.kill();
    command.wait().unwrap();
    drop(writer);
    assert!(drafted() > 0, "whoever is killed removes nothing");
    let _a = setting.node("a");
    assert_eq!(fs::read_dir(&drafts).unwrap().count(), 0);
}
