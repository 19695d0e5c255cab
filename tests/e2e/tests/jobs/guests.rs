//! A task that begins jobs itself: what other nodes make for it is what they make for its owner, it
//! costs no more than it was granted, and it finds its own jobs and no others.

use super::*;

/// Publishes a package of the component that begins jobs, from the requester's home.
pub(super) fn publish(setting: &Setting, name: &str, grants: &str) -> String {
    let component = fs::read(Built::component("jobs")).unwrap();
    setting.publish_task(&setting.path("requester"), name, &component, grants)
}

/// The digest of the release that does the work.
pub(super) fn digest(setting: &Setting) -> String {
    let requester = setting.path("requester");
    let inspected = ask(&Built::skep(), &requester, &["inspect", &setting.package]).unwrap();
    inspected["package"]["digest"].as_str().unwrap().to_owned()
}

/// A requester that knows these providers, with more in its configuration.
pub(super) fn requester(setting: &Setting, providers: &[&Node], more: &str) -> Node {
    let tickets: Vec<&str> = providers.iter().map(|node| ticket(node)).collect();
    let home = setting.path("requester");
    configure_with(&home, "", &format!("peers = {tickets:?}\n"), more);
    Node::start(&Built::skep(), &home).unwrap()
}

/// What a run of the package is asked with: to begin a job of the tickets, at this price.
fn begin(setting: &Setting, package: &str, manner: &str, price: &str, shards: &str) -> Vec<String> {
    let labels = fs::read_to_string(setting.path("labels.json")).unwrap();
    let (input, output) = (setting.text("tickets.jsonl"), setting.text("made"));
    let run = ["run", package, "--input", &input, "--output", &output, "--"];
    let work = digest(setting);
    let arguments = [manner, &work, price, shards, &labels];
    run.iter()
        .chain(&arguments)
        .map(|text| (*text).to_owned())
        .collect()
}

/// To `find` a job, or to `cancel` it.
fn again(setting: &Setting, package: &str, manner: &str, name: &str) -> Vec<String> {
    let output = setting.text("made");
    let run = ["run", package, "--output", &output, "--", manner, name];
    run.map(str::to_owned).to_vec()
}

fn find(setting: &Setting, package: &str, name: &str) -> Vec<String> {
    again(setting, package, "find", name)
}

#[test]
fn a_task_has_others_do_the_work_for_no_more_than_its_owner_allows() {
    let setting = Setting::new(120);
    let caller = publish(&setting, "caller", "jobs = { max-price = \"0.5\" }");
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    let capped = "[grants]\njobs = { max-price = \"0.3\" }\n";
    let node = requester(&setting, &[&a, &b], capped);

    let inspected = node.ask(&["inspect", &caller]).unwrap();
    let said: Vec<&str> = inspected["grants"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(said, ["jobs: max-price 0.5"]);

    // The package would, and the owner would not.
    let ended = run(
        node.home(),
        &begin(&setting, &caller, "whole", "400000", "6"),
    )
    .unwrap();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("max-price is 0.3 credits"),
        "{}",
        ended.stderr
    );

    let ran = node
        .ask(&begin(&setting, &caller, "whole", "300000", "6"))
        .unwrap();
    assert!(fs::read(setting.path("made")).unwrap() == setting.expected);
    assert_eq!(ran["grants"][0], "jobs: max-price 0.3");
    let names = ran["jobs"].as_array().unwrap();
    assert_eq!(names.len(), 1);

    // To its owner it is a job like any other, and says whose it is.
    let name = names[0].as_str().unwrap();
    let job = node.ask(&["job", "status", name]).unwrap()["job"].clone();
    assert_eq!(
        (&job["state"], &job["finished"]),
        (&"done".into(), &6.into())
    );
    assert_eq!(job["begun_by"], *caller);
    assert_eq!(job["output"], Value::Null);
    assert_eq!(micro(&job, "budget_micro"), 300_000);
    let copy = setting.text("copy.jsonl");
    node.ask(&["job", "result", name, "--output", &copy])
        .unwrap();
    assert_eq!(fs::read(copy).unwrap(), setting.expected);

    // The same by hand: the same bytes, and who worked is paid by the same ledger.
    let by_hand = node.ask(&setting.submit(&[], &["--shards", "6"])).unwrap();
    setting.assert_right();
    let spent = micro(&job, "spent_micro") + micro(&by_hand["job"], "spent_micro");
    let earned = assert_conserved(node.home(), &[a.home(), b.home()], spent);
    assert!(earned.iter().sum::<u64>() > 0, "{earned:?}");

    // What its owner began by hand is none of the package's.
    let foreign = by_hand["job"]["job"].as_str().unwrap();
    let ended = run(node.home(), &find(&setting, &caller, foreign)).unwrap();
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains(foreign), "{}", ended.stderr);
}

/// A job that a guest has begun, whose provider holds the shard and cannot begin it.
struct Begun {
    caller: String,
    stranger: String,
    provider: Node,
    node: Node,
    occupied: Occupied,
    name: String,
}

