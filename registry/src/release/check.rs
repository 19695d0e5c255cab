//! The rules that every release keeps, whoever made it.
//!
//! The types of its parts keep most of them already (a path cannot leave the package, a name has
//! no odd characters); here is what concerns several parts at once, and the text for people.

use std::collections::HashSet;

use super::{Content, FileEntry, Release, ReleaseError};

pub(super) const MAX_FILES: usize = 4096;
pub(super) const MAX_IMPORTS: usize = 256;
pub(super) const MAX_IMPORT: usize = 256;
pub(crate) const MAX_DESCRIPTION: usize = 280;
pub(crate) const MAX_LICENSE: usize = 200;
pub(crate) const MAX_VERSION: usize = 64;

impl Release {
    pub(super) fn check(&self) -> Result<(), ReleaseError> {
        if (self.sequence == 0) != self.previous.is_none() {
            return invalid(
                "previous",
                "the first release has none before it, and every other has one",
            );
        }
        check_version(&self.version).map_err(|reason| error("version", reason))?;
        if let Some(text) = &self.description {
            check_text(text, MAX_DESCRIPTION).map_err(|reason| error("description", reason))?;
        }
        if let Some(text) = &self.license {
            check_text(text, MAX_LICENSE).map_err(|reason| error("license", reason))?;
        }
        check_files(&self.files)?;
        if let Some(readme) = &self.readme
            && self.file(readme.as_str()).is_none()
        {
            return invalid("readme", format!("`{readme}` is not among the files"));
        }
        if let Content::Component(component) = &self.content {
            if self.file(component.entry.as_str()).is_none() {
                return invalid(
                    "component",
                    format!("`{}` is not among the files", component.entry),
                );
            }
            check_imports(&component.imports)?;
        }
        Ok(())
    }
}

/// Build metadata has no place in the order of versions, so two versions could be the same.
pub(crate) fn check_version(version: &semver::Version) -> Result<(), String> {
    if !version.build.is_empty() {
        return Err(format!(
            "{version} has build metadata (`+{}`), which does not tell versions apart; leave it out",
            version.build
        ));
    }
    let length = version.to_string().len();
    if length > MAX_VERSION {
        return Err(format!(
            "a version has at most {MAX_VERSION} characters, and this has {length}"
        ));
    }
    Ok(())
}

/// Text that is printed on a terminal must not be able to steer one, nor to run backwards.
pub(crate) fn check_text(text: &str, max: usize) -> Result<(), String> {
    let length = text.chars().count();
    if text.trim().is_empty() {
        return Err("it is empty; leave it out instead".to_owned());
    }
    if length > max {
        return Err(format!("it has {length} characters, and {max} are allowed"));
    }
    let steering = |c: &char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match text.chars().find(steering) {
        Some(c) => Err(format!(
            "it contains the control character {c:?}; write one line of plain text"
        )),
        None => Ok(()),
    }
}

fn check_files(files: &[FileEntry]) -> Result<(), ReleaseError> {
    if files.is_empty() || files.len() > MAX_FILES {
        return invalid(
            "files",
            format!(
                "a package has 1 to {MAX_FILES} files, and this has {}",
                files.len()
            ),
        );
    }
    let mut total = 0_u64;
    let mut taken = HashSet::new();
    for file in files {
        total = total
            .checked_add(file.size)
            .ok_or_else(|| error("files", "their sizes come to more than can be counted"))?;
        if !taken.insert(file.path.folded()) {
            return invalid(
                "files",
                format!(
                    "there are two files `{}` (upper and lower case count as the same, as on some systems)",
                    file.path
                ),
            );
        }
    }
    // A file where another path needs a folder could be written on no system.
    for file in files {
        let folded = file.path.folded();
        for (end, _) in folded.match_indices('/') {
            if taken.contains(&folded[..end]) {
                return invalid(
                    "files",
                    format!(
                        "`{}` is a file and also the folder of `{}`",
                        &folded[..end],
                        file.path
                    ),
                );
            }
        }
    }
    if !files.is_sorted_by(|a, b| a.path < b.path) {
        return invalid("files", "they are not sorted by path");
    }
    Ok(())
}

fn check_imports(imports: &[String]) -> Result<(), ReleaseError> {
    if imports.len() > MAX_IMPORTS {
        return invalid(
            "imports",
            format!(
                "a component may import {MAX_IMPORTS} interfaces, and this imports {}",
                imports.len()
            ),
        );
    }
    for import in imports {
        if import.is_empty()
            || import.len() > MAX_IMPORT
            || !import.bytes().all(|b| b.is_ascii_graphic())
        {
            return invalid(
                "imports",
                format!("{import:?} is not the name of an interface"),
            );
        }
    }
    if !imports.is_sorted_by(|a, b| a < b) {
        return invalid("imports", "they are not sorted, or one is there twice");
    }
    Ok(())
}

fn error(field: &'static str, reason: impl Into<String>) -> ReleaseError {
    ReleaseError::Invalid {
        field,
        reason: reason.into(),
    }
}

fn invalid(field: &'static str, reason: impl Into<String>) -> Result<(), ReleaseError> {
    Err(error(field, reason))
}
