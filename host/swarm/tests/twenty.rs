//! Twenty nodes on loopback, a third of which leave while the others look for blobs and fetch them, and for those
//! who take work: whatever still has a provider is found. Of those that leave three are processes that are killed,
//! so that nobody hears of it. Who leaves, who has which blob and who looks for it is drawn anew in each run, by a
//! seed that it prints: with that in `SKEP_TEST_SEED` it is drawn the same again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{content, draft, limits, offer};
use mainline::Testnet;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use skep_registry::{Digest, PublisherKey, SignedRelease};
use skep_swarm::{
    Announcement, Capability, Dht, Limits, Need, NodeId, NodeTicket, Swarm, SwarmConfig,
    TicketDiscovery, Want,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;

const NODES: usize = 20;
/// A third of them.
const LEAVING: usize = 7;
/// So many of these are killed. The others close, as a node does that is asked to stop.
const KILLED: usize = 3;
/// Those that take work.
const WORKERS: [usize; 5] = [3, 5, 9, 11, 16];
const BLOBS: usize = 40;
/// Nothing here takes as long.
const DEADLINE: Duration = Duration::from_secs(120);
/// The seed of a draw that is to be had again.
const SEED: &str = "SKEP_TEST_SEED";
/// Tells a process which node it is.
const MEMBER: &str = "SKEP_TEST_MEMBER";
/// Before the ticket of a node in a process of its own.
const HERE: &str = "HERE IS ";
/// The one file of the model that work needs.
const WEIGHTS: &[u8] = b"few";

/// What a node has to know to be one of the twenty.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    dir: PathBuf,
    /// The ticket of one that it knows, if it knows one.
    peer: Option<String>,
    /// Nodes of the DHT. Without them it gossips.
    bootstrap: Option<Vec<String>>,
    /// The blobs that it has.
    blobs: Vec<usize>,
    /// The model with which it takes work, if it does.
    model: Option<Vec<u8>>,
}

impl Told {
    /// A node that has what it is to have, and says so.
    async fn open(&self) -> Swarm {
        let bootstrap = self.bootstrap.clone();
        let config = SwarmConfig {
            gossip: bootstrap.is_none(),
            dht: bootstrap.map(|bootstrap| Dht { bootstrap }),
            limits: patience(),
            ..SwarmConfig::loopback(&self.dir)
        };
        let node = Swarm::open(config).await.unwrap();
        if let Some(peer) = &self.peer {
            let ticket: NodeTicket = peer.parse().unwrap();
            node.add_discovery(Arc::new(TicketDiscovery::from(ticket)));
        }
        for number in &self.blobs {
            offer(&node, &data(*number)).await;
        }
        if let Some(model) = &self.model {
            let model = SignedRelease::decode(model).unwrap();
            node.import_bytes(WEIGHTS.to_vec()).await.unwrap();
            node.publish_release(&model).await.unwrap();
            node.announce(Some(Capability {
                device: "cpu".to_owned(),
                memory: 1 << 30,
                slots: 2,
                tariff: [0, 5, 7, 0],
            }));
        }
        node.gossip();
        node
    }
}

/// A node in a process of its own. Dropped, it is killed.
struct Process {
    child: Child,
    ticket: NodeTicket,
}

