//! Audits over real nodes: who makes up a result is found out by those who did the same work,
//! loses its stake by a proof that every third node can check, and nobody honest loses anything.

use skep_evidence::{Accusation, Evidence, Meter, ResultCommitment, Statement as _};
use skep_registry::Digest;
use skep_tests::guest_package;

use super::peers::{Manner, key};
use super::*;

pub(super) const CREDIT: u64 = 1_000_000;

pub(super) fn stake(home: &Path, credits: &str, whose: &str) {
    let stake = ["account", "stake", credits, "--account", whose];
    ask(&Built::skep(), home, &stake).unwrap();
}

/// What an account has in one of the lists of a ledger.
pub(super) fn line(home: &Path, list: &str, whose: &str) -> u64 {
    let account = account(home);
    let mut lines = account[list].as_array().unwrap().iter();
    let found = lines.find(|line| line["account"] == whose);
    found.map_or(0, |line| micro(line, "micro"))
}

pub(super) fn own(node: &Node) -> String {
    account(node.home())["account"].as_str().unwrap().to_owned()
}

/// The ledger gave others what the job cost, and the requester has the rest and what it got of a
/// fine.
pub(super) fn assert_paid(requester: &Path, honest: [&Node; 2], spent: u64, reward: u64) {
    let account_of = account(requester);
    assert_eq!(micro(&account_of, "supply_micro"), 1_000_000_000 * CREDIT);
    assert_eq!(micro(&account_of, "escrowed_micro"), 0);
    let left = 2 * CREDIT - spent + reward;
    assert_eq!(micro(&account_of, "available_micro"), left);
    let earned = honest.map(|node| {
        let earned = micro(&account(node.home()), "earned_micro");
        assert_eq!(line(requester, "balances", &own(node)), earned);
        earned
    });
    assert!(earned.iter().all(|earned| *earned > 0), "{earned:?}");
    assert_eq!(earned.iter().sum::<u64>(), spent);
}

/// Publishes the verifier that comes with skep in a node's home.
pub(super) fn publish_verifier(setting: &Setting, node: &Node) -> String {
    let folder = setting.path("verifier");
    guest_package("verifier", &folder).unwrap();
    let published = node.ask(&["publish", &setting.text("verifier")]).unwrap();
    let reference = published["published"]["reference"].as_str().unwrap();
    reference.to_owned()
}

