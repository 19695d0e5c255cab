//! What the command line says to a person, word for word, and to a script.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use skep_evidence::AccountKey;
use skep_tests::{Built, Ended, Node, configure, run};

/// A command's outcome as one text, with what differs from run to run taken out.
fn shown(home: &Path, arguments: &[&str]) -> String {
    let Ended {
        code,
        stdout,
        stderr,
    } = run(home, arguments).unwrap();
    let text = format!("exit {code}\n--- out\n{stdout}--- err\n{stderr}");
    text.replace(home.to_str().unwrap(), "HOME")
}

#[test]
fn help_names_every_command_and_exit_code() {
    let home = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(shown(home.path(), &["--help"]));
    insta::assert_snapshot!(shown(home.path(), &["run", "--help"]));
    insta::assert_snapshot!(shown(home.path(), &["job", "submit", "--help"]));
    insta::assert_snapshot!(shown(home.path(), &["finetune", "--help"]));
}

#[test]
fn errors_say_what_happened_why_and_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("empty");
    fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    insta::assert_snapshot!(shown(
        home.path(),
        &["run", "nothing-here", "--input", "x.jsonl"]
    ));
    insta::assert_snapshot!(shown(home.path(), &["run", folder]));
    insta::assert_snapshot!(shown(home.path(), &["publish", folder]));
    insta::assert_snapshot!(shown(home.path(), &["install", "Not A Name"]));
    insta::assert_snapshot!(shown(home.path(), &["install", "some-package"]));
}

#[test]
fn a_manifest_with_an_unknown_field_names_the_line() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("package");
    fs::create_dir(&folder).unwrap();
    fs::write(
        folder.join("skep.toml"),
        "[package]\nname = \"x\"\nversion = \"0.1.0\"\nkind = \"component\"\nautor = \"me\"\n",
    )
    .unwrap();
    insta::assert_snapshot!(shown(home.path(), &["inspect", folder.to_str().unwrap()]));
}

#[test]
fn a_failure_is_an_object_for_a_script() {
    let home = tempfile::tempdir().unwrap();
    let ended = run(home.path(), &["--json", "inspect", "nothing-here"]).unwrap();
    let last = ended.stdout.lines().last().unwrap();
    let value: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(value["error"]["kind"], "not-found");
    assert_eq!(ended.code, 5);
}

#[test]
fn a_wrong_command_line_is_an_object_for_a_script_too() {
    let home = tempfile::tempdir().unwrap();
    let ended = run(home.path(), &["job", "submit", "some-package", "--json"]).unwrap();
    assert_eq!(ended.code, 2);
    let value: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(value["error"]["kind"], "usage");
    let message = value["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("the following required"), "{message}");
    assert!(message.contains("--input"), "{message}");
    // What stands behind `--` is for the workload, and whoever asks for help has it as it is.
    let ended = run(home.path(), &["job", "submit", "--", "--json"]).unwrap();
    assert_eq!((ended.code, &*ended.stdout), (2, ""));
    let help = run(home.path(), &["--json", "job", "--help"]).unwrap();
    assert_eq!(help.code, 0);
    assert!(help.stdout.contains("Usage: skep job"), "{}", help.stdout);
}

#[test]
fn a_ticket_that_was_cut_is_told_as_one() {
    let home = tempfile::tempdir().unwrap();
    let cut = format!("skep1{}", "a".repeat(80));
    let ended = run(home.path(), &["install", &cut]).unwrap();
    assert_eq!(ended.code, 2);
    let why = "the ticket is cut or mistyped";
    assert!(ended.stderr.contains(why), "{}", ended.stderr);
}

#[test]
fn a_key_is_made_once_and_its_file_is_private() {
    let home = tempfile::tempdir().unwrap();
    let made = run(home.path(), &["--json", "key", "new", "work"]).unwrap();
    assert_eq!(made.code, 0, "{}", made.stderr);
    let listed = run(home.path(), &["--json", "key", "list"]).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    let made: serde_json::Value = serde_json::from_str(&made.stdout).unwrap();
    assert_eq!(listed["keys"][0], made);
    let again = run(home.path(), &["key", "new", "work"]).unwrap();
    assert_eq!(again.code, 3);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = home.path().join("keys/work.key");
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

#[test]
fn credits_are_put_in_and_shown() {
    let home = tempfile::tempdir().unwrap();
    let added = run(home.path(), &["account", "add", "2.5"]).unwrap();
    assert_eq!(added.code, 0, "{}", added.stderr);
    insta::with_settings!({filters => vec![(r"account \w+", "account ACCOUNT")]}, {
        insta::assert_snapshot!(shown(home.path(), &["account"]));
        insta::assert_snapshot!(shown(home.path(), &["account", "add", "much"]));
    });
    // Those of others in this ledger are balances, whatever they have them for.
    let other = AccountKey::from_seed(&[5; 32]).id().to_string();
    let added = run(home.path(), &["account", "add", "0.5", "--account", &other]).unwrap();
    let line = format!("\n  balance   0.5 of {other}\n");
    assert!(added.stdout.contains(&line), "{}", added.stdout);
    insta::assert_snapshot!(shown(home.path(), &["job", "status"]));
    insta::assert_snapshot!(shown(home.path(), &["job", "watch", "abc"]));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = home.path().join("account.key");
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

#[test]
fn an_account_that_is_none_is_told_as_one() {
    let home = tempfile::tempdir().unwrap();
    let ended = run(home.path(), &["account", "stake", "1", "--account", "me"]).unwrap();
    assert_eq!(ended.code, 2);
    let told =
        "error: --account: an account id has 56 characters, and this has 2; copy the whole id\n";
    assert_eq!(ended.stderr, told);
}

/// The outcome of a command whose lines go somewhere else.
fn told_to(output: impl Into<Stdio>) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(Built::skep());
    command.arg("--home").arg(home.path());
    let command = command.args(["key", "list"]).stdout(output);
    command.output().unwrap()
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure_and_a_full_disk_is() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = told_to(writer);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
    #[cfg(target_os = "linux")]
    {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let ended = told_to(full.unwrap());
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(told.contains("cannot write standard output"), "{told}");
    }
}

#[test]
fn every_shell_gets_completions() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let ended = run(home.path(), &["completions", shell]).unwrap();
        assert_eq!(ended.code, 0);
        assert!(ended.stdout.contains("publish"), "{shell}");
    }
}

