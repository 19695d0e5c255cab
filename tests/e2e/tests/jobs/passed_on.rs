//! Nodes in between: who passes on what two others say to each other, or has a copy of what they signed, is taken for
//! neither of them.

use skep_swarm::NodeTicket;

use super::audits::own;
use super::greedy::{greedy, until_at_work};
use super::peers::{Impostor, Requester, task_of};
use super::*;

#[test]
fn nobody_gets_an_account_s_leases_by_passing_on_its_answers() {
    let setting = Setting::new(40);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let a = setting.provider("a", "", 2);
    let impostor = Impostor::of(&setting.path("impostor"), ticket(&a));
    let shards = ["--shards", "3"];
    // What it answers is what `a` has signed, for this question and for another node.
    let alone = setting.submit(&[&impostor.ticket], &shards);
    let refused = run(requester.home(), &alone).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("it was signed for another node"),
        "{}",
        refused.stderr
    );
    assert_eq!(impostor.quoted.load(Ordering::SeqCst), 1);

    // Nor does it take anything from `a` by answering after it.
    let both = setting.submit(&[ticket(&a), &impostor.ticket], &shards);
    let job = requester.ask(&both).unwrap();
    setting.assert_right();
    for shard in job["job"]["shards"].as_array().unwrap() {
        assert_eq!(shard["leases"], 1, "{shard}");
        assert_eq!(shard["providers"], serde_json::json!([own(&a)]), "{shard}");
    }
    assert_eq!(impostor.offered.load(Ordering::SeqCst), 0);
    let spent = micro(&job["job"], "spent_micro");
    assert_conserved(requester.home(), &[a.home()], spent);
}

#[test]
fn a_lease_that_comes_from_another_node_than_its_requester_speaks_from_is_not_taken() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let a = setting.provider("a", "", 2);
    requester
        .ask(&setting.submit(&[ticket(&a)], &["--shards", "1"]))
        .unwrap();
    let task = task_of(requester.home());
    let stranger = Requester::start(&setting.path("stranger"));
    stranger.has_done(ticket(&a), &task, 0, 0).unwrap();
    let other: NodeTicket = ticket(&requester).parse().unwrap();
    let passed_on = stranger.posing_as(other.node.id);
    let refused = passed_on.has_done(ticket(&a), &task, 1, 0).unwrap_err();
    assert!(
        refused.to_string().contains("it is of another node"),
        "{refused}"
    );
}

#[test]
fn who_has_a_copy_of_a_lease_ends_nothing_and_its_requester_goes_on_from_another_node() {
    let setting = Setting::new(10);
    let (c, task, stranger) = greedy(&setting, "");
    let elsewhere = Requester::start(&setting.path("elsewhere"));
    let other = Requester::with(&setting.path("other"), 78);
    let copier = Requester::start(&setting.path("copier")).posing_as(elsewhere.node());
    let offered = stranger.lease(ticket(&c), &task, 0, 0, 0).unwrap();
    // The shard is worked on as long as the owner's own guest is there.
    let occupied = Occupied::new(&setting, &c);
    let mut held = stranger.begins(ticket(&c), &offered).unwrap();
    stranger.sends_input(&mut held);
    until_at_work(&c, true);
    // Its requester comes again, from another node of its own, as one does that was killed.
    let mut again = elsewhere.begins(ticket(&c), &offered).unwrap();
    stranger.is_hung_up_on(held);
    elsewhere.sends_input(&mut again);
    until_at_work(&c, true);
    // One signs a key as who it is, and the other has what the requester signed for its node.
    let are_refused = || {
        for (whose, why) in [(&other, "of another account"), (&copier, "of another node")] {
            let refused = whose.begins(ticket(&c), &offered).err().unwrap();
            let refused = refused.to_string();
            assert!(refused.contains(why), "{refused}");
        }
    };
    are_refused();
    until_at_work(&c, true);
    drop(occupied);
    // The conversation goes on to its end, and whoever asks once more gets the same.
    let (output, receipt) = elsewhere.takes(again).unwrap();
    assert_eq!(output, setting.expected);
    let (same, once) = stranger.has(ticket(&c), &offered).unwrap();
    assert_eq!((same, once.digest()), (output, receipt.digest()));
    elsewhere.pays(ticket(&c), receipt);
    assert_eq!(micro(&account(c.home()), "receipts"), 2);
    // What became of it is told to its requester, and not to who has a copy.
    let over = stranger.begins(ticket(&c), &offered).err().unwrap();
    let over = over.to_string();
    assert!(over.contains("its receipt has come back"), "{over}");
    are_refused();
}
