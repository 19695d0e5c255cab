//! Each fraud is shown by its statements, and by nothing less.

mod followed;

use super::*;
use crate::audit::Candidate;
use crate::credits::Credits;
use crate::testing::{key, lease, receipt, result};

/// A swarm of ten: keys 1 to 10, of which 1 asks and 2 works.
fn candidates() -> Candidates {
    let list = (1..=10).map(|seed| Candidate {
        account: key(seed).id(),
        stake: Credits::from_micro(1_000),
    });
    Candidates::new(list.collect()).unwrap()
}

fn secret() -> AuditSecret {
    AuditSecret::from_bytes([5; 32])
}

fn accuse(accused: u8, evidence: &Evidence) -> Verdict {
    let accusation = Accusation::new(key(4).id(), key(accused).id(), evidence);
    let signed = accusation.sign(&key(4)).unwrap();
    let mut keys = Keys::default();
    // As it reaches a third node.
    let read = Signed::<Accusation>::decode(&signed.encode(), &mut keys).unwrap();
    judge(&read, &mut keys)
}

fn is_false(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::FalseAccusation { accuser, .. } if *accuser == key(4).id())
}

#[test]
fn a_worker_has_one_result() {
    let lease = lease(&secret(), &candidates());
    let (one, two) = (result(&lease, 2, b"1"), result(&lease, 2, b"2"));
    let guilty = Verdict::Guilty {
        offender: key(2).id(),
        lease: lease.digest(),
    };
    let both = Evidence::TwoResults(one.clone(), two.clone());
    assert_eq!(accuse(2, &both), guilty);
    assert_eq!(both.convicted_by(), Ok(Vec::new()), "by its own signatures");
    // Not another's, not the same twice, not those of two workers.
    assert!(is_false(&accuse(
        3,
        &Evidence::TwoResults(one.clone(), two)
    )));
    assert!(is_false(&accuse(
        2,
        &Evidence::TwoResults(one.clone(), one.clone())
    )));
    let other = result(&lease, 3, b"2");
    assert!(is_false(&accuse(2, &Evidence::TwoResults(one, other))));
}

#[test]
fn a_lease_has_one_receipt_that_keeps_it() {
    let lease = lease(&secret(), &candidates());
    let result = result(&lease, 2, b"1");
    let honest = receipt(&lease, &result);
    let sign = |receipt: Receipt| receipt.sign(&key(2)).unwrap();
    let is_guilty =
        |verdict| matches!(verdict, Verdict::Guilty { offender, .. } if offender == key(2).id());
    let good = sign(honest.clone());
    assert!(is_false(&accuse(
        2,
        &Evidence::ReceiptAgainstLease(lease.clone(), good.clone())
    )));
    assert!(is_false(&accuse(
        2,
        &Evidence::ReceiptAgainstResult(result.clone(), good.clone())
    )));
    assert!(is_false(&accuse(
        2,
        &Evidence::TwoReceipts(good.clone(), good.clone())
    )));

    let breaches: [fn(&mut Receipt); 8] = [
        |r| r.price = Credits::from_micro(81),
        |r| r.meter.tokens = 79,
        |r| {
            r.meter.tokens = 101;
            r.price = Credits::from_micro(101);
        },
        |r| {
            r.meter.tokens = 95;
            r.price = Credits::from_micro(95);
        },
        |r| r.work.model = Some(Digest::of(b"smaller model")),
        |r| r.work.adapter = Some(Digest::of(b"adapter")),
        |r| r.shard = 4,
        |r| r.split = crate::Split::default(),
    ];
    for (place, breach) in breaches.into_iter().enumerate() {
        let mut bad = honest.clone();
        breach(&mut bad);
        let bad = sign(bad);
        let against_lease = Evidence::ReceiptAgainstLease(lease.clone(), bad.clone());
        assert!(is_guilty(accuse(2, &against_lease)), "breach {place}");
        assert!(is_guilty(accuse(
            2,
            &Evidence::TwoReceipts(good.clone(), bad)
        )));
    }
    let mut other_output = honest.clone();
    other_output.output = Digest::of(b"2");
    let against = Evidence::ReceiptAgainstResult(result.clone(), sign(other_output));
    assert!(is_guilty(accuse(2, &against)));
    // It bills less than it had said that the work took, which its lease allows.
    let mut other_meter = honest.clone();
    other_meter.meter.tokens = 79;
    other_meter.price = Credits::from_micro(79);
    let other_meter = sign(other_meter);
    assert_eq!(other_meter.breach_of(&lease), None);
    let against = Evidence::ReceiptAgainstResult(result.clone(), other_meter);
    assert!(is_guilty(accuse(2, &against)));
    // A receipt for another lease breaks neither.
    let mut elsewhere = honest;
    elsewhere.lease = Digest::of(b"another lease");
    elsewhere.price = Credits::from_micro(1);
    let borrowed = sign(elsewhere.clone());
    elsewhere.commitment = Digest::of(b"another result");
    let elsewhere = sign(elsewhere);
    assert!(is_false(&accuse(
        2,
        &Evidence::ReceiptAgainstLease(lease, elsewhere.clone())
    )));
    assert!(is_false(&accuse(
        2,
        &Evidence::ReceiptAgainstResult(result.clone(), elsewhere)
    )));
    // But not one that names this lease's result.
    let against = Evidence::ReceiptAgainstResult(result, borrowed);
    assert!(is_guilty(accuse(2, &against)));
}

