//! A panel that followed: who is in the minority pays, and nothing is proven by what was not signed.

use super::*;
use crate::following::tests::{observation, transcript};

/// A result of work whose texts are followed, and what each auditor saw, in the order of the draw.
fn panel(seen: &[Observation]) -> Evidence {
    let mut body = lease(&secret(), &candidates()).body().clone();
    body.audit.panel = u32::try_from(seen.len() + 1).unwrap();
    body.audit.followed = true;
    let lease = body.sign(&key(1)).unwrap().accept(&key(2)).unwrap();
    let transcript = transcript();
    let mut provided = *result(&lease, 2, b"output").body();
    provided.activations = Some(transcript.digest());
    let provided = provided.sign(&key(2)).unwrap();
    let others = [key(1).id(), key(2).id()];
    let draw = secret().draw(provided.digest());
    let drawn = draw.auditors(&candidates(), seen.len(), &others);
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
        secret: secret(),
        candidates: candidates(),
        audits: audits.collect(),
        result: provided,
        transcript,
        lease,
    }
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
