//! Finding the package of a job, and saying what to do where there is none that others can fetch.

use std::path::Path;

use skep_swarm::Installed;

use crate::failure::{Failure, FailureKind};
use crate::service::{ProgressSender, Service, locate};

/// The package of a job, which others can fetch from here. `project` is a folder of sources that has this very name where
/// it was asked for.
pub(super) async fn package_of(
    service: &Service,
    package: &str,
    project: Option<&Path>,
    progress: &ProgressSender,
) -> Result<Installed, Failure> {
    match locate::published(service, package, progress).await {
        Ok(Some(installed)) => Ok(installed),
        Ok(None) => Err(Failure::new(
            FailureKind::Usage,
            not_published(Path::new(package)),
        )),
        Err(failure) => Err(match project {
            Some(project) if failure.kind == FailureKind::NotFound => {
                let why = not_published(project);
                Failure::new(failure.kind, format!("{failure}; {why}"))
            }
            _ => failure,
        }),
    }
}

/// Why what lies there is no package of a job, though it runs here, and what to do.
fn not_published(place: &Path) -> String {
    let place_is = place.display();
    match place.is_dir() {
        true => format!(
            "{place_is} is a folder that `skep run` runs here, and other nodes can fetch only what was published: \
             `skep publish {place_is}` makes a package of it, and the name that it prints is what to give here"
        ),
        false => format!(
            "{place_is} is a file that `skep run` runs here, and other nodes can fetch only what was published: put \
             it into a folder with a skep.toml (`skep new` writes one), and `skep publish` makes a package of that, \
             whose name is what to give here"
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::home::Home;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_names_a_folder_hears_that_it_has_to_be_published_first() {
        let place = tempfile::tempdir().unwrap();
        let home = place.path().join("home");
        skep_tests::set_up(&home).unwrap();
        let home = Home::open(Some(home)).unwrap();
        let service = Service::new(home.clone(), Config::load(&home).unwrap()).unwrap();
        let project = place.path().join("my-folder");
        std::fs::create_dir(&project).unwrap();
        let manifest = "[package]\nname = \"tool\"\nversion = \"1.0.0\"\nkind = \"component\"\n\
                        [component]\nworld = \"batch-classifier\"\npath = \"tool.wasm\"\n";
        std::fs::write(project.join("skep.toml"), manifest).unwrap();
        let file = place.path().join("tool.wasm");
        std::fs::write(&file, "a component").unwrap();
        let (progress, _nobody) = tokio::sync::mpsc::channel(1);
        let mut said = Vec::new();
        for (package, project) in [
            ("my-folder".to_owned(), Some(project.clone())),
            ("my-folder".to_owned(), None),
            (project.display().to_string(), None),
            (file.display().to_string(), None),
        ] {
            let found = package_of(&service, &package, project.as_deref(), &progress).await;
            said.push(found.err().unwrap());
        }
        let kinds = [&said[0], &said[1], &said[2], &said[3]].map(|failure| failure.kind);
        let (not_found, usage) = (FailureKind::NotFound, FailureKind::Usage);
        assert_eq!(kinds, [not_found, not_found, usage, usage], "{said:?}");
        let publish = format!("`skep publish {}`", project.display());
        assert!(
            said[0].message.contains("is not installed here"),
            "{said:?}"
        );
        assert!(said[0].message.contains(&publish), "{said:?}");
        // Where there is no such folder, nothing is said of one.
        assert!(!said[1].message.contains("skep publish"), "{said:?}");
        assert!(said[2].message.contains(&publish), "{said:?}");
        assert!(said[3].message.contains("`skep publish`"), "{said:?}");
        service.shutdown().await;
    }
}
