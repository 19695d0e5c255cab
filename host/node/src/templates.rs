//! `skep new`: writes a workload to start from.

use std::path::{Path, PathBuf};

use skep_registry::PackageName;

use crate::cli::{New, Template};
use crate::failure::{Failure, FailureKind};

/// Writes the template into a folder named after the workload, which must not exist.
pub fn write(new: &New) -> Result<PathBuf, Failure> {
    // The name becomes a folder and a package, so it has to be fit for both.
    let name: PackageName = new
        .name
        .parse()
        .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    let folder = Path::new(name.as_str()).to_path_buf();
    let template = match new.template {
        Template::TaskRust => skep_templates::Template::TaskRust,
        Template::TextRust => skep_templates::Template::TextRust,
        Template::BatchClassifierRust => skep_templates::Template::BatchClassifierRust,
        Template::BatchClassifierPython => skep_templates::Template::BatchClassifierPython,
        Template::BatchClassifierJs => skep_templates::Template::BatchClassifierJs,
    };
    template.write(name.as_str(), &folder).map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AlreadyExists => "; choose another name, or remove it first",
            _ => "",
        };
        Failure::new(
            FailureKind::Failed,
            format!("cannot write {}: {error}{advice}", folder.display()),
        )
    })?;
    Ok(folder)
}
