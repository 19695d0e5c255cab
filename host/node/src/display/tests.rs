//! The bar of a training, drawn on a screen of the test's own, and what is said of a run.

use std::sync::{Arc, Mutex};

use indicatif::TermLike;

use super::*;

/// Keeps what was drawn last.
#[derive(Clone, Debug, Default)]
struct Screen(Arc<Mutex<String>>);

impl TermLike for Screen {
    fn width(&self) -> u16 {
        200
    }

    fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> std::io::Result<()> {
        self.write_str(text)
    }

    /// A line comes whole, and the blanks that fill it after it.
    fn write_str(&self, text: &str) -> std::io::Result<()> {
        if !text.trim().is_empty() {
            *self.0.lock().unwrap() = text.trim().to_owned();
        }
        Ok(())
    }

    fn clear_line(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

fn step(done: u64, total: Option<u64>, loss: Option<f64>, rate: Option<f64>) -> Progress {
    Progress {
        stage: "training".to_owned(),
        done,
        total,
        unit: Unit::Steps,
        training: Some(TrainingStep {
            step: done,
            steps: total.unwrap_or_default(),
            loss,
            held_out_loss: None,
            learning_rate: 0.01,
            tokens: 100 * done,
            tokens_per_s: rate,
        }),
        shard: None,
    }
}

#[test]
fn a_trainings_bar_tells_loss_speed_and_the_time_that_is_left() {
    let screen = Screen::default();
    let begun = step(0, Some(40), None, None);
    let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
    let bar = bar(&begun, target);
    let shown = |step: &Progress| {
        advance(&bar, step);
        screen.0.lock().unwrap().clone()
    };
    // Before the first step there is nothing to tell but what is done.
    let drawn = shown(&begun);
    assert!(drawn.starts_with("training ["), "{drawn}");
    assert!(drawn.contains("] 0/40 steps "), "{drawn}");

    let drawn = shown(&step(10, Some(40), Some(1.25), Some(1234.4)));
    assert!(
        drawn.starts_with("loss 1.250, 1234 tokens/s [=======>   "),
        "{drawn}"
    );
    let (_, left) = drawn.split_once("] 10/40 steps ").unwrap();
    let (time, rest) = left.split_once(' ').unwrap();
    assert!(
        time.starts_with(|letter: char| letter.is_ascii_digit()),
        "{drawn}"
    );
    assert_eq!(rest, "left", "{drawn}");

    // Where no time has passed there is no speed yet; at the end there is no time left.
    let drawn = shown(&step(40, Some(40), Some(0.5), None));
    assert!(drawn.starts_with("loss 0.500 ["), "{drawn}");
    assert!(drawn.ends_with("] 40/40 steps 0s left"), "{drawn}");
}

#[test]
fn a_training_of_unknown_length_tells_its_steps() {
    let screen = Screen::default();
    let one = step(3, None, Some(2.0), Some(10.0));
    let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
    let bar = bar(&one, target);
    advance(&bar, &one);
    let drawn = screen.0.lock().unwrap().clone();
    assert!(drawn.starts_with("loss 2.000, 10 tokens/s "), "{drawn}");
    assert!(drawn.ends_with(" 3 steps"), "{drawn}");
}

#[test]
fn a_search_for_nodes_tells_how_many_were_found_so_far() {
    let screen = Screen::default();
    let two = Progress {
        stage: "looking for nodes".to_owned(),
        unit: Unit::Nodes,
        training: None,
        ..step(2, None, None, None)
    };
    let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
    let bar = bar(&two, target);
    advance(&bar, &two);
    // Between two ticks nothing is drawn of itself.
    bar.force_draw();
    let drawn = screen.0.lock().unwrap().clone();
    assert!(drawn.starts_with("looking for nodes "), "{drawn}");
    assert!(drawn.ends_with(" 2 found so far"), "{drawn}");
}

#[test]
fn records_are_told_of_a_run_that_had_some() {
    let report = |records: u64, errors: u64| {
        serde_json::json!({
            "records": records, "errors": errors, "records_per_s": 1999.6, "seconds": 2.004
        })
    };
    let told = |records, errors| pace(&report(records, errors)).unwrap();
    assert_eq!(
        told(4000, 8),
        "  records   4000 (8 with errors), 2000 records/s, 2.00 s"
    );
    assert_eq!(
        told(0, 1),
        "  records   0 (1 with errors), 2000 records/s, 2.00 s"
    );
    // A task has none, and still took its time.
    assert_eq!(told(0, 0), "  took      2.00 s");
}
