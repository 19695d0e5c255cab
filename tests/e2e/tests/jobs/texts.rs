//! Jobs whose work a language model writes: other nodes write the same texts, whatever else they
//! write meanwhile, so that who makes them up is caught as with any other work.

use super::*;

#[test]
fn texts_are_audited_and_who_makes_them_up_is_caught() {
    let setting = Setting::texts(&[
        "ticket: I was charged twice for March.",
        "Good morning! What do you sell?",
        "It is a truth universally acknowledged, that",
        "What does \"honey\" mean?",
    ]);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    let liar = Liar::start(&setting.path("liar"));
    let tickets = [ticket(&a), ticket(&b), &liar.ticket];
    let more = ["--shards", "2", "--audit", "100%", "--min-stake", "0"];
    let (input, component) = (setting.text("lines.txt"), Built::component("generate"));
    let beside = setting.text("beside");
    let job = std::thread::scope(|scope| {
        // Its owner's texts share the batches of one node, and are remembered there.
        scope.spawn(|| {
            let component = component.to_str().unwrap();
            let run = ["run", component, "--input", &input, "--output", &beside];
            for _ in 0..3 {
                a.ask(&run).unwrap();
            }
        });
        requester.ask(&setting.submit(&tickets, &more)).unwrap()
    });
    setting.assert_right();
    let shards = job["job"]["shards"].as_array().unwrap();
    let mut caught = 0;
    for shard in shards {
        for audit in shard["audits"].as_array().unwrap() {
            let lied = audit["provider"] == *liar.account;
            let expected = if lied { "wrong" } else { "passed" };
            assert_eq!(audit["state"], expected, "{job}");
            caught += u32::from(lied);
        }
        assert!(!shard["audits"].as_array().unwrap().is_empty(), "{job}");
        for account in shard["outvoted"].as_array().unwrap() {
            assert_eq!(*account, *liar.account);
        }
    }
    assert!(caught > 0, "{job}");
}
