//! Credits between nodes without anybody's word for them: balances that a third one adds up from receipts alone,
//! debts that it settles in its own ledger, and stakes that stay where they are meanwhile.

use std::collections::BTreeMap;

use skep_evidence::{AccountKey, Credits};
use skep_market::{ReceiptFiles, net, recompute};

use super::audits::{CREDIT, line, own, stake};
use super::*;

/// Ten times what others ask for.
const DEAR: &str = "price-per-teraflop = \"0.01\"\nprice-per-gigabyte = \"0.1\"\n";
/// What each has in its own ledger before it has others work.
const GIVEN: u64 = 2_000_000;

fn operator() -> String {
    AccountKey::from_seed(&[88; 32]).id().to_string()
}

/// Nodes that have worked for each other, and who looks at that from outside.
struct Worked {
    setting: Setting,
    nodes: [Node; 3],
    third: PathBuf,
}

impl Worked {
    /// The first had the second do two shards and the third one, and did one for the second; the second did one for
    /// the third. Somebody operates the third.
    fn new() -> Self {
        let setting = Setting::new(60);
        let jobs = "guests = 2\n[jobs]\naccept = true\n";
        configure(&setting.path("requester"), jobs);
        let first = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
        let rules = format!(
            "operator = {{ account = \"{}\", share = \"20 %\" }}\n",
            operator()
        );
        let second = setting.provider("a", DEAR, 2);
        let third = setting.provider("b", &rules, 2);
        for node in [&second, &third] {
            let install = ["install", &setting.package, "--from", ticket(&first)];
            node.ask(&install).unwrap();
            node.ask(&["account", "add", "2"]).unwrap();
        }
        let outside = setting.path("outside");
        configure(&outside, "");
        let worked = Self {
            setting,
            nodes: [first, second, third],
            third: outside,
        };
        for (who, by, shards) in [(0, 1, "2"), (0, 2, "1"), (1, 0, "1"), (2, 1, "1")] {
            worked.has_done(who, by, shards);
        }
        worked
    }

    /// One has another do so many shards.
    fn has_done(&self, who: usize, by: usize, shards: &str) {
        let tickets = [ticket(&self.nodes[by])];
        let submit = self
            .setting
            .submit(&tickets, &["--shards", shards, "--only"]);
        self.nodes[who].ask(&submit).unwrap();
        self.setting.assert_right();
    }

    /// The files of all nodes, with what the nodes say of them.
    fn receipts(&self, name: &str) -> (Vec<String>, Vec<Value>) {
        let written = self.nodes.iter().enumerate().map(|(number, node)| {
            let file = self.setting.text(&format!("{name}-{number}.receipts"));
            let wrote = node.ask(&["account", "receipts", "--output", &file]);
            (file, wrote.unwrap()["wrote"].clone())
        });
        written.unzip()
    }

    fn asks(&self, command: &str, files: &[String]) -> Value {
        let words = ["account", command].map(str::to_owned);
        ask(&Built::skep(), &self.third, &[&words[..], files].concat()).unwrap()
    }

    /// What it is told when that is refused.
    fn is_refused(&self, command: &str, files: &[String]) -> String {
        let words = ["account", command].map(str::to_owned);
        let ended = run(&self.third, &[&words[..], files].concat()).unwrap();
        assert_eq!(ended.code, 3, "{}", ended.stderr);
        ended.stderr
    }
}

/// The balances of an answer, by account.
fn balances(recomputed: &Value) -> BTreeMap<String, (u64, u64, i64)> {
    let lines = recomputed["balances"].as_array().unwrap().iter();
    let of = |line: &Value| {
        let account = line["account"].as_str().unwrap().to_owned();
        let balance = line["balance_micro"].as_i64().unwrap();
        let turnover = (micro(line, "earned_micro"), micro(line, "spent_micro"));
        (account, (turnover.0, turnover.1, balance))
    };
    lines.map(of).collect()
}

/// The receipts of files, read as anybody can who has the library.
fn read(files: &[String]) -> ReceiptFiles {
    let mut read = ReceiptFiles::default();
    for file in files {
        let opened = fs::File::open(file).unwrap();
        read.add(Path::new(file), opened).unwrap();
    }
    read
}

