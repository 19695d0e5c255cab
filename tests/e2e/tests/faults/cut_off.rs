//! A requester that is cut off from all who work for it: mended in time its job goes on, and if not it ends by its
//! deadline and says so.

use super::places::{Cable, is_root};
use super::setting::{has_shard, until};
use super::*;

/// A requester, and at the other end of a cable that is cut all who work for it. The first fields end first.
struct CutOff {
    /// What keeps the providers from what they were given.
    occupied: Vec<Occupied>,
    providers: [Node; 2],
    requester: Node,
    cable: Cable,
    setting: Setting,
    /// The name of the job.
    job: String,
}

impl CutOff {
    /// A job of two shards of which each provider has one when the cable is cut, until the requester has given
    /// up both leases.
    fn new(deadline: &str) -> Self {
        let setting = Setting::new(20);
        let cable = Cable::new(setting.folder.path());
        let [near, far] = cable.ends();
        let requester = Node::start(near, &setting.path("requester")).unwrap();
        let providers = ["a", "c"].map(|name| setting.provider_by(far, name, "", 1));
        let occupied = providers.iter().map(|node| Occupied::new(&setting, node));
        let occupied: Vec<Occupied> = occupied.collect();
        let tickets = providers.each_ref().map(ticket);
        let more = ["--shards", "2", "--deadline", deadline, "--detach"];
        let begun = requester.ask(&setting.submit(&tickets, &more)).unwrap();
        let job = begun["job"]["job"].as_str().unwrap().to_owned();
        until("they have no shards", || providers.iter().all(has_shard));
        cable.set(false);
        until("the leases are not given up", || {
            let status = requester.ask(&["job", "status", &job]).unwrap();
            let mut shards = status["job"]["shards"].as_array().unwrap().iter();
            shards.all(|shard| shard["state"] == "waiting" && shard["leases"] == 1)
        });
        Self {
            occupied,
            providers,
            requester,
            cable,
            setting,
            job,
        }
    }

    /// Mends the cable, and lets the providers work.
    fn mend(&mut self) {
        self.cable.set(true);
        self.occupied.clear();
    }

    fn assert_conserved(&self, spent: u64) {
        let homes = self.providers.each_ref().map(Node::home);
        assert_conserved(self.requester.home(), &homes, spent);
    }
}

#[test]
fn a_requester_that_is_cut_off_from_everybody_has_its_result_once_the_cable_is_mended() {
    if !is_root() {
        return;
    }
    let mut cut_off = CutOff::new("10 min");
    cut_off.mend();
    let job = cut_off.requester.ask(&["job", "watch", &cut_off.job]);
    let job = job.unwrap();
    cut_off.setting.assert_right();
    assert_eq!(job["job"]["state"], "done", "{job}");
    assert_eq!(leases(&job), [2, 2], "{job}");
    cut_off.assert_conserved(spent(&job));
}

#[test]
fn a_requester_that_is_cut_off_until_its_deadline_says_so_and_has_lost_nothing() {
    if !is_root() {
        return;
    }
    let mut cut_off = CutOff::new("24 s");
    let (requester, setting) = (&cut_off.requester, &cut_off.setting);
    // It ends while the cable is cut: nobody is owed anything, so nobody is waited for.
    let ended = run(requester.home(), &["job", "watch", &cut_off.job]).unwrap();
    assert_ne!(ended.code, 0, "{}", ended.stderr);
    let said = &ended.stderr;
    assert!(said.contains("the deadline passed"), "{said}");
    assert!(!setting.path("result.jsonl").exists());
    let job = requester.ask(&["job", "status", &cut_off.job]).unwrap();
    assert_eq!(job["job"]["state"], "failed", "{job}");
    assert_eq!(leases(&job), [1, 1], "{job}");
    cut_off.assert_conserved(0);

    // Mended, it has what the next job makes, and pays for that alone.
    cut_off.mend();
    let tickets = cut_off.providers.each_ref().map(ticket);
    let again = cut_off.setting.submit(&tickets, &["--shards", "2"]);
    let job = cut_off.requester.ask(&again).unwrap();
    cut_off.setting.assert_right();
    cut_off.assert_conserved(spent(&job));
}
