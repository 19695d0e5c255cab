//! Jobs over real node processes on loopback: the right result, whoever dies, refuses or lies, and
//! every credit where it belongs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "jobs/able.rs"]
mod able;
#[path = "jobs/adapters.rs"]
mod adapters;
#[path = "jobs/audits.rs"]
mod audits;
#[path = "language/cheaper.rs"]
mod cheaper;
#[path = "jobs/cheats.rs"]
mod cheats;
#[path = "jobs/chosen.rs"]
mod chosen;
#[path = "language/coarse.rs"]
mod coarse;
#[path = "jobs/colluders.rs"]
mod colluders;
#[path = "jobs/drawn.rs"]
mod drawn;
#[path = "jobs/encoders.rs"]
mod encoders;
#[path = "jobs/followed.rs"]
mod followed;
#[path = "jobs/found.rs"]
mod found;
#[path = "jobs/grants.rs"]
mod grants;
#[path = "jobs/greedy.rs"]
mod greedy;
#[path = "jobs/guests.rs"]
mod guests;
#[path = "jobs/killed.rs"]
mod killed;
#[path = "jobs/killed_often.rs"]
mod killed_often;
#[path = "jobs/left.rs"]
mod left;
#[path = "jobs/leisure.rs"]
mod leisure;
#[path = "jobs/odd.rs"]
mod odd;
#[path = "jobs/operator.rs"]
mod operator;
#[path = "jobs/passed_on.rs"]
mod passed_on;
mod peers;
#[path = "jobs/placed.rs"]
mod placed;
#[allow(dead_code, reason = "no cable is cut here, and no disk filled")]
mod places;
#[path = "jobs/residence.rs"]
mod residence;
#[path = "jobs/restarted.rs"]
mod restarted;
#[path = "language/served.rs"]
mod served;
mod setting;
#[path = "jobs/settled.rs"]
mod settled;
#[path = "language/shown.rs"]
mod shown;
#[path = "jobs/telling.rs"]
mod telling;
#[path = "jobs/terminal.rs"]
mod terminal;
#[path = "jobs/texts.rs"]
mod texts;
#[path = "jobs/verifiers.rs"]
mod verifiers;
#[path = "jobs/watched.rs"]
mod watched;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use left::{Apart, Pieces};
use peers::{Liar, Stranger};
use serde_json::Value;
use setting::{
    Following, Occupied, Setting, account, assert_conserved, configure, configure_with, micro,
    ticket,
};
use skep_market::Refusal;
use skep_tests::{Built, Node, ask, run};