#[test]
fn whoever_has_the_receipts_of_all_nodes_comes_to_what_each_says_that_it_has() {
    let worked = Worked::new();
    let (files, wrote) = worked.receipts("all");
    let counts = wrote.iter().map(|line| {
        let [all, own, others] = ["receipts", "worked", "ordered"].map(|name| micro(line, name));
        assert_eq!(all, own + others);
        (own, others)
    });
    assert_eq!(counts.collect::<Vec<_>>(), [(1, 3), (3, 1), (1, 1)]);

    let recomputed = worked.asks("recompute", &files);
    assert_eq!(micro(&recomputed, "receipts"), 5);
    assert_eq!(micro(&recomputed, "repeated"), 5, "both sides have each");
    let all = balances(&recomputed);
    assert_eq!(all.len(), 4, "{recomputed}");
    for (node, file) in worked.nodes.iter().zip(&files) {
        let books = account(node.home());
        let (available, earned) = (
            micro(&books, "available_micro"),
            micro(&books, "earned_micro"),
        );
        assert!(earned > 0, "{books}");
        let spent = GIVEN - available;
        let balance = i64::try_from(earned).unwrap() - i64::try_from(spent).unwrap();
        let its = all[&own(node)];
        assert_eq!(its, (earned, spent, balance), "{recomputed}");
        // Its own file is enough for it.
        let alone = balances(&worked.asks("recompute", std::slice::from_ref(file)));
        assert_eq!(alone[&own(node)], its);
    }
    let homes = worked.nodes.each_ref().map(Node::home);
    let taken: u64 = homes
        .map(|home| line(home, "balances", &operator()))
        .iter()
        .sum();
    assert!(taken > 0);
    let taken = (taken, 0, i64::try_from(taken).unwrap());
    assert_eq!(all[&operator()], taken);
    assert_eq!(all.values().map(|(.., balance)| balance).sum::<i64>(), 0);

    // What is forged, cut off or something else is named by its file and its place there.
    let bytes = fs::read(&files[1]).unwrap();
    let other = worked.setting.text("other.receipts");
    let told = |bytes: &[u8]| {
        fs::write(&other, bytes).unwrap();
        let told = worked.is_refused("recompute", &[files[0].clone(), other.clone()]);
        assert!(told.contains(&other), "{told}");
        told
    };
    let mut forged = bytes.clone();
    *forged.last_mut().unwrap() ^= 1;
    let said = told(&forged);
    assert!(said.contains("receipt 4 in"), "{said}");
    assert!(said.contains("the signature on this receipt"), "{said}");
    let said = told(&bytes[..bytes.len() - 1]);
    assert!(said.contains("ends in the middle of receipt 4"), "{said}");
    let said = told(b"{}");
    assert!(said.contains("is no file of receipts"), "{said}");
}

