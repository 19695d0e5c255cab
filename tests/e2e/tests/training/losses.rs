//! Every loss of the interface, as a well-behaved recipe asks for it: what comes back is what the
//! formula says of it, on the processor and on a device, and what is to be learned is.

use std::f64::consts::LN_2;
use std::sync::Arc;

use serde_json::{Value, json};
use skep_registry::Limits;
use skep_sandbox::{Cancel, Program, Quota, RunError, RunReport, RunSpec};
use skep_tests::random::{self, Shape};

use super::{Burn, Native, Room, SANDBOX, Served, Shelf, as_asked, load, roomy, spec};

/// The recipe, and a base of half a megabyte with the folder that it lies in.
struct School {
    recipe: Arc<Program>,
    base: Arc<Served>,
    _folder: tempfile::TempDir,
}

impl School {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tiny.gguf");
        random::gguf(&file, &Shape::TINY, 1).unwrap();
        Self {
            recipe: load("honest-trainer"),
            base: Arc::new(Served(Native::load(&file).engine, as_asked)),
            _folder: folder,
        }
    }

    /// What a lesson came to.
    fn learn(
        &self,
        room: &Arc<Room>,
        limits: Limits,
        asked: &Value,
    ) -> Result<(Value, RunReport), RunError> {
        let spec = RunSpec {
            models: Some(Arc::new(Shelf(Arc::clone(&self.base)))),
            ..spec(Some(room), limits)
        };
        let (input, mut output) = (asked.to_string(), Vec::<u8>::new());
        let ran = SANDBOX.train(
            &self.recipe,
            &spec,
            &[],
            input.as_bytes(),
            &mut output,
            &Cancel::new(),
        );
        let report = ran.map_err(|failed| failed.error)?;
        Ok((serde_json::from_slice(&output).unwrap(), report))
    }

    /// The same on the processor and on a device, each with its room.
    fn learn_everywhere(&self, asked: &Value) -> [(Value, Arc<Room>); 2] {
        [Room::new(None), on_a_device()].map(|room| {
            let (told, _) = self.learn(&room, roomy(), asked).unwrap();
            (told, room)
        })
    }
}

fn on_a_device() -> Arc<Room> {
    Arc::new(Room::on(Some(Arc::new(Burn::default())), None))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

fn near(got: f64, want: f64, far: f64) {
    assert!((got - want).abs() <= far, "{got} is not near {want}");
}

fn all_near(got: &[f64], want: &[f64], far: f64) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        near(*got, *want, far);
    }
}

#[test]
fn a_preference_is_learned_from_where_the_reference_is() {
    let beta = 0.5;
    let asked = json!({ "lesson": "preference", "beta": beta });
    for (told, _) in School::new().learn_everywhere(&asked) {
        let references = numbers(&told["references"]);
        let steps = told["steps"].as_array().unwrap();
        // How much more each first text has gained over the base than the second.
        let margins_of = |step: &Value| -> Vec<f64> {
            let texts = numbers(&step["texts"]);
            assert_eq!(texts.len(), references.len());
            let gains = texts.iter().zip(&references).map(|(own, base)| own - base);
            let gains: Vec<f64> = gains.collect();
            gains.chunks(2).map(|pair| pair[0] - pair[1]).collect()
        };
        let mut losses = Vec::new();
        for step in steps {
            let margins = margins_of(step);
            let of_pairs = margins.iter().map(|margin| (-beta * margin).exp().ln_1p());
            let loss = number(&step["loss"]);
            near(loss, of_pairs.sum::<f64>() / margins.len() as f64, 1e-4);
            assert_eq!(step["pairs"], 2);
            losses.push(loss);
        }
        // An adapter that changes nothing yet is the base.
        let (first, last) = (&steps[0], &steps[steps.len() - 1]);
        all_near(&numbers(&first["texts"]), &references, 1e-4);
        near(losses[0], LN_2, 1e-5);
        assert!(losses[losses.len() - 1] < 0.8 * LN_2, "{losses:?}");
        let margins = margins_of(last);
        assert!(margins.iter().all(|margin| *margin > 0.1), "{margins:?}");
        // The base is what it was, whatever was learned.
        all_near(&numbers(&told["references-after"]), &references, 1e-5);
    }
}

