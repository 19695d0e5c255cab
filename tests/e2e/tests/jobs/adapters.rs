//! Jobs that run with an adapter: whoever has it ready is asked first, who leaves it out is caught, and
//! the authors of its family get what they ask for, to the credit.

use std::collections::BTreeMap;

use skep_evidence::AccountId;
use skep_market::{Earnings, recompute};
use skep_tests::lessons;

use super::audits::{CREDIT, line, own, stake};
use super::peers::{Manner, Requester, task_of};
use super::*;

/// So dear that shares of a small job are whole micro-credits.
pub(super) const RULES: &str = "price-per-teraflop = \"0.3\"\n";
/// Settings of a training of a few seconds.
const QUICK: [&str; 5] = [
    "rank=4",
    "batch=4",
    "learning-rate=0.01",
    "held-out=0.2",
    "patience=0",
];

/// Trains an adapter in a home; returns its name, and its author's account.
pub(super) fn train(
    setting: &Setting,
    author: &str,
    name: &str,
    more: &[&str],
    steps: &str,
) -> String {
    let home = setting.path("requester");
    let data = setting.text("shop.jsonl");
    let key = ask(&Built::skep(), &home, &["key", "new", author]).unwrap();
    let fixed = ["finetune", "--data", &data, "--out", name, "--key", author];
    let all = [&fixed[..], more, &["--"], &QUICK, &[steps]].concat();
    ask(&Built::skep(), &home, &all).unwrap();
    key["publisher"].as_str().unwrap().to_owned()
}

/// What one node alone writes to the lines with an adapter.
pub(super) fn written(setting: &Setting, adapter: &str) -> Vec<u8> {
    let (input, output) = (setting.text("lines.txt"), setting.text("with"));
    let component = Built::component("generate");
    let component = component.to_str().unwrap();
    let run = ["run", component, "--input", &input, "--output", &output];
    let name = format!("adapter={adapter}");
    let all = [&run[..], &["--adapter", adapter, "--", &name]].concat();
    ask(&Built::skep(), &setting.path("requester"), &all).unwrap();
    fs::read(output).unwrap()
}

/// What all accounts got by the receipts that a provider holds.
fn recomputed(home: &Path) -> BTreeMap<AccountId, i128> {
    let earnings = Earnings::open(&home.join("earnings.redb")).unwrap();
    let receipts = earnings.receipts().unwrap();
    recompute(&receipts)
}