#[test]
fn what_nodes_owe_each_other_is_settled_once_in_the_ledger_of_a_third() {
    let worked = Worked::new();
    let (files, _) = worked.receipts("first");
    let receipts = read(&files);
    let batch = net(receipts.receipts()).unwrap();
    let mut expected = recompute(receipts.receipts());
    expected.retain(|_, amount| *amount != 0);

    // In that ledger nobody has anything yet.
    let said = worked.is_refused("settle", &files);
    let debtors = expected.iter().filter(|(_, amount)| **amount < 0);
    for (debtor, amount) in debtors.clone() {
        let owes = Credits::from_micro(u64::try_from(-amount).unwrap());
        let line = format!(
            "{debtor} owes {owes} credits and has 0 (`skep account add {owes} --account {debtor}`)"
        );
        assert!(said.contains(&line), "{line}: {said}");
    }
    assert!(debtors.count() > 0);
    assert_eq!(account(&worked.third)["balances"], serde_json::json!([]));
    let accounts = worked.nodes.each_ref().map(own);
    for whose in &accounts {
        let add = ["account", "add", "1", "--account", whose];
        ask(&Built::skep(), &worked.third, &add).unwrap();
    }

    let settled = worked.asks("settle", &files);
    let of = |settled: &Value| {
        let lines = settled["settled"]["positions"].as_array().unwrap().iter();
        let position = |line: &Value| {
            let account = line["account"].as_str().unwrap().to_owned();
            (account, i128::from(line["micro"].as_i64().unwrap()))
        };
        lines.map(position).collect::<BTreeMap<_, _>>()
    };
    let named = expected
        .iter()
        .map(|(who, amount)| (who.to_string(), *amount));
    let expected: BTreeMap<String, i128> = named.collect();
    assert_eq!(of(&settled), expected);
    assert_eq!(settled["settled"]["root"], batch.root().to_string());
    assert_eq!(micro(&settled["settled"], "receipts"), 5);
    let has = |whose: &str| i128::from(line(&worked.third, "balances", whose));
    let given = |whose: &str| match accounts.iter().any(|account| account == whose) {
        true => i128::from(CREDIT),
        false => 0,
    };
    let all = || accounts.iter().cloned().chain([operator()]);
    for whose in all() {
        let position = expected.get(&whose).copied().unwrap_or(0);
        assert_eq!(has(&whose), given(&whose) + position, "{settled}");
    }

    // Again it is answered as before, and what is new since then is all that is paid after that.
    assert_eq!(worked.asks("settle", &files), settled);
    worked.has_done(0, 1, "1");
    let (files, _) = worked.receipts("second");
    let second = worked.asks("settle", &files);
    let (new, left_out) = (
        micro(&second["settled"], "receipts"),
        micro(&second["settled"], "left_out"),
    );
    assert_eq!((new, left_out), (1, 5), "{second}");
    let now = recompute(read(&files).receipts());
    let now: BTreeMap<String, i128> = now
        .iter()
        .map(|(who, amount)| (who.to_string(), *amount))
        .collect();
    for whose in all() {
        assert_eq!(has(&whose), given(&whose) + now[&whose], "{second}");
    }
    let said = worked.is_refused("settle", &files);
    assert!(said.contains("all 6 receipts were settled"), "{said}");

    // Whose work was paid there takes no stake back before it can be disputed no more.
    stake(&worked.third, "1", &accounts[1]);
    let unstake = ["account", "unstake", "1", "--account", &accounts[1]];
    let kept = run(&worked.third, &unstake).unwrap();
    assert_eq!(kept.code, 3, "{}", kept.stderr);
    assert_eq!(line(&worked.third, "stakes", &accounts[1]), CREDIT);
}

#[test]
fn who_was_given_work_leaves_its_stake_where_it_is() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    for node in [&a, &b] {
        stake(requester.home(), "5", &own(node));
    }
    let unstake = |credits: &str, node: &Node| {
        let whose = own(node);
        let unstake = ["account", "unstake", credits, "--account", &whose];
        run(requester.home(), &unstake).unwrap()
    };
    let at_stake = |node: &Node| line(requester.home(), "stakes", &own(node));
    let before = unstake("1", &a);
    assert_eq!(before.code, 0, "{}", before.stderr);
    assert_eq!(at_stake(&a), 4 * CREDIT);
    assert_eq!(line(requester.home(), "balances", &own(&a)), CREDIT);

    let submit = setting.submit(&[ticket(&a)], &["--shards", "1", "--only"]);
    requester.ask(&submit).unwrap();
    setting.assert_right();
    let kept = unstake("1", &a);
    assert_eq!(kept.code, 3, "{}", kept.stderr);
    for part in ["stays there until", "UTC", "can be disputed", &own(&a)] {
        assert!(kept.stderr.contains(part), "{part:?}: {}", kept.stderr);
    }
    assert_eq!(at_stake(&a), 4 * CREDIT);
    // Who got no lease of it is free to go.
    let other = unstake("5", &b);
    assert_eq!(other.code, 0, "{}", other.stderr);
    assert_eq!(at_stake(&b), 0);
    // It is in the ledger, and not in the memory of who posted it.
    let home = requester.home().to_path_buf();
    drop(requester);
    let whose = own(&a);
    let unstake = ["account", "unstake", "1", "--account", &whose];
    assert_eq!(run(&home, &unstake).unwrap().code, 3);
}
