//! Providers that nobody has named: the requester has no ticket and knows no node, and finds them by one
//! way alone.

use std::process::Command;

use mainline::Testnet;
use skep_tests::Ended;

use super::places::{Cable, is_root};
use super::*;

/// Nothing here takes as long to be found.
const FINDING: Duration = Duration::from_secs(120);

/// Both providers have to be found, as each shard is done by two.
const BOTH: [&str; 4] = ["--shards", "2", "--replicas", "2"];

/// Runs a command in the requester's home, without a result of its own.
fn tried(skep: &Path, requester: &Path, submit: &[String]) -> Ended {
    let output = Command::new(skep)
        .arg("--home")
        .arg(requester)
        .arg("--json")
        .args(submit)
        .output()
        .unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Submits a job for which nobody is named, and again as long as it says that too few were found.
fn submitted(setting: &Setting, skep: &Path, requester: &Path) -> Value {
    let submit = setting.submit(&[], &BOTH);
    let begun = Instant::now();
    loop {
        let ended = tried(skep, requester, &submit);
        if ended.code == 0 {
            return serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
        }
        let said = &ended.stderr;
        assert!(too_few(&ended), "{said}");
        assert!(begun.elapsed() < FINDING, "{said}");
    }
}

fn too_few(ended: &Ended) -> bool {
    let said = &ended.stderr;
    ended.code == 5
        && (said.contains("no other node is known") || said.contains("and each shard needs 2"))
}

/// Both worked at every shard, the result is right, and both were paid.
fn assert_done_by_both(setting: &Setting, requester: &Path, providers: &[&Node; 2], job: &Value) {
    setting.assert_right();
    let job = &job["job"];
    assert_eq!(job["state"], "done");
    for shard in job["shards"].as_array().unwrap() {
        assert_eq!(shard["providers"].as_array().unwrap().len(), 2, "{shard}");
    }
    let homes = providers.map(Node::home);
    let earned = assert_conserved(requester, &homes, micro(job, "spent_micro"));
    assert!(earned.iter().all(|earned| *earned > 0), "{earned:?}");
}

#[test]
fn a_job_is_done_by_nodes_that_only_a_dht_knows() {
    let setting = Setting::new(20);
    let net = Testnet::builder(8).build().unwrap();
    let bootstrap: Vec<String> = net.bootstrap.iter().map(|at| format!("{at:?}")).collect();
    let network = format!(
        "gossip = false\ndht = true\ndht-bootstrap = [{}]\n",
        bootstrap.join(", ")
    );
    let [a, b] = ["a", "b"].map(|name| {
        let home = setting.path(name);
        configure_with(&home, "", &network, "[jobs]\naccept = true\n");
        Node::start(&Built::skep(), &home).unwrap()
    });
    let requester = setting.path("requester");
    // Without the DHT it knows nobody.
    configure_with(&requester, "", "gossip = false\n", "");
    let alone = tried(&Built::skep(), &requester, &setting.submit(&[], &BOTH));
    assert!(too_few(&alone), "{}", alone.stderr);

    // No node runs here: each command joins the DHT for itself.
    configure_with(&requester, "", &network, "");
    let job = submitted(&setting, &Built::skep(), &requester);
    assert_done_by_both(&setting, &requester, &[&a, &b], &job);
    drop(net);
}

#[test]
fn a_job_is_done_by_nodes_on_the_same_network() {
    if !is_root() {
        return;
    }
    let setting = Setting::new(20);
    let cable = Cable::new(setting.folder.path());
    cable.carry_multicast();
    let [near, far] = cable.ends();
    let start = |skep: &Path, name: &str, more: &str| {
        let home = setting.path(name);
        fs::create_dir_all(&home).unwrap();
        let network = "[network]\nmdns = true\ngossip = false\n";
        fs::write(home.join("config.toml"), format!("{network}{more}")).unwrap();
        Node::start_in_sight(skep, &home).unwrap()
    };
    let accept = "[jobs]\naccept = true\n";
    let (a, b) = (start(near, "a", accept), start(far, "b", accept));
    let requester = start(near, "requester", "");
    let job = submitted(&setting, near, requester.home());
    assert_done_by_both(&setting, requester.home(), &[&a, &b], &job);
}
