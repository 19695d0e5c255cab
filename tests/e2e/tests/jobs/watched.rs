//! Following a job: in a terminal its shards change where they stand until the job ends, and elsewhere
//! each change is a line.

use super::terminal::Terminal;
use super::*;

/// The shards on a screen: the line that each is in, its number, and its state.
fn shards(lines: &[String]) -> Vec<(usize, u32, &str)> {
    let lines = lines.iter().enumerate();
    let shards = lines.filter_map(|(place, line)| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            ["shard", number, state, ..] => Some((place, number.parse().ok()?, state)),
            _ => None,
        }
    });
    shards.collect()
}

fn count(lines: &[String], state: &str) -> usize {
    let shards = shards(lines);
    shards.iter().filter(|(.., is)| *is == state).count()
}

/// A job of so many shards at two nodes of which neither begins one before its `Occupied` is dropped.
fn stuck(setting: &Setting, shards: &str) -> (Node, [Node; 2], [Occupied; 2], String) {
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let nodes = ["a", "b"].map(|name| setting.provider(name, "", 1));
    let occupied = [0, 1].map(|place: usize| Occupied::new(setting, &nodes[place]));
    let tickets = [ticket(&nodes[0]), ticket(&nodes[1])];
    let submit = setting.submit(&tickets, &["--shards", shards, "--detach"]);
    let job = requester.ask(&submit).unwrap();
    let name = job["job"]["job"].as_str().unwrap().to_owned();
    (requester, nodes, occupied, name)
}

#[test]
fn in_a_terminal_each_shard_goes_from_waiting_to_done_in_its_line() {
    let setting = Setting::new(59);
    let (requester, nodes, [on_a, on_b], name) = stuck(&setting, "12");
    let mut watched = Terminal::run(requester.home(), &["job", "watch", &name], 24, 100);
    // Each of the two has one at work and one that waits there, and none has begun.
    let is_held = |lines: &[String]| count(lines, "running") == 4 && count(lines, "waiting") == 8;
    let held = watched.until(is_held);
    let before = shards(&held);
    let head = format!("job {}: 0 of 12 shards done", &name[..10]);
    assert!(held.contains(&head), "{held:#?}");
    let at = |node: &Node| {
        format!(
            " by {}",
            &account(node.home())["account"].as_str().unwrap()[..10]
        )
    };
    for node in &nodes {
        let its = held.iter().filter(|line| line.ends_with(&at(node)));
        assert_eq!(its.count(), 2, "{held:#?}");
    }
    // What one of them has done is done in the lines where it waited, beside what the other holds.
    drop(on_a);
    let waited = |shard: &(usize, u32, &str)| before.contains(&(shard.0, shard.1, "waiting"));
    let half = watched.until(|lines| {
        let all = shards(lines);
        let mut done = all.iter().filter(|shard| shard.2 == "done");
        // A screen that is half drawn has not all of them.
        all.len() == 12 && done.any(waited) && count(lines, "running") > 0
    });
    let places = |lines: &[String]| shards(lines).iter().map(|s| (s.0, s.1)).collect::<Vec<_>>();
    assert_eq!(places(&half), places(&held));
    assert!(watched.height() <= 14, "{half:#?}");
    drop(on_b);
    let (code, end) = watched.end();
    assert_eq!(code, Some(0), "{end:#?}");
    let done = format!("job {name} done, 12 of 12 shards done");
    assert!(end.contains(&done), "{end:#?}");
    // Of what was drawn nothing is left; what became of the job stands in its place.
    assert!(!end.iter().any(|line| line.contains('[')), "{end:#?}");
    setting.assert_right();
}

#[test]
fn in_a_terminal_that_is_too_low_those_at_work_are_seen() {
    let setting = Setting::new(59);
    let (requester, _nodes, _occupied, name) = stuck(&setting, "30");
    let mut watched = Terminal::run(requester.home(), &["job", "watch", &name], 10, 60);
    let rest = "  and 23 more: 23 waiting";
    let held = watched.until(|lines| {
        let is_counted = lines.iter().any(|line| line == rest);
        is_counted && count(lines, "running") == 4
    });
    assert_eq!(count(&held, "waiting"), 3, "{held:#?}");
    assert!(watched.height() <= 10, "{held:#?}");
    // Who stops a job ends the watching of it, with its reason.
    requester.ask(&["job", "cancel", &name]).unwrap();
    let (code, end) = watched.end();
    assert_eq!(code, Some(1), "{end:#?}");
    let why = format!("error: job {}: ", &name[..10]);
    assert!(end.iter().any(|line| line.starts_with(&why)), "{end:#?}");
}

#[test]
fn elsewhere_each_change_is_a_line_of_words_and_of_json() {
    let setting = Setting::new(59);
    let (requester, _nodes, occupied, name) = stuck(&setting, "6");
    let watch = ["job", "watch", &name].map(str::to_owned);
    let mut following = Following::start(requester.home(), &watch);
    following.until_said(": waiting");
    drop(occupied);
    let (said, mut printed) = following.end_with_all();
    let begin = format!("job {} shard ", &name[..10]);
    for line in &said {
        let told = line.strip_prefix(&begin);
        let (shard, state) = told.and_then(|told| told.split_once(": ")).unwrap();
        assert!(shard.parse::<u32>().unwrap() < 6, "{line}");
        let state = state.split(' ').next().unwrap();
        assert!(["waiting", "running", "done"].contains(&state), "{line}");
    }
    let done = said.iter().filter(|line| line.contains(": done by "));
    assert_eq!(done.count(), 6, "{said:#?}");
    // The same as JSON, and the job itself at the end.
    let job = printed.pop().unwrap();
    assert_eq!(job["job"]["state"], "done");
    let order = ["waiting", "running", "done"];
    for shard in 0..6 {
        let lines = printed.iter().filter(|line| line["shard"] == shard);
        let states: Vec<usize> = lines
            .map(|line| {
                assert_eq!(line["job"], *name);
                assert!(micro(line, "records_done") <= micro(line, "records"));
                let state = line["state"].as_str().unwrap();
                order.iter().position(|known| *known == state).unwrap()
            })
            .collect();
        assert!(states.is_sorted(), "{printed:#?}");
        assert_eq!(states.last(), Some(&2), "{printed:#?}");
    }
    assert!(printed.iter().any(|line| line["state"] == "waiting"));
    // Once it is over there is nothing to follow, and nothing that a terminal would take.
    let again = run(requester.home(), &["job", "watch", &name]).unwrap();
    assert_eq!((again.code, again.stderr.as_str()), (0, ""));
    let first = format!("job {name} done, 6 of 6 shards done\n");
    assert!(again.stdout.starts_with(&first), "{}", again.stdout);
    assert!(!again.stdout.contains('\u{1b}'), "{:?}", again.stdout);
}
