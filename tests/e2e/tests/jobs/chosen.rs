//! What a task chooses for the jobs that it begins: an adapter, and who does the work. It reaches no
//! further by that than its owner's node does already: not to nodes that nobody here has heard of, and not
//! to packages that are not here.

use std::collections::BTreeSet;

use super::adapters::{RULES, train, written};
use super::audits::{line, own};
use super::guests::{digest, publish, requester};
use super::*;

const GRANT: &str = "jobs = { max-price = \"0.5\" }";

/// What a run of the package is asked with: to have the input worked on, with more than the plan.
fn choosing(
    setting: &Setting,
    package: &str,
    input: &str,
    shards: &str,
    more: &[&str],
) -> Vec<String> {
    let (input, output) = (setting.text(input), setting.text("made"));
    let run = ["run", package, "--input", &input, "--output", &output, "--"];
    let work = digest(setting);
    let arguments = ["whole", &work, "500000", shards];
    let all = run.iter().chain(&arguments).chain(more);
    all.map(|text| (*text).to_owned()).collect()
}

/// Has a guest's job done; returns what became of it.
fn done(setting: &Setting, node: &Node, arguments: &[String], expected: &[u8]) -> Value {
    let ran = node.ask(arguments).unwrap();
    assert!(
        fs::read(setting.path("made")).unwrap() == expected,
        "the guest wrote something else"
    );
    let name = ran["jobs"][0].as_str().unwrap();
    node.ask(&["job", "status", name]).unwrap()["job"].clone()
}

/// Every shard was done by this node alone.
fn assert_done_by(job: &Value, node: &Node) {
    let shards = job["shards"].as_array().unwrap().iter();
    let all = shards.flat_map(|shard| shard["providers"].as_array().unwrap());
    let workers: BTreeSet<&str> = all.map(|who| who.as_str().unwrap()).collect();
    assert_eq!(workers, BTreeSet::from([own(node).as_str()]), "{job}");
}

fn assert_refused(node: &Node, arguments: &[String], said: &str) {
    let ended = run(node.home(), arguments).unwrap();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
}

fn jobs_of(node: &Node) -> usize {
    let all = node.ask(&["job", "status"]).unwrap();
    all["jobs"].as_array().unwrap().len()
}

#[test]
fn a_guest_s_job_has_the_adapter_that_it_names_and_the_adapter_s_author_a_share() {
    let mut setting = Setting::texts(&[
        "What do you sell on Friday?",
        "What do you sell on Monday?",
        "Good morning!",
    ]);
    let caller = publish(&setting, "caller", GRANT);
    fs::write(setting.path("shop.jsonl"), skep_tests::lessons(20)).unwrap();
    let author = train(&setting, "elder", "shop", &["--share", "5"], "steps=16");
    let plain = setting.expected.clone();
    setting.expected = written(&setting, "shop");
    assert_ne!(plain, setting.expected);
    let (a, b) = (
        setting.provider("a", RULES, 2),
        setting.provider("b", RULES, 2),
    );
    let node = requester(&setting, &[&a, &b], "");
    let begin = |more: &[&str]| choosing(&setting, &caller, "lines.txt", "1", more);

    let inspected = node.ask(&["inspect", "shop"]).unwrap();
    let shop = inspected["package"]["digest"].as_str().unwrap();
    let (shop, with_b) = (format!("adapter={shop}"), format!("node={}", ticket(&b)));
    let chosen = begin(&[&shop, &with_b, "warm=1800000"]);
    let job = done(&setting, &node, &chosen, &setting.expected);
    assert!(job["adapter"].as_str().unwrap().contains("/shop@"), "{job}");
    assert_eq!(job["begun_by"], *caller);
    assert_done_by(&job, &b);
    assert!(line(node.home(), "balances", &author) > 0);
    // Half an hour, of which some has passed.
    let kept = |node: &Node| node.ask(&["node", "status"]).unwrap()["kept"].clone();
    let left = kept(&b)[0]["seconds"].as_f64().unwrap();
    assert!((1_200.0..=1_800.0).contains(&left), "{left}");
    assert_eq!(kept(&a), serde_json::json!([]));

    // What does not name it has none.
    let job = done(&setting, &node, &begin(&[]), &plain);
    assert_eq!(job.get("adapter"), None, "{job}");

    let nobody_s = skep_registry::Digest::of(b"nobody's").to_string();
    for (adapter, said) in [
        (nobody_s.clone(), nobody_s.as_str()),
        (digest(&setting), "generate is no adapter"),
        ("shop".to_owned(), "a digest is 64"),
    ] {
        let chosen = begin(&[&format!("adapter={adapter}")]);
        assert_refused(&node, &chosen, said);
    }
    assert_eq!(jobs_of(&node), 2);
}

#[test]
fn the_nodes_that_a_guest_names_work_and_no_others_and_all_of_them_its_owner_knows() {
    let setting = Setting::new(60);
    let caller = publish(&setting, "caller", GRANT);
    let [a, b, c] = ["a", "b", "c"].map(|name| setting.provider(name, "", 2));
    let node = requester(&setting, &[&a, &b], "");
    let labels = fs::read_to_string(setting.path("labels.json")).unwrap();
    let begin = |more: &[&str]| {
        let more = [&[labels.as_str()][..], more].concat();
        choosing(&setting, &caller, "tickets.jsonl", "4", &more)
    };
    let [to_a, to_b, to_c] = [&a, &b, &c].map(|node| format!("node={}", ticket(node)));

    // The second has nothing ready yet, and whoever did the first has.
    for (name, chosen) in [(&to_a, &a), (&to_b, &b)] {
        let job = done(&setting, &node, &begin(&[name]), &setting.expected);
        assert_done_by(&job, chosen);
    }

    // Where this one is says nobody but the guest.
    assert_refused(&node, &begin(&[&to_c]), "has not heard where it is");
    let both = begin(&[&to_c, &to_b]);
    let job = done(&setting, &node, &both, &setting.expected);
    assert_done_by(&job, &b);

    let long = format!("node={}", "x".repeat(5000));
    for (more, said) in [
        (vec!["node=x"; 65], "nodes: 65 are more than 64"),
        (vec![long.as_str()], "a ticket has at most 4096 bytes"),
        (
            vec![to_a.as_str(), "node=next door"],
            "nodes: number 2 is no ticket of a node",
        ),
        (vec!["attested"], "0 of 2 nodes take it"),
        (vec!["warm=0"], "warm: 0 is not from 1 to"),
        (vec!["warm=7200000"], "its owner allows for 3600 s"),
    ] {
        assert_refused(&node, &begin(&more), said);
    }
    assert_eq!(jobs_of(&node), 3);

    // By hand its owner can name it, and it alone.
    let only = setting.submit(&[ticket(&c)], &["--shards", "4", "--only"]);
    let job = node.ask(&only).unwrap()["job"].clone();
    setting.assert_right();
    assert_done_by(&job, &c);
    let nobody = run(node.home(), &setting.submit(&[], &["--only"])).unwrap();
    assert_ne!(nobody.code, 0);
    assert!(nobody.stderr.contains("--provider"), "{}", nobody.stderr);
}
