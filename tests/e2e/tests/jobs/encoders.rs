//! An adapter of the sentence encoder, trained on labelled tickets: a batch classifier that knows nothing
//! of it labels others better with it, on this node and in jobs, and its author gets a share.

use std::collections::BTreeMap;

use super::*;

/// So dear that shares of a small job are whole micro-credits.
const RULES: &str = "price-per-teraflop = \"0.05\"\n";
/// A training of a few seconds.
const SETTINGS: [&str; 6] = [
    "--",
    "rank=8",
    "batch=16",
    "learning-rate=0.002",
    "epochs=8",
    "patience=0",
];

/// Trains on tickets that the setting has not, and returns the author's account.
fn train(setting: &Setting, name: &str) -> String {
    let lessons: String = skep_tickets::tickets(12, 640)
        .iter()
        .map(|ticket| {
            let line = serde_json::json!({"text": ticket.text, "label": ticket.label});
            format!("{line}\n")
        })
        .collect();
    fs::write(setting.path("lessons.jsonl"), lessons).unwrap();
    let (home, data) = (setting.path("requester"), setting.text("lessons.jsonl"));
    let key = ask(&Built::skep(), &home, &["key", "new", "author"]).unwrap();
    let fixed = [
        "finetune", "--data", &data, "--out", name, "--key", "author",
    ];
    let more = ["--base", "skep-mini-embed", "--share", "5"];
    let all = [&fixed[..], &more, &SETTINGS].concat();
    ask(&Built::skep(), &home, &all).unwrap();
    key["publisher"].as_str().unwrap().to_owned()
}

/// What one node alone makes of the tickets with an adapter.
fn labelled(setting: &Setting, component: &str, adapter: &str) -> Vec<u8> {
    let (input, labels) = (setting.text("tickets.jsonl"), setting.text("labels.json"));
    let output = setting.text("with");
    let files = ["--input", &input, "--labels", &labels, "--output", &output];
    let all = [&["run", component][..], &files, &["--adapter", adapter]].concat();
    ask(&Built::skep(), &setting.path("requester"), &all).unwrap();
    fs::read(output).unwrap()
}

/// The share of tickets that have their own label.
fn accuracy(output: &[u8], tickets: usize) -> f64 {
    let truth: BTreeMap<String, String> = skep_tickets::tickets(11, tickets)
        .into_iter()
        .map(|ticket| (ticket.id, ticket.label))
        .collect();
    let lines = std::str::from_utf8(output).unwrap().lines();
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let is_right = |line: &Value| match (line["id"].as_str(), line["label"].as_str()) {
        (Some(id), Some(label)) => truth[id] == label,
        _ => false,
    };
    lines.filter(is_right).count() as f64 / tickets as f64
}

#[test]
fn an_adapter_of_the_encoder_labels_here_and_in_jobs() {
    const TICKETS: usize = 300;
    let setting = Setting::new(TICKETS);
    let author = train(&setting, "desk");
    // By a file and by a package, which are told of no adapter.
    let component = Built::component("batch-classifier");
    let with = labelled(&setting, component.to_str().unwrap(), "desk");
    assert!(with == labelled(&setting, &setting.package, "desk"));
    let (frozen, adapted) = (
        accuracy(&setting.expected, TICKETS),
        accuracy(&with, TICKETS),
    );
    println!("{frozen:.3} of the tickets are right without the adapter, {adapted:.3} with it");
    assert!(adapted > frozen + 0.02, "{frozen} {adapted}");

    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let [a, b] = ["a", "b"].map(|name| setting.provider(name, RULES, 2));
    let job = |tickets: &[&str], more: &[&str]| {
        let job = requester.ask(&setting.submit(tickets, more)).unwrap();
        job["job"].clone()
    };
    let result = || fs::read(setting.path("result.jsonl")).unwrap();
    // Both have the package and the model ready, and one of them the adapter.
    let one = ["--shards", "1"];
    for node in [&a, &b] {
        job(&[ticket(node)], &one);
        setting.assert_right();
    }
    let desk = ["--adapter", "desk"];
    let first = job(&[ticket(&a)], &[&one[..], &desk].concat());
    assert!(result() == with, "another node made something else of it");
    assert!(first["adapter"].as_str().unwrap().contains("/desk@"));
    let account_a = account(a.home())["account"].clone();
    for _ in 0..2 {
        let job = job(&[ticket(&b), ticket(&a)], &[&one[..], &desk].concat());
        let providers = &job["shards"][0]["providers"];
        assert_eq!(*providers, serde_json::json!([account_a]));
    }
    // Whoever is asked to do it again comes to the same bytes.
    let audited = ["--shards", "2", "--audit", "100%", "--min-stake", "0"];
    let c = setting.provider("c", RULES, 2);
    let tickets = [&a, &b, &c].map(ticket);
    let audited = job(&tickets, &[&audited[..], &desk].concat());
    assert!(result() == with);
    for shard in audited["shards"].as_array().unwrap() {
        assert_eq!(shard["audits"][0]["state"], "passed", "{shard}");
    }
    let own = account(requester.home());
    let mut paid = own["balances"].as_array().unwrap().iter();
    let to_author = paid
        .find(|line| line["account"] == author.as_str())
        .unwrap();
    assert!(micro(to_author, "micro") > 0, "{own}");

    // What would change nothing is refused, by name.
    let refused = run(
        &setting.path("requester"),
        &[
            "run",
            component.to_str().unwrap(),
            "--adapter",
            "desk",
            "--adapter",
            "desk",
        ],
    );
    let refused = refused.unwrap();
    assert!(
        refused.stderr.contains("with one adapter"),
        "{}",
        refused.stderr
    );
    let writer = Built::component("generate");
    let writes = [
        writer.to_str().unwrap(),
        "--adapter",
        "desk",
        "--",
        "adapter=desk",
    ];
    let (input, output) = (setting.text("lessons.jsonl"), setting.text("written"));
    let files = ["--input", &input, "--output", &output];
    let all = [&["run"][..], &writes[..3], &files, &writes[3..]].concat();
    let refused = run(&setting.path("requester"), &all).unwrap();
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("skep-mini-embed"),
        "{}",
        refused.stderr
    );
}
