//! Asking who could do some work: a node is found by what it announces, and for nothing else.

use skep_registry::Digest;
use skep_tests::written;

use super::*;

const RULES: &str = "price-per-teraflop = \"0.002\"\nprice-per-gigabyte = \"0.03\"\n\
                     [limits]\nmemory = \"300 MiB\"\n";

/// Who is found from a home, be it by the node that runs there.
fn found(home: &Path, options: &[&str]) -> Value {
    // It ends when whoever is known has answered.
    let begins = ["node", "find", "--wait", "60 s"];
    let arguments = [&begins[..], options].concat();
    ask(&Built::skep(), home, &arguments).unwrap()
}

#[test]
fn a_node_is_found_by_what_it_can_do_and_by_nothing_that_it_cannot() {
    let setting = Setting::echoes(3);
    let provider = setting.provider("provider", RULES, 1);
    provider.ask(&["key", "new"]).unwrap();
    let component = wat::parse_str(written::echo()).unwrap();
    let package = setting.publish_task(provider.home(), "ready-there", &component, "");
    let listed = provider.ask(&["list"]).unwrap();
    let release = listed["packages"][0]["digest"].as_str().unwrap();

    // It is the only one that the requester knows.
    let requester = setting.path("requester");
    let peers = format!("peers = [\"{}\"]\n", ticket(&provider));
    configure_with(&requester, "", &peers, "");
    let fits = [
        "--device",
        "processor",
        "--memory",
        "300 MiB",
        "--model",
        release,
        "--price-per-teraflop",
        "0.002",
        "--price-per-gigabyte",
        "0.03",
    ];
    // A filter may say yes to one thing that is not in it, and hardly to two.
    let nobody_has = Digest::of(b"a release that nobody has").to_string();
    let lacks: [(&[&str], &str); 5] = [
        (&["--device", "cuda"], "--device cuda:0"),
        (&["--memory", "301 MiB"], "--memory 301 MiB"),
        (&["--package", "echo", "--ready", &nobody_has], "--ready "),
        (
            &["--price-per-teraflop", "0.0019"],
            "--price-per-teraflop 0.0019",
        ),
        (
            &["--price-per-hour", "0.009999"],
            "--price-per-hour 0.009999",
        ),
    ];
    let mut running = None;
    // First no node runs there, and the command looks for itself.
    for runs in [false, true] {
        running = runs.then(|| Node::start(&Built::skep(), &requester).unwrap());
        let fitting: [&[&str]; 2] = [&[], &fits];
        for options in fitting {
            let answer = found(&requester, options);
            assert_eq!(answer["why"], Value::Null, "{answer}");
            assert_eq!(answer["nodes"].as_array().unwrap().len(), 1, "{answer}");
            let node = &answer["nodes"][0];
            assert_eq!(node["node"], provider.status["node"]);
            assert_eq!(node["ticket"], provider.status["ticket"]);
            assert_eq!(node["device"], "processor");
            assert_eq!(node["memory_bytes"], 300 << 20);
            assert_eq!(node["at_once"], 1);
            let prices = ["teraflop", "gigabyte", "hour"].map(|name| format!("{name}_micro"));
            let prices = prices.map(|name| micro(node, &name));
            assert_eq!(prices, [2_000, 30_000, 10_000]);
            assert!(micro(node, "expires_ms") > micro(node, "issued_ms"));
        }
        let answer = found(&requester, &fits);
        let mut ready = answer["nodes"][0]["ready"].as_array().unwrap().iter();
        assert!(ready.any(|line| line["digest"] == release), "{answer}");
        for (options, asked) in lacks {
            let answer = found(&requester, options);
            assert_eq!(answer["nodes"], Value::Array(Vec::new()), "{answer}");
            assert_eq!(answer["taking"], 1, "{answer}");
            let why = answer["why"].as_str().unwrap();
            assert!(why.contains(asked), "{why}");
        }
    }

    // For a person.
    let told = run(&requester, &["node", "find"]).unwrap();
    assert_eq!(told.code, 0, "{}", told.stderr);
    let mut lines = told.stdout.lines();
    assert!(lines.next().unwrap().starts_with("node        device"));
    let row = lines.next().unwrap();
    let id = provider.status["node"].as_str().unwrap();
    let begins = format!("{}  processor  300.00 MiB  1        0.002", &id[..10]);
    assert!(row.starts_with(&begins), "{row}");
    let told_ticket = format!("  ticket  {}", ticket(&provider));
    assert!(lines.any(|line| line == told_ticket), "{}", told.stdout);
    // Its name is known here once the package is, and then it is called by it.
    assert!(!told.stdout.contains("ready-there"), "{}", told.stdout);
    let node = running.unwrap();
    node.ask(&["install", &package, "--from", ticket(&provider)])
        .unwrap();
    let told = run(&requester, &["node", "find", "--ready", "ready-there"]).unwrap();
    assert!(told.stdout.contains("ready-there@0.1.0"), "{}", told.stdout);
}
