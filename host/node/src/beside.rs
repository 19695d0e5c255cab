//! Files where a person wants them, each written beside its place and put there once it is whole.
//!
//! It must never leave half a file in that place, nor the one beside it when something fails.

use std::fs::File;
use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

/// The folder that a file is in, also where its path is no more than a name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A file that can take the place of another once it is whole.
pub fn open(to: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    // As any other file that the person makes: their umask decides who may read it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder_of(to))
}

/// Writes a file in place of what is there: it is there whole, or as it was before.
pub fn write(to: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = open(to)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(to).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_there_whole_or_as_it_was_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file");
        let seen = || {
            let count = fs::read_dir(folder.path()).unwrap().count();
            (fs::read(&to).ok(), count)
        };
        let half = |file: &mut File| -> io::Result<()> {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        };
        assert!(write(&to, half).is_err());
        assert_eq!(seen(), (None, 0));
        write(&to, |file| file.write_all(b"whole")).unwrap();
        assert!(write(&to, half).is_err());
        assert_eq!(seen(), (Some(b"whole".to_vec()), 1));
        assert_eq!(folder_of(&to), folder.path());
        assert_eq!(folder_of(Path::new("file")), Path::new("."));
    }
}
