//! A panel that followed: who is in the minority pays, and nothing is proven by what was not signed.

use super::*;
use crate::activations::Peaks;
use crate::following::doubt;
use crate::following::tests::{largest, observation, transcript};

/// A result of work whose texts are followed, and what each auditor saw, in the order of the draw.
fn panel(seen: &[Observation]) -> Evidence {
    panel_of(candidates(), transcript(), seen)
}

fn panel_of(candidates: Candidates, transcript: Transcript, seen: &[Observation]) -> Evidence {
    let size = u32::try_from(seen.len() + 1).unwrap();
    panel_of_size(size, candidates, transcript, seen)
}

/// The same if so many have a say, the provider among them.
fn panel_of_size(
    size: u32,
    candidates: Candidates,
    transcript: Transcript,
    seen: &[Observation],
) -> Evidence {
    let mut body = lease(&secret(), &candidates).body().clone();
    body.audit.panel = size;
    body.audit.followed = true;
    let lease = body.sign(&key(1)).unwrap().accept(&key(2)).unwrap();
    let mut provided = *result(&lease, 2, b"output").body();
    provided.activations = Some(transcript.digest());
    let provided = provided.sign(&key(2)).unwrap();
    let others = [key(1).id(), key(2).id()];
    let draw = secret().draw(provided.digest());
    let drawn = draw.auditors(&candidates, seen.len(), &others);
    let audits = drawn.into_iter().zip(seen).map(|(auditor, seen)| {
        let worker = seed_of(auditor);
        let mut own = lease.body().clone();
        own.attempt = 1 + u32::from(worker);
        own.provider = auditor;
        own.audit.secret = Digest::of(&[worker]);
        own.audit.follows = Some(transcript.script().digest());
        let own = own.sign(&key(1)).unwrap().accept(&key(worker)).unwrap();
        let mut said = *result(&own, worker, b"output").body();
        said.activations = Some(seen.digest());
        FollowedAudit {
            lease: own,
            result: said.sign(&key(worker)).unwrap(),
            seen: seen.clone(),
        }
    });
    Evidence::Unfollowed {
        audits: audits.collect(),
        secret: secret(),
        candidates,
        result: provided,
        transcript,
        lease,
    }
}

/// Who lies cannot show so much that nobody could be told of it.
#[test]
fn whatever_is_shown_whoever_is_wrong_can_be_accused() {
    let forty = (1..=40).map(|seed| Candidate {
        account: key(seed).id(),
        stake: Credits::from_micro(1_000),
    });
    let forty = Candidates::new(forty.collect()).unwrap();
    let (written, seen) = largest(0);
    // All thirty see as much as there can be, each of it something else than what the provider shows.
    let evidence = panel_of(forty.clone(), written.clone(), &vec![seen; 30]);
    assert!(evidence.encode().len() > MAX_EVIDENCE);
    assert!(matches!(accuse(2, &evidence), Verdict::Guilty { .. }));

    // One of thirty shows what it never saw, beside a run of a few texts.
    let mut said = vec![observation(0.0); 29];
    said.push(largest(1).1);
    let evidence = panel_of(forty, transcript(), &said);
    let liar = auditor(&evidence, 29);
    let verdict = accuse(seed_of(liar), &evidence);
    assert!(matches!(verdict, Verdict::Guilty { offender, .. } if offender == liar));
    assert!(is_false(&accuse(2, &evidence)));
    assert!(is_false(&accuse(seed_of(auditor(&evidence, 3)), &evidence)));
}

fn auditor(evidence: &Evidence, place: usize) -> AccountId {
    let Evidence::Unfollowed { audits, .. } = evidence else {
        panic!("nobody followed");
    };
    audits[place].result.worker
}

#[test]
fn a_lazy_follower_is_charged_and_so_is_a_provider_whose_states_are_others() {
    // It would have to know what was committed to.
    let lazy = Observation::default();
    let evidence = panel(&[lazy.clone(), observation(0.004)]);
    let idle = auditor(&evidence, 0);
    assert_eq!(evidence.offenders().unwrap().0, [idle]);
    let verdict = accuse(seed_of(idle), &evidence);
    assert!(matches!(verdict, Verdict::Guilty { offender, .. } if offender == idle));
    assert!(is_false(&accuse(2, &evidence)));

    // Both see other states than those that the provider committed to, each its own.
    let evidence = panel(&[observation(1.5), observation(1.6)]);
    assert_eq!(evidence.offenders().unwrap().0, [key(2).id()]);
    assert!(matches!(accuse(2, &evidence), Verdict::Guilty { .. }));

    // One that names a few of its largest states alone knows too little of them.
    let Observation(mut answers) = observation(0.0);
    for text in answers.iter_mut().flat_map(|answer| &mut answer.texts) {
        for peaks in &mut text.peaks {
            *peaks = Peaks::decode(&peaks.encode()[..60]).unwrap();
        }
    }
    let evidence = panel(&[Observation(answers), observation(0.0)]);
    let idle = auditor(&evidence, 0);
    assert_eq!(evidence.offenders().unwrap().0, [idle]);

    let agreed = panel(&[observation(0.0), observation(0.004)]);
    assert!(agreed.offenders().is_err());
    // Of four, one that is missing agrees with nobody.
    let honest = observation(0.0);
    let mut few = panel(&[lazy.clone(), lazy, honest.clone(), honest]);
    if let Evidence::Unfollowed { audits, .. } = &mut few {
        audits.pop();
    }
    assert!(few.offenders().is_err());
}

