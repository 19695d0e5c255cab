//! Runs `skep` the way a person does: nodes as processes of their own, commands as others.
//!
//! The end-to-end tests and the demo share this. It knows the binary only by its command line.

pub mod compiled;
pub mod random;
pub mod village;
pub mod written;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long a node may take to stop: many times what it takes.
const STOPPING: Duration = Duration::from_secs(60);

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
    ///
    /// # Errors
    ///
    /// When it cannot be started, or ends before it is ready.
    pub fn start(skep: &Path, home: &Path) -> Result<Self> {
        Self::start_at(skep, home, "127.0.0.1:0")
    }

    /// The same at an address, so that those who have known it find it again.
    ///
    /// # Errors
    ///
    /// As [`Node::start`].
    pub fn start_at(skep: &Path, home: &Path, listen: &str) -> Result<Self> {
        Self::start_with(skep, home, &["--listen", listen, "--no-mdns"])
    }

    /// The same on loopback, where others on the local network find it if its configuration says so.
    ///
    /// # Errors
    ///
    /// As [`Node::start`].
    pub fn start_in_sight(skep: &Path, home: &Path) -> Result<Self> {
        Self::start_with(skep, home, &["--listen", "127.0.0.1:0"])
    }

    fn start_with(skep: &Path, home: &Path, options: &[&str]) -> Result<Self> {
        set_up(home)?;
        let mut process = Command::new(skep)
            .arg("--home")
            .arg(home)
            .args(["--json", "node"])
            .args(options)
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
    ///
    /// # Errors
    ///
    /// When the command fails.
    pub fn ask<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Value> {
        ask(&self.skep, &self.home, arguments)
    }

    /// The process that this node is.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The home folder that it serves.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Ends the process at once, as a crash would.
    ///
    /// # Errors
    ///
    /// When the system does not let us.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Node {
    /// Asks the process to stop, as a person would with Ctrl-C, and waits for it. One that does
    /// not is ended, and the test with it.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = self.process.id().to_string();
        let signal = |name: &str| Command::new("kill").args([name, &pid]).status();
        let _ = signal("-TERM");
        let stopped = std::thread::scope(|scope| {
            let (sender, ended) = channel();
            let process = &mut self.process;
            scope.spawn(move || {
                let _ = process.wait();
                let _ = sender.send(());
            });
            let stopped = ended.recv_timeout(STOPPING).is_ok();
            if !stopped {
                let _ = signal("-KILL");
            }
            stopped
        });
        assert!(
            stopped || std::thread::panicking(),
            "the node did not stop within {STOPPING:?} of being asked"
        );
    }
}

/// The built binary and components, as `cargo xtask test` says where they are, or as cargo puts
/// them.
pub struct Built;

impl Built {
    /// The `skep` binary.
    #[must_use]
    pub fn skep() -> PathBuf {
        match std::env::var_os("SKEP_BIN") {
            Some(path) => path.into(),
            None => target().join("debug").join("skep"),
        }
    }

    /// A built component by its name.
    #[must_use]
    pub fn component(name: &str) -> PathBuf {
        let folder = match std::env::var_os("SKEP_COMPONENTS") {
            Some(path) => path.into(),
            None => target().join("components"),
        };
        folder.join(format!("{name}.wasm"))
    }

    /// The language model that comes with skep.
    #[must_use]
    pub fn language_model() -> PathBuf {
        let folder = Self::root().join("models").join("skep-mini-lm");
        folder.join("skep-mini-lm.gguf")
    }

    /// The root of the repository.
    #[must_use]
    pub fn root() -> PathBuf {
        let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        root.pop();
        root.pop();
        root
    }
}

fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => folder.into(),
        None => Built::root().join("target"),
    }
}

/// A command that ran to its end.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it told the person.
    pub stderr: String,
}

/// Runs one `skep` command in a home, whatever comes of it. The home is set up for loopback.
///
/// # Errors
///
/// When the binary cannot be started.
pub fn run<S: AsRef<std::ffi::OsStr>>(home: &Path, arguments: &[S]) -> Result<Ended> {
    set_up(home)?;
    let output = Command::new(Built::skep())
        .arg("--home")
        .arg(home)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot start skep; `cargo xtask test` builds it")?;
    Ok(Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Makes a home that keeps to loopback, unless it is one already.
///
/// # Errors
///
/// When the folder cannot be written.
pub fn set_up(home: &Path) -> Result<()> {
    if !home.join("config.toml").exists() {
        configure(home, "")?;
    }
    Ok(())
}

/// Makes a home that keeps to loopback, with `more` of a configuration behind that: lines of the
/// table `[network]`, and other tables. A configuration that is there already is written over.
///
/// # Errors
///
/// When the folder cannot be written.
pub fn configure(home: &Path, more: &str) -> Result<()> {
    std::fs::create_dir_all(home)?;
    let text = format!("[network]\nlisten = \"127.0.0.1:0\"\nmdns = false\n{more}");
    std::fs::write(home.join("config.toml"), text)?;
    Ok(())
}

/// Makes a folder with the package of one of skep's own guests, as its publisher has it.
///
/// # Errors
///
/// When the folder is there already or cannot be written, or the component is not built.
pub fn guest_package(name: &str, folder: &Path) -> Result<()> {
    let source = Built::root().join("guests").join(name);
    std::fs::create_dir(folder)?;
    for name in ["skep.toml", "README.md"] {
        std::fs::copy(source.join(name), folder.join(name))?;
    }
    std::fs::copy(Built::component(name), folder.join(format!("{name}.wasm")))?;
    Ok(())
}

/// Makes a folder with the package of a task of the tests' own. `grants` is that table of its
/// manifest, with its heading, or nothing.
///
/// # Errors
///
/// When the folder is there already or cannot be written.
pub fn task_package(
    folder: &Path,
    name: &str,
    description: &str,
    grants: &str,
    component: &[u8],
) -> Result<()> {
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\ndescription = \"{description}\"\n\
         license = \"MIT\"\nkind = \"component\"\n\n[component]\nworld = \"task\"\n\
         path = \"{name}.wasm\"\n\n{grants}"
    );
    std::fs::create_dir(folder)?;
    std::fs::write(folder.join("skep.toml"), manifest)?;
    std::fs::write(folder.join(format!("{name}.wasm")), component)?;
    Ok(())
}

/// Examples that a language model can learn something from in a few steps, in JSON lines:
/// conversations in which every answer is made in the same way.
#[must_use]
pub fn lessons(count: usize) -> String {
    let goods = [
        "honey", "bread", "rope", "cheese", "apples", "candles", "wool", "salt",
    ];
    let days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"];
    let line = |number: usize| {
        let (day, thing) = (days[number % 5], goods[number % 8]);
        let turns = serde_json::json!({"messages": [
            {"role": "user", "content": format!("What do you sell on {day}?")},
            {"role": "assistant", "content": format!("On {day} we sell {thing}, and only {thing}.")},
        ]});
        format!("{turns}\n")
    };
    (0..count).map(line).collect()
}

/// Runs one `skep` command in a home and returns its JSON result.
///
/// # Errors
///
/// When the command fails, or its result is not JSON.
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