impl Process {
    fn start(told: &Told) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_process_that_is_killed", "--nocapture"])
            .env(MEMBER, serde_json::to_string(told).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let ticket = lines.find_map(|line| line.strip_prefix(HERE)?.parse::<NodeTicket>().ok());
        let ticket = ticket.expect("the process ended before it was a node");
        Self { child, ticket }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test of its own: one of the twenty, in a process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_killed() {
    let Some(told) = std::env::var_os(MEMBER) else {
        return;
    };
    let told: Told = serde_json::from_str(told.to_str().unwrap()).unwrap();
    let node = told.open().await;
    println!("\n{HERE}{}", node.ticket());
    // Nothing is written there: it ends with the process that would kill this one.
    let end = || std::io::stdin().read_line(&mut String::new());
    tokio::task::spawn_blocking(end).await.unwrap().unwrap();
}

/// One of the twenty.
enum Node {
    Here(Swarm),
    There(Process),
}

impl Node {
    /// A node, in a process of its own if it is to be killed.
    async fn start(told: &Told, is_killed: bool) -> Self {
        match is_killed {
            true => Self::There(tokio::task::block_in_place(|| Process::start(told))),
            false => Self::Here(told.open().await),
        }
    }

    fn ticket(&self) -> NodeTicket {
        match self {
            Self::Here(node) => node.ticket(),
            Self::There(process) => process.ticket.clone(),
        }
    }

    fn id(&self) -> NodeId {
        self.ticket().node.id
    }

    /// The node, which is none that is killed.
    fn here(&self) -> &Swarm {
        match self {
            Self::Here(node) => node,
            Self::There(_) => panic!("it is in a process of its own"),
        }
    }
}

/// What is drawn by a seed, which is printed. A new one each time, unless one is asked for.
fn drawn() -> StdRng {
    let seed: u64 = match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("a seed is a number"),
        Err(_) => rand::random(),
    };
    println!("{SEED}={seed}");
    StdRng::seed_from_u64(seed)
}

/// Who leaves.
struct Leaving {
    /// All of them, in the order in which they do.
    order: Vec<usize>,
    /// Those that are killed.
    killed: BTreeSet<usize>,
}

impl Leaving {
    /// Any third of them, unless that leaves nobody who takes work. A blob that goes with all who have it is not
    /// looked for but by the end, when it has to be missed.
    fn draw(random: &mut StdRng) -> Self {
        let mut order: Vec<usize> = (0..NODES).collect();
        while WORKERS.iter().all(|n| order.contains(n)) {
            order = (0..NODES).collect();
            order.shuffle(random);
            order.truncate(LEAVING);
        }
        let killed = order.choose_multiple(random, KILLED).copied().collect();
        Self { order, killed }
    }

    /// Those who stay.
    fn staying(&self) -> Vec<usize> {
        (0..NODES).filter(|n| !self.order.contains(n)).collect()
    }

