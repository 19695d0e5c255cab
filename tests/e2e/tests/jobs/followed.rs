//! Jobs whose texts are written on machines of different kinds: auditors follow what was written, so
//! that an honest provider passes wherever it is looked at, and one with a coarser model does not.

use std::sync::{Arc, LazyLock};

use skep_kernels::Isa;
use skep_market::ShardInput;
use skep_registry::Digest;

use super::audits::{own, stake};
use super::coarse;
use super::peers::{Made, Manner};
use super::shown::{Asked, claiming, honest, written};
use super::*;

pub const LINES: [&str; 6] = [
    "ticket: I was charged twice for March.",
    "Good morning! What do you sell?",
    "It is a truth universally acknowledged, that",
    "What does \"honey\" mean?",
    "The bees came back in April, and",
    "Please cancel my order, because",
];
/// A node that computes as a machine of another kind does.
pub const OTHER_KIND: &str = "[engine]\ninstructions = \"portable\"\n";
const MORE: [&str; 6] = ["--shards", "3", "--audit", "100%", "--min-stake", "0"];

/// Whether an account has anything at stake in a ledger.
fn has_stake(books: &Value, whose: &str) -> bool {
    let mut stakes = books["stakes"].as_array().unwrap().iter();
    stakes.any(|line| line["account"] == *whose)
}

#[test]
fn honest_texts_pass_audits_by_nodes_of_another_kind() {
    assert!(
        Isa::available().len() > 1,
        "this machine is of one kind alone"
    );
    let setting = Setting::texts(&LINES);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let a = setting.provider("a", OTHER_KIND, 2);
    let (b, c) = (setting.provider("b", "", 2), setting.provider("c", "", 2));
    let tickets = [ticket(&a), ticket(&b), ticket(&c)];
    let job = requester.ask(&setting.submit(&tickets, &MORE)).unwrap();
    setting.assert_right();
    let job = &job["job"];
    let (mut audits, mut across) = (0, 0);
    let other = own(&a);
    for shard in job["shards"].as_array().unwrap() {
        assert_eq!(shard["outvoted"], serde_json::json!([]), "{job}");
        for audit in shard["audits"].as_array().unwrap() {
            assert_eq!(audit["state"], "passed", "{job}");
            assert_eq!(audit["followed"], true, "{job}");
            audits += 1;
            let auditors = audit["auditors"].as_array().unwrap();
            let is_other = |account: &Value| *account == *other;
            let differs = |auditor: &Value| is_other(auditor) != is_other(&audit["provider"]);
            across += usize::from(auditors.iter().any(differs));
        }
    }
    // Each has a shard, so that one at least was looked at from the other kind.
    assert_eq!(audits, 3, "{job}");
    assert!(across > 0, "{job}");
    assert_eq!(job["evidence"], serde_json::json!([]));
    let status = ["job", "status", job["job"].as_str().unwrap()];
    let text = run(requester.home(), &status).unwrap().stdout;
    assert!(text.contains("passed its audit by following"), "{text}");
    let homes = [&a, &b, &c].map(Node::home);
    assert_conserved(requester.home(), &homes, micro(job, "spent_micro"));
}

#[test]
fn a_coarser_model_is_found_out_from_another_kind_of_machine_and_pays() {
    let setting = Setting::texts(&LINES);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (
        setting.provider("a", OTHER_KIND, 2),
        setting.provider("b", "", 2),
    );
    // The node finds the model where it would have written it, and looks no further.
    let model = fs::read(Built::language_model()).unwrap();
    let name = Digest::of(&model).to_string();
    let folder = setting.path("cheat").join("embedded").join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("skep-mini-lm.gguf"), coarse::weights(&model)).unwrap();
    let cheat = setting.provider("cheat", "", 2);
    let whose = own(&cheat);
    stake(requester.home(), "5", &whose);

    let tickets = [ticket(&a), ticket(&b), ticket(&cheat)];
    let job = requester.ask(&setting.submit(&tickets, &MORE)).unwrap();
    setting.assert_right();
    let job = &job["job"];
    let caught = assert_caught(job, &whose);
    assert!(caught > 0, "{job}");
    // It is not paid, and what it had at stake is gone; whoever found it out is paid.
    let homes = [&a, &b].map(Node::home);
    let paid = |home| {
        let books = account(home);
        micro(&books, "earned_micro")
    };
    let spent = micro(job, "spent_micro");
    assert_eq!(homes.map(paid).iter().sum::<u64>(), spent);
    let books = account(requester.home());
    assert!(!has_stake(&books, &whose), "{books}");
    assert_eq!(micro(&books, "escrowed_micro"), 0);

    // A third node comes to the same, from the file alone.
    let evidence = job["evidence"].as_array().unwrap();
    assert!(!evidence.is_empty(), "{job}");
    for file in evidence {
        let judge = ["account", "judge", file.as_str().unwrap()];
        let judged = b.ask(&judge).unwrap();
        assert_eq!(judged["guilty"], true, "{judged}");
        assert_eq!(judged["accused"], *whose, "{judged}");
    }
}

/// Draws with a seed of its own choosing, and says that it was asked for that. The states are those of
/// the model: nothing but the sampling is another.
fn draws_otherwise(input: &[u8]) -> Made {
    static MODEL: LazyLock<Arc<super::served::Served>> = LazyLock::new(|| honest(Isa::best()));
    let shard = ShardInput::decode(input).unwrap();
    let arguments: Vec<&str> = shard.arguments.iter().map(String::as_str).collect();
    let asked = |seed| Asked {
        lines: shard.records,
        arguments: &arguments,
        seed,
    };
    let (right, ..) = written(&MODEL, asked(0));
    let (other, output, meter) = written(&MODEL, asked(99));
    Made {
        output,
        shown: claiming(other, &right).encode(),
        meter,
    }
}

