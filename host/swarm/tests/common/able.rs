//! Nodes of which one can do what is needed, and each of the others falls short in one thing alone.

use std::collections::BTreeSet;
use std::time::Duration;

use skep_registry::PublisherKey;
use skep_swarm::{Announcement, Capability, Need, NodeId, Swarm, Want};

use super::draft;

/// The able one, and what each of the others falls short in.
pub const NAMES: [&str; 6] = ["able", "device", "memory", "price", "model", "adapter"];
const WEIGHTS: &[u8] = b"few";
const MEMORY: u64 = 1 << 30;
/// Nothing here takes as long.
const DEADLINE: Duration = Duration::from_secs(120);
/// Who was not found is looked for again after this: nodes are being announced, and have that to do.
const PAUSE: Duration = Duration::from_millis(200);

/// Has nodes take work, in the order of [`NAMES`]. Returns what the first alone meets.
pub async fn take_work(nodes: &[Swarm; NAMES.len()]) -> Need {
    let key = PublisherKey::generate().unwrap();
    let files = [("weights", WEIGHTS)];
    let model = draft("a-model", "1.0.0", &files).sign(&key, None).unwrap();
    let adapter = draft("an-adapter", "1.0.0", &files);
    let adapter = adapter.sign(&key, None).unwrap();
    for (name, node) in NAMES.into_iter().zip(nodes) {
        node.import_bytes(WEIGHTS.to_vec()).await.unwrap();
        for (part, release) in [("model", &model), ("adapter", &adapter)] {
            if name != part {
                node.publish_release(release).await.unwrap();
            }
        }
        let device = if name == "device" { "cpu" } else { "cuda" };
        node.announce(Some(Capability {
            device: device.to_owned(),
            memory: MEMORY - u64::from(name == "memory"),
            slots: 1,
            tariff: [0, 5, 7 + u64::from(name == "price"), 0],
        }));
    }
    Need {
        ready: vec![model.digest(), adapter.digest()],
        device: Some("cuda".to_owned()),
        memory: MEMORY,
        tariff: Some([0, 5, 7, 0]),
        ..Need::default()
    }
}

/// Looks for what is needed until all the nodes have said what they can do, who are known by what finds nodes and
/// by nothing else. Then the first alone is found able, and is the first of all that are found; and for less
/// in one thing, the one that falls short in that as well.
pub async fn assert_found(asking: &Swarm, nodes: &[Swarm; NAMES.len()], need: &Need) {
    let ids = nodes.each_ref().map(Swarm::id);
    let want = Want::Jobs(need.clone());
    let hearing = async {
        loop {
            asking.find(&want).await;
            let said: BTreeSet<NodeId> = asking
                .acquaintances()
                .iter()
                .map(Announcement::node)
                .collect();
            if ids.iter().all(|id| said.contains(id)) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let heard = tokio::time::timeout(DEADLINE, hearing).await;
    heard.expect("all are found, and asked what they can do");
    let found = asking.find(&want).await;
    assert_eq!(found.first().map(|node| node.id), Some(ids[0]), "{found:?}");
    let able = asking.find_able(need).await;
    let able: Vec<NodeId> = able.iter().map(Announcement::node).collect();
    assert_eq!(able, [ids[0]]);

    let changes: [&dyn Fn(&mut Need); NAMES.len() - 1] = [
        &|need| need.device = None,
        &|need| need.memory -= 1,
        &|need| need.tariff = Some([0, 5, 8, 0]),
        &|need| need.ready = need.ready.split_off(1),
        &|need| need.ready.truncate(1),
    ];
    let said = asking.acquaintances();
    for (change, other) in changes.iter().zip(&ids[1..]) {
        let mut less = need.clone();
        change(&mut less);
        let want = Want::Jobs(less);
        let able = said.iter().filter(|said| said.has(&want));
        let able: BTreeSet<NodeId> = able.map(Announcement::node).collect();
        assert_eq!(able, BTreeSet::from([ids[0], *other]), "{want:?}");
    }
}
