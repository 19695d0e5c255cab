//! The player's side of `skep --json play`: says a line, hears everything that comes of it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Facts;

/// A game in a process of its own.
pub struct Table {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What the player sees, as it was last shown.
    pub view: Value,
    /// What is so.
    pub facts: Facts,
    /// The hash of it, by the village's word.
    pub hash: String,
}

impl Table {
    /// Begins a game in a home that keeps to loopback.
    ///
    /// # Errors
    /// When it cannot be started, or says something else than a game does.
    pub fn start<S: AsRef<OsStr>>(skep: &Path, home: &Path, arguments: &[S]) -> Result<Self> {
        crate::set_up(home)?;
        let mut process = Command::new(skep)
            .arg("--home")
            .arg(home)
            .args(["--json", "play"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", skep.display()))?;
        let input = process.stdin.take();
        let output = process.stdout.take().context("the output is not piped")?;
        let mut table = Self {
            process,
            input,
            output: BufReader::new(output),
            view: Value::Null,
            facts: Facts::read(b"skep village state 1\n\0\0\0\0\0\0\0\0")?,
            hash: String::new(),
        };
        table.turn("look")?;
        Ok(table)
    }

    /// Says a line, and returns all objects that it was answered with. The state is asked for
    /// after it, and held against its hash.
    ///
    /// # Errors
    /// When the game ended, or its state is not what its hash says.
    pub fn turn(&mut self, line: &str) -> Result<Vec<Value>> {
        let input = self.input.as_mut().context("the game is over")?;
        // One line is one line, whatever is in it.
        let line = line.replace(['\n', '\r'], " ");
        writeln!(input, "{line}\nstate")?;
        input.flush()?;
        let mut answers = Vec::new();
        loop {
            let answer = self.hear()?.context("the game ended")?;
            if let Some(state) = answer.get("state") {
                self.take_in(state)?;
                return Ok(answers);
            }
            if let Some(view) = answer.get("view") {
                self.view = view.clone();
            }
            answers.push(answer);
        }
    }

    /// Ends the game, and returns how it stood.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn end(mut self) -> Result<Value> {
        drop(self.input.take());
        let mut last = Value::Null;
        while let Some(answer) = self.hear()? {
            last = answer;
        }
        let status = self.process.wait()?;
        ensure!(status.success(), "the game ended with {status}: {last}");
        Ok(last.get("tally").cloned().unwrap_or_default())
    }

    fn hear(&mut self) -> Result<Option<Value>> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        let value = serde_json::from_str(&line);
        value.map(Some).with_context(|| format!("not JSON: {line}"))
    }

    fn take_in(&mut self, state: &Value) -> Result<()> {
        let text = |name: &str| state.get(name).and_then(Value::as_str);
        let (Some(hash), Some(digits)) = (text("hash"), text("bytes")) else {
            bail!("a state without hash or bytes: {state}");
        };
        let digit = |place: usize| u8::from_str_radix(digits.get(place..place + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(digit).collect();
        let bytes = bytes.context("the state is not in hexadecimal digits")?;
        let found = blake3::hash(&bytes).to_hex();
        ensure!(
            found.as_str() == hash,
            "the state {found} says it is {hash}"
        );
        self.facts = Facts::read(&bytes)?;
        self.hash = hash.to_owned();
        Ok(())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // One that ended is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
