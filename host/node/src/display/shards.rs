//! The shards of a job while it is worked on: a line for each, drawn in place, or plain lines where
//! nobody looks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::Duration;

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::jobs::{named, short};
use crate::requests::Progress;
use crate::requests::jobs::{ShardLine, ShardStep};

/// How many signs long a shard's bar is.
const BAR: usize = 20;

/// Those of the job that is followed.
#[derive(Default)]
pub struct ShardBars {
    view: View,
    drawn: Option<ProgressBar>,
    /// What was last said of each shard.
    said: BTreeMap<u32, String>,
    /// What was last said that the job waits for.
    waits: Option<String>,
}

impl ShardBars {
    /// Shows what became of a shard: `step` in words, `shard` in full.
    pub fn show(&mut self, step: &Progress, shard: &ShardStep) {
        if !std::io::stderr().is_terminal() {
            if self.said.get(&shard.line.shard) != Some(&step.stage) {
                tell_error!("{}", step.stage);
                self.said.insert(shard.line.shard, step.stage.clone());
            }
            if let Some(waits) = &shard.waits
                && self.waits.as_ref() != Some(waits)
            {
                let job = short(&shard.job);
                tell_error!("job {job} waits: {waits}");
                if self.waits.is_none() {
                    tell_error!(
                        "job {job} waits until its deadline; Ctrl-C leaves it, and `skep job cancel {job}` stops it"
                    );
                }
                self.waits = Some(waits.clone());
            }
            return;
        }
        self.view.put(shard);
        let (height, width) = Term::stderr().size();
        let frame = self.view.frame(height.into(), width.into());
        let drawn = self.drawn.get_or_insert_with(|| {
            let target = ProgressDrawTarget::stderr_with_hz(10);
            let bar = ProgressBar::with_draw_target(None, target);
            // The template is a constant, so that a wrong one would show in every run.
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            // Draws what came too soon after what was drawn before.
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        drawn.set_message(frame.join("\n"));
    }

    /// Takes what was drawn away.
    pub fn finish(&mut self) {
        if let Some(drawn) = self.drawn.take() {
            drawn.finish_and_clear();
        }
    }
}

/// What is known of a job's shards.
#[derive(Default)]
struct View {
    job: String,
    waits: Option<String>,
    lines: BTreeMap<u32, ShardLine>,
    /// Their numbers by what they are in: at work, waiting, done. Where not all have room, those that come
    /// first have.
    kinds: [BTreeSet<u32>; 3],
}

/// What there is of each kind.
const KINDS: [&str; 3] = ["at work", "waiting", "done"];

fn kind(state: &str) -> usize {
    match state {
        "running" | "audited" => 0,
        "done" => 2,
        _ => 1,
    }
}

impl View {
    fn put(&mut self, step: &ShardStep) {
        let line = &step.line;
        self.job.clone_from(&step.job);
        self.waits.clone_from(&step.waits);
        if let Some(before) = self.lines.insert(line.shard, line.clone()) {
            self.kinds[kind(&before.state)].remove(&line.shard);
        }
        self.kinds[kind(&line.state)].insert(line.shard);
    }

    /// What a terminal of this size shows, line by line: the shards in their order, and how many more
    /// there are of which kind.
    fn frame(&self, height: usize, width: usize) -> Vec<String> {
        let all = self.lines.len();
        let done = self.kinds[2].len();
        let job = short(&self.job);
        let waits = self.waits.as_ref().map_or_else(String::new, |waits| {
            // One line is one line, whatever a node has said.
            format!(", waits: {}", waits.replace(char::is_control, " "))
        });
        let mut frame = vec![format!("job {job}: {done} of {all} shards done{waits}")];
        // One line is the cursor's.
        let room = height.saturating_sub(frame.len() + 1);
        let rows = match all <= room {
            true => all,
            false => room.saturating_sub(1),
        };
        let first = self.kinds.iter().flatten().take(rows);
        let shown: BTreeSet<u32> = first.copied().collect();
        frame.extend(shown.iter().filter_map(|number| {
            let line = self.lines.get(number)?;
            Some(row(line))
        }));
        if room > rows && all > rows {
            let mut left = rows;
            let hidden = self.kinds.iter().zip(KINDS).filter_map(|(those, name)| {
                let seen = those.len().min(left);
                left -= seen;
                let more = those.len() - seen;
                (more > 0).then(|| format!("{more} {name}"))
            });
            let hidden: Vec<String> = hidden.collect();
            frame.push(format!("  and {} more: {}", all - rows, hidden.join(", ")));
        }
        // A line that is broken would take the room of two.
        let cut = |line: String| -> String { line.chars().take(width).collect() };
        frame.into_iter().map(cut).collect()
    }
}

fn row(line: &ShardLine) -> String {
    let who: Vec<String> = line.providers.iter().map(|who| named(line, who)).collect();
    let by = match who.is_empty() {
        true => String::new(),
        false => format!(" by {}", who.join(" and ")),
    };
    let (done, all) = (line.records_done, line.records);
    let part = done.saturating_mul(BAR as u64) / all.max(1);
    let filled = usize::try_from(part).unwrap_or(BAR).min(BAR);
    let bar = "=".repeat(filled);
    format!(
        "  shard {:<4} {:<7} [{bar:<BAR$}] {done}/{all}{by}",
        line.shard, line.state
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(shard: u32, state: &str, records_done: u64) -> ShardLine {
        let providers = match state {
            "waiting" => Vec::new(),
            _ => vec!["0123456789abcdef".to_owned()],
        };
        ShardLine {
            shard,
            state: state.to_owned(),
            providers,
            outvoted: Vec::new(),
            audits: Vec::new(),
            attested: Vec::new(),
            leases: 1,
            records: 40,
            records_done,
        }
    }

    fn view(lines: impl IntoIterator<Item = ShardLine>) -> View {
        let mut view = View::default();
        for line in lines {
            let job = "fedcba9876543210".to_owned();
            let waits = None;
            view.put(&ShardStep { job, line, waits });
        }
        view
    }

    #[test]
    fn each_shard_has_a_line_in_its_place() {
        let mut view = view([
            line(0, "done", 40),
            line(1, "running", 10),
            line(2, "audited", 40),
            line(10, "waiting", 0),
        ]);
        let expected = [
            "job fedcba9876: 1 of 4 shards done",
            "  shard 0    done    [====================] 40/40 by 0123456789",
            "  shard 1    running [=====               ] 10/40 by 0123456789",
            "  shard 2    audited [====================] 40/40 by 0123456789",
            "  shard 10   waiting [                    ] 0/40",
        ];
        assert_eq!(view.frame(24, 80), expected);
        // What changes changes where it is.
        let step = |line| ShardStep {
            job: view.job.clone(),
            line,
            waits: None,
        };
        let (begun, done) = (step(line(10, "running", 0)), step(line(1, "done", 40)));
        view.put(&begun);
        view.put(&done);
        let frame = view.frame(24, 80);
        assert_eq!(frame[0], "job fedcba9876: 2 of 4 shards done");
        assert_eq!(
            frame[2],
            "  shard 1    done    [====================] 40/40 by 0123456789"
        );
        assert_eq!(
            frame[4],
            "  shard 10   running [                    ] 0/40 by 0123456789"
        );
        assert_eq!([&*frame[1], &*frame[3]], [expected[1], expected[3]]);
    }

    #[test]
    fn what_a_job_waits_for_is_seen_until_somebody_works_on_it() {
        let mut view = view([line(0, "waiting", 0)]);
        let step = |state, waits: Option<&str>| ShardStep {
            job: "fedcba9876543210".to_owned(),
            line: line(0, state, 0),
            waits: waits.map(str::to_owned),
        };
        view.put(&step("waiting", Some("no node takes it:\nit has gone")));
        let expected = "job fedcba9876: 0 of 1 shards done, waits: no node takes it: it has gone";
        assert_eq!(view.frame(24, 80)[0], expected);
        assert_eq!(view.frame(24, 30)[0], expected[..30]);
        view.put(&step("running", None));
        assert_eq!(view.frame(24, 80)[0], "job fedcba9876: 0 of 1 shards done");
    }

    #[test]
    fn a_line_is_no_wider_than_the_terminal() {
        let view = view([line(0, "running", 40), line(1, "waiting", 0)]);
        for width in [0, 1, 20, 45, 200] {
            let frame = view.frame(24, width);
            assert_eq!(frame.len(), 3, "{width}");
            let widths = frame.iter().map(|line| line.chars().count());
            assert!(widths.max() <= Some(width), "{width}: {frame:?}");
        }
        assert_eq!(view.frame(24, 20)[1], "  shard 0    running");
    }

    #[test]
    fn of_a_thousand_shards_those_at_work_are_seen_and_the_others_counted() {
        let state = |shard| match shard {
            500..700 => "done",
            // Among those that wait and after them.
            700 | 702 | 999 => "running",
            _ => "waiting",
        };
        let view = view((0..1_000).map(|shard| line(shard, state(shard), 0)));
        let frame = view.frame(24, 80);
        // With the cursor's line they are as many as the terminal has.
        assert_eq!(frame.len(), 23);
        assert_eq!(frame[0], "job fedcba9876: 200 of 1000 shards done");
        for (place, number) in [(19, 700), (20, 702), (21, 999)] {
            let begins = format!("  shard {number:<4} running ");
            assert!(frame[place].starts_with(&begins), "{frame:?}");
        }
        for (place, line) in frame[1..19].iter().enumerate() {
            let begins = format!("  shard {place:<4} waiting ");
            assert!(line.starts_with(&begins), "{frame:?}");
        }
        assert_eq!(frame[22], "  and 979 more: 779 waiting, 200 done");
    }

    #[test]
    fn a_terminal_that_has_no_room_gets_no_more_than_it_has() {
        let view = view((0..9).map(|shard| line(shard, "running", 0)));
        assert_eq!(view.frame(11, 80).len(), 10, "all of them");
        let frame = view.frame(10, 80);
        assert_eq!(frame.len(), 9);
        assert_eq!(frame[8], "  and 2 more: 2 at work");
        assert_eq!(view.frame(3, 80)[1], "  and 9 more: 9 at work");
        for height in [0, 1, 2] {
            let frame = view.frame(height, 80);
            assert_eq!(frame, ["job fedcba9876: 0 of 9 shards done"], "{height}");
        }
    }

    #[test]
    fn a_job_without_records_has_a_bar_too() {
        let empty = ShardLine {
            records: 0,
            ..line(0, "done", 0)
        };
        let frame = view([empty]).frame(24, 80);
        let expected = "  shard 0    done    [                    ] 0/0 by 0123456789";
        assert_eq!(frame[1], expected);
    }
}
