//! Real input: the one-line descriptions of all of Debian's packages, and the sections that they are
//! in. The demo sorts them into the twelve largest from twenty examples of each, and the comparison
//! of fine-tuning learns them from two hundred.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::demo::Job;
use crate::environment::{Environment, output};
use crate::{models, python};

const SECTIONS: usize = 12;
const EXAMPLES: usize = 20;

/// A package's name, section and one-line description.
pub struct Package {
    pub name: String,
    pub section: String,
    pub description: String,
}

/// Writes input and labels into `folder` and fetches the model.
pub fn prepare(environment: &Environment, folder: &Path) -> Result<Job> {
    let model = models::fetch(environment)?;
    let packages = packages()?;
    let labels: Vec<(String, Vec<&Package>)> = largest_sections(&packages, EXAMPLES)?
        .into_iter()
        .map(|(section, mut drawn)| {
            drawn.truncate(EXAMPLES);
            (section, drawn)
        })
        .collect();
    let chosen: HashMap<&str, &str> = labels
        .iter()
        .flat_map(|(section, examples)| {
            examples.iter().map(|p| (p.name.as_str(), section.as_str()))
        })
        .collect();
    let mut truth = HashMap::new();
    let mut lines = String::new();
    for package in &packages {
        if chosen.contains_key(package.name.as_str())
            || !labels
                .iter()
                .any(|(section, _)| *section == package.section)
        {
            continue;
        }
        truth.insert(package.name.clone(), package.section.clone());
        lines.push_str(
            &json!({ "id": package.name, "text": package.description, "label": package.section })
                .to_string(),
        );
        lines.push('\n');
    }
    let labels_json = json!({
        "labels": labels
            .iter()
            .map(|(section, examples)| json!({
                "name": section,
                "examples": examples.iter().map(|p| &p.description).collect::<Vec<_>>(),
            }))
            .collect::<Vec<_>>()
    });
    let (input, labels_file) = (folder.join("packages.jsonl"), folder.join("labels.json"));
    fs::write(&input, lines)?;
    fs::write(&labels_file, labels_json.to_string())?;
    Ok(Job {
        input,
        labels: labels_file,
        truth,
        model,
        model_name: "all-minilm-l6-v2",
    })
}

/// All packages that apt knows, by name.
pub fn packages() -> Result<Vec<Package>> {
    let text = output(
        Command::new("apt-cache").arg("dumpavail"),
        "list Debian's packages (this needs apt; run `apt-get update` first)",
    )?;
    let mut packages: Vec<Package> = text.split("\n\n").filter_map(parse).collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    packages.dedup_by(|a, b| a.name == b.name);
    Ok(packages)
}

/// Writes the descriptions of all packages to a file, one a line.
pub fn write_descriptions(path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut lines = String::new();
    for package in packages()? {
        lines.push_str(&package.description);
        lines.push('\n');
    }
    Ok(fs::write(path, lines)?)
}

/// The largest sections, of more than so many packages each, with their packages in an order that
/// looks random and is the same on every machine with the same package lists.
pub fn largest_sections(
    packages: &[Package],
    more_than: usize,
) -> Result<Vec<(String, Vec<&Package>)>> {
    let mut sections: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in packages {
        sections.entry(&package.section).or_default().push(package);
    }
    let mut largest: Vec<(&str, Vec<&Package>)> = sections.into_iter().collect();
    largest.sort_by_key(|(section, all)| (std::cmp::Reverse(all.len()), *section));
    largest.truncate(SECTIONS);
    if largest.len() < SECTIONS || largest.iter().any(|(_, all)| all.len() <= more_than) {
        bail!(
            "apt knows only {} packages; run `apt-get update` and try again",
            packages.len()
        );
    }
    for (_, all) in &mut largest {
        all.sort_by_key(|package| order(package));
    }
    let named = largest.into_iter();
    Ok(named
        .map(|(section, all)| (section.to_owned(), all))
        .collect())
}

/// Where a package stands among those that are drawn.
pub fn order(package: &Package) -> [u8; 32] {
    *blake3::hash(package.name.as_bytes()).as_bytes()
}

/// What scikit-learn reaches on the files that `prepare` wrote.
pub fn baseline(environment: &Environment, folder: &Path) -> Result<Value> {
    let python = python::with(environment, "baseline", &["scikit-learn==1.7.2"])?;
    let printed = output(
        Command::new(python)
            .arg(environment.root.join("benches").join("tfidf_baseline.py"))
            .arg(folder.join("packages.jsonl"))
            .arg(folder.join("labels.json")),
        "run the baseline",
    )?;
    let last = printed
        .lines()
        .last()
        .context("the baseline printed nothing")?;
    Ok(serde_json::from_str(last)?)
}

fn parse(stanza: &str) -> Option<Package> {
    let field = |name: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let section = field("Section")?;
    let description = field("Description")?;
    Some(Package {
        name: field("Package")?.to_owned(),
        // "contrib/net" and "net" are the same section of different areas.
        section: section.rsplit('/').next().unwrap_or(section).to_owned(),
        description: description.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_stanza_gives_name_section_and_first_line() {
        let stanza = "Package: abc\nSection: contrib/net\nDescription: does a thing\n at length";
        let package = super::parse(stanza).map(|p| (p.name, p.section, p.description));
        let expected = ("abc".into(), "net".into(), "does a thing".into());
        assert_eq!(package, Some(expected));
    }
}
