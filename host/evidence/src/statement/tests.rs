//! Statements survive encoding, and nothing else passes for one.

use proptest::prelude::*;

use super::*;
use crate::testing::{any_lease, any_receipt, key, lease, receipt, result};
use crate::{AuditSecret, Candidates, Lease, Receipt, ResultCommitment};

/// The key that a generated statement names; generated ones use single-byte seeds.
fn key_of(id: AccountId) -> AccountKey {
    (0..=255).map(key).find(|key| key.id() == id).unwrap()
}

fn agreed<T: Agreement>(statement: T) -> Agreed<T> {
    let (signer, other) = (statement.signer(), statement.countersigner());
    let signed = statement.sign(&key_of(signer)).unwrap();
    signed.accept(&key_of(other)).unwrap()
}

fn example() -> (Agreed<Lease>, Signed<ResultCommitment>, Agreed<Receipt>) {
    let candidates = Candidates::new(Vec::new()).unwrap();
    let lease = lease(&AuditSecret::from_bytes([5; 32]), &candidates);
    let result = result(&lease, 2, b"output");
    let receipt = agreed(receipt(&lease, &result));
    (lease, result, receipt)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_written_reads_the_same(lease in any_lease(), receipt in any_receipt()) {
        let mut keys = Keys::default();
        let (lease, receipt) = (agreed(lease), agreed(receipt));
        prop_assert_eq!(&Agreed::decode(&lease.encode(), &mut keys).unwrap(), &lease);
        prop_assert_eq!(&Agreed::decode(&receipt.encode(), &mut keys).unwrap(), &receipt);
        let signed = receipt.signed();
        prop_assert_eq!(&Signed::decode(&signed.encode(), &mut keys).unwrap(), signed);
    }

    #[test]
    fn strangers_bytes_never_panic(bytes: Vec<u8>) {
        let mut keys = Keys::default();
        prop_assert!(Agreed::<Receipt>::decode(&bytes, &mut keys).is_err());
        prop_assert!(Signed::<Lease>::decode(&bytes, &mut keys).is_err());
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    fn flip(encoding: &[u8], decode: impl Fn(&[u8]) -> bool) {
        assert!(decode(encoding));
        for bit in 0..8 * encoding.len() {
            let mut flipped = encoding.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!decode(&flipped), "bit {bit} of {}", 8 * encoding.len());
        }
        for length in 0..encoding.len() {
            assert!(!decode(&encoding[..length]), "cut to {length}");
        }
        assert!(!decode(&[encoding, &[0]].concat()));
    }
    let (lease, result, receipt) = example();
    flip(&lease.encode(), |bytes| {
        Agreed::<Lease>::decode(bytes, &mut Keys::default()).is_ok()
    });
    flip(&receipt.encode(), |bytes| {
        Agreed::<Receipt>::decode(bytes, &mut Keys::default()).is_ok()
    });
    flip(&result.encode(), |bytes| {
        Signed::<ResultCommitment>::decode(bytes, &mut Keys::default()).is_ok()
    });
}

/// What someone could send who breaks the rules: any body, correctly signed.
fn decode_body(body: &[u8]) -> Result<Signed<Receipt>, StatementError> {
    let signature = key(2).sign(&message(Receipt::CONTEXT, Digest::of(body)));
    let encoding = written(|out| out.array(2)?.bytes(body)?.bytes(&signature)?.ok());
    Signed::decode(&encoding, &mut Keys::default())
}

#[test]
fn another_spelling_is_refused_though_it_is_signed() {
    let (_, _, receipt) = example();
    let body = body_of(receipt.body());
    assert!(decode_body(&body).is_ok());
    // The heads of the body, its format and its parts, each one byte, written longer than need be.
    assert_eq!(body[..3], [0x82, 0x01, 0x8e]);
    let long_body = [&[0x98, 2], &body[1..]].concat();
    let long_format = [&body[..1], &[0x18, 1], &body[2..]].concat();
    let long_parts = [&body[..2], &[0x98, 14], &body[3..]].concat();
    let endless = [&body[..2], &[0x9f], &body[3..], &[0xff]].concat();
    let trailing = [&body[..], &[0]].concat();
    for spelling in [long_body, long_format, long_parts, endless, trailing] {
        assert_eq!(decode_body(&spelling), Err(StatementError::NotCanonical));
    }
    let later = [&body[..1], &[2], &body[2..]].concat();
    assert!(matches!(
        decode_body(&later),
        Err(StatementError::UnknownFormat { found: 2, .. })
    ));
}

#[test]
fn a_signature_means_one_thing_only() {
    let (lease, _, receipt) = example();
    let mut keys = Keys::default();
    // The provider's signature cannot stand for the requester's acceptance, nor the other way.
    let body = body_of(receipt.body());
    let provider = receipt.signed().signature;
    let swapped = written(|out| {
        out.array(3)?
            .bytes(&body)?
            .bytes(&receipt.countersignature)?
            .bytes(&provider)?
            .ok()
    });
    assert!(Agreed::<Receipt>::decode(&swapped, &mut keys).is_err());
    let twice = written(|out| {
        out.array(3)?
            .bytes(&body)?
            .bytes(&provider)?
            .bytes(&provider)?
            .ok()
    });
    assert!(matches!(
        Agreed::<Receipt>::decode(&twice, &mut keys),
        Err(StatementError::BadSignature { signer, .. }) if signer == key(1).id()
    ));
    // A lease is no receipt, and one that a single party signed is not agreed.
    assert!(Agreed::<Receipt>::decode(&lease.encode(), &mut keys).is_err());
    assert!(Agreed::<Receipt>::decode(&receipt.signed().encode(), &mut keys).is_err());
}

