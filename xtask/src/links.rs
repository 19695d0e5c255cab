//! The rule that documentation hangs together: every page of the book is in its table of
//! contents, and every link from one file of the repository to another leads somewhere.

use std::path::{Component, Path, PathBuf};

/// The book's table of contents.
const SUMMARY: &str = "docs/src/SUMMARY.md";
/// The folder of the book's pages.
const PAGES: &str = "docs/src/";

/// Checks the Markdown files among `files`, which are paths from the root. `read` gives the text
/// of a file, and `exists` says whether there is a file or folder at a path.
pub fn check(
    files: &[&str],
    read: impl Fn(&str) -> Option<String>,
    exists: impl Fn(&Path) -> bool,
    breaches: &mut Vec<String>,
) {
    let mut in_summary = Vec::new();
    for file in files.iter().filter(|file| file.ends_with(".md")) {
        let Some(text) = read(file) else { continue };
        for (line, target) in links(&text) {
            let Some(path) = resolve(file, &target) else {
                continue;
            };
            if !exists(&path) {
                breaches.push(format!(
                    "{file}:{line}: links to `{target}`, and there is nothing at {}",
                    path.display()
                ));
            }
            if *file == SUMMARY {
                in_summary.push(path);
            }
        }
    }
    for page in files.iter().filter(|file| is_page(file)) {
        if !in_summary.iter().any(|path| path == Path::new(page)) {
            breaches.push(format!(
                "{page}: is not in {SUMMARY}, so no reader finds it"
            ));
        }
    }
}

fn is_page(file: &str) -> bool {
    file.starts_with(PAGES) && file.ends_with(".md") && file != SUMMARY
}

/// The file that a link in `file` means, from the root; none for one that leaves the repository
/// or stays on its page.
fn resolve(file: &str, target: &str) -> Option<PathBuf> {
    let path = target.split(['#', '?']).next().unwrap_or_default();
    if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
        return None;
    }
    let mut resolved = PathBuf::new();
    let folder = Path::new(file).parent().unwrap_or(Path::new(""));
    for part in folder.join(path).components() {
        match part {
            // Beyond the root there is nothing of ours, and the path will not exist.
            Component::ParentDir if !resolved.pop() => resolved.push(".."),
            Component::ParentDir | Component::CurDir => {}
            part => resolved.push(part),
        }
    }
    Some(resolved)
}

/// The targets of the links in a Markdown text, with their lines; what is code is not a link.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (index, line) in text.lines().enumerate() {
        let start = line.trim_start();
        if let Some(mark) = ["```", "~~~"].into_iter().find(|m| start.starts_with(m)) {
            match fence {
                None => fence = Some(mark),
                Some(open) if open == mark => fence = None,
                Some(_) => {}
            }
            continue;
        }
        if fence.is_some() {
            continue;
        }
        // Every second part between backticks is code.
        let prose = line.split('`').enumerate().map(|(i, part)| match i % 2 {
            0 => part,
            _ => "code",
        });
        let prose: String = prose.collect();
        for rest in prose.split("](").skip(1) {
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            found.push((index + 1, target.trim_matches(['<', '>']).to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(files: &[(&str, &str)]) -> Vec<String> {
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        let mut breaches = Vec::new();
        check(
            &names,
            |name| {
                let (_, text) = files.iter().find(|(file, _)| *file == name)?;
                Some((*text).to_owned())
            },
            |path| names.iter().any(|name| Path::new(name).starts_with(path)),
            &mut breaches,
        );
        breaches
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        let files = [
            (
                "README.md",
                "[a](docs/src/a.md#there), [b](https://x.y/z), [c](#here), [d](docs)",
            ),
            (SUMMARY, "- [A](a.md)\n- [B](./b/c.md)"),
            ("docs/src/a.md", "see [the readme](../../README.md)"),
            (
                "docs/src/b/c.md",
                "`[code](nowhere.md)`\n```\n[x](nowhere.md)\n```\n[a](<../a.md>)",
            ),
        ];
        assert_eq!(breaches(&files), Vec::<String>::new());
    }

    #[test]
    fn links_to_nowhere_and_pages_that_nobody_finds_are_breaches() {
        let files = [
            (SUMMARY, "- [A](a.md)"),
            (
                "docs/src/a.md",
                "\n[gone](gone.md) and [out](../../../out.md)",
            ),
            ("docs/src/lost.md", ""),
        ];
        assert_eq!(
            breaches(&files),
            [
                "docs/src/a.md:2: links to `gone.md`, and there is nothing at docs/src/gone.md",
                "docs/src/a.md:2: links to `../../../out.md`, and there is nothing at ../out.md",
                "docs/src/lost.md: is not in docs/src/SUMMARY.md, so no reader finds it",
            ]
        );
    }
}