    /// One who stays and takes no work. There are more than those who leave and those who work.
    fn asking(&self) -> usize {
        let staying = self.staying();
        let asking = staying.iter().find(|n| !WORKERS.contains(n));
        *asking.unwrap()
    }
}

/// What is in a blob.
fn data(number: usize) -> Vec<u8> {
    content(number as u64, 20_000 + 1_000 * number)
}

/// Which nodes have each blob.
fn holders(random: &mut StdRng) -> Vec<BTreeSet<usize>> {
    let all: Vec<usize> = (0..NODES).collect();
    let holders = (0..BLOBS).map(|_| {
        let count = random.random_range(1..=4);
        let some = all.choose_multiple(random, count).copied();
        some.collect::<BTreeSet<usize>>()
    });
    holders.collect()
}

/// The twenty, and the model with which some of them take work. Each knows one that was there before, or by the
/// DHT nobody.
async fn twenty(
    random: &mut StdRng,
    dir: &Path,
    bootstrap: Option<&[String]>,
    holders: &[BTreeSet<usize>],
    leaving: &Leaving,
) -> (Vec<Node>, Digest) {
    let key = PublisherKey::generate().unwrap();
    let model = draft("a-model", "1.0.0", &[("weights", WEIGHTS)]);
    let model = model.sign(&key, None).unwrap();
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..NODES {
        let known = nodes.choose(random).filter(|_| bootstrap.is_none());
        let its = (0..BLOBS).filter(|blob| holders[*blob].contains(&number));
        let told = Told {
            dir: dir.join(number.to_string()),
            peer: known.map(|known| known.ticket().to_string()),
            bootstrap: bootstrap.map(<[String]>::to_vec),
            blobs: its.collect(),
            model: WORKERS.contains(&number).then(|| model.encode().to_vec()),
        };
        nodes.push(Node::start(&told, leaving.killed.contains(&number)).await);
    }
    (nodes, model.digest())
}

/// Waits until a condition holds, which the nodes bring about by themselves.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, wait).await;
    waited.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Who looks for what.
#[derive(Clone, Copy)]
enum Search {
    Blob { node: usize, number: usize },
    Work { node: usize },
}

/// Has those who stay look for every blob that they have not got and fetch it, and for somebody who takes work,
/// several at a time, while the others leave one after the other.
async fn look_while_a_third_leaves(
    random: &mut StdRng,
    nodes: Vec<Node>,
    holders: &[BTreeSet<usize>],
    leaving: &Leaving,
    work: &Want,
) {
    let staying = leaving.staying();
    let at_work = WORKERS.into_iter().filter(|n| staying.contains(n));
    let at_work: Vec<usize> = at_work.collect();
    // A node finds others, and not itself.
    let finds_work = |node: &usize| at_work.iter().any(|worker| worker != node);
    let looking_for_work: Vec<usize> = staying.iter().copied().filter(finds_work).collect();
    let at_work: Arc<Vec<NodeId>> = Arc::new(at_work.iter().map(|n| nodes[*n].id()).collect());
    let mut searches: Vec<Search> = Vec::new();
    for (number, held) in holders.iter().enumerate() {
        let still = held.iter().any(|holder| staying.contains(holder));
        let others: Vec<usize> = staying
            .iter()
            .filter(|node| !held.contains(node))
            .copied()
            .collect();
        if still {
            let some = others.choose_multiple(random, 3);
            searches.extend(some.map(|node| Search::Blob {
                node: *node,
                number,
            }));
        }
    }
    let blobs = searches.len();
    assert!(blobs > BLOBS, "the seed leaves enough to look for: {blobs}");
    searches.extend(
        looking_for_work
            .iter()
            .map(|node| Search::Work { node: *node }),
    );
    searches.shuffle(random);
    let total = searches.len();

    // One leaves after each few searches that ended, so that searches are under way whenever one
    // does: nobody waits until the one before it has told everybody.
    let (ended, next) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    let gone = leaving.order.iter().map(|n| nodes[*n].take().unwrap());
    let gone: Vec<Node> = gone.collect();
    let leave = {
        let (ended, next) = (ended.clone(), next.clone());
        async move {
            let mut going = JoinSet::new();
            for (number, node) in gone.into_iter().enumerate() {
                while ended.load(Ordering::SeqCst) < number * total / (2 * LEAVING) {
                    next.notified().await;
                }
                match node {
                    Node::Here(node) => going.spawn(async move { node.shutdown().await }),
                    Node::There(process) => going.spawn_blocking(move || drop(process)),
                };
            }
            going.join_all().await;
        }
    };
    let leave = tokio::spawn(leave);
    let nodes: Vec<Option<Swarm>> = nodes
        .into_iter()
        .map(|node| node.map(|node| node.here().clone()))
        .collect();
    let mut looking = JoinSet::new();
    let mut waiting = searches.into_iter();
    loop {
        while looking.len() < 8
            && let Some(search) = waiting.next()
        {
            let (Search::Blob { node, .. } | Search::Work { node }) = search;
            let node = nodes[node].clone().unwrap();
            let (ended, next) = (ended.clone(), next.clone());
            let (work, at_work) = (work.clone(), at_work.clone());
            looking.spawn(async move {
                match search {
                    Search::Blob { number, .. } => fetch(&node, &data(number)).await,
                    Search::Work { .. } => {
                        let found = node.find(&work).await;
                        let is_there = found.iter().any(|found| at_work.contains(&found.id));
                        assert!(is_there, "nobody who takes work and is there: {found:?}");
                    }
                }
                ended.fetch_add(1, Ordering::SeqCst);
                next.notify_one();
            });
        }
        match looking.join_next().await {
            Some(looked) => looked.unwrap(),
            None => break,
        }
    }
    leave.await.unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), total);

    // What went with those who left is not found, and that is said.
    let someone = nodes[staying[0]].as_ref().unwrap();
    let mut lost = JoinSet::new();
    for (number, held) in holders.iter().enumerate() {
        if held.iter().all(|holder| leaving.order.contains(holder)) {
            let (someone, digest) = (someone.clone(), Digest::of(&data(number)));
            lost.spawn(async move {
                assert!(someone.find_blob(&digest, &[]).await.is_err());
            });
        }
    }
    lost.join_all().await;
    let mut closing = JoinSet::new();
    for node in nodes.into_iter().flatten() {
        closing.spawn(async move { node.shutdown().await });
    }
    closing.join_all().await;
}

/// Finds a blob by its digest alone, and fetches it.
async fn fetch(node: &Swarm, data: &[u8]) {
    let digest = Digest::of(data);
    let found = node.find_blob(&digest, &[]).await.unwrap();
    assert_eq!(found.size, data.len() as u64);
    let fetched = node.fetch_blob(&digest, found.size, &found.providers, None);
    let (blob, _) = fetched.await.unwrap();
    assert_eq!(blob.read_at(0, data.len()).await.unwrap(), data);
}

fn patience() -> Limits {
    Limits {
        connect: Duration::from_secs(3),
        stall: Duration::from_secs(5),
        // A third of the answers come from nobody.
        discovery: Duration::from_secs(5),
        gossip: Duration::from_millis(500),
        ..limits()
    }
}

