//! What those sign who look at a result, and the accusation that comes of it: of results that were made without nodes.

use skep_evidence::following::{Observation, Transcript};
use skep_evidence::{
    AccountKey, Accusation, Agreed, Audit, AuditSecret, AuditTerms, Candidate, Candidates, Credits,
    Evidence, FollowedAudit, Keys, Lease, Meter, ResultCommitment, Signed, Split, Statement as _,
    Tariff, Verdict, Work, judge,
};
use skep_registry::Digest;

/// Whose key grows from this asks for the work, and accuses. Nobody of a panel may have it.
const REQUESTER: u8 = 255;

/// What one of a panel says came of the work, and what that took.
pub struct Member {
    /// What its key grows from.
    pub seed: u8,
    pub output: Vec<u8>,
    pub meter: Meter,
}

fn key(seed: u8) -> AccountKey {
    AccountKey::from_seed(&[seed; 32])
}

/// What is signed beforehand: who may look at a result, and by what they are drawn.
struct Draw {
    secret: AuditSecret,
    candidates: Candidates,
    panel: u32,
    followed: bool,
}

impl Draw {
    /// One in which each of so many has a say.
    fn of(seeds: impl Iterator<Item = u8>, followed: bool) -> Self {
        let candidate = |seed| Candidate {
            account: key(seed).id(),
            stake: Credits::from_micro(1_000),
        };
        let candidates = Candidates::new(seeds.map(candidate).collect()).unwrap();
        Self {
            secret: AuditSecret::from_bytes([5; 32]),
            panel: u32::try_from(candidates.list().len()).unwrap() | 1,
            candidates,
            followed,
        }
    }

    fn lease(&self, seed: u8, follows: Option<Digest>) -> Agreed<Lease> {
        let lease = Lease {
            job: Digest::of(b"job"),
            shard: 0,
            attempt: u32::from(seed),
            requester: key(REQUESTER).id(),
            provider: key(seed).id(),
            work: Work {
                package: Digest::of(b"package"),
                model: Some(Digest::of(b"model")),
                adapter: None,
                input: Digest::of(b"input"),
                seed: 0,
            },
            tariff: Tariff::default(),
            allowance: Meter::default(),
            limit: Credits::from_micro(1),
            split: Split::default(),
            issued: 1_000,
            deadline: 61_000,
            audit: AuditTerms {
                secret: self.secret.commitment(),
                candidates: self.candidates.digest(),
                rate: 1_000_000,
                panel: self.panel,
                exact: true,
                followed: self.followed,
                follows,
            },
        };
        let signed = lease.sign(&key(REQUESTER)).unwrap();
        signed.accept(&key(seed)).unwrap()
    }

    /// Puts those who look at a result in the order in which they are drawn.
    fn order<T>(
        &self,
        lease: &Lease,
        result: &Signed<ResultCommitment>,
        mut auditors: Vec<(u8, T)>,
    ) -> Vec<T> {
        let count = auditors.len();
        let either = [lease.provider, lease.requester];
        let draw = self.secret.draw(result.digest());
        let drawn = draw.auditors(&self.candidates, count, &either);
        let place = |seed: u8| drawn.iter().position(|account| *account == key(seed).id());
        auditors.sort_by_key(|(seed, _)| place(*seed).unwrap());
        auditors.into_iter().map(|(_, auditor)| auditor).collect()
    }
}

fn result(
    lease: &Agreed<Lease>,
    member: &Member,
    shown: Option<Digest>,
) -> Signed<ResultCommitment> {
    let result = ResultCommitment {
        lease: lease.digest(),
        work: lease.work.digest(),
        worker: key(member.seed).id(),
        output: Digest::of(&member.output),
        meter: member.meter,
        activations: shown,
        nonce: [member.seed; 32],
    };
    result.sign(&key(member.seed)).unwrap()
}

/// What a panel says of texts that one of it wrote and the others followed.
pub fn followed(
    (provider, transcript): (&Member, Transcript),
    auditors: &[(Member, Observation)],
) -> Evidence {
    let seeds = auditors.iter().map(|(auditor, _)| auditor.seed);
    let draw = Draw::of(seeds.chain([provider.seed]), true);
    let lease = draw.lease(provider.seed, None);
    let provided = result(&lease, provider, Some(transcript.digest()));
    let script = transcript.script().digest();
    let audits = auditors.iter().map(|(auditor, seen)| {
        let lease = draw.lease(auditor.seed, Some(script));
        let audit = FollowedAudit {
            result: result(&lease, auditor, Some(seen.digest())),
            seen: seen.clone(),
            lease,
        };
        (auditor.seed, audit)
    });
    Evidence::Unfollowed {
        audits: draw.order(&lease, &provided, audits.collect()),
        secret: draw.secret,
        candidates: draw.candidates,
        result: provided,
        transcript,
        lease,
    }
}

/// What a panel says all of which did the same work.
pub fn repeated(provider: &Member, auditors: &[&Member]) -> Evidence {
    let seeds = auditors.iter().map(|auditor| auditor.seed);
    let draw = Draw::of(seeds.chain([provider.seed]), false);
    let lease = draw.lease(provider.seed, None);
    let provided = result(&lease, provider, None);
    let audits = auditors.iter().map(|auditor| {
        let lease = draw.lease(auditor.seed, None);
        let audit = Audit {
            result: result(&lease, auditor, None),
            lease,
        };
        (auditor.seed, audit)
    });
    Evidence::Divergence {
        audits: draw.order(&lease, &provided, audits.collect()),
        secret: draw.secret,
        candidates: draw.candidates,
        result: provided,
        lease,
    }
}

/// What comes of an accusation of one of a panel, as it reaches somebody who has nothing else.
pub fn accuse(evidence: &Evidence, accused: u8) -> Verdict {
    let accusation = Accusation::new(key(REQUESTER).id(), key(accused).id(), evidence);
    let signed = accusation.sign(&key(REQUESTER)).unwrap();
    let keys = &mut Keys::default();
    let read = Signed::<Accusation>::decode(&signed.encode(), keys).unwrap();
    judge(&read, keys)
}
