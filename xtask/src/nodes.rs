//! Runs `skep` the way a person does: nodes as processes of their own, commands as others.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A home folder, and the node process that serves it.
pub struct Node {
    skep: PathBuf,
    home: PathBuf,
    process: Child,
    /// What the node said when it was ready.
    pub status: Value,
}

impl Node {
    /// Starts a node on loopback and waits until it says that it is ready.
    pub fn start(skep: &Path, home: &Path) -> Result<Self> {
        let mut process = Command::new(skep)
            .arg("--home")
            .arg(home)
            .args(["--json", "node", "--listen", "127.0.0.1:0", "--no-mdns"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", skep.display()))?;
        let output = process
            .stdout
            .take()
            .context("the node's output is not piped")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.is_empty() {
            bail!("the node in {} ended before it was ready", home.display());
        }
        Ok(Self {
            skep: skep.to_path_buf(),
            home: home.to_path_buf(),
            process,
            status: serde_json::from_str(&line)?,
        })
    }

    /// Runs a command in this node's home and returns its JSON result. Its standard error, and
    /// so its progress bar, is shown.
    pub fn ask<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Value> {
        ask(&self.skep, &self.home, arguments)
    }

    /// The process that this node is.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Node {
    /// Asks the process to stop, as a person would with Ctrl-C, and waits for it.
    fn drop(&mut self) {
        let asked = Command::new("kill")
            .args(["-TERM", &self.process.id().to_string()])
            .status();
        if !asked.is_ok_and(|status| status.success()) {
            // The process has gone already, or there is no `kill`; either way this ends it.
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// Runs one `skep` command in a home and returns its JSON result.
pub fn ask<S: AsRef<std::ffi::OsStr>>(skep: &Path, home: &Path, arguments: &[S]) -> Result<Value> {
    let output = Command::new(skep)
        .arg("--home")
        .arg(home)
        .arg("--json")
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", skep.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    if !output.status.success() {
        let command: Vec<_> = arguments
            .iter()
            .map(|argument| argument.as_ref().to_string_lossy())
            .collect();
        bail!("`skep {}` ended with {}", command.join(" "), output.status);
    }
    serde_json::from_str(last).with_context(|| format!("not a JSON result: {last:?}"))
}
