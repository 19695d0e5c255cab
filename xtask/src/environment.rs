//! Where things are, and how a chore runs another program.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The folders that chores work with.
pub struct Environment {
    /// The root of the repository.
    pub root: PathBuf,
    /// Cargo's target folder, which also holds everything else that chores make.
    pub target: PathBuf,
}

impl Environment {
    /// Finds the repository: from what cargo says when it runs this program, because a target
    /// folder that clones share may hold a binary compiled in another, else from where it was
    /// compiled.
    pub fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR");
        let root = manifest
            .as_deref()
            .map_or(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new)
            .parent()
            .context("the xtask crate has no parent folder")?
            .to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => env::current_dir()?.join(folder),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The host binary `skep`, which `build_host` makes.
    pub fn skep(&self) -> PathBuf {
        self.target.join("debug").join("skep")
    }

    /// The folder of built components, one `<name>.wasm` each.
    pub fn components(&self) -> PathBuf {
        self.target.join("components")
    }

    /// The folder of tools that chores install for themselves.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The cargo that runs this chore, without what that cargo says of the chore's own package:
    /// build scripts that look at it, such as ring's, would run again and have half of the
    /// network's crates compiled anew after each change between `cargo xtask` and plain cargo.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// Builds the host binary, sharing every dependency with the tests. Cargo chooses the features
    /// of dependencies by what is built together, so this builds the whole workspace's binaries,
    /// and with one small test among them, which brings in the features that tests ask for.
    pub fn build_host(&self) -> Result<()> {
        run(
            self.cargo()
                .args(["build", "--workspace", "--bins", "--test", "golden"]),
            "build the host",
        )
    }
}

/// Runs a command with its output shown, and fails if it does.
pub fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot {what}: {}", missing(command)))?;
    if !status.success() {
        bail!("could not {what}: `{}` ended with {status}", show(command));
    }
    Ok(())
}

/// Runs a command and returns what it printed; its errors are shown as they come.
pub fn output(command: &mut Command, what: &str) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot {what}: {}", missing(command)))?;
    if !output.status.success() {
        bail!(
            "could not {what}: `{}` ended with {}\n{}",
            show(command),
            output.status,
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program can be started at all.
pub fn exists(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

fn missing(command: &Command) -> String {
    format!(
        "`{}` could not be started; is it installed?",
        command.get_program().to_string_lossy()
    )
}

fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