#[test]
fn who_hands_over_an_old_receipt_or_another_s_is_guilty() {
    let lease = lease(&secret(), &candidates());
    let result = result(&lease, 2, b"1");
    let own = receipt(&lease, &result).sign(&key(2)).unwrap();
    let handover = |provider: u8, receipt: &Signed<Receipt>| {
        let handover = Handover {
            lease: lease.digest(),
            provider: key(provider).id(),
            commitment: result.digest(),
            receipt: receipt.digest(),
        };
        handover.sign(&key(provider)).unwrap()
    };
    let honest = Evidence::HandoverAgainstReceipt(handover(2, &own), own.clone());
    assert!(is_false(&accuse(2, &honest)));
    let mut old = own.body().clone();
    old.lease = Digest::of(b"an old lease");
    let old = old.sign(&key(2)).unwrap();
    let replayed = Evidence::HandoverAgainstReceipt(handover(2, &old), old.clone());
    assert!(matches!(
        accuse(2, &replayed),
        Verdict::Guilty { offender, lease: under } if offender == key(2).id() && under == lease.digest()
    ));
    let copied = Evidence::HandoverAgainstReceipt(handover(3, &own), own.clone());
    assert!(matches!(
        accuse(3, &copied),
        Verdict::Guilty { offender, .. } if offender == key(3).id()
    ));
    // Not whoever's receipt was copied, and not by a handover of something else.
    assert!(is_false(&accuse(2, &copied)));
    let other = Evidence::HandoverAgainstReceipt(handover(2, &own), old);
    assert!(is_false(&accuse(2, &other)));
}

#[test]
fn who_says_that_the_same_work_took_more_is_charged() {
    let Evidence::Divergence {
        lease,
        secret,
        candidates,
        result: said,
        audits,
    } = panel(&[b"right", b"right", b"right"])
    else {
        panic!("no divergence");
    };
    let inflated = |result: &Signed<ResultCommitment>| {
        let mut inflated = *result.body();
        inflated.meter.tokens += 1;
        inflated.sign(&key(seed_of(inflated.worker))).unwrap()
    };
    // An auditor: the provider's own words decide who is drawn.
    let mut audits = audits;
    let odd = audits[0].result.worker;
    audits[0].result = inflated(&audits[0].result);
    let evidence = Evidence::Divergence {
        lease,
        secret,
        candidates,
        result: said,
        audits,
    };
    assert_eq!(evidence.offenders().unwrap().0, [odd]);
}

/// What the provider says, then what the auditors say in the order of the draw; who has nothing
/// to say is left out.
fn panel(outputs: &[&[u8]]) -> Evidence {
    panel_of(outputs.len(), outputs)
}

/// The same of so many that have a say.
fn panel_of(size: usize, outputs: &[&[u8]]) -> Evidence {
    let mut body = lease(&secret(), &candidates()).body().clone();
    body.audit.panel = u32::try_from(size).unwrap();
    let lease = body.sign(&key(1)).unwrap().accept(&key(2)).unwrap();
    let provider = result(&lease, 2, outputs[0]);
    let drawn = secret().draw(provider.digest()).auditors(
        &candidates(),
        outputs.len() - 1,
        &[key(1).id(), key(2).id()],
    );
    let audits = drawn
        .into_iter()
        .zip(&outputs[1..])
        .filter(|(_, output)| !output.is_empty())
        .map(|(auditor, output)| audit(&lease, seed_of(auditor), output));
    Evidence::Divergence {
        secret: secret(),
        candidates: candidates(),
        audits: audits.collect(),
        result: provider,
        lease,
    }
}

