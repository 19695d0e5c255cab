//! Who operates a provider takes its part of every price, and no requester takes one for itself.

use skep_evidence::{AccountId, AccountKey, Share, Split};
use skep_market::{Earnings, recompute};
use skep_tests::{Built, Node};

use super::peers::{Requester, task_of};
use super::setting::{Setting, account, micro, ticket};

#[test]
fn the_operator_of_a_provider_gets_its_part_of_every_price() {
    let setting = Setting::new(60);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let operator = AccountKey::from_seed(&[88; 32]).id();
    let rules = format!("operator = {{ account = \"{operator}\", share = \"20 %\" }}\n");
    let (a, b) = (
        setting.provider("a", &rules, 2),
        setting.provider("b", "", 2),
    );
    let submit = setting.submit(&[ticket(&a), ticket(&b)], &["--shards", "2"]);
    let job = requester.ask(&submit).unwrap();
    setting.assert_right();
    let own = account(requester.home());
    let spent = micro(&job["job"], "spent_micro");
    assert_eq!(micro(&own, "available_micro"), 2_000_000 - spent);
    let paid = |who: &str| {
        let mut lines = own["balances"].as_array().unwrap().iter();
        let line = lines.find(|line| line["account"] == who);
        line.map_or(0, |line| micro(line, "micro"))
    };
    let accounts = [&a, &b].map(|node| account(node.home())["account"].clone());
    let [first, second] = accounts.each_ref().map(|who| paid(who.as_str().unwrap()));
    let taken = paid(&operator.to_string());
    assert!(taken > 0 && first > 0 && second > 0, "{own}");
    assert_eq!(first + second + taken, spent);

    // Without adapters nobody else has a part, least of all whoever makes out the lease.
    let stranger = Requester::start(&setting.path("stranger"));
    let mut task = task_of(requester.home());
    let share = |account: AccountId, parts| Share { account, parts };
    let wrong = [
        Split::new(vec![share(stranger.account(), 1_000_000)]),
        Split::new(vec![share(operator, 100_000)]),
        Ok(Split::default()),
    ];
    for split in wrong {
        task.split = split.unwrap();
        let refused = stranger.has_done(ticket(&a), &task, 0, 0).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("it divides the price otherwise"),
            "{refused}"
        );
    }
    task.split = Split::new(vec![share(operator, 200_000)]).unwrap();
    stranger.has_done(ticket(&a), &task, 0, 0).unwrap();

    // The receipts alone say the same, whoever adds them up.
    let home = a.home().to_path_buf();
    drop(a);
    let earnings = Earnings::open(&home.join("earnings.redb")).unwrap();
    let receipts = earnings.receipts().unwrap();
    let [receipt] = &receipts[..] else {
        panic!("{} receipts", receipts.len());
    };
    let part = receipt.price.micro() * 200_000 / 1_000_000;
    assert_eq!((taken, first), (part, receipt.price.micro() - part));
    let balances = recompute(&receipts);
    assert_eq!(balances[&operator], i128::from(part));
}
