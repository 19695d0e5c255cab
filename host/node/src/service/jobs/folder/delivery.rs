//! A result on its way to where it goes: whether it could be written there, and why it is not there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Folder, Spec, put};
use crate::beside;
use crate::failure::{Failure, FailureKind};

impl Folder {
    /// Copies the result to where the job says that it goes, if it says that. Where it cannot be written there, why is
    /// kept until it can.
    pub fn deliver_as(&self, spec: &Spec) -> Result<(), Failure> {
        let Some(to) = &spec.output else {
            return Ok(());
        };
        let delivered = self.deliver(to);
        let noted = match &delivered {
            Ok(()) => match fs::remove_file(self.undelivered_file()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            },
            Err(failure) => put(&self.undelivered_file(), failure.message.as_bytes()),
        };
        if let Err(error) = noted {
            // Whoever asks later hears less of it, and the job ends all the same.
            tracing::warn!(job = %self.id, %error, "where a result is cannot be noted");
        }
        delivered
    }

    /// Why the result is not where it was to go, if it could not be written there.
    pub fn undelivered(&self) -> Option<String> {
        let why = fs::read_to_string(self.undelivered_file()).ok()?;
        Some(with_the_job(&why))
    }

    fn undelivered_file(&self) -> PathBuf {
        self.path.join("undelivered")
    }

    /// Copies the result to where it goes, in place of what is there.
    pub fn deliver(&self, to: &Path) -> Result<(), Failure> {
        let delivered = beside::write(to, |file| match File::open(self.result()) {
            // A job without any record has no result yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => io::copy(&mut result?, file).map(drop),
        });
        delivered.map_err(|error| cannot_write(to, &error))
    }
}

/// What is told of a result that is not where it was to go, with where it is.
pub fn with_the_job(why: &str) -> String {
    format!("{why}; it is with the job, and `skep job result` writes it elsewhere")
}

/// Whether a result could be written there, before anything is paid for it.
pub fn can_be_written(to: &Path) -> Result<(), Failure> {
    match to.is_dir() {
        true => Err(cannot_write(
            to,
            &io::Error::from(io::ErrorKind::IsADirectory),
        )),
        false => beside::open(to)
            .map(drop)
            .map_err(|error| cannot_write(to, &error)),
    }
}

fn cannot_write(to: &Path, error: &io::Error) -> Failure {
    // Without the name of the file beside it, of which nobody has heard.
    let why = match error.kind() {
        io::ErrorKind::NotFound => "its folder is not there".to_owned(),
        kind => kind.to_string(),
    };
    Failure::new(
        FailureKind::Failed,
        format!("cannot write the result to {}: {why}", to.display()),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_registry::Digest;

    use super::super::testing;
    use super::*;

    #[test]
    fn why_a_result_is_not_where_it_was_to_go_is_known_until_it_is_there() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder {
            id: Digest::of(b"job"),
            path: place.path().to_owned(),
        };
        folder.append(0, &[b"made".to_vec()]).unwrap();
        let to = place.path().join("gone").join("result");
        let spec = Spec {
            output: Some(to.clone()),
            ..testing::spec(Vec::new())
        };
        assert_eq!(folder.undelivered(), None);
        let failure = folder.deliver_as(&spec).unwrap_err();
        let why = folder.undelivered().unwrap();
        assert_eq!(why, with_the_job(&failure.message));
        assert!(why.contains(&to.display().to_string()), "{why}");
        // That it is somewhere else is nothing for who looks for it there.
        folder.deliver(&place.path().join("elsewhere")).unwrap();
        assert_eq!(folder.undelivered(), Some(why));
        fs::create_dir(place.path().join("gone")).unwrap();
        // Once is as good as twice.
        for _ in 0..2 {
            folder.deliver_as(&spec).unwrap();
            assert_eq!(folder.undelivered(), None);
            assert_eq!(fs::read(&to).unwrap(), b"made");
        }
    }
}