/// What one of the keys says came out, under a lease of its own of the same shard.
fn audit(lease: &Agreed<Lease>, worker: u8, output: &[u8]) -> Audit {
    let mut own = lease.body().clone();
    own.attempt = 1 + u32::from(worker);
    own.provider = key(worker).id();
    own.audit.secret = Digest::of(&[worker]);
    let own = own.sign(&key(1)).unwrap().accept(&key(worker)).unwrap();
    Audit {
        result: result(&own, worker, output),
        lease: own,
    }
}

fn seed_of(id: AccountId) -> u8 {
    (1..=40).find(|seed| key(*seed).id() == id).unwrap()
}

fn worker(evidence: &Evidence, place: usize) -> AccountId {
    match evidence {
        Evidence::Divergence { result, audits, .. } => match place {
            0 => result.worker,
            place => audits[place - 1].result.worker,
        },
        _ => panic!("no divergence"),
    }
}

#[test]
fn whoever_is_not_with_the_majority_is_charged() {
    for odd in 0..3 {
        let mut outputs: [&[u8]; 3] = [b"right"; 3];
        outputs[odd] = b"wrong";
        let evidence = panel(&outputs);
        let found = evidence.offenders().unwrap().0;
        assert_eq!(found, [worker(&evidence, odd)]);
        let others = (0..3).filter(|place| *place != odd);
        let others: Vec<AccountId> = others.map(|place| worker(&evidence, place)).collect();
        assert_eq!(evidence.convicted_by().unwrap(), others);
        let verdict = accuse(seed_of(found[0]), &evidence);
        assert!(matches!(verdict, Verdict::Guilty { offender, .. } if offender == found[0]));
        let innocent = worker(&evidence, (odd + 1) % 3);
        assert!(is_false(&accuse(seed_of(innocent), &evidence)));
    }
    assert!(panel(&[b"1", b"1", b"1"]).offenders().is_err());
    assert!(panel(&[b"1", b"2", b"3"]).offenders().is_err());
    // Two who lie together against an honest provider lose in a panel of seven, both of them.
    let evidence = panel(&[
        b"right", b"wrong", b"wrong", b"right", b"right", b"right", b"right",
    ]);
    let expected = [worker(&evidence, 1), worker(&evidence, 2)];
    assert_eq!(evidence.offenders().unwrap().0, expected);
    // Whoever is missing agrees with nobody: four of seven are needed.
    let few = panel(&[b"wrong", b"right", b"right", b"right", b"", b"", b""]);
    assert!(few.offenders().is_err());
    assert!(few.convicted_by().is_err());
    let enough = panel(&[b"wrong", b"right", b"", b"right", b"right", b"right", b""]);
    assert_eq!(enough.offenders().unwrap().0, [key(2).id()]);
    let four = [1, 2, 3, 4].map(|place| worker(&enough, place));
    assert_eq!(enough.convicted_by().unwrap(), four);
}

/// Whoever is silent has somebody in its place, and nobody has two.
#[test]
fn one_more_than_has_a_say_is_drawn() {
    for missing in 1..4 {
        let mut outputs: [&[u8]; 4] = [b"right"; 4];
        outputs[0] = b"wrong";
        outputs[missing] = b"";
        let evidence = panel_of(3, &outputs);
        assert_eq!(evidence.offenders().unwrap().0, [key(2).id()], "{missing}");
    }
    // Three of three, or the one behind the one that was drawn in addition.
    let all: [&[u8]; 4] = [b"wrong", b"right", b"right", b"right"];
    assert!(panel_of(3, &all).offenders().is_err());
    let behind: [&[u8]; 5] = [b"wrong", b"", b"right", b"", b"right"];
    assert!(panel_of(3, &behind).offenders().is_err());
}