#[test]
fn only_the_parties_sign() {
    let (_, _, receipt) = example();
    assert!(matches!(
        receipt.body().clone().sign(&key(3)),
        Err(StatementError::OtherKey { .. })
    ));
    assert!(receipt.signed().clone().accept(&key(2)).is_err());
}

#[test]
fn the_rules_hold_for_signers_and_readers() {
    let (lease, _, receipt) = example();
    let broken: [fn(&mut Receipt); 3] = [
        |receipt| receipt.provider = receipt.requester,
        |receipt| receipt.finished = receipt.started - 1,
        |receipt| receipt.price = crate::Credits::from_micro(u64::MAX),
    ];
    for breakage in broken {
        let mut broken = receipt.body().clone();
        breakage(&mut broken);
        let signer = key_of(broken.provider);
        assert!(matches!(
            broken.clone().sign(&signer),
            Err(StatementError::Invalid { .. })
        ));
        assert!(matches!(
            decode_body(&body_of(&broken)),
            Err(StatementError::Invalid { .. })
        ));
    }
    let mut late = lease.body().clone();
    late.deadline = late.issued;
    assert!(late.sign(&key(1)).is_err());
}

#[test]
fn many_are_verified_at_once_and_the_bad_one_is_named() {
    let (_, _, receipt) = example();
    let mut keys = Keys::default();
    let many: Vec<_> = (0..50)
        .map(|sequence| {
            let mut next = receipt.body().clone();
            next.sequence = sequence;
            Unverified::<Receipt>::decode_agreed(&agreed(next).encode()).unwrap()
        })
        .collect();
    let verified = verify_agreed(many.clone(), &mut keys).unwrap();
    assert!((0..50).all(|n| verified[n].sequence == n as u64));
    let mut bad = many.clone();
    bad[31].countersignature = bad[30].countersignature;
    let (place, error) = verify_agreed(bad, &mut keys).unwrap_err();
    assert_eq!(place, 31);
    assert!(matches!(error, StatementError::BadSignature { signer, .. } if signer == key(1).id()));
    // Read as signed by one, it does not pass for agreed.
    let half = Unverified::<Receipt>::decode(&receipt.signed().encode()).unwrap();
    assert_eq!(verify_agreed(vec![half], &mut keys).unwrap_err().0, 0);
}

/// What it claims is there to be looked at before anybody has checked it, also where the signatures will not hold.
#[test]
fn what_is_claimed_is_what_was_written_whoever_signed_it() {
    let (_, _, receipt) = example();
    let honest = receipt.encode();
    let read = Unverified::<Receipt>::decode_agreed(&honest).unwrap();
    assert_eq!(read.claimed(), receipt.body());
    let mut forged = honest;
    *forged.last_mut().unwrap() ^= 1;
    let forged = Unverified::<Receipt>::decode_agreed(&forged).unwrap();
    assert_eq!(forged.claimed(), receipt.body());
    assert_eq!(forged.digest(), receipt.digest());
    assert!(matches!(
        forged.verify_agreed(&mut Keys::default()),
        Err(StatementError::BadSignature { .. })
    ));
    let half = receipt.signed().encode();
    let half = Unverified::<Receipt>::decode(&half).unwrap();
    assert_eq!(half.claimed(), receipt.body());
}

/// The format is a promise: what was signed once must verify for ever.
#[test]
fn the_encodings_do_not_change() {
    let (lease, result, receipt) = example();
    insta::assert_snapshot!(Digest::of(&lease.encode()), @"317c1fdc98bb528b820591bb596edbad615c792fdafaa1b7eaee438cd57cc3b9");
    insta::assert_snapshot!(Digest::of(&result.encode()), @"b5c39d8c196ba01666796f2f0eaf08ba66eee84626419d9386ae957b3335bda7");
    insta::assert_snapshot!(Digest::of(&receipt.encode()), @"a27b84d01227309b1df4126db888a9886a61a6263099474eb95fbbeffaa08543");
}

#[test]
fn the_errors_say_what_to_do() {
    let (_, _, receipt) = example();
    let mut encoding = receipt.signed().encode();
    let last = encoding.len() - 1;
    encoding[last] ^= 1;
    insta::assert_snapshot!(
        Signed::<Receipt>::decode(&encoding, &mut Keys::default()).unwrap_err(),
        @"the signature on this receipt is not that of qe4xodvipulv6vvdkrtmgtd6ztfy3curwtxdpis56yhvxd6jwokmoock: it was altered or forged; do not use it, and ask its sender for it again"
    );
    insta::assert_snapshot!(
        Signed::<Receipt>::decode(&[0; 5_000], &mut Keys::default()).unwrap_err(),
        @"this is no receipt: it has 5000 bytes, and one has at most 4096"
    );
}
