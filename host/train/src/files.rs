//! Files that are whole or not there.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::error::TrainError;

/// Writes a file beside its place, to the disk, and moves it there: what was there before stays
/// whole if anything fails.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().map_err(|source| {
        // What was half written is of no use to anybody.
        let _ = std::fs::remove_file(&part);
        TrainError::File {
            action: "write",
            path: path.to_owned(),
            source,
        }
    })
}

/// Reads a file of at most so many bytes.
pub(crate) fn read_whole(path: &Path, most: u64) -> Result<Vec<u8>, TrainError> {
    let failed = |source| TrainError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > most {
        let reason = format!("it has {size} bytes where at most {most} belong");
        return Err(failed(std::io::Error::other(reason)));
    }
    std::fs::read(path).map_err(failed)
}
