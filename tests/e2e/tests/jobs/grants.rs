//! What a shard may do to a provider's blobs: read those that the node offers, and those that are fetched for
//! it. It stores none, and of what the owner keeps to itself it reads nothing.

use skep_evidence::Split;
use skep_registry::Digest;

use super::peers::{Requester, Task};
use super::*;

/// Publishes the task that stores and loads blobs, with these grants, from a home that has a key.
fn publish(setting: &Setting, home: &Path, name: &str, grants: &str) -> Digest {
    let component = fs::read(Built::component("blobs")).unwrap();
    let reference = setting.publish_task(home, name, &component, grants);
    let inspected = ask(&Built::skep(), home, &["inspect", &reference]).unwrap();
    let digest = inspected["package"]["digest"].as_str().unwrap();
    digest.parse().unwrap()
}

#[test]
fn what_stores_blobs_is_no_part_of_a_job_whoever_asks() {
    let setting = Setting::echoes(1);
    let home = setting.path("requester");
    let storing = publish(&setting, &home, "storing", "swarm-write = true");
    let a = setting.provider("a", "", 1);
    // By hand it is refused before anybody is asked.
    let mut submit = setting.submit(&[ticket(&a)], &["--shards", "1", "--", "store"]);
    submit[2] = storing.to_string();
    let ended = run(&home, &submit).unwrap();
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("grants.swarm-write"),
        "{}",
        ended.stderr
    );

    // Whoever asks nonetheless is told when it asks for the price.
    let node = Node::start(&Built::skep(), &home).unwrap();
    let stranger = Stranger::start(&setting.path("stranger"), ticket(&a));
    let refusal = stranger.asks_for(storing, ticket(&node));
    assert!(
        matches!(&refusal, Refusal::Unavailable(reason) if reason.contains("grants.swarm-write")),
        "{refusal:?}"
    );
}

/// Has the owner of a node store content, as its own runs may, and returns the digest.
fn store(setting: &Setting, node: &Node, content: &[u8]) -> String {
    fs::write(setting.path("content"), content).unwrap();
    let names = ["storing", "content", "digest"].map(|name| setting.text(name));
    let [package, input, output] = names.each_ref().map(String::as_str);
    let storing = ["run", package, "--input", input, "--output", output];
    node.ask(&[&storing[..], &["--", "store"]].concat())
        .unwrap();
    let digest = fs::read_to_string(output).unwrap().trim().to_owned();
    assert_eq!(digest, Digest::of(content).to_string());
    digest
}

#[test]
fn a_shard_reads_what_is_offered_and_nothing_that_the_owner_keeps() {
    let setting = Setting::echoes(1);
    let elsewhere = Node::start(&Built::skep(), &setting.path("elsewhere")).unwrap();
    let home = setting.path("a");
    let known = format!("peers = [\"{}\"]\n", ticket(&elsewhere));
    configure_with(&home, "", &known, "[jobs]\naccept = true\n");
    ask(&Built::skep(), &home, &["key", "new"]).unwrap();
    publish(&setting, &home, "storing", "swarm-write = true");
    let loading = publish(&setting, &home, "loading", "swarm-read = [\"*\"]");
    let a = Node::start(&Built::skep(), &home).unwrap();
    let stranger = Requester::start(&setting.path("stranger"));
    let read = |provider: &Node, digest: &str, number| {
        let task = Task {
            package: loading,
            model: None,
            adapter: None,
            exact: false,
            split: Split::default(),
            arguments: vec!["load".to_owned(), digest.to_owned()],
            labels: Vec::new(),
            records: b"nothing\n".to_vec(),
        };
        let done = stranger.has_done(ticket(provider), &task, number, 0);
        done.map(|(output, _)| output)
    };
    let content = b"what its owner may show or keep";
    let digest = store(&setting, &a, content);
    assert_eq!(read(&a, &digest, 0).unwrap(), content);

    // It is kept when the node ends, and not offered by the next: then only its owner reads it there.
    drop(a);
    let a = Node::start(&Built::skep(), &home).unwrap();
    let names = ["loading", "loaded"].map(|name| setting.text(name));
    let [package, output] = names.each_ref().map(String::as_str);
    let load = ["run", package, "--output", output, "--", "load", &digest];
    a.ask(&load).unwrap();
    assert_eq!(fs::read(output).unwrap(), content);
    let refused = read(&a, &digest, 1).unwrap_err();
    let reason = format!("not found: {digest}");
    assert!(
        matches!(&refused, Refusal::Failed(said) if said.contains(&reason)),
        "{refused:?}"
    );

    // What another node offers is fetched for the shard, and what it offers too is no secret any more.
    let fetched = store(&setting, &elsewhere, b"what another node offers");
    assert_eq!(read(&a, &fetched, 2).unwrap(), b"what another node offers");
    assert_eq!(store(&setting, &elsewhere, content), digest);
    assert_eq!(read(&a, &digest, 3).unwrap(), content);
}
