//! Places for node processes that can be spoiled: two ends of a cable that can be cut, and a disk that
//! can be filled. Linux namespaces, which end with what is in them. And a place where another time is
//! shown than elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use skep_tests::{Built, Node, ask};

/// Says that a test does not run, and what it lacks. With `SKEP_TEST_ALL=1` it fails instead: where everything is
/// to be tested, nothing is left out unseen.
fn not_run(lacks: &str) {
    let all = std::env::var_os("SKEP_TEST_ALL").is_some_and(|all| all == "1");
    assert!(!all, "SKEP_TEST_ALL is 1, and this test needs {lacks}");
    eprintln!("NOT RUN: this test needs {lacks}");
}

/// Whether namespaces can be made. Says so if not: then the test does not run.
pub fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    let is_root = id.stdout.trim_ascii() == b"0";
    if !is_root {
        not_run("namespaces of its own, which only root may make");
    }
    is_root
}

fn must(program: &str, arguments: &[&str]) {
    let ended = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{program} {arguments:?}: {said}");
}

/// A program that stands in for `skep` and ends up as it.
pub fn script(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A program that starts a node whose wall clock is so many seconds ahead of the machine's, while its
/// other clocks go as ever. Says so if there is nothing to do that with: then the test does not run.
pub fn with_clock(folder: &Path, ahead: i64) -> Option<PathBuf> {
    let processor = std::env::consts::ARCH;
    let library = format!("/usr/lib/{processor}-linux-gnu/faketime/libfaketime.so.1");
    if !Path::new(&library).exists() {
        not_run(&format!("{library}; `apt-get install faketime` brings it"));
        return None;
    }
    let text = format!(
        "export LD_PRELOAD={library} FAKETIME={ahead:+}s FAKETIME_DONT_FAKE_MONOTONIC=1\n\
         exec {} \"$@\"",
        Built::skep().display()
    );
    Some(script(folder.join(format!("clock {ahead:+}")), &text))
}

/// Cables that this process has laid, whose names are different.
static CABLES: AtomicU32 = AtomicU32::new(0);

/// Two network namespaces and a cable between them. Nothing else is connected to either.
pub struct Cable {
    names: [String; 2],
    ends: [PathBuf; 2],
}

impl Cable {
    /// One whose programs are kept in `folder`.
    pub fn new(folder: &Path) -> Self {
        let cable = CABLES.fetch_add(1, Ordering::SeqCst);
        let names = ["near", "far"].map(|end| format!("skep-{}-{cable}-{end}", std::process::id()));
        let [near, far] = &names;
        must("ip", &["netns", "add", near]);
        must("ip", &["netns", "add", far]);
        let link = ["-n", near, "link", "add", "cable", "type", "veth"];
        must(
            "ip",
            &[&link[..], &["peer", "name", "cable", "netns", far]].concat(),
        );
        let skep = Built::skep();
        let mut number = 0;
        let ends = names.each_ref().map(|name| {
            number += 1;
            let address = format!("10.213.7.{number}");
            let with_length = format!("{address}/24");
            must(
                "ip",
                &["-n", name, "addr", "add", &with_length, "dev", "cable"],
            );
            must("ip", &["-n", name, "link", "set", "cable", "up"]);
            must("ip", &["-n", name, "link", "set", "lo", "up"]);
            let text = format!(
                "exec ip netns exec {name} {} \"${{@/127.0.0.1:0/{address}:0}}\"",
                skep.display()
            );
            script(folder.join(name), &text)
        });
        Self { names, ends }
    }

    /// The programs that start a node at either end.
    pub fn ends(&self) -> [&Path; 2] {
        self.ends.each_ref().map(PathBuf::as_path)
    }

    /// Lets what is meant for everybody on the network pass, such as mDNS. It stays with this end where
    /// no route says otherwise.
    pub fn carry_multicast(&self) {
        for name in &self.names {
            must(
                "ip",
                &["-n", name, "route", "add", "224.0.0.0/4", "dev", "cable"],
            );
        }
    }

    /// Cuts the cable, or mends it.
    pub fn set(&self, whole: bool) {
        let state = if whole { "up" } else { "down" };
        must("ip", &["-n", &self.names[0], "link", "set", "cable", state]);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            // It goes when the last process in it has ended.
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// A home on a small disk of its own, which is there for the node's process only.
pub struct Disk {
    home: PathBuf,
    skep: PathBuf,
}

impl Disk {
    /// For a home, which may have something in it already.
    pub fn new(home: &Path, size: &str) -> Self {
        let text = format!(
            "exec unshare -m bash -c '\
             cp -a \"$0\" \"$0.before\" && mount -t tmpfs -o size={size} tmpfs \"$0\" && \
             cp -a \"$0.before/.\" \"$0\" && exec {} \"$@\"' \"{}\" \"$@\"",
            Built::skep().display(),
            home.display(),
        );
        Self {
            home: home.to_path_buf(),
            skep: script(home.with_extension("start"), &text),
        }
    }

    /// The program that starts the node.
    pub fn skep(&self) -> &Path {
        &self.skep
    }

    /// The program for commands that see the same disk.
    pub fn inside(&self, node: &Node) -> PathBuf {
        let text = format!(
            "exec nsenter -t {} -m {} \"$@\"",
            node.pid(),
            Built::skep().display()
        );
        script(self.home.with_extension("inside"), &text)
    }

    /// The account of the node on it, once it has asked for the receipts that it lacks.
    pub fn collects(&self, node: &Node) -> Value {
        let asked = ask(&self.inside(node), &self.home, &["account", "collect"]);
        asked.unwrap()["account"].clone()
    }

    fn sh(&self, node: &Node, command: &str) {
        let command = format!("cd '{}' && {command}", self.home.display());
        let pid = node.pid().to_string();
        must("nsenter", &["-t", &pid, "-m", "sh", "-c", &command]);
    }

    /// Leaves not a byte.
    pub fn fill(&self, node: &Node) {
        self.sh(node, "! head -c 1G /dev/zero > filler 2> /dev/null");
    }

    /// Leaves so many mebibytes of what was filled.
    pub fn leave(&self, node: &Node, mebibytes: u32) {
        self.sh(node, &format!("truncate -s -{mebibytes}M filler"));
    }

    /// Takes away what filled it.
    pub fn empty(&self, node: &Node) {
        self.sh(node, "rm filler");
    }
}