#[test]
fn an_adapter_goes_with_the_job_and_its_family_is_paid() {
    let mut setting = Setting::texts(&[
        "What do you sell on Friday?",
        "What do you sell on Monday?",
        "Good morning!",
    ]);
    fs::write(setting.path("shop.jsonl"), lessons(20)).unwrap();
    let elder = train(&setting, "elder", "shop", &["--share", "5"], "steps=16");
    let child = ["--from", "shop", "--share", "2.5"];
    let younger = train(&setting, "younger", "stall", &child, "steps=2");
    let plain = setting.expected.clone();
    setting.expected = written(&setting, "stall");
    assert_ne!(plain, setting.expected);

    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let [a, b] = ["a", "b"].map(|name| setting.provider(name, RULES, 2));
    let mut spent = 0;
    let mut job = |tickets: &[&str], more: &[&str]| {
        let more = [&["--shards", "1"], more].concat();
        let job = requester.ask(&setting.submit(tickets, &more)).unwrap();
        spent += micro(&job["job"], "spent_micro");
        job["job"].clone()
    };
    let result = || fs::read(setting.path("result.jsonl")).unwrap();
    // Both have the package and the model ready, and one of them the adapter.
    for node in [&a, &b] {
        job(&[ticket(node)], &[]);
        assert_eq!(result(), plain);
    }
    let stall = ["--adapter", "stall"];
    let first = job(&[ticket(&a)], &stall);
    assert_eq!(result(), setting.expected);
    assert!(first["adapter"].as_str().unwrap().contains("/stall@"));
    let (account_a, account_b) = (account(a.home()), account(b.home()));
    for _ in 0..3 {
        let job = job(&[ticket(&b), ticket(&a)], &stall);
        let providers = &job["shards"][0]["providers"];
        assert_eq!(*providers, serde_json::json!([account_a["account"]]));
    }

    // Somebody else has the work done without it, and delivers that for what it took.
    let stranger = Requester::start(&setting.path("stranger"));
    let task = peers::Task {
        exact: true,
        ..task_of(requester.home())
    };
    let (output, receipt) = stranger.has_done(ticket(&a), &task, 0, 0).unwrap();
    assert_eq!(output, plain);
    let manner = Manner::DropsAdapter(output, receipt.meter.flops);
    let liar = Liar::with(&setting.path("liar"), 66, manner);
    let tickets = [ticket(&a), ticket(&b), &liar.ticket];
    let audited = ["--audit", "100%", "--min-stake", "0"];
    let audited = job(&tickets, &[&stall[..], &audited].concat());
    assert_eq!(result(), setting.expected);
    let shard = &audited["shards"][0];
    assert_eq!(shard["outvoted"], serde_json::json!([liar.account]));
    assert_eq!(shard["audits"][0]["state"], "wrong", "{shard}");
    assert_eq!(liar.paid.load(Ordering::SeqCst), 0);

    // A requester cannot leave the family out.
    let inspected = requester.ask(&["inspect", "stall"]).unwrap();
    let digest = inspected["package"]["digest"].as_str().unwrap();
    let task = peers::Task {
        adapter: Some(digest.parse().unwrap()),
        ..task
    };
    let refused = stranger.has_done(ticket(&a), &task, 1, 0).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("it divides the price otherwise"),
        "{refused}"
    );

    // The ledger gave each what the receipts say, to which `skep inspect` says the shares.
    let shares = inspected["family"]["shares"].as_array().unwrap();
    let percent = |who: &str| {
        let mut its = shares.iter().filter(|share| share["account"] == who);
        its.next().unwrap()["percent"].as_f64().unwrap()
    };
    assert_eq!((percent(&elder), percent(&younger)), (5.0, 2.5));
    let books = account(requester.home());
    assert_eq!(micro(&books, "escrowed_micro"), 0);
    assert_eq!(micro(&books, "available_micro"), 2_000_000 - spent);
    let paid = |who: &str| {
        let mut lines = books["balances"].as_array().unwrap().iter();
        let line = lines.find(|line| line["account"] == who);
        line.map_or(0, |line| micro(line, "micro"))
    };
    let homes = [&a, &b].map(|node| node.home().to_path_buf());
    drop((a, b));
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    let mut uses = 0;
    for home in &homes {
        let earnings = Earnings::open(&home.join("earnings.redb")).unwrap();
        for receipt in earnings.receipts().unwrap() {
            if receipt.work.adapter.is_some() {
                uses += 1;
                let price = receipt.price.micro();
                *expected.entry(&elder).or_default() += price * 50_000 / 1_000_000;
                *expected.entry(&younger).or_default() += price * 25_000 / 1_000_000;
            }
        }
    }
    assert_eq!(uses, 6, "four jobs of one, and two who agreed on the fifth");
    let all = homes.each_ref().map(|home| recomputed(home));
    for who in [&elder, &younger] {
        assert!(paid(who) > 0);
        assert_eq!(paid(who), expected[who.as_str()]);
        let account: AccountId = who.parse().unwrap();
        let by_receipts: i128 = all.iter().map(|balances| balances[&account]).sum();
        assert_eq!(by_receipts, i128::from(paid(who)));
    }
    let accounts = [account_a, account_b].map(|account| account["account"].clone());
    let providers = accounts.iter().map(|who| paid(who.as_str().unwrap()));
    assert_eq!(
        providers.sum::<u64>() + paid(&elder) + paid(&younger),
        spent
    );
}

/// Leaves an adapter where a node has it, and nothing in it: all its numbers are 0, so that the node writes what the
/// base writes.
fn drop_adapter(home: &Path) {
    let dropped = files(home).into_iter().filter(|file| {
        let name = file.file_name().unwrap();
        name == "adapter_model.safetensors"
    });
    let dropped: Vec<PathBuf> = dropped.collect();
    assert!(!dropped.is_empty(), "the node has no adapter");
    for file in dropped {
        let mut bytes = fs::read(&file).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let header = usize::try_from(header).unwrap();
        bytes[8 + header..].fill(0);
        // It is not to be written to.
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
    }
}

