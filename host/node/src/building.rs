//! `skep build`: turns the sources in a folder into the component that its manifest names, with
//! the language's own tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use skep_registry::{Manifest, Source};

use crate::failure::{Failure, FailureKind};

/// What a folder holds, by the file that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Rust,
    JavaScript,
    Python,
}

/// The manifest of a workload's folder.
pub fn manifest_of(folder: &Path) -> Result<Manifest, Failure> {
    let path = folder.join("skep.toml");
    let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(
            FailureKind::NotFound,
            format!(
                "{} has no skep.toml; `skep new` writes a workload to start from",
                folder.display()
            ),
        ),
        _ => Failure::new(
            FailureKind::Failed,
            format!("cannot read {}: {error}", path.display()),
        ),
    })?;
    Manifest::parse(&text)
        .map_err(|error| Failure::new(FailureKind::Usage, format!("{}: {error}", path.display())))
}

/// Builds the component of a folder, and returns its path. The tools' own output is shown on
/// standard error.
pub fn build(folder: &Path) -> Result<PathBuf, Failure> {
    let manifest = manifest_of(folder)?;
    let Source::Component { path, world, .. } = &manifest.source else {
        return Err(Failure::new(
            FailureKind::Usage,
            "this package is no component; there is nothing to build, `skep publish` takes it as it is",
        ));
    };
    let component = folder.join(path.as_str());
    match language_of(folder)? {
        Language::Rust => build_rust(folder, &component)?,
        Language::JavaScript => run(Command::new("npm")
            .args(["run", "build"])
            .current_dir(folder))?,
        Language::Python => {
            let mut command = Command::new("componentize-py");
            command
                .args([
                    "--wit-path",
                    "wit",
                    "--world",
                    &world.to_string(),
                    "componentize",
                    "--stub-wasi",
                    "app",
                ])
                .arg("--output")
                .arg(&component)
                .current_dir(folder);
            run(&mut command)?;
        }
    }
    if !component.is_file() {
        return Err(Failure::new(
            FailureKind::Failed,
            format!(
                "the build ended well, but {} is not there; is `path` in skep.toml where the \
                 build writes the component?",
                component.display()
            ),
        ));
    }
    Ok(component)
}

fn language_of(folder: &Path) -> Result<Language, Failure> {
    [
        ("Cargo.toml", Language::Rust),
        ("package.json", Language::JavaScript),
        ("app.py", Language::Python),
    ]
    .into_iter()
    .find(|(file, _)| folder.join(file).is_file())
    .map(|(_, language)| language)
    .ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format!(
                "do not know how to build {}: it has no Cargo.toml, package.json or app.py; build \
                 the component with your own tools and put it where skep.toml says",
                folder.display()
            ),
        )
    })
}

/// Builds with cargo, which says itself where it put the component.
fn build_rust(folder: &Path, component: &Path) -> Result<(), Failure> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--release", "--target", "wasm32-wasip2"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::inherit());
    let output = command
        .output()
        .map_err(|error| not_started(&command, &error))?;
    if !output.status.success() {
        return Err(Failure::new(
            FailureKind::Failed,
            "cargo could not build the component; its messages are above. If the target \
             wasm32-wasip2 is missing: rustup target add wasm32-wasip2",
        ));
    }
    let built = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| {
            message["filenames"].as_array()?.iter().find_map(|name| {
                let name = name.as_str()?;
                name.ends_with(".wasm").then(|| PathBuf::from(name))
            })
        })
        .next_back()
        .ok_or_else(|| {
            Failure::new(
                FailureKind::Failed,
                "cargo built no .wasm file; a component's Cargo.toml needs [lib] with \
                 crate-type = [\"cdylib\"]",
            )
        })?;
    std::fs::copy(&built, component)
        .map(|_| ())
        .map_err(|error| {
            Failure::new(
                FailureKind::Failed,
                format!("cannot write {}: {error}", component.display()),
            )
        })
}

fn run(command: &mut Command) -> Result<(), Failure> {
    command.stdin(std::process::Stdio::null());
    let status = command
        .status()
        .map_err(|error| not_started(command, &error))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Failed,
        format!(
            "`{}` ended with {status}; its messages are above",
            command.get_program().to_string_lossy()
        ),
    ))
}

fn not_started(command: &Command, error: &std::io::Error) -> Failure {
    let program = command.get_program().to_string_lossy().into_owned();
    let advice = match program.as_str() {
        "componentize-py" => "install it with: pip install componentize-py==0.25.1",
        "npm" => "install Node.js, which brings it",
        _ => "is it installed?",
    };
    Failure::new(
        FailureKind::NotFound,
        format!("cannot start `{program}` ({error}); {advice}"),
    )
}