#[test]
fn who_makes_up_a_result_is_caught_by_an_audit_and_pays_for_it() {
    let setting = Setting::new(60);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    let liar = Liar::start(&setting.path("liar"));
    stake(requester.home(), "5", &liar.account);
    let tickets = [ticket(&a), ticket(&b), &liar.ticket];
    let more = ["--shards", "2", "--audit", "100%", "--min-stake", "0"];
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();

    let job = &job["job"];
    let shards = job["shards"].as_array().unwrap();
    let mut caught = 0;
    for shard in shards {
        let audits = shard["audits"].as_array().unwrap();
        for audit in audits {
            let lied = audit["provider"] == *liar.account;
            let expected = if lied { "wrong" } else { "passed" };
            assert_eq!(audit["state"], expected, "{shard}");
            caught += u32::from(lied);
        }
        assert!(!audits.is_empty(), "{shard}");
        for account in shard["outvoted"].as_array().unwrap() {
            assert_eq!(*account, *liar.account);
        }
    }
    assert!(caught > 0, "{job}");
    // It is not paid, what it had at stake is gone, and a quarter of that is the accuser's.
    let spent = micro(job, "spent_micro");
    assert_paid(requester.home(), [&a, &b], spent, 5 * CREDIT / 4);
    assert_eq!(line(requester.home(), "balances", &liar.account), 0);
    assert_eq!(line(requester.home(), "stakes", &liar.account), 0);

    // A verifier that was published comes to the same, from the outputs that were kept.
    let verifier = publish_verifier(&setting, &requester);
    let name = job["job"].as_str().unwrap();
    let check = |more: &[&str]| {
        let check = ["job", "check", name, "--verifier", &verifier];
        requester.ask(&[&check[..], more].concat()).unwrap()
    };
    let checked = check(&[]);
    let verdicts = checked["verdicts"].as_array().unwrap();
    for verdict in verdicts {
        let lied = verdict["provider"] == *liar.account;
        let expected = if lied { "wrong" } else { "right" };
        assert_eq!(verdict["finding"], expected, "{checked}");
    }
    let wrong = verdicts
        .iter()
        .filter(|verdict| verdict["finding"] == "wrong");
    assert_eq!(wrong.count(), caught as usize, "{checked}");
    // What was made up has not even the form of a classifier's output, which the verifier reports.
    let told = |line: &Value| ["shard", "output", "evidence"].map(|name| line[name].clone());
    let wrong = verdicts
        .iter()
        .filter(|verdict| verdict["finding"] == "wrong");
    let expected: Vec<[Value; 3]> = wrong.map(told).collect();
    let reports = checked["reports"].as_array().unwrap();
    let reports: Vec<[Value; 3]> = reports.iter().map(told).collect();
    assert_eq!(reports, expected, "{checked}");
    let why = reports[0][2].as_str().unwrap();
    assert!(
        why.starts_with("it has 1 lines, and the input has "),
        "{why}"
    );
    let second = check(&["--shard", "1"]);
    let second = second["verdicts"].as_array().unwrap();
    assert!(second.iter().all(|verdict| verdict["shard"] == 1));
    assert!(second.iter().all(|verdict| verdicts.contains(verdict)));

    // A third node judges by the file alone. It believes a panel only where those who convict have at stake in its own
    // ledger what they would take.
    let evidence = job["evidence"].as_array().unwrap();
    assert_eq!(evidence.len(), caught as usize);
    let file = setting.text("accusation");
    fs::copy(evidence[0].as_str().unwrap(), &file).unwrap();
    let judge = |node: &Node| node.ask(&["account", "judge", &file]).unwrap();
    let elsewhere = judge(&b);
    assert_eq!(elsewhere["guilty"], true);
    assert_eq!(elsewhere["accused"], *liar.account);
    assert_eq!(elsewhere["fined_micro"], 0);
    // That the accused has a stake there vouches for nobody of the panel.
    stake(a.home(), "5", &liar.account);
    let strangers = judge(&a);
    assert_eq!(strangers["guilty"], true);
    assert_eq!(strangers["fined_micro"], 0, "{strangers}");
    let why = strangers["spared"].as_str().unwrap();
    for part in [
        "the word of 2 who have 5 credits at stake here",
        "and 0 have",
        "skep account stake 5 --account",
        &own(&a),
        &own(&b),
    ] {
        assert!(why.contains(part), "{part:?} is not in {why}");
    }
    assert_eq!(line(a.home(), "stakes", &liar.account), 5 * CREDIT);
    stake(a.home(), "5", &own(&b));
    assert_eq!(judge(&a)["fined_micro"], 0, "one is no majority");
    a.ask(&["account", "add", "5"]).unwrap();
    stake(a.home(), "5", &own(&a));
    let here = judge(&a);
    assert_eq!(here["guilty"], true);
    assert_eq!(here["fined_micro"], 5 * CREDIT, "{here}");
    assert_eq!(judge(&a)["fined_micro"], 0, "one fraud is fined once");
    // With a byte changed it is nobody's accusation.
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let ended = run(a.home(), &["account", "judge", &file]).unwrap();
    assert_eq!(ended.code, 3, "{}", ended.stderr);
}

#[test]
fn who_bills_what_it_must_not_loses_its_stake_by_its_own_signature() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let a = setting.provider("a", "", 2);
    let mut spent = 0;
    for (seed, manner) in [(70, Manner::Overprices), (71, Manner::Replays)] {
        let liar = Liar::with(&setting.path(&format!("liar {seed}")), seed, manner);
        stake(requester.home(), "4", &liar.account);
        let tickets = [ticket(&a), &liar.ticket];
        let job = requester
            .ask(&setting.submit(&tickets, &["--shards", "1"]))
            .unwrap();
        setting.assert_right();
        let job = &job["job"];
        spent += micro(job, "spent_micro");
        assert_eq!(liar.paid.load(Ordering::SeqCst), 0);
        assert_eq!(line(requester.home(), "stakes", &liar.account), 0);
        let evidence = job["evidence"].as_array().unwrap();
        assert_eq!(evidence.len(), 1, "{job}");
        // Anybody comes to the same, with nothing but the file.
        let file = setting.text("accusation");
        fs::copy(evidence[0].as_str().unwrap(), &file).unwrap();
        stake(a.home(), "3", &liar.account);
        let judged = a.ask(&["account", "judge", &file]).unwrap();
        assert_eq!(judged["guilty"], true, "{judged}");
        assert_eq!(judged["accused"], *liar.account);
        assert_eq!(judged["fined_micro"], 3 * CREDIT);
    }
    // A quarter of each fine is the requester's.
    let account = account(requester.home());
    let left = 2 * CREDIT - spent + 2 * CREDIT;
    assert_eq!(micro(&account, "available_micro"), left);
}