#[test]
fn who_draws_otherwise_than_it_was_asked_to_is_found_out_and_pays() {
    let setting = Setting::texts(&LINES);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (
        setting.provider("a", OTHER_KIND, 2),
        setting.provider("b", "", 2),
    );
    let liar = Liar::with(&setting.path("liar"), 66, Manner::Shows(draws_otherwise));
    stake(requester.home(), "5", &liar.account);
    let tickets = [ticket(&a), ticket(&b), &liar.ticket];
    let more = [&MORE[..], &["--", "temperature=0.9", "max-tokens=40"]].concat();
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    let job = &job["job"];
    assert_eq!(job["state"], "done", "{job}");
    let caught = assert_caught(job, &liar.account);
    assert!(caught > 0, "{job}");
    assert_eq!(liar.paid.load(Ordering::SeqCst), 0);
    let books = account(requester.home());
    assert!(!has_stake(&books, &liar.account), "{books}");
    let result = fs::read_to_string(setting.path("result.jsonl")).unwrap();
    assert_eq!(result.lines().count(), LINES.len());
}

/// Writes as it should, and shows thousands of texts beside those that it wrote.
fn shows_too_much(input: &[u8]) -> Made {
    static MODEL: LazyLock<Arc<super::served::Served>> = LazyLock::new(|| honest(Isa::best()));
    let shard = ShardInput::decode(input).unwrap();
    let asked = Asked {
        lines: shard.records,
        arguments: &[],
        seed: 0,
    };
    let (mut transcript, output, meter) = written(&MODEL, asked);
    let answer = transcript.0[0].clone();
    transcript.0.extend(vec![answer; 8_000]);
    Made {
        output,
        shown: transcript.encode(),
        meter,
    }
}

#[test]
fn what_shows_more_than_a_run_may_is_refused_and_not_paid() {
    let setting = Setting::texts(&LINES);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (
        setting.provider("a", OTHER_KIND, 2),
        setting.provider("b", "", 2),
    );
    let liar = Liar::with(&setting.path("liar"), 66, Manner::Shows(shows_too_much));
    let tickets = [ticket(&a), ticket(&b), &liar.ticket];
    // Where the liar is the first of a draw it is waited for, for a quarter of this.
    let more = [&MORE[..], &["--deadline", "60 s"]].concat();
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();
    let job = &job["job"];
    let mut refused = 0;
    for shard in job["shards"].as_array().unwrap() {
        // Nothing that it delivered was ever looked at: it did not count as delivered.
        assert_eq!(shard["audits"].as_array().unwrap().len(), 1, "{job}");
        assert_ne!(shard["audits"][0]["provider"], *liar.account, "{job}");
        refused += usize::from(shard["leases"].as_u64().unwrap() > 2);
    }
    assert!(refused > 0, "{job}");
    assert_eq!(liar.paid.load(Ordering::SeqCst), 0);
    let homes = [&a, &b].map(Node::home);
    assert_conserved(requester.home(), &homes, micro(job, "spent_micro"));
}

#[test]
fn who_counts_otherwise_is_given_nothing_to_follow_and_nothing_that_others_would() {
    let setting = Setting::texts(&LINES);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let a = setting.provider("a", OTHER_KIND, 2);
    let (b, c) = (setting.provider("b", "", 2), setting.provider("c", "", 2));
    // It is free and says that it is ready, so that it would be asked first.
    let other = Liar::with(&setting.path("other"), 66, Manner::CountsOtherwise);
    let tickets = [ticket(&a), ticket(&b), ticket(&c), &other.ticket];
    let job = requester.ask(&setting.submit(&tickets, &MORE)).unwrap();
    setting.assert_right();
    let job = &job["job"];
    for shard in job["shards"].as_array().unwrap() {
        assert_eq!(shard["leases"], 2, "one made it and one followed: {job}");
        assert_eq!(shard["audits"][0]["state"], "passed", "{job}");
    }
    assert!(!job.to_string().contains(&other.account), "{job}");
    // With two of the others there are not enough that count alike.
    let few = [ticket(&a), ticket(&b), &other.ticket];
    let refused = run(requester.home(), &setting.submit(&few, &MORE)).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("an audit takes 3 nodes"),
        "{}",
        refused.stderr
    );
}

/// Whose results were found wrong is this account and nobody else; how many were.
fn assert_caught(job: &Value, whose: &str) -> u32 {
    let mut caught = 0;
    for shard in job["shards"].as_array().unwrap() {
        for audit in shard["audits"].as_array().unwrap() {
            let cheats = audit["provider"] == *whose;
            assert_eq!(
                audit["state"],
                if cheats { "wrong" } else { "passed" },
                "{job}"
            );
            assert_eq!(audit["followed"], true, "{job}");
            caught += u32::from(cheats);
        }
        for account in shard["outvoted"].as_array().unwrap() {
            assert_eq!(*account, *whose, "{job}");
        }
    }
    caught
}

#[test]
fn what_differs_in_more_than_texts_is_not_followed() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let a = setting.provider("a", OTHER_KIND, 2);
    let (b, c) = (setting.provider("b", "", 2), setting.provider("c", "", 2));
    let tickets = [ticket(&a), ticket(&b), ticket(&c)];
    let refused = run(requester.home(), &setting.submit(&tickets, &MORE)).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    let said = "of 3 that take it 2 are alike";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
}