#[test]
fn three_nodes_make_what_one_makes_and_keep_nothing_but_what_they_earned() {
    let setting = Setting::new(300);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let names = ["a", "b", "c"];
    let aparts = names.map(|name| Apart::new(setting.folder.path(), name));
    let providers =
        [0_usize, 1, 2].map(|at| setting.provider_by(aparts[at].skep(), names[at], "", 2));
    let tickets: Vec<&str> = providers.iter().map(ticket).collect();
    // A shard for each: nobody has two, and before the last nobody is late.
    let each = requester
        .ask(&setting.submit(&tickets, &["--shards", "3"]))
        .unwrap();
    setting.assert_right();
    let shards = each["job"]["shards"].as_array().unwrap();
    let whose = shards
        .iter()
        .flat_map(|shard| shard["providers"].as_array().unwrap());
    let whose: BTreeSet<&str> = whose.map(|account| account.as_str().unwrap()).collect();
    assert_eq!((shards.len(), whose.len()), (3, 3), "{shards:?}");
    let job = requester
        .ask(&setting.submit(&tickets, &["--shards", "9"]))
        .unwrap();
    setting.assert_right();
    let job = &job["job"];
    assert_eq!(job["state"], "done");
    assert_eq!(job["finished"], 9);
    let shards = job["shards"].as_array().unwrap();
    assert!(shards.iter().all(|shard| shard["state"] == "done"));

    let homes: Vec<&Path> = providers.iter().map(Node::home).collect();
    let spent = micro(&each["job"], "spent_micro") + micro(job, "spent_micro");
    let earned = assert_conserved(requester.home(), &homes, spent);
    assert!(earned.iter().all(|earned| *earned > 0), "{earned:?}");

    // The same answer whenever it is asked for, and the result wherever it is wanted.
    let name = job["job"].as_str().unwrap();
    let again = requester.ask(&["job", "watch", &name[..12]]).unwrap();
    assert_eq!(&again["job"], job);
    let copy = setting.text("copy.jsonl");
    requester
        .ask(&["job", "result", name, "--output", &copy])
        .unwrap();
    assert_eq!(fs::read(copy).unwrap(), setting.expected);
    let all = requester.ask(&["job", "status"]).unwrap();
    let listed = &all["jobs"][0];
    assert_eq!(listed["job"], *name);
    assert_eq!(
        (&listed["finished"], &listed["total"], &listed["shards"]),
        (&9.into(), &9.into(), &serde_json::json!([]))
    );
    // The newest first, each with what it is of.
    let told = run(requester.home(), &["job", "status"]).unwrap().stdout;
    let line = format!(
        "job {name} done, 9 of 9 shards done, of {}\n",
        setting.package
    );
    assert!(told.starts_with(&line), "{told}");
    assert!(told.contains(" done, 3 of 3 shards done, of "), "{told}");

    // No piece of a ticket, of a label's text or of a result is anywhere on a provider's disk, but for what
    // the package says itself.
    let tickets = skep_tickets::tickets(11, 300);
    let labels = skep_tickets::labels(11, 8);
    let labels = labels.iter().flat_map(|label| {
        let examples = label.examples.iter().map(String::as_str);
        examples.chain([label.description.as_str()])
    });
    let results = std::str::from_utf8(&setting.expected).unwrap();
    let package = setting.path("package");
    for (what, pieces) in [
        (
            "input",
            Pieces::of(tickets.iter().map(|ticket| ticket.text.as_str()), &package),
        ),
        ("labels", Pieces::of(labels, &package)),
        ("output", Pieces::of(results.lines(), &package)),
    ] {
        assert!(pieces.count() > 50, "{what}: {}", pieces.count());
        assert!(
            pieces.found_in(requester.home()).is_some(),
            "the search finds what is there of the {what}"
        );
        let places = homes
            .iter()
            .copied()
            .chain(aparts.iter().map(Apart::folder));
        for place in places {
            assert_eq!(pieces.found_in(place), None, "{what}");
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let nested = entries.flat_map(|path| match path.is_dir() {
        true => files(&path),
        false => vec![path],
    });
    nested.filter(|path| path.is_file()).collect()
}

fn holds(file: &Path, text: &[u8]) -> bool {
    let bytes = fs::read(file).unwrap();
    bytes.windows(text.len()).any(|window| window == text)
}

#[test]
fn a_provider_that_dies_in_the_middle_loses_its_shard_to_another() {
    let setting = Setting::new(60);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, c) = (setting.provider("a", "", 2), setting.provider("c", "", 1));
    // Of three shards one is c's, which it holds and cannot begin.
    let occupied = Occupied::new(&setting, &c);
    let submit = setting.submit(&[ticket(&a), ticket(&c)], &["--shards", "3"]);
    let mut following = Following::start(requester.home(), &submit);
    following.until_done(2);
    let home = c.home().to_path_buf();
    c.kill().unwrap();
    drop(occupied);
    let job = following.end();
    setting.assert_right();
    let job = &job["job"];
    let mut leases: Vec<u64> = job["shards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shard| micro(shard, "leases"))
        .collect();
    leases.sort_unstable();
    assert_eq!(leases, [1, 1, 2], "the shard moved, and no other did");
    let spent = micro(job, "spent_micro");
    let earned = assert_conserved(requester.home(), &[a.home(), &home], spent);
    assert_eq!(earned[1], 0);
}

#[test]
fn a_requester_that_is_killed_goes_on_where_it_was_and_pays_once() {
    let setting = Setting::new(60);
    let requester = setting.path("requester");
    let (a, c) = (setting.provider("a", "", 2), setting.provider("c", "", 1));
    let occupied = Occupied::new(&setting, &c);
    let submit = setting.submit(&[ticket(&a), ticket(&c)], &["--shards", "3"]);
    // No node runs here: the command itself is the requester.
    let mut following = Following::start(&requester, &submit);
    let name = following.until_done(2);
    following.kill();
    let home = |arguments: &[&str]| ask(&Built::skep(), &requester, arguments).unwrap();
    let paused = home(&["job", "status", &name]);
    assert_eq!(paused["job"]["state"], "paused");
    assert_eq!(paused["job"]["finished"], 2);
    assert!(!setting.path("result.jsonl").exists());
    drop(occupied);

    let job = home(&["job", "watch", &name]);
    setting.assert_right();
    let job = &job["job"];
    for (before, after) in paused["job"]["shards"]
        .as_array()
        .unwrap()
        .iter()
        .zip(job["shards"].as_array().unwrap())
    {
        assert_eq!(
            after["leases"], 1,
            "each lease was sent again, and none made anew"
        );
        if before["state"] == "done" {
            assert_eq!(before, after);
        }
    }
    let spent = micro(job, "spent_micro");
    let earned = assert_conserved(&requester, &[a.home(), c.home()], spent);
    assert!(earned.iter().all(|earned| *earned > 0));
    assert_eq!(micro(&account(a.home()), "receipts"), 2);
    assert_eq!(micro(&account(c.home()), "receipts"), 1);
    // Once more changes nothing.
    assert_eq!(&home(&["job", "watch", &name])["job"], job);
    assert_conserved(&requester, &[a.home(), c.home()], spent);
}

#[test]
fn an_owner_s_policy_is_kept_and_its_reason_told() {
    let setting = Setting::new(40);
    let requester = setting.path("requester");
    run(&requester, &["key", "new", "other"]).unwrap();
    let keys = ask(&Built::skep(), &requester, &["key", "list"]).unwrap();
    let other = keys["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["publisher"].as_str().unwrap())
        .find(|publisher| *publisher != setting.publisher)
        .unwrap();
    let choosy = setting.provider("choosy", &format!("publishers = [\"{other}\"]\n"), 1);
    let narrow = setting.provider("narrow", "worlds = [\"task\"]\n", 1);
    let small = setting.provider("small", "largest-input = \"1 KiB\"\n", 1);
    // Neither now nor in the minute that may come before the node is asked.
    let now = chrono::Local::now();
    let away = |minutes| (now + chrono::Duration::minutes(minutes)).format("%H:%M");
    let hours = format!("hours = [\"{}-{}\"]\n", away(60), away(120));
    let asleep = setting.provider("asleep", &hours, 1);
    // Its owner sees why nobody gets a place there.
    let status = asleep.ask(&["node", "status"]).unwrap();
    let closed = status["closed"].as_str().unwrap();
    assert!(
        closed.starts_with("`hours` lets shards begin at "),
        "{closed}"
    );
    configure(&setting.path("idle"), "");
    let idle = Node::start(&Built::skep(), &setting.path("idle")).unwrap();
    let dear = setting.provider("dear", "price-per-teraflop = \"1000\"\n", 1);
    for (node, reason) in [
        (&choosy, "does not run packages of this publisher"),
        (
            &narrow,
            "does not run packages of the world `batch-classifier`",
        ),
        (&small, "and it takes at most 1024; make more shards"),
        (&asleep, "its owner lets in jobs only at"),
        (&idle, "it takes no jobs"),
    ] {
        let submit = setting.submit(&[ticket(node)], &["--shards", "2"]);
        let ended = run(&requester, &submit).unwrap();
        assert_eq!(ended.code, 5, "{}", ended.stderr);
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    }
    let leaves =
        "--max-price of 1 credits leaves 0.5 for each of 2 leases, and nodes ask for 1000.";
    // Where all ask for more than the job may cost, it is not begun if it is wanted at once, and what it would take is
    // told. Otherwise it waits for one that asks for less until its deadline.
    let patient = ["--shards", "2", "--deadline", "1 s"];
    let ended = run(&requester, &setting.submit(&[ticket(&dear)], &patient)).unwrap();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains(leaves), "{}", ended.stderr);
    let submit = setting.submit(&[ticket(&dear)], &["--shards", "2", "--now"]);
    let ended = run(&requester, &submit).unwrap();
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert!(ended.stderr.contains(leaves), "{}", ended.stderr);
    // Who has nothing to spend is told before anybody is asked.
    let submit = setting.submit(&[ticket(&dear)], &["--max-price", "3"]);
    let ended = run(&requester, &submit).unwrap();
    assert_eq!(ended.code, 3);
    assert!(
        ended.stderr.contains("skep account add"),
        "{}",
        ended.stderr
    );
    let none: [&Path; 0] = [];
    assert_conserved(&requester, &none, 0);
}

#[test]
fn a_provider_that_lies_is_outvoted_by_a_third_and_not_paid() {
    let setting = Setting::new(60);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    // It is free and says that it is ready, so that it is asked first.
    let liar = Liar::start(&setting.path("liar"));
    let tickets = [ticket(&a), ticket(&b), &liar.ticket];
    let more = ["--shards", "2", "--replicas", "2"];
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();
    let job = &job["job"];
    let shards = job["shards"].as_array().unwrap();
    let outvoted = shards
        .iter()
        .flat_map(|shard| shard["outvoted"].as_array().unwrap());
    let outvoted: Vec<&Value> = outvoted.collect();
    assert!(!outvoted.is_empty(), "{job}");
    assert!(outvoted.iter().all(|account| **account == *liar.account));
    assert_eq!(liar.paid.load(Ordering::SeqCst), 0, "a lie was paid for");
    for shard in shards {
        assert_eq!(shard["providers"].as_array().unwrap().len(), 2, "{shard}");
    }
    let mut spent = micro(job, "spent_micro");
    let earned = assert_conserved(requester.home(), &[a.home(), b.home()], spent);
    assert!(earned.iter().all(|earned| *earned > 0));
    // The next process remembers it, and does not ask the liar again.
    drop(requester);
    let requester = setting.path("requester");
    let more = ["--shards", "2"];
    let again = ask(&Built::skep(), &requester, &setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();
    for shard in again["job"]["shards"].as_array().unwrap() {
        assert_eq!(shard["leases"], 1, "{shard}");
        assert!(
            !shard["providers"]
                .as_array()
                .unwrap()
                .contains(&liar.account.as_str().into())
        );
    }
    spent += micro(&again["job"], "spent_micro");
    assert_conserved(&requester, &[a.home(), b.home()], spent);
}

#[test]
fn a_csv_input_is_cut_between_its_records_and_gives_what_a_local_run_gives() {
    let mut setting = Setting::new(1);
    let rows = (0..40).map(|n| match n % 8 {
        3 => format!("{n},\"charged twice,\nand \"\"angry\"\"\n\nabout it\"\n"),
        5 => format!("{n},too,many\n"),
        6 => format!("{n},\"never closed\n"),
        7 => "\n,where is my parcel\n".to_owned(),
        _ => format!("{n},the app crashes\r\n"),
    });
    let text = format!("\u{feff}\nid,text\n{}", rows.collect::<String>());
    fs::write(setting.path("tickets.csv"), text).unwrap();
    let requester = setting.path("requester");
    let files = ["tickets.csv", "labels.json", "expected.jsonl"].map(|name| setting.text(name));
    let [input, labels, output] = files.each_ref().map(String::as_str);
    let local = [
        "run",
        "batch-classifier",
        "--input",
        input,
        "--labels",
        labels,
    ];
    ask(
        &Built::skep(),
        &requester,
        &[&local[..], &["--output", output]].concat(),
    )
    .unwrap();
    setting.expected = fs::read(output).unwrap();
    assert!(setting.expected.len() > 1_000);
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    let mut submit = setting.submit(&[ticket(&a), ticket(&b)], &["--shards", "7"]);
    let place = submit
        .iter()
        .position(|word| word.ends_with("tickets.jsonl"));
    submit[place.unwrap()] = input.to_owned();
    let job = ask(&Built::skep(), &requester, &submit).unwrap();
    setting.assert_right();
    assert!(job["job"]["shards"].as_array().unwrap().len() > 3);
}

#[test]
fn nodes_that_take_the_work_are_found_by_what_another_node_has_heard() {
    let setting = Setting::new(20);
    configure(&setting.path("between"), "");
    let between = Node::start(&Built::skep(), &setting.path("between")).unwrap();
    let peers = format!("peers = [\"{}\"]\n", ticket(&between));
    configure_with(&setting.path("a"), "", &peers, "[jobs]\naccept = true\n");
    let a = Node::start(&Built::skep(), &setting.path("a")).unwrap();
    let begun = Instant::now();
    while between.ask(&["node", "status"]).unwrap()["heard_of"] != 1 {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "nobody was heard of"
        );
    }
    // No provider is named, and the requester knows one node, which takes no jobs.
    let requester = setting.path("requester");
    configure_with(&requester, "", &peers, "");
    let submit = setting.submit(&[], &["--shards", "2"]);
    let job = ask(&Built::skep(), &requester, &submit).unwrap();
    setting.assert_right();
    let spent = micro(&job["job"], "spent_micro");
    let earned = assert_conserved(&requester, &[a.home()], spent);
    assert!(earned[0] > 0);
}

#[test]
fn a_job_that_is_cancelled_gives_back_what_it_did_not_spend() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let c = setting.provider("c", "", 1);
    let _occupied = Occupied::new(&setting, &c);
    let submit = setting.submit(&[ticket(&c)], &["--shards", "2", "--detach"]);
    let begun = requester.ask(&submit).unwrap();
    let name = begun["job"]["job"].as_str().unwrap();
    let held = account(requester.home());
    assert_eq!(
        micro(&held, "escrowed_micro") + micro(&held, "available_micro"),
        2_000_000
    );
    let cancelled = requester.ask(&["job", "cancel", name]).unwrap();
    assert_eq!(cancelled["job"]["state"], "failed");
    assert_eq!(cancelled["job"]["reason"], "the job was cancelled");
    assert_conserved(requester.home(), &[c.home()], 0);
    let copy = setting.text("copy.jsonl");
    let none = run(
        requester.home(),
        &["job", "result", name, "--output", &copy],
    )
    .unwrap();
    assert_eq!(none.code, 5);
}

#[test]
fn nonsense_and_greed_get_an_answer_and_nothing_else() {
    let setting = Setting::new(10);
    let a = setting.provider("a", "", 1);
    let stranger = Stranger::start(&setting.path("stranger"), ticket(&a));
    assert_eq!(stranger.sends(&[0xff; 100]), Refusal::Malformed);
    assert_eq!(stranger.sends(b""), Refusal::Malformed);
    assert!(matches!(
        stranger.offers(u64::MAX),
        Refusal::InputTooLarge {
            bytes: u64::MAX,
            ..
        }
    ));
    assert!(matches!(stranger.settles(), Refusal::Lease(_)));
    // It goes on as before.
    let requester = setting.path("requester");
    let submit = setting.submit(&[ticket(&a)], &["--shards", "1"]);
    ask(&Built::skep(), &requester, &submit).unwrap();
    setting.assert_right();
}
