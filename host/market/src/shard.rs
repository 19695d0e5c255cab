//! What a shard's input is, as bytes: the records and all else that its output depends on, so that
//! the digest of them says what was to be done.
//!
//! ```text
//! length of the header (u32, big-endian) | header (postcard) | labels | records
//! ```

use serde::{Deserialize, Serialize};

/// The most bytes of a header: the arguments of a task are in it.
const MAX_HEADER: usize = 64 << 10;

/// The input of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardInput<'a> {
    /// The number that the first line of the records has in the whole input, from 1.
    pub first_line: u64,
    /// The arguments of a task.
    pub arguments: Vec<String>,
    /// The labels file of a batch classifier, as it is.
    pub labels: &'a [u8],
    /// Whether the records are comma-separated, beginning with the header of the whole input, which
    /// the first line then is.
    pub is_csv: bool,
    /// The records, one a line unless they are comma-separated.
    pub records: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct Header {
    first_line: u64,
    labels: u64,
    arguments: Vec<String>,
    is_csv: bool,
}

/// Bytes are no input of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the input of the shard does not have the form of one")]
pub struct ShardError;

impl<'a> ShardInput<'a> {
    /// The bytes.
    ///
    /// # Errors
    ///
    /// When the arguments are too long.
    pub fn encode(&self) -> Result<Vec<u8>, ShardError> {
        let mut bytes = self.head()?;
        bytes.reserve_exact(self.labels.len() + self.records.len());
        bytes.extend(self.labels);
        bytes.extend(self.records);
        Ok(bytes)
    }

    /// What comes before the labels and the records, for whoever has these elsewhere. The records make no
    /// difference to it.
    ///
    /// # Errors
    ///
    /// When the arguments are too long.
    pub fn head(&self) -> Result<Vec<u8>, ShardError> {
        let header = Header {
            first_line: self.first_line,
            labels: self.labels.len() as u64,
            arguments: self.arguments.clone(),
            is_csv: self.is_csv,
        };
        let header = postcard::to_stdvec(&header).map_err(|_| ShardError)?;
        if header.len() > MAX_HEADER {
            return Err(ShardError);
        }
        let length = u32::try_from(header.len()).map_err(|_| ShardError)?;
        Ok([&length.to_be_bytes()[..], &header].concat())
    }

    /// What the bytes stand for.
    ///
    /// # Errors
    ///
    /// When they do not have the form.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ShardError> {
        let (length, rest) = bytes.split_first_chunk().ok_or(ShardError)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| ShardError)?;
        if length > MAX_HEADER {
            return Err(ShardError);
        }
        let (header, rest) = rest.split_at_checked(length).ok_or(ShardError)?;
        let header: Header = match postcard::take_from_bytes(header) {
            Ok((header, [])) => header,
            Ok(_) | Err(_) => return Err(ShardError),
        };
        let labels = usize::try_from(header.labels).map_err(|_| ShardError)?;
        let (labels, records) = rest.split_at_checked(labels).ok_or(ShardError)?;
        Ok(Self {
            first_line: header.first_line,
            arguments: header.arguments,
            labels,
            is_csv: header.is_csv,
            records,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_input_comes_back_whole(
            first_line: u64,
            is_csv: bool,
            arguments in prop::collection::vec(".{0,20}", 0..4),
            labels in prop::collection::vec(any::<u8>(), 0..50),
            records in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let input = ShardInput { first_line, arguments, labels: &labels, is_csv, records: &records };
            let bytes = input.encode().unwrap();
            prop_assert_eq!(ShardInput::decode(&bytes), Ok(input));
        }

        #[test]
        fn any_bytes_are_an_input_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = ShardInput::decode(&bytes);
            let short = [&[0, 0, 0, 4][..], &bytes].concat();
            let _ = ShardInput::decode(&short);
        }
    }

    #[test]
    fn a_claimed_length_is_not_believed() {
        assert_eq!(ShardInput::decode(&[0xff; 9]), Err(ShardError));
        let long = ShardInput {
            first_line: 1,
            arguments: vec!["a".repeat(MAX_HEADER)],
            labels: b"",
            is_csv: false,
            records: b"",
        };
        assert_eq!(long.encode(), Err(ShardError));
    }
}