/// Work of which the model is ready.
fn ready(model: Digest) -> Want {
    Want::Jobs(Need {
        ready: vec![model],
        ..Need::default()
    })
}

/// These, in order.
fn sorted(ids: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = ids.into_iter().collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_gossip_a_blob_is_found_while_anyone_has_it() {
    let mut random = drawn();
    let dir = tempfile::tempdir().unwrap();
    let (holders, leaving) = (holders(&mut random), Leaving::draw(&mut random));
    let (nodes, model) = twenty(&mut random, dir.path(), None, &holders, &leaving).await;
    let ids: Vec<NodeId> = nodes.iter().map(Node::id).collect();
    let work = ready(model);
    until("everybody knows what everybody has", async || {
        nodes.iter().enumerate().all(|(number, node)| {
            // What those in other processes know is not seen from here.
            let Node::Here(node) = node else {
                return true;
            };
            let known = node.acquaintances();
            let has = |holder: usize, want: &Want| {
                let said = known.iter().find(|said| said.node() == ids[holder]);
                holder == number || said.is_some_and(|said| said.has(want))
            };
            let blobs = holders.iter().enumerate().all(|(number, held)| {
                let want = Want::Blob(Digest::of(&data(number)));
                held.iter().all(|holder| has(*holder, &want))
            });
            let works = WORKERS.iter().all(|worker| has(*worker, &work));
            blobs && works && known.len() == NODES - 1
        })
    })
    .await;
    // Who takes work is found by what it is, has and asks.
    let need = |device: &str, bytes: u64| {
        Want::Jobs(Need {
            ready: vec![model],
            device: Some(device.to_owned()),
            memory: 1 << 30,
            tariff: Some([0, 5, bytes, 0]),
            ..Need::default()
        })
    };
    let workers = sorted(WORKERS.map(|worker| ids[worker]));
    let asking = nodes[leaving.asking()].here();
    // Others are suggested by those who know nothing of work: by the tickets.
    let found = asking.find(&need("cpu", 7)).await;
    for worker in &workers {
        assert!(found.iter().any(|node| node.id == *worker), "{found:?}");
    }
    let heard_of = |want: &Want| {
        let known = asking.acquaintances();
        let able = known.iter().filter(|said| said.has(want));
        sorted(able.map(Announcement::node))
    };
    assert_eq!(heard_of(&need("cpu", 7)), workers);
    assert_eq!(heard_of(&need("cuda", 7)), []);
    assert_eq!(heard_of(&need("cpu", 6)), []);

    look_while_a_third_leaves(&mut random, nodes, &holders, &leaving, &work).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_dht_a_blob_is_found_while_anyone_has_it() {
    let mut random = drawn();
    let dir = tempfile::tempdir().unwrap();
    let net = Testnet::builder(8).build().unwrap();
    let (holders, leaving) = (holders(&mut random), Leaving::draw(&mut random));
    // Nobody knows anybody but the DHT.
    let bootstrap = Some(&net.bootstrap[..]);
    let (nodes, model) = twenty(&mut random, dir.path(), bootstrap, &holders, &leaving).await;
    let ids: Vec<NodeId> = nodes.iter().map(Node::id).collect();
    let work = ready(model);
    let asking = nodes[leaving.asking()].here();
    let mut waiting = JoinSet::new();
    let blobs = holders.iter().enumerate().map(|(number, held)| {
        let held: Vec<usize> = held.iter().copied().collect();
        (Want::Blob(Digest::of(&data(number))), held)
    });
    for (want, held) in blobs.chain([(work.clone(), WORKERS.to_vec())]) {
        let mut held: BTreeSet<NodeId> = held.iter().map(|n| ids[*n]).collect();
        held.remove(&asking.id());
        let asking = asking.clone();
        waiting.spawn(async move {
            loop {
                let found = asking.find(&want).await;
                if held
                    .iter()
                    .all(|id| found.iter().any(|node| node.id == *id))
                {
                    return;
                }
                // They are still being announced, and the DHT has that to do.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    let waited = tokio::time::timeout(DEADLINE, waiting.join_all()).await;
    waited.expect("every holder of every blob, and everyone who takes work, is in the DHT");
    look_while_a_third_leaves(&mut random, nodes, &holders, &leaving, &work).await;
    drop(net);
}
