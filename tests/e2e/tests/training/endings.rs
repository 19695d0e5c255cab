//! Trainings that end before their steps are made: because they diverge, or learn nothing more.

use super::*;

#[test]
fn a_training_that_diverges_stops_and_goes_on_with_a_smaller_rate() {
    let data = lessons(20);
    let room = Room::new(None);
    let spec = spec(Some(&room), roomy());
    let wild = [
        &QUICK[..4],
        &[("learning-rate", "1000"), ("held-out", "0.2")],
    ]
    .concat();
    let text = train("fine-tune", &spec, &wild, &data)
        .unwrap_err()
        .to_string();
    assert!(text.contains("the training diverged after step"), "{text}");
    assert!(
        text.contains("the checkpoint of its beginning is kept"),
        "{text}"
    );
    assert!(room.saved.lock().unwrap().is_empty());
    let calm = [
        &QUICK[..4],
        &[("learning-rate", "0.003"), ("held-out", "0.2")],
    ]
    .concat();
    train("fine-tune", &spec, &calm, &data).unwrap();
    let unbroken = Room::new(None);
    let fresh = RunSpec {
        training: Some(Arc::clone(&unbroken) as Arc<dyn TrainingRoom>),
        ..spec.clone()
    };
    train("fine-tune", &fresh, &calm, &data).unwrap();
    let digest = |room: &Room| room.saved.lock().unwrap()[0].digest.clone();
    assert_eq!(digest(&room), digest(&unbroken));
}

/// The metric of this name of what was saved.
fn metric(saved: &SavedAdapter, name: &str) -> f64 {
    let found = saved.metrics.iter().find(|(own, _)| own == name);
    found.unwrap_or_else(|| panic!("no {name}")).1
}

#[test]
fn a_training_that_finds_nothing_better_ends_early_with_its_best() {
    // Answers of which none follows from another.
    let data: String = (1..=20_u64)
        .map(|n| {
            let secret = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
            let line = serde_json::json!({
                "prompt": "What is the word?",
                "completion": format!(" It is {secret:012x}."),
            });
            format!("{line}\n")
        })
        .collect();
    let impatient = [
        &QUICK[..],
        &[
            ("steps", "200"),
            ("evaluate-every", "1"),
            ("patience", "1"),
            ("schedule", "constant"),
        ],
    ]
    .concat();
    let room = Room::new(None);
    train("fine-tune", &spec(Some(&room), roomy()), &impatient, &data).unwrap();
    let seen = room.seen();
    let last = seen.last().unwrap().step;
    assert!((2..200).contains(&last), "{seen:?}");
    // The one before was the best, and it is what was saved.
    let saved = room.saved.lock().unwrap()[0].clone();
    let held_out: Vec<f64> = seen[1..]
        .iter()
        .filter_map(|one| one.held_out_loss)
        .collect();
    let best = held_out.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(held_out.len() as u64, last, "{seen:?}");
    assert_eq!(held_out[held_out.len() - 2], best, "{held_out:?}");
    assert_eq!(metric(&saved, "steps"), last as f64);
    assert_eq!(metric(&saved, "best-step"), (last - 1) as f64);
    assert_eq!(metric(&saved, "held-out-loss"), best);

    // The same training up to there, and then one step that changes nothing.
    let other = Room::new(Some(last - 1));
    let spec = spec(Some(&other), roomy());
    train("fine-tune", &spec, &impatient, &data).unwrap();
    assert!(other.saved.lock().unwrap().is_empty());
    *other.stop_after.lock().unwrap() = None;
    let still = [&impatient[..], &[("learning-rate", "0")]].concat();
    train("fine-tune", &spec, &still, &data).unwrap();
    // What was kept of the best loss is a decimal number, which may be the least bit larger: then the
    // step looks better, and the next one ends it.
    let ended = other.seen().last().unwrap().step;
    assert!((last..=last + 1).contains(&ended), "{ended} {last}");
    assert_eq!(other.saved.lock().unwrap()[0].digest, saved.digest);
}

#[test]
fn a_training_that_diverges_late_keeps_its_best_and_goes_on_from_it() {
    let data = lessons(20);
    let room = Room::new(Some(4));
    let spec = spec(Some(&room), roomy());
    train("fine-tune", &spec, &QUICK, &data).unwrap();
    *room.stop_after.lock().unwrap() = None;
    let good = room.seen().last().unwrap().held_out_loss.unwrap();
    let wild = [&QUICK[..], &[("learning-rate", "1000")]].concat();
    let refused = train("fine-tune", &spec, &wild, &data).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("the training diverged after step"), "{text}");
    let kept =
        format!("the last good checkpoint is kept, with a held-out loss of {good:.4} at step 4");
    assert!(text.contains(&kept), "{text}");
    assert!(room.saved.lock().unwrap().is_empty());

    // From there it comes to what it would have come to at once.
    train("fine-tune", &spec, &QUICK, &data).unwrap();
    let unbroken = Room::new(None);
    let fresh = RunSpec {
        training: Some(Arc::clone(&unbroken) as Arc<dyn TrainingRoom>),
        ..spec.clone()
    };
    train("fine-tune", &fresh, &QUICK, &data).unwrap();
    let digest = |room: &Room| room.saved.lock().unwrap()[0].digest.clone();
    assert_eq!(digest(&room), digest(&unbroken));
}
