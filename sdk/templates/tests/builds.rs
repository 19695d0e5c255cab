//! Builds the Rust templates as a stranger would: in a folder of their own, outside the
//! repository. Needs the target wasm32-wasip2, and the packages of crates.io.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use skep_templates::Template;
use std::path::Path;
use std::process::Command;

/// The targets' folder is inside the repository's own, so that a second run is short.
fn build(template: Template) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("stranger");
    template.write("stranger", &folder).unwrap();
    let targets = Path::new(env!("CARGO_TARGET_TMPDIR")).join("templates");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--target", "wasm32-wasip2"])
        .env("CARGO_TARGET_DIR", &targets)
        .current_dir(&folder)
        .status()
        .unwrap();
    assert!(status.success(), "{} does not build", template.name());
    let component = std::fs::read(targets.join("wasm32-wasip2/release/stranger.wasm")).unwrap();
    // The preamble of a component, which is not that of a module.
    assert_eq!(component[..8], *b"\0asm\x0d\0\x01\0");
}

#[test]
fn the_rust_templates_build_outside_the_repository() {
    build(Template::TaskRust);
    build(Template::TextRust);
    build(Template::BatchClassifierRust);
}