#[test]
fn a_component_is_refused_by_the_name_of_what_it_was_not_granted() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("package");
    fs::create_dir(&folder).unwrap();
    fs::copy(Built::component("batch-classifier"), folder.join("c.wasm")).unwrap();
    fs::write(
        folder.join("skep.toml"),
        "[package]\nname = \"x\"\nversion = \"0.1.0\"\nkind = \"component\"\n\
         [component]\nworld = \"batch-classifier\"\npath = \"c.wasm\"\n",
    )
    .unwrap();
    run(home.path(), &["key", "new"]).unwrap();
    let ended = run(home.path(), &["publish", folder.to_str().unwrap()]).unwrap();
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("skep:tensor/tensors"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("skep:model/encoders"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_running_node_says_what_it_is_and_none_is_said_to_be_none() {
    let home = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(shown(home.path(), &["node", "status"]));
    let script = run(home.path(), &["--json", "node", "status"]).unwrap();
    let value: serde_json::Value = serde_json::from_str(&script.stdout).unwrap();
    assert_eq!(
        (script.code, &value["error"]["kind"]),
        (5, &"not-found".into())
    );

    let node = Node::start(&Built::skep(), home.path()).unwrap();
    let text = |name: &str| node.status[name].as_str().unwrap().to_owned();
    let mut shown = shown(home.path(), &["node", "status"]);
    let address = node.status["addresses"][0].as_str().unwrap();
    for (what, name) in [
        (text("ticket"), "TICKET"),
        (text("node"), "NODE"),
        (text("account"), "ACCOUNT"),
        (address.to_owned(), "ADDRESS"),
        (format!("process {}", node.pid()), "process PID"),
    ] {
        shown = shown.replace(&what, name);
    }
    insta::with_settings!({filters => vec![(r"up        \d+ s", "up        SECONDS s")]}, {
        insta::assert_snapshot!(shown);
    });
    let status = node.ask(&["node", "status"]).unwrap();
    assert_eq!(status["node"], node.status["node"]);
    assert_eq!(status["running"], serde_json::json!([]));
    assert_eq!(status["packages"], 0);
    assert_eq!(status["jobs"]["accept"], false);
    let account = node.ask(&["account"]).unwrap();
    assert_eq!(status["account"], account["account"]["account"]);
}

#[test]
fn who_looks_for_nodes_and_finds_none_is_told_why_and_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(shown(home.path(), &["node", "find"]));
    insta::assert_snapshot!(shown(home.path(), &["node", "find", "--device", "gpu"]));
    let unknown = ["node", "find", "--model", "unheard-of"];
    insta::assert_snapshot!(shown(home.path(), &unknown));
    // A running node answers the same.
    let node = Node::start(&Built::skep(), home.path()).unwrap();
    let found = node.ask(&["node", "find", "--memory", "1 GiB"]).unwrap();
    assert_eq!(found["nodes"], serde_json::json!([]));
    assert_eq!(found["heard_of"], 0);
    let why = found["why"].as_str().unwrap();
    assert!(why.starts_with("this node knows no other"), "{why}");
}

#[test]
fn a_running_node_says_for_how_much_it_takes_jobs() {
    let home = tempfile::tempdir().unwrap();
    let rules = "[jobs]\naccept = true\nat-once = 3\nprice-per-teraflop = \"0.25\"\n\
                 price-per-gigabyte = \"0.5\"\nprice-per-hour = \"2\"\n";
    configure(home.path(), rules).unwrap();
    let node = Node::start(&Built::skep(), home.path()).unwrap();
    let told = shown(node.home(), &["node", "status"]);
    let line = "  jobs      takes 3 shards at once, for 0.25 credits per 10^12 operations, 0.5 per 10^9 bytes, \
                2 per hour kept ready\n";
    assert!(told.contains(line), "{told}");
    assert_eq!(
        node.status["jobs"],
        serde_json::json!({
            "accept": true,
            "at_once": 3,
            "teraflop_micro": 250_000,
            "gigabyte_micro": 500_000,
            "hour_micro": 2_000_000,
        })
    );
}