#[test]
fn who_meters_more_than_the_work_took_is_caught_though_its_output_is_right() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    let right = setting.expected.clone();
    let liar = Liar::with(&setting.path("liar"), 66, Manner::Inflates(right));
    let tickets = [ticket(&a), ticket(&b), &liar.ticket];
    let more = ["--shards", "1", "--audit", "100%"];
    // Without a word of it, a job that audits asks for a stake.
    let refused = run(requester.home(), &setting.submit(&tickets, &more)).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    let said = &refused.stderr;
    assert!(
        said.contains("0 of 3 nodes that take it have 10 credits"),
        "{said}"
    );
    assert!(said.contains("skep account stake"), "{said}");
    for whose in [&liar.account, &own(&a), &own(&b)] {
        stake(requester.home(), "10", whose);
    }
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();
    let job = &job["job"];
    let shard = &job["shards"][0];
    let audits = shard["audits"].as_array().unwrap();
    let lied = |audit: &&Value| audit["provider"] == *liar.account;
    let audit = audits.iter().find(lied).unwrap();
    assert_eq!(audit["state"], "wrong", "{shard}");
    let spent = micro(job, "spent_micro");
    assert_paid(requester.home(), [&a, &b], spent, 10 * CREDIT / 4);
    assert_eq!(line(requester.home(), "balances", &liar.account), 0);
    assert_eq!(line(requester.home(), "stakes", &liar.account), 0);
}

#[test]
fn of_replicas_that_differ_in_what_they_metered_a_third_decides() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    let right = setting.expected.clone();
    let liar = Liar::with(&setting.path("liar"), 66, Manner::Inflates(right));
    let tickets = [ticket(&a), ticket(&b), &liar.ticket];
    let more = ["--shards", "1", "--replicas", "2"];
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();
    let shard = &job["job"]["shards"][0];
    assert_eq!(shard["outvoted"], serde_json::json!([liar.account]));
    assert_eq!(liar.paid.load(Ordering::SeqCst), 0);
    let spent = micro(&job["job"], "spent_micro");
    assert_conserved(requester.home(), &[a.home(), b.home()], spent);
}

#[test]
fn who_sends_all_of_an_old_delivery_is_paid_for_it_once_and_others_do_the_rest() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let a = setting.provider("a", "", 2);
    let manner = Manner::ReplaysAll(setting.expected.clone());
    let liar = Liar::with(&setting.path("liar"), 66, manner);
    let submit = setting.submit(&[ticket(&a), &liar.ticket], &["--shards", "1"]);
    let mut leases = Vec::new();
    for _ in 0..3 {
        let job = requester.ask(&submit).unwrap();
        setting.assert_right();
        let shard = &job["job"]["shards"][0];
        leases.push((micro(shard, "leases"), shard["providers"][0].clone()));
    }
    // What it signed for its first lease is no evidence that it delivered it under another: the
    // requester could have put the two together itself. So it costs no stake. It has failed like one that
    // delivers nothing, and is asked again, since it is free and says that it is ready.
    let (a, liar_account) = (own(&a), liar.account.as_str());
    let expected = [(1, liar_account), (2, &*a), (2, &*a)];
    let expected = expected.map(|(leases, who)| (leases, Value::from(who)));
    assert_eq!(leases, expected);
    assert_eq!(liar.paid.load(Ordering::SeqCst), 1);
}