#[test]
fn a_node_that_runs_the_base_alone_is_found_out_and_loses_its_stake() {
    const STAKE: u64 = 15;
    const FINE: u64 = 10;
    let mut setting = Setting::texts(&[
        "What do you sell on Friday?",
        "What do you sell on Monday?",
        "Good morning!",
    ]);
    fs::write(setting.path("shop.jsonl"), lessons(20)).unwrap();
    train(&setting, "elder", "shop", &[], "steps=16");
    let plain = setting.expected.clone();
    setting.expected = written(&setting, "shop");
    assert_ne!(plain, setting.expected);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let [a, b] = ["a", "b"].map(|name| setting.provider(name, RULES, 2));
    let cheat = setting.provider("cheat", RULES, 2);
    let whose = own(&cheat);
    let job = |tickets: &[&str], more: &[&str]| {
        let shop = ["--shards", "1", "--adapter", "shop"];
        let more = [&shop[..], more].concat();
        let job = requester.ask(&setting.submit(tickets, &more)).unwrap();
        job["job"].clone()
    };

    // It begins as all others do, and gets the adapter.
    let mut spent = micro(&job(&[ticket(&cheat)], &[]), "spent_micro");
    setting.assert_right();
    let address = cheat.status["addresses"][0].as_str().unwrap().to_owned();
    cheat.kill().unwrap();
    drop_adapter(&setting.path("cheat"));
    let cheat = Node::start_at(&Built::skep(), &setting.path("cheat"), &address).unwrap();
    // Where nobody looks it is paid for what the base writes, and has everything ready now.
    spent += micro(&job(&[ticket(&cheat)], &[]), "spent_micro");
    let result = fs::read(setting.path("result.jsonl")).unwrap();
    assert_eq!(result, plain);
    let paid_before = line(requester.home(), "balances", &whose);
    assert!(paid_before > 0);

    let honest = [own(&a), own(&b)];
    for account in honest.iter().chain([&whose]) {
        stake(requester.home(), &STAKE.to_string(), account);
    }
    let tickets = [ticket(&a), ticket(&b), ticket(&cheat)];
    let audited = job(&tickets, &["--audit", "100%"]);
    setting.assert_right();
    spent += micro(&audited, "spent_micro");
    let shard = &audited["shards"][0];
    assert_eq!(shard["outvoted"], serde_json::json!([whose]));
    let audits = shard["audits"].as_array().unwrap();
    assert_eq!(audits.len(), 1, "{shard}");
    assert_eq!(audits[0]["provider"], *whose, "{shard}");
    assert_eq!(audits[0]["state"], "wrong", "{shard}");

    // Another node comes to the same, from the file alone.
    let evidence = audited["evidence"].as_array().unwrap();
    assert_eq!(evidence.len(), 1, "{audited}");
    let judge = ["account", "judge", evidence[0].as_str().unwrap()];
    let judged = b.ask(&judge).unwrap();
    assert_eq!(judged["guilty"], true, "{judged}");
    assert_eq!(judged["accused"], *whose, "{judged}");

    // It has lost what a fraud costs, a quarter of which is the accuser's, and nobody else anything.
    let home = requester.home();
    assert_eq!(line(home, "stakes", &whose), (STAKE - FINE) * CREDIT);
    assert_eq!(line(home, "balances", &whose), paid_before);
    for account in &honest {
        assert_eq!(line(home, "stakes", account), STAKE * CREDIT);
        assert!(line(home, "balances", account) > 0);
    }
    let books = account(home);
    assert_eq!(micro(&books, "supply_micro"), 1_000_000_000 * CREDIT);
    assert_eq!(micro(&books, "escrowed_micro"), 0);
    let left = 2 * CREDIT - spent + FINE * CREDIT / 4;
    assert_eq!(micro(&books, "available_micro"), left);
}

#[test]
fn an_adapter_that_has_no_room_beside_its_package_has_no_price() {
    let mut setting = Setting::texts(&["Good morning!"]);
    fs::write(setting.path("shop.jsonl"), lessons(20)).unwrap();
    train(&setting, "elder", "shop", &[], "steps=1");
    let plain = setting.expected.clone();
    let home = setting.path("requester");
    let kept = |bytes: u64| format!("{RULES}keep-packages = \"{bytes} B\"\n");
    let submit = |node: &Node, more: &[&str]| {
        let more = [&["--shards", "1"], more].concat();
        run(&home, &setting.submit(&[ticket(node)], &more)).unwrap()
    };
    // What would have been taken of the disk, as the node says that has no room for it.
    let refused = |node: &Node, more: &[&str], what: &str| {
        let ended = submit(node, more);
        assert_eq!(ended.code, 5, "{}", ended.stderr);
        let said = ended.stderr.split_once(&format!("the package{what} "));
        let said = said.unwrap_or_else(|| panic!("{}", ended.stderr)).1;
        assert!(said.contains("keep-packages"), "{said}");
        let (bytes, _) = said.split_once(" bytes of the disk").unwrap();
        bytes.parse::<u64>().unwrap()
    };
    let with = ["--adapter", "shop"];
    let tiny = setting.provider("tiny", &kept(1), 1);
    let package = refused(&tiny, &[], " takes");
    assert_eq!(refused(&tiny, &with, " takes"), package);

    // It has room for the package alone, and says before a lease that it has none for both.
    let small = setting.provider("small", &kept(package), 1);
    let both = refused(&small, &with, " and its adapter take");
    assert!(both > package);
    let jobs = ask(&Built::skep(), &home, &["job", "status"]).unwrap();
    assert_eq!(jobs["jobs"], serde_json::json!([]), "none was begun");
    let none: [&Path; 0] = [];
    assert_conserved(&home, &none, 0);
    let ended = submit(&small, &[]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(fs::read(setting.path("result.jsonl")).unwrap(), plain);
    // The package is here now, and still there is no room beside it.
    assert_eq!(refused(&small, &with, " and its adapter take"), both);

    // A byte decides.
    let short = setting.provider("short", &kept(both - 1), 1);
    assert_eq!(refused(&short, &with, " and its adapter take"), both);
    let large = setting.provider("large", &kept(both), 1);
    let ended = submit(&large, &with);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    setting.expected = written(&setting, "shop");
    setting.assert_right();
}