fn begun(setting: &Setting) -> Begun {
    let granted = "jobs = { max-price = \"0.5\" }";
    let caller = publish(setting, "caller", granted);
    let stranger = publish(setting, "stranger", granted);
    let provider = setting.provider("c", "", 1);
    let node = requester(setting, &[&provider], "");
    let occupied = Occupied::new(setting, &provider);
    node.ask(&begin(setting, &caller, "begin", "500000", "1"))
        .unwrap();
    let name = fs::read_to_string(setting.path("made")).unwrap();
    // Of whoever is killed while it hands over the package the rest would be asked for where it was.
    let (work, waiting) = (digest(setting), Instant::now());
    let has_package = || {
        let listed = provider.ask(&["list"]).unwrap();
        let mut lines = listed["packages"].as_array().unwrap().iter();
        lines.any(|line| line["digest"] == *work)
    };
    while !has_package() {
        let waited = waiting.elapsed();
        assert!(waited < Duration::from_secs(60), "the shard is not there");
    }
    Begun {
        caller,
        stranger,
        provider,
        node,
        occupied,
        name: name.trim().to_owned(),
    }
}

#[test]
fn a_job_outlives_its_guest_and_its_node_and_is_found_by_its_own_package_only() {
    let setting = Setting::new(20);
    let Begun {
        caller,
        stranger,
        provider: c,
        node,
        occupied,
        name,
    } = begun(&setting);
    node.kill().unwrap();
    drop(occupied);

    let node = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let ended = run(node.home(), &find(&setting, &stranger, &name)).unwrap();
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains(&name), "{}", ended.stderr);
    node.ask(&find(&setting, &caller, &name)).unwrap();
    assert!(fs::read(setting.path("made")).unwrap() == setting.expected);
    let job = node.ask(&["job", "status", &name]).unwrap();
    assert_conserved(node.home(), &[c.home()], micro(&job["job"], "spent_micro"));
}

#[test]
fn a_job_that_its_guest_cancels_gives_back_what_it_did_not_spend() {
    let setting = Setting::new(20);
    let Begun {
        caller,
        stranger,
        provider: c,
        node,
        occupied,
        name,
    } = begun(&setting);
    let name = name.as_str();
    let held = account(node.home());
    assert_eq!(micro(&held, "escrowed_micro"), 500_000);

    // Nobody else's guest stops it.
    let ended = run(node.home(), &again(&setting, &stranger, "cancel", name)).unwrap();
    assert_eq!(ended.code, 1);
    let job = node.ask(&["job", "status", name]).unwrap();
    assert_eq!(job["job"]["state"], "running");

    node.ask(&again(&setting, &caller, "cancel", name)).unwrap();
    let why = fs::read_to_string(setting.path("made")).unwrap();
    assert_eq!(why, "the job was cancelled\n");
    drop(occupied);
    let job = node.ask(&["job", "status", name]).unwrap()["job"].clone();
    assert_eq!(
        (&job["state"], &job["finished"]),
        (&"failed".into(), &0.into())
    );
    assert_eq!(micro(&job, "spent_micro"), 0);
    // What is over stays as it is.
    node.ask(&again(&setting, &caller, "cancel", name)).unwrap();
    assert_conserved(node.home(), &[c.home()], 0);
}

#[test]
fn what_begins_jobs_is_no_part_of_one_and_needs_a_node() {
    let setting = Setting::new(10);
    let caller = publish(&setting, "caller", "jobs = { max-price = \"0.5\" }");
    let home = setting.path("requester");
    // Nobody would go on with the job once the command is over.
    let ended = run(&home, &begin(&setting, &caller, "begin", "1", "1")).unwrap();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("skep node"), "{}", ended.stderr);

    // By hand it is refused before anybody is asked.
    let a = setting.provider("a", "", 1);
    let mut submit = setting.submit(&[ticket(&a)], &["--shards", "1"]);
    submit[2] = caller.clone();
    let ended = run(&home, &submit).unwrap();
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("grants.jobs"), "{}", ended.stderr);

    // And a guest cannot have it done by others either.
    let node = requester(&setting, &[&a], "");
    let inspected = node.ask(&["inspect", &caller]).unwrap();
    let itself = inspected["package"]["digest"].as_str().unwrap();
    let mut again = begin(&setting, &caller, "begin", "1", "1");
    let at = again.iter().position(|word| word == "begin").unwrap();
    again[at + 1] = itself.to_owned();
    let ended = run(node.home(), &again).unwrap();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("grants.jobs"), "{}", ended.stderr);

    // Nor has it others fetched, or finds what there is not.
    again[at + 1] = skep_registry::Digest::of(b"nobody's").to_string();
    let ended = run(node.home(), &again).unwrap();
    assert!(ended.stderr.contains(&again[at + 1]), "{}", ended.stderr);
    let jobs = node.ask(&["job", "status"]).unwrap();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 0);
}

#[test]
fn a_provider_refuses_what_begins_jobs_whoever_asks() {
    let setting = Setting::new(10);
    let caller = publish(&setting, "caller", "jobs = { max-price = \"0.5\" }");
    let a = setting.provider("a", "", 1);
    // The node that has the package shows it to whoever asks.
    let node = requester(&setting, &[], "");
    let inspected = node.ask(&["inspect", &caller]).unwrap();
    let package = inspected["package"]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let stranger = Stranger::start(&setting.path("stranger"), ticket(&a));
    let refusal = stranger.asks_for(package, ticket(&node));
    assert!(
        matches!(&refusal, Refusal::Unavailable(reason) if reason.contains("grants.jobs")),
        "{refusal:?}"
    );
}
