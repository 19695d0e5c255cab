//! What a node leaves to its owner: it takes no shard while other programs use the machine, and does again
//! once they have ended; and texts of jobs have no more of its time than the owner lets them have.

use std::process::{Child, Command};
use std::thread::available_parallelism;

use super::*;

/// Programs that compute until this is dropped.
struct Busy(Vec<Child>);

impl Busy {
    /// One for each processor.
    fn everywhere() -> Self {
        let begin = |_| {
            let mut program = Command::new("sh");
            program.args(["-c", "while :; do :; done"]).spawn().unwrap()
        };
        let processors = available_parallelism().unwrap().get();
        Self((0..processors).map(begin).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for program in &mut self.0 {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

#[test]
fn a_machine_that_its_owner_uses_takes_no_new_shard_until_it_is_free_again() {
    let setting = Setting::new(10);
    let requester = setting.path("requester");
    let other = Busy::everywhere();
    let a = setting.provider("a", "pause-above = \"80 %\"\n", 1);
    let submit = setting.submit(&[ticket(&a)], &["--shards", "1", "--deadline", "8 s"]);
    let asked = || run(&requester, &submit).unwrap();
    // Seen within some looks; a job that begins before that is done, or comes too late.
    let refused = (0..200).any(|_| asked().stderr.contains("its owner uses the machine"));
    assert!(refused);
    drop(other);
    // What an earlier job left is no sign of this one.
    let _ = fs::remove_file(setting.path("result.jsonl"));
    let done = (0..200).any(|_| asked().code == 0);
    assert!(done);
    setting.assert_right();
}

/// What a node says of its language models: how long they computed for jobs, and stood still after that.
fn time_for_jobs(node: &Node) -> [f64; 2] {
    let status = node.ask(&["node", "status"]).unwrap();
    let time = &status["time_for_jobs"];
    ["computed_seconds", "rested_seconds"].map(|name| time[name].as_f64().unwrap())
}

#[test]
fn texts_of_jobs_have_their_part_of_the_time_and_the_owner_s_all() {
    let setting = Setting::texts(&["It is a truth universally acknowledged, that"]);
    let whole = setting.provider("whole", "", 1);
    let tenth = setting.provider("tenth", "device-share = \"10 %\"\n", 1);
    // The owner's own texts are nobody's part.
    let (input, component) = (setting.text("lines.txt"), Built::component("generate"));
    let own = setting.text("own.txt");
    let component = component.to_str().unwrap();
    tenth
        .ask(&["run", component, "--input", &input, "--output", &own])
        .unwrap();
    assert_eq!(fs::read(&own).unwrap(), setting.expected);
    assert_eq!(time_for_jobs(&tenth), [0.0, 0.0]);
    for (node, rests) in [(&whole, false), (&tenth, true)] {
        // The other node may be known by now, and is not asked.
        let submit = setting.submit(&[ticket(node)], &["--shards", "1", "--only"]);
        ask(&Built::skep(), &setting.path("requester"), &submit).unwrap();
        setting.assert_right();
        let [computed, rested] = time_for_jobs(node);
        assert!(computed > 0.0);
        // Nine times as long as it computes; the rest after the last batch need not be over.
        let is_kept = match rests {
            true => rested > 3.0 * computed,
            false => rested == 0.0,
        };
        assert!(
            is_kept,
            "computed for {computed} s, and rested for {rested} s"
        );
    }
}
