//! What the store on disk says of itself, in words for a person.
//!
//! It must never hide what the store says: only what means something to nobody else is put otherwise.

/// Why a file of this node's cannot be read or written.
pub(crate) fn reason(error: &redb::Error) -> String {
    match error {
        redb::Error::DatabaseAlreadyOpen => "another process has it open".to_owned(),
        error => error.to_string().trim_end_matches('.').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn a_file_that_somebody_has_open_is_told_as_one() {
        let open = reason(&redb::Error::DatabaseAlreadyOpen);
        assert_eq!(open, "another process has it open");
        let other = reason(&redb::Error::Corrupted("a page".to_owned()));
        assert!(other.contains("a page"), "{other}");
    }
}
