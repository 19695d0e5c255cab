//! Reports: that somebody saw an output which does not stand, and puts their name to it.
//!
//! A report alone convicts nobody. It binds its signer to a record that others can judge again, so
//! that who spreads false ones can be told from who does not.

use skep_registry::Digest;

use crate::account::AccountId;
use crate::statement::{Statement, StatementError};
use crate::wire::encoded_struct;

encoded_struct! {
    /// "I saw this output, and this is what I hold against it." Whoever reports it signs.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Report {
        /// Who reports, and signs.
        pub reporter: AccountId,
        /// The digest of the output.
        pub output: Digest,
        /// The digest of the record that says what is wrong with it, in whose work.
        pub record: Digest,
    }
}

impl Statement for Report {
    const NAME: &'static str = "report";
    const CONTEXT: &'static str = "skep report of an output, v1";
    const MAX_BYTES: usize = 256;

    fn signer(&self) -> AccountId {
        self.reporter
    }

    fn check(&self) -> Result<(), StatementError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Keys;
    use crate::statement::Signed;
    use crate::testing::key;

    #[test]
    fn a_report_is_its_reporter_s_and_of_its_record_alone() {
        let report = Report {
            reporter: key(1).id(),
            output: Digest::of(b"a line"),
            record: Digest::of(b"why it does not stand"),
        };
        assert!(report.sign(&key(2)).is_err());
        let bytes = report.sign(&key(1)).unwrap().encode();
        assert!(bytes.len() <= Report::MAX_BYTES);
        let read = Signed::<Report>::decode(&bytes, &mut Keys::default()).unwrap();
        assert_eq!(*read.body(), report);
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert!(Signed::<Report>::decode(&changed, &mut Keys::default()).is_err());
        }
    }
}