#[test]
fn nobody_is_outvoted_by_auditors_who_were_not_drawn() {
    let evidence = panel(&[b"right", b"wrong", b"wrong"]);
    let Evidence::Divergence {
        lease,
        secret,
        candidates,
        result: said,
        audits,
    } = evidence
    else {
        panic!("no divergence");
    };
    let judged = |lease: &Agreed<Lease>, secret, candidates: &Candidates, said, audits| {
        Evidence::Divergence {
            lease: lease.clone(),
            secret,
            candidates: candidates.clone(),
            result: said,
            audits,
        }
        .offenders()
    };
    let here = |audits| judged(&lease, secret, &candidates, said.clone(), audits);
    assert!(here(audits.clone()).is_ok());
    // Two friends of the accuser instead of those drawn.
    let drawn: Vec<_> = audits.iter().map(|audit| audit.result.worker).collect();
    let friends: Vec<u8> = (3..=10)
        .filter(|n| !drawn.contains(&key(*n).id()))
        .collect();
    let friend = |n: usize| audit(&lease, friends[n], b"wrong");
    assert!(here(vec![friend(0), friend(1)]).is_err());
    assert!(here(vec![audits[0].clone(), audits[0].clone()]).is_err());
    assert!(here(vec![audits[1].clone(), audits[0].clone()]).is_err());
    // An auditor's result of another shard, of other work, or under a lease of somebody else.
    let changes: [fn(&mut Lease); 4] = [
        |own| own.shard += 1,
        |own| own.audit.exact = false,
        |own| own.work.input = Digest::of(b"another input"),
        |own| own.job = Digest::of(b"another job"),
    ];
    for change in changes {
        let mut audits = audits.clone();
        let mut own = audits[0].lease.body().clone();
        change(&mut own);
        let worker = seed_of(own.provider);
        let own = own.sign(&key(1)).unwrap().accept(&key(worker)).unwrap();
        audits[0] = Audit {
            result: result(&own, worker, b"wrong"),
            lease: own,
        };
        assert!(here(audits).is_err());
    }
    let mut borrowed = audits.clone();
    borrowed[0].lease = audits[1].lease.clone();
    assert!(here(borrowed).is_err());
    // Another secret, other candidates than the lease binds to.
    let other = AuditSecret::from_bytes([6; 32]);
    assert!(judged(&lease, other, &candidates, said.clone(), audits.clone()).is_err());
    let fewer = Candidates::new(candidates.list()[1..].to_vec()).unwrap();
    assert!(judged(&lease, secret, &fewer, said.clone(), audits.clone()).is_err());
    // Work that may differ elsewhere, and a result that was not drawn.
    for change in [
        |lease: &mut Lease| lease.audit.exact = false,
        |lease: &mut Lease| lease.audit.rate = 0,
    ] {
        let mut body = lease.body().clone();
        change(&mut body);
        let changed = body.sign(&key(1)).unwrap().accept(&key(2)).unwrap();
        let said = result(&changed, 2, b"right");
        assert!(judged(&changed, secret, &candidates, said, audits.clone()).is_err());
    }
}

#[test]
fn an_accusation_of_nonsense_is_false_and_the_accuser_signed_it() {
    let mut keys = Keys::default();
    let nonsense = Accusation {
        accuser: key(4).id(),
        accused: key(2).id(),
        evidence: EvidenceBytes(vec![1, 2, 3]),
    };
    let signed = nonsense.sign(&key(4)).unwrap();
    assert!(is_false(&judge(&signed, &mut keys)));
    // A statement in it that its author never signed.
    let lease = lease(&secret(), &candidates());
    let evidence = Evidence::TwoResults(result(&lease, 2, b"1"), result(&lease, 2, b"2"));
    let mut forged = evidence.encode();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let accusation = Accusation {
        accuser: key(4).id(),
        accused: key(2).id(),
        evidence: EvidenceBytes(forged),
    };
    let verdict = judge(&accusation.sign(&key(4)).unwrap(), &mut keys);
    assert!(matches!(
        verdict,
        Verdict::FalseAccusation {
            reason: NoFraud::Unsound(StatementError::BadSignature { .. }),
            ..
        }
    ));
}

#[test]
fn evidence_has_one_spelling() {
    let mut keys = Keys::default();
    let evidence = panel(&[b"right", b"wrong", b"right"]);
    let encoding = evidence.encode();
    assert_eq!(Evidence::decode(&encoding, &mut keys), Ok(evidence));
    for bit in (0..8 * encoding.len()).step_by(11) {
        let mut flipped = encoding.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // A revealed secret and a list of candidates are signed by nobody: they are held against
        // the lease, not against a signature.
        let offender = Evidence::decode(&flipped, &mut keys).map(|evidence| evidence.offenders());
        assert!(!matches!(offender, Ok(Ok(_))), "bit {bit}");
    }
}