#[test]
fn other_output_or_another_meter_is_no_agreement() {
    let mut evidence = panel(&[observation(0.0), observation(0.0)]);
    let odd = auditor(&evidence, 1);
    if let Evidence::Unfollowed { audits, .. } = &mut evidence {
        let mut said = *audits[1].result.body();
        said.meter.flops += 1;
        audits[1].result = said.sign(&key(seed_of(odd))).unwrap();
    }
    assert_eq!(evidence.offenders().unwrap().0, [odd]);
}

#[test]
fn what_was_not_signed_proves_nothing() {
    let wrong = |change: &dyn Fn(&mut Evidence)| {
        let mut evidence = panel(&[observation(1.5), observation(1.5)]);
        change(&mut evidence);
        assert!(is_false(&accuse(2, &evidence)));
    };
    wrong(&|evidence| {
        if let Evidence::Unfollowed { transcript, .. } = evidence {
            transcript.0.pop();
        }
    });
    wrong(&|evidence| {
        if let Evidence::Unfollowed { audits, .. } = evidence {
            audits[0].seen = observation(1.4);
        }
    });
    wrong(&|evidence| {
        if let Evidence::Unfollowed { audits, .. } = evidence {
            // It was given another script.
            let auditor = seed_of(audits[0].result.worker);
            let mut own = audits[0].lease.body().clone();
            own.audit.follows = Some(Digest::of(b"another script"));
            let own = own.sign(&key(1)).unwrap().accept(&key(auditor)).unwrap();
            let mut said = *audits[0].result.body();
            said.lease = own.digest();
            audits[0].result = said.sign(&key(auditor)).unwrap();
            audits[0].lease = own;
        }
    });
    // Byte by byte nobody is convicted of texts that are followed.
    let Evidence::Unfollowed {
        lease,
        secret,
        candidates,
        result,
        audits,
        ..
    } = panel(&[observation(1.5), observation(1.5)])
    else {
        panic!("nobody followed");
    };
    let audits = audits.into_iter().map(|audit| Audit {
        lease: audit.lease,
        result: audit.result,
    });
    let divergence = Evidence::Divergence {
        lease,
        secret,
        candidates,
        result,
        audits: audits.collect(),
    };
    assert!(is_false(&accuse(2, &divergence)));
}

/// A provider may choose how far its commitments are from a machine's states. Whoever finds them too far to
/// agree and too near not to convicts nobody, and is convicted of nothing.
#[test]
fn nobody_is_charged_for_what_lies_between_the_limits() {
    // Mantissas that differ by some five of 128.
    let between = observation(0.04);
    let Evidence::Unfollowed {
        transcript, audits, ..
    } = panel(&[between.clone(), observation(0.0)])
    else {
        panic!("nobody followed");
    };
    let result = audits[0].result.body();
    assert_eq!(transcript.vote(result, result, &between), doubt());
    let few = panel(&[between.clone(), observation(0.0)]);
    assert!(few.offenders().is_err());
    let most = panel(&[between.clone(), between.clone()]);
    assert!(most.offenders().is_err());
    // It is no vote for those who disagree either, and hides none of them.
    let lazy = Observation::default();
    let evidence = panel(&[lazy.clone(), between, observation(0.0), observation(0.0)]);
    assert_eq!(evidence.offenders().unwrap().0, [auditor(&evidence, 0)]);
    let near = [key(2).id(), auditor(&evidence, 2), auditor(&evidence, 3)];
    assert_eq!(evidence.convicted_by().unwrap(), near);
}

/// A friend that follows a liar risks nothing by saying that it cannot tell. The one that was drawn beside those that
/// have a say has its seat, whether what the friend saw is shown or not.
#[test]
fn a_friend_that_cannot_tell_saves_no_liar_its_stake() {
    let (between, near) = (observation(0.04), observation(0.0));
    let far = [observation(1.5), observation(1.6)];
    let of_three = |seen: &[Observation]| panel_of_size(3, candidates(), transcript(), seen);
    for friend in 0..3 {
        let mut seen = far.to_vec();
        seen.insert(friend, between.clone());
        let mut evidence = of_three(&seen);
        let cannot_tell = auditor(&evidence, friend);
        let others = (0..3).filter(|place| *place != friend);
        let others: Vec<AccountId> = others.map(|place| auditor(&evidence, place)).collect();
        for is_shown in [true, false] {
            if let (false, Evidence::Unfollowed { audits, .. }) = (is_shown, &mut evidence) {
                audits.remove(friend);
            }
            assert_eq!(evidence.offenders().unwrap().0, [key(2).id()]);
            assert_eq!(evidence.convicted_by().unwrap(), others);
            assert!(matches!(accuse(2, &evidence), Verdict::Guilty { .. }));
            assert!(is_false(&accuse(seed_of(cannot_tell), &evidence)));
        }
    }

    // Beside an honest provider the one that does not agree is charged, and who cannot tell is not.
    let evidence = of_three(&[between.clone(), far[0].clone(), near.clone()]);
    let odd = auditor(&evidence, 1);
    assert_eq!(evidence.offenders().unwrap().0, [odd]);
    assert!(is_false(&accuse(seed_of(auditor(&evidence, 0)), &evidence)));
    // Nothing is proven of anybody if nobody can tell, or too few can, or those who can agree.
    for seen in [
        vec![between.clone(); 3],
        vec![between.clone(), between.clone(), far[0].clone()],
        vec![between, near.clone(), near.clone()],
    ] {
        assert!(of_three(&seen).offenders().is_err());
    }
    // Nobody has the seat of one that can.
    assert!(
        of_three(&[near, far[0].clone(), far[1].clone()])
            .offenders()
            .is_err()
    );
}