#[test]
fn each_clip_holds_on_its_own_side() {
    let weights = [1.0, 0.5, 2.0];
    let (below, above) = (0.1, 0.4);
    let all = |advantage: f64| [advantage; 3];
    // A ratio, advantages, the loss, and whether there is anything to move. With the clips in each
    // other's place the second, the third and the fifth come to something else.
    let cases = [
        (1.0, [2.0, -1.0, 0.5], -(2.0 - 0.5 + 1.0) / 3.5, true),
        (1.25, all(1.0), -1.25, true),
        (1.6, all(1.0), -1.4, false),
        (1.6, all(-1.0), 1.6, true),
        (0.8, all(-1.0), 0.9, false),
        (0.8, all(1.0), -0.8, true),
    ];
    let asked = json!({
        "lesson": "policy",
        "below": below,
        "above": above,
        "weights": weights,
        "cases": cases.map(|(ratio, advantages, ..)| json!([ratio, advantages])),
    });
    for (told, _) in School::new().learn_everywhere(&asked) {
        let told = told["cases"].as_array().unwrap();
        assert_eq!(told.len(), cases.len());
        for (told, (ratio, _, loss, moves)) in told.iter().zip(cases) {
            near(number(&told["loss"]), loss, 1e-4);
            let gradient = number(&told["gradient"]);
            match moves {
                true => assert!(gradient > 1e-3, "{ratio}: {gradient}"),
                false => assert_eq!(gradient, 0.0, "{ratio}"),
            }
        }
    }
}

#[test]
fn what_is_rewarded_becomes_likelier() {
    let asked = json!({ "lesson": "reward", "below": 0.2, "above": 0.2 });
    for (told, _) in School::new().learn_everywhere(&asked) {
        let written = told["written"].as_array().unwrap();
        let good = told["good"].as_u64().unwrap() as usize;
        let same = written.iter().filter(|own| **own == written[good]);
        assert_eq!((written.len(), same.count()), (4, 1), "{told}");
        let (before, after) = (numbers(&told["before"]), numbers(&told["after"]));
        let gains = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after - before);
        let gains: Vec<f64> = gains.collect();
        assert!(gains[good] > 0.1, "{gains:?}");
        for (number, gain) in gains.iter().enumerate() {
            assert!(number == good || *gain < gains[good], "{gains:?}");
        }
    }
}

#[test]
fn a_language_model_learns_to_tell_two_labels_apart() {
    let asked = json!({ "lesson": "classes" });
    for (told, room) in School::new().learn_everywhere(&asked) {
        let losses = numbers(&told["losses"]);
        near(losses[0], LN_2, 0.4);
        assert!(losses[losses.len() - 1] < 0.3, "{losses:?}");
        let held_out = &told["held-out"];
        let labels = numbers(&held_out["labels"]);
        let classes = held_out["classes"].as_array().unwrap();
        assert_eq!((labels.len(), classes.len()), (4, 4));
        let mut sum = 0.0;
        for (logs, label) in classes.iter().zip(labels) {
            let (logs, label) = (numbers(logs), label as usize);
            assert_eq!(logs.len(), 2);
            near(logs.iter().map(|log| log.exp()).sum(), 1.0, 1e-5);
            assert!(logs[label] > logs[1 - label], "{told}");
            sum -= logs[label];
        }
        near(number(&held_out["loss"]), sum / 4.0, 1e-5);
        let saved = room.saved.lock().unwrap();
        assert_eq!(saved[0].classes, ["seven", "eleven"]);
        assert_eq!(saved[0].steps, losses.len() as u64);
    }
}

/// A device's memory is its own: where it has no room for the optimizer's state beside a pass, the
/// state counts as the guest's memory, which has a limit too. The processor has one memory.
#[test]
fn a_state_for_which_a_device_has_no_room_is_the_guests_own_memory() {
    let school = School::new();
    let asked = json!({ "lesson": "tokens", "rank": 256, "steps": 3 });
    let learn = |room: &Arc<Room>, limits: Limits| school.learn(room, limits, &asked);
    let (there, here) = (on_a_device(), Room::new(None));
    let (told, report) = learn(&there, roomy()).unwrap();
    // AdamW's two moments in 32 bits, which are more than all of the guest's linear memory.
    let state = 8 * told["parameters"].as_u64().unwrap();
    assert!(state > report.peak_memory_bytes, "{report:?}");
    let short = |report: &RunReport| Limits {
        device_memory: Some(report.device_bytes_peak - state / 2),
        ..roomy()
    };
    let lacks_memory = |refused: RunError, limits: &Limits| {
        assert!(
            matches!(&refused, RunError::Quota(excess)
                if excess.quota == Quota::DeviceMemory
                    && Some(excess.limit) == limits.device_memory),
            "{refused}"
        );
    };

    // It moves, and what is learned is the same.
    let limits = short(&report);
    let (moved, less) = learn(&there, limits.clone()).unwrap();
    all_near(&numbers(&moved["losses"]), &numbers(&told["losses"]), 1e-5);
    assert!(less.device_bytes_peak <= report.device_bytes_peak - state / 2);
    assert_eq!(less.peak_memory_bytes, report.peak_memory_bytes);

    // A guest that may have no more memory than it has already has none for it.
    let narrow = Limits {
        memory: Some(report.peak_memory_bytes),
        ..limits
    };
    lacks_memory(learn(&there, narrow.clone()).unwrap_err(), &narrow);

    // On the processor there is nowhere to go.
    let (_, report) = learn(&here, roomy()).unwrap();
    let limits = short(&report);
    lacks_memory(learn(&here, limits.clone()).unwrap_err(), &limits);
}
