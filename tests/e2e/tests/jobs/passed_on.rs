//! Nodes in between: who passes on what two others say to each other is taken for neither of them.

use skep_swarm::NodeTicket;

use super::audits::own;
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
