//! Models split over several files.
//!
//! Part `n` of `count` has the metadata `split.no = n` (from 0), `split.count` and
//! `split.tensors.count`, the number of tensors of all parts together, and is named
//! `<name>-<n + 1>-of-<count>.gguf` with five digits each, as llama.cpp's `gguf-split` does it.

use std::path::{Path, PathBuf};

use super::{GgufError, Metadata};

/// The largest models have some hundred parts.
const PART_LIMIT: u64 = 1024;

/// The number of parts of the model whose first opened file has these metadata: 1 if it is not
/// split.
pub(super) fn begin(metadata: &Metadata) -> Result<u64, GgufError> {
    let count = metadata.get::<u64>("split.count")?.unwrap_or(0);
    if count == 0 {
        return Ok(1);
    }
    if count > PART_LIMIT {
        return Err(GgufError::TooMany {
            path: metadata.path().to_owned(),
            what: "parts",
            count,
            limit: PART_LIMIT,
        });
    }
    let number: u64 = metadata.need("split.no")?;
    if number != 0 {
        let reason = format!(
            "it is part {} of {count}; open the first, named …-00001-of-{count:05}.gguf",
            number.saturating_add(1)
        );
        return Err(unsound(metadata, reason));
    }
    Ok(count)
}

/// Where part `number`, from 0, lies if the first lies at `first`.
pub(super) fn part_path(first: &Path, number: u64, count: u64) -> Result<PathBuf, GgufError> {
    let ending = format!("-00001-of-{count:05}.gguf");
    let stem = first
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_suffix(&ending));
    match stem {
        Some(stem) => {
            let number = number + 1;
            Ok(first.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf")))
        }
        None => Err(GgufError::Split {
            path: first.to_owned(),
            reason: format!(
                "it is the first of {count} parts, so its name must end in {ending} for the \
                 others to be found"
            ),
        }),
    }
}

/// Checks that a file with these metadata is part `number` of `count`. A file that stands in for
/// an earlier one is found here, by its number.
pub(super) fn check_part(metadata: &Metadata, number: u64, count: u64) -> Result<(), GgufError> {
    let own: (u64, u64) = (metadata.need("split.no")?, metadata.need("split.count")?);
    if own != (number, count) {
        let reason = format!(
            "it calls itself part {} of {}, but stands in the place of part {} of {count}",
            own.0.saturating_add(1),
            own.1,
            number + 1
        );
        return Err(unsound(metadata, reason));
    }
    Ok(())
}

/// Checks the announced number of tensors, if one is announced, against those of all parts.
pub(super) fn check_total(metadata: &Metadata, tensors: usize) -> Result<(), GgufError> {
    match metadata.get::<u64>("split.tensors.count")? {
        Some(total) if total != tensors as u64 => {
            let reason = format!("it announces {total} tensors, but all parts have {tensors}");
            Err(unsound(metadata, reason))
        }
        _ => Ok(()),
    }
}

fn unsound(metadata: &Metadata, reason: String) -> GgufError {
    GgufError::Split {
        path: metadata.path().to_owned(),
        reason,
    }
}