#[test]
fn who_accuses_falsely_pays_and_the_accused_does_not() {
    let setting = Setting::new(60);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    // It is dear, so that it is no provider, and has all of the stake, so that it audits.
    let liar = Liar::dear(&setting.path("liar"));
    stake(requester.home(), "8", &liar.account);
    let tickets = [ticket(&a), ticket(&b), &liar.ticket];
    let more = ["--shards", "1", "--audit", "100%", "--min-stake", "0"];
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();

    let job = &job["job"];
    let shard = &job["shards"][0];
    let audit = &shard["audits"][0];
    assert_eq!(audit["state"], "passed", "{shard}");
    assert_eq!(audit["auditors"][0], *liar.account, "{shard}");
    assert_eq!(shard["outvoted"], serde_json::json!([liar.account]));
    assert_paid(
        requester.home(),
        [&a, &b],
        micro(job, "spent_micro"),
        2 * CREDIT,
    );
    assert_eq!(line(requester.home(), "balances", &liar.account), 0);
    assert_eq!(line(requester.home(), "stakes", &liar.account), 0);

    // It says in public that another has cheated, and has nothing to show for it.
    let result = ResultCommitment {
        lease: Digest::of(b"lease"),
        work: Digest::of(b"work"),
        worker: key().id(),
        output: Digest::of(b"output"),
        meter: Meter::default(),
        activations: None,
        nonce: [0; 32],
    };
    let result = result.sign(&key()).unwrap();
    let nothing = Evidence::TwoResults(result.clone(), result);
    let accused = own(&a);
    let accusation = Accusation::new(key().id(), accused.parse().unwrap(), &nothing);
    let file = setting.text("accusation");
    fs::write(&file, accusation.sign(&key()).unwrap().encode()).unwrap();
    // Where it has nothing to lose by that it is not heard.
    let unheard = run(b.home(), &["account", "judge", &file]).unwrap();
    assert_eq!(unheard.code, 3, "{}", unheard.stderr);
    for part in ["It has nothing at stake here", &liar.account, &accused] {
        assert!(unheard.stderr.contains(part), "{}", unheard.stderr);
    }
    stake(b.home(), "4", &liar.account);
    stake(b.home(), "4", &accused);
    let judged = b.ask(&["account", "judge", &file]).unwrap();
    assert_eq!(judged["guilty"], false);
    assert_eq!(judged["fined_micro"], 4 * CREDIT);
    assert_eq!(line(b.home(), "stakes", &liar.account), 0);
    assert_eq!(line(b.home(), "stakes", &accused), 4 * CREDIT);
    // A quarter is for who was accused.
    assert_eq!(line(b.home(), "balances", &accused), CREDIT);
}

#[test]
fn without_audits_nobody_is_asked_twice_and_audits_take_three() {
    let setting = Setting::new(40);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    let tickets = [ticket(&a), ticket(&b)];
    let refused = |part: &str| {
        let more = ["--shards", "2", "--audit", part, "--min-stake", "0"];
        let submit = setting.submit(&tickets, &more);
        run(requester.home(), &submit).unwrap()
    };
    let few = refused("5%");
    assert_eq!(few.code, 5, "{}", few.stderr);
    assert!(
        few.stderr.contains("an audit takes 3 nodes"),
        "{}",
        few.stderr
    );
    let more = ["--shards", "2", "--min-stake", "1"];
    let nothing = run(requester.home(), &setting.submit(&tickets, &more)).unwrap();
    assert_eq!(nothing.code, 5, "{}", nothing.stderr);
    assert!(
        nothing
            .stderr
            .contains("0 of 2 nodes that take it have 1 credits"),
        "{}",
        nothing.stderr
    );
    let none = refused("7");
    assert_eq!(none.code, 2, "{}", none.stderr);

    // Who has enough at stake gets all of it, and who has less nothing.
    stake(requester.home(), "1", &own(&a));
    stake(requester.home(), "0.9", &own(&b));
    let more = ["--shards", "2", "--min-stake", "1"];
    let staked = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();
    for shard in staked["job"]["shards"].as_array().unwrap() {
        assert_eq!(shard["providers"], serde_json::json!([own(&a)]), "{shard}");
    }

    let more = ["--shards", "2", "--audit", "0"];
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();
    let job = &job["job"];
    for shard in job["shards"].as_array().unwrap() {
        assert_eq!(shard["leases"], 1, "{shard}");
        assert_eq!(shard["audits"], serde_json::json!([]));
    }
    let spent = micro(job, "spent_micro") + micro(&staked["job"], "spent_micro");
    assert_conserved(requester.home(), &[a.home(), b.home()], spent);
}
