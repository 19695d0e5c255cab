//! What checks by rounded floats find, and that nothing of it gets anywhere else. On a processor without such
//! products these tests have nothing to say: `compared.rs` has whose turn it is on any.

use super::*;

/// Where products of rounded floats are quicker, texts are checked by these, in batches of their own:
/// honest ones pass, each finds the same whatever else there is, and nothing of it gets into what is
/// written meanwhile or later.
#[test]
fn checks_that_round_change_nothing_but_what_they_find() {
    if IS_DEVICE || !Isa::best().rounds_floats() {
        return;
    }
    let requests: Vec<Request> = (0..18).map(request).collect();
    let exact = engine();
    let expected = write(&exact, &requests);
    let rounding = |pages| {
        let options = Options {
            rounded_checks: true,
            ..options(pages, 0)
        };
        start(model(), options)
    };
    let claims = |among: std::ops::Range<usize>| -> Vec<CheckRequest> {
        let claims = requests[among.clone()].iter().zip(&expected[among]);
        claims.map(|(r, t)| claim(r, t)).collect()
    };
    let alone: Vec<Checked> = (0..requests.len())
        .map(|number| check(&rounding(512), claims(number..number + 1)).remove(0))
        .collect();
    for checked in &alone {
        assert!(checked.is_whole, "{checked:?}");
        let near = |c: &skep_evidence::activations::Comparison| c.is_within(&Thresholds::default());
        assert!(checked.chunks.iter().all(near), "{checked:?}");
    }
    assert!(!alone.iter().all(is_exact), "nothing has been rounded");
    // With room for all, and with so little that texts begin anew.
    for pages in [512, 24] {
        let engine = rounding(pages);
        for round in 0..2 {
            let (writer, checker) = (caller(1, Priority::Normal), caller(2, Priority::Background));
            let written = engine.generate(&writer, requests.clone());
            let checked = engine.check(&checker, claims(0..requests.len()));
            let written = written.wait().into_iter().map(Result::unwrap);
            let written: Vec<Completion> = written.map(|mut texts| texts.remove(0)).collect();
            assert_eq!(written, expected, "{pages} pages, round {round}");
            assert_eq!(
                checked.wait().unwrap(),
                alone,
                "{pages} pages, round {round}"
            );
        }
        // Who does not commit takes what is remembered.
        let plain: Vec<Request> = requests
            .iter()
            .cloned()
            .map(|request| Request {
                commit: false,
                ..request
            })
            .collect();
        for (text, expected) in write(&engine, &plain).iter().zip(&expected) {
            assert_eq!(text.tokens, expected.tokens, "{pages} pages");
        }
    }
}

/// A text that somebody follows leaves nothing that others go on from.
#[test]
fn what_is_rounded_is_not_remembered() {
    if IS_DEVICE || !Isa::best().rounds_floats() {
        return;
    }
    let plain = |request: Request| Request {
        commit: false,
        ..request
    };
    let expected = write(&engine(), &[request(1)]);
    let claims = || vec![claim(&request(1), &expected[0])];
    for rounded_checks in [true, false] {
        let options = Options {
            rounded_checks,
            ..options(512, 0)
        };
        let engine = start(model(), options);
        let owner = caller(1, Priority::Normal);
        engine.check(&owner, claims()).wait().unwrap();
        let text = write(&engine, &[plain(request(1))]).remove(0);
        assert_eq!(text.tokens, expected[0].tokens);
        assert_eq!(text.cached_tokens == 0, rounded_checks);
    }
}
