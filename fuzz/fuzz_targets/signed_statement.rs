//! What a party of a job sends: the first byte says what it is taken for. Whatever is accepted has
//! exactly one encoding, the one that came.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_evidence::activations::Commitment;
use skep_evidence::following::{Observation, Script, Transcript};
use skep_evidence::{
    Accusation, Agreed, Evidence, Keys, Lease, Quoting, Receipt, ResultCommitment, SealingKey,
    Signed, Statement, Unverified, judge,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    let mut keys = Keys::default();
    match kind % 13 {
        0 => signed::<Lease>(bytes, &mut keys),
        1 => signed::<Receipt>(bytes, &mut keys),
        2 => signed::<ResultCommitment>(bytes, &mut keys),
        3 => {
            if let Ok(accusation) = Signed::<Accusation>::decode(bytes, &mut keys) {
                let _ = judge(&accusation, &mut keys);
            }
            signed::<Accusation>(bytes, &mut keys);
        }
        4 => {
            if let Ok(lease) = Agreed::<Lease>::decode(bytes, &mut keys) {
                assert_eq!(lease.encode(), bytes);
            }
        }
        5 => {
            if let Ok(receipt) = Agreed::<Receipt>::decode(bytes, &mut keys) {
                assert_eq!(receipt.encode(), bytes);
                let sum: u64 = receipt.payments().iter().map(|(_, part)| part.micro()).sum();
                assert_eq!(sum, receipt.price.micro());
            }
        }
        6 => {
            if let Ok(evidence) = Evidence::decode(bytes, &mut keys) {
                assert_eq!(evidence.encode(), bytes);
                let _ = evidence.offenders();
            }
        }
        7 => {
            if let Ok(transcript) = Transcript::decode(bytes) {
                assert_eq!(transcript.encode(), bytes);
                let _ = transcript.compare(&Observation::default());
            }
        }
        8 => {
            if let Ok(script) = Script::decode(bytes) {
                assert_eq!(script.encode(), bytes);
            }
        }
        9 => {
            if let Ok(seen) = Observation::decode(bytes) {
                assert_eq!(seen.encode(), bytes);
            }
        }
        10 => signed::<Quoting>(bytes, &mut keys),
        11 => signed::<SealingKey>(bytes, &mut keys),
        _ => {
            if let Ok(commitment) = Commitment::decode(bytes) {
                assert_eq!(commitment.encode()[..], *bytes);
            }
        }
    }
});

/// What cannot be signed by chance is read without its signature, to reach behind it.
fn signed<T: Statement>(bytes: &[u8], keys: &mut Keys) {
    if let Ok(statement) = Unverified::<T>::decode(bytes) {
        assert_eq!(statement, Unverified::decode(bytes).expect("read before"));
        let _ = statement.verify(keys);
    }
    match Signed::<T>::decode(bytes, keys) {
        Ok(statement) => assert_eq!(statement.encode(), bytes),
        Err(error) => {
            let _ = error.to_string();
        }
    }
}
