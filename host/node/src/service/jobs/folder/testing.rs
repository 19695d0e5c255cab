//! What tests take for a job.

use skep_registry::Digest;

use super::{Piece, Spec};

/// A job of these shards that asks for nothing more than their results, costs nothing, and is over as soon as it
/// began. Tests say what else it is.
pub fn spec(shards: Vec<Piece>) -> Spec {
    Spec {
        job: Digest::of(b"job"),
        package: "someone/something@1.0.0".to_owned(),
        release: Digest::of(b"release"),
        model: None,
        adapter: None,
        warm: 0,
        shards,
        header: None,
        largest: 100,
        arguments: Vec::new(),
        replicas: 1,
        exact: false,
        attested: false,
        audit: 0,
        followed: false,
        looks_at_odd: false,
        min_stake: 0,
        budget: 0,
        deadline: 2,
        began: 1,
        providers: Vec::new(),
        only: false,
        output: None,
        begun_by: None,
        root: [0; 32],
    }
}
