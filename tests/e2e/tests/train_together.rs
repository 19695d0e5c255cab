//! `skep finetune --nodes` over real node processes: nodes that train together, one that is killed
//! in the middle, one that comes back, one that stands still, one that sends what would spoil the
//! training, and one that says that it learns and does not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_decoder::Decoder;
use skep_swarm::{Answerer, Channel, Swarm, SwarmConfig};
use skep_tests::{Built, Node, lessons, run, set_up};
use skep_together::audit::{Commitment, Deed, Digest, Event, Window, digest_of};
use skep_together::message::{ENVELOPE, MAX_INVITATION, ToLeader, ToMember};
use skep_together::{Diloco, Header, Turn};
use skep_train::{Base, LoraConfig, Trainer, TrainerOptions};
use tokio::runtime::Runtime;

/// Many times what a training of these tests takes.
const LONGEST: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(120);
const RANK: usize = 4;
/// An outer step every 4 steps, of which each node makes 32.
const SETTINGS: [&str; 6] = [
    "rank=4",
    "batch=4",
    "learning-rate=0.01",
    "held-out=0.2",
    "steps=32",
    "evaluate-every=16",
];

struct Setting {
    folder: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let setting = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(setting.path("shop.jsonl"), lessons(60)).unwrap();
        let leader = setting.path("leader");
        set_up(&leader).unwrap();
        let made = run(&leader, &["key", "new"]).unwrap();
        assert_eq!(made.code, 0, "{}", made.stderr);
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A node that takes part in trainings.
    fn member(&self, name: &str) -> Node {
        let home = self.path(name);
        set_up(&home).unwrap();
        let configuration = home.join("config.toml");
        let mut text = fs::read_to_string(&configuration).unwrap();
        text.push_str("[trainings]\naccept = true\n");
        fs::write(configuration, text).unwrap();
        Node::start(&Built::skep(), &home).unwrap()
    }

    /// Three nodes with these settings of the recipe besides the usual ones.
    fn longer(&self, nodes: [&Node; 2], patience: &str, settings: &[&str]) -> Vec<String> {
        let mut all = self.arguments(&nodes.map(ticket), patience);
        all.retain(|word| !word.starts_with("steps="));
        all.extend(settings.iter().map(|word| (*word).to_owned()));
        all
    }

    fn arguments(&self, tickets: &[&str], patience: &str) -> Vec<String> {
        let data = self.path("shop.jsonl");
        let nodes = (tickets.len() + 1).to_string();
        let mut all = vec!["--json", "finetune", "--data", data.to_str().unwrap()];
        all.extend(["--nodes", &nodes, "--every", "4", "--patience", patience]);
        // Somebody has to show something in every turn.
        all.extend(["--audit", "100"]);
        for ticket in tickets {
            all.extend(["--provider", ticket]);
        }
        all.push("--");
        all.extend(SETTINGS);
        all.into_iter().map(str::to_owned).collect()
    }
}

fn ticket(node: &Node) -> &str {
    node.status["ticket"].as_str().unwrap()
}

/// A training that runs. It is ended when it takes too long, or when the test is over.
struct Leader {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    began: Instant,
}

impl Leader {
    fn start(home: &Path, arguments: &[String]) -> Self {
        let mut process = Command::new(Built::skep())
            .arg("--home")
            .arg(home)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let pid = process.id().to_string();
        std::thread::spawn(move || {
            std::thread::sleep(LONGEST);
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
        });
        Self {
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
            began: Instant::now(),
        }
    }

    /// Waits until it has said something.
    fn says(&mut self, what: &str) {
        let mut line = String::new();
        while !line.contains(what) {
            line.clear();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended before it said {what}");
        }
    }

    /// What came of it.
    fn result(mut self) -> Value {
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        let status = self.process.wait().unwrap();
        let took = self.began.elapsed();
        assert!(status.success(), "{status} after {took:?}: {text}");
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap()
}

/// It has learned, and nobody was let go who should not have been.
fn assert_learned(trained: &Value) {
    let (before, after) = (
        number(trained, "/metrics/held-out-loss-before"),
        number(trained, "/metrics/held-out-loss"),
    );
    assert!(after < 0.5 * before, "{before} {after}");
}

#[test]
fn two_nodes_finish_what_three_began_when_one_is_killed() {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let arguments = setting.arguments(&[ticket(&first), ticket(&second)], "60");
    let mut leader = Leader::start(&setting.path("leader"), &arguments);
    // Two turns are over, and the third has not come.
    leader.says("\"step\":10,");
    second.kill().unwrap();
    let trained = leader.result();
    assert_learned(&trained);
    let together = &trained["together"];
    // Eight turns, and one at the end.
    assert_eq!(together["turns"], 9, "{together}");
    let (first, second) = (&together["nodes"][0], &together["nodes"][1]);
    assert_eq!(first["accepted"], 9, "{together}");
    assert_eq!(first["gone"], Value::Null, "{together}");
    let counted = second["accepted"].as_u64().unwrap();
    assert!((2..9).contains(&counted), "{together}");
    assert!(second["gone"].is_string(), "{together}");
    assert_eq!(first["left_out"], serde_json::json!([]), "{together}");
    // Who is killed while it is audited cannot show what it has computed, and that does not count.
    for left_out in second["left_out"].as_array().unwrap() {
        assert_eq!(left_out["round"], counted, "{together}");
        let why = left_out["why"].as_str().unwrap();
        assert!(why.starts_with("the connection ended"), "{together}");
    }
    // In each of eight turns one of those who were there was audited, and there was nothing to find;
    // at most one audit was cut off.
    let audited = first["audited"].as_u64().unwrap() + second["audited"].as_u64().unwrap();
    assert!((7..=8).contains(&audited), "{together}");
    // What was said of weights is a fraction of the weights.
    let adapter = fs::metadata(
        setting
            .path("leader")
            .join("trainings/shop/adapter/adapter_model.safetensors"),
    );
    let dense = 9 * adapter.unwrap().len();
    let said = together["contributed_bytes"].as_u64().unwrap();
    assert!(7 * said < dense, "{said} of {dense}");
}

/// A node that is stopped hears nothing and says nothing, while its connection stands.
#[test]
fn who_stands_still_is_left_out_when_patience_is_over() {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let arguments = setting.arguments(&[ticket(&first), ticket(&second)], "5");
    let mut leader = Leader::start(&setting.path("leader"), &arguments);
    leader.says("\"step\":6,");
    let _stopped = Stopped::new(second.pid());
    let trained = leader.result();
    assert_learned(&trained);
    let (first, second) = (
        &trained["together"]["nodes"][0],
        &trained["together"]["nodes"][1],
    );
    assert_eq!(first["accepted"], 9, "{trained}");
    let why = second["gone"].as_str().unwrap();
    assert!(
        why.contains("nothing came for") || why.contains("was not read for"),
        "{why}"
    );
    assert!(second["accepted"].as_u64().unwrap() < 9, "{trained}");
}

/// The leader stands still while a node is killed and started again, so that there is much of the
/// training left when it is back.
#[test]
fn who_was_killed_comes_back_between_rounds() {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let home = second.home().to_owned();
    let address = second.status["addresses"][0].as_str().unwrap().to_owned();
    // Its rate falls with those of the others: with its own from the beginning, its last contributions
    // would be larger than theirs, and left out for that.
    let settings = ["steps=80", "patience=0", "schedule=linear"];
    let arguments = setting.longer([&first, &second], "60", &settings);
    let mut leader = Leader::start(&setting.path("leader"), &arguments);
    leader.says("\"step\":6,");
    let stopped = Stopped::new(leader.process.id());
    second.kill().unwrap();
    let _second = Node::start_at(&Built::skep(), &home, &address).unwrap();
    drop(stopped);
    let trained = leader.result();
    assert_learned(&trained);
    let together = &trained["together"];
    let (first, second) = (&together["nodes"][0], &together["nodes"][1]);
    assert_eq!(first["accepted"], 21, "{together}");
    assert_eq!(second["returned"], 1, "{together}");
    // It has said things again since then, some of which were done again. One whose norm is too far
    // from the others' may be left out: its optimizer has begun anew.
    let said = second["accepted"].as_u64().unwrap();
    assert!((3..21).contains(&said), "{together}");
    let audited = |node: &Value| node["audited"].as_u64().unwrap();
    assert!(audited(first) + audited(second) >= 19, "{together}");
}

#[test]
fn who_learns_from_something_else_than_it_was_given_is_found_out() {
    let setting = Setting::new();
    let honest = setting.member("honest");
    let liar = Outsider::start(&setting.path("liar"), Does::Lie);
    let arguments = setting.arguments(&[&liar.ticket, ticket(&honest)], "60");
    let trained = Leader::start(&setting.path("leader"), &arguments).result();
    assert_learned(&trained);
    let together = &trained["together"];
    let told = &together["nodes"][0];
    assert_eq!(told["node"], *liar.node, "{together}");
    let why = told["gone"].as_str().unwrap();
    assert!(why.contains("did not do what it said"), "{together}");
    assert!(why.contains("examples whose turn it was"), "{together}");
    // The contribution in question did not count, and it was not asked to come back.
    let last = &told["left_out"][0]["why"];
    assert!(
        last.as_str().unwrap().contains("whose turn it was"),
        "{together}"
    );
    assert_eq!(told["returned"], 0, "{together}");
    assert_eq!(together["nodes"][1]["accepted"], 9, "{together}");
}

#[test]
fn who_sends_what_would_spoil_a_training_is_left_out_by_name() {
    let setting = Setting::new();
    let honest = setting.member("honest");
    let spoiler = Outsider::start(&setting.path("spoiler"), Does::Spoil);
    let arguments = setting.arguments(&[&spoiler.ticket, ticket(&honest)], "60");
    let trained = Leader::start(&setting.path("leader"), &arguments).result();
    assert_learned(&trained);
    let together = &trained["together"];
    let told = &together["nodes"][0];
    assert_eq!(told["node"], *spoiler.node, "{together}");
    assert_eq!(told["accepted"], 0, "{together}");
    let why = |at: usize| told["left_out"][at]["why"].as_str().unwrap();
    assert!(why(0).contains("not finite"), "{together}");
    assert!(why(1).contains("times the median"), "{together}");
    assert!(why(2).contains("bytes and should have"), "{together}");
    assert!(
        told["gone"].as_str().unwrap().contains("3 times in a row"),
        "{together}"
    );
    assert_eq!(together["nodes"][1]["accepted"], 9, "{together}");
}

#[test]
fn a_node_that_takes_part_in_nothing_says_so() {
    let setting = Setting::new();
    let home = setting.path("other");
    let other = Node::start(&Built::skep(), &home).unwrap();
    let arguments = setting.arguments(&[ticket(&other)], "20");
    let refused = run(&setting.path("leader"), &arguments).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("takes part in no trainings"),
        "{}",
        refused.stderr
    );
    // One that there is nobody for is one too many.
    let mut more = setting.arguments(&[], "20");
    let nodes = more.iter().position(|word| word == "1").unwrap();
    more[nodes] = "2".to_owned();
    let refused = run(&setting.path("leader"), &more).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("--provider"), "{}", refused.stderr);
}

/// A process that stands still until this is over.
struct Stopped(String);

impl Stopped {
    fn new(pid: u32) -> Self {
        let stopped = Self(pid.to_string());
        stopped.signal("-STOP");
        stopped
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

/// A node of the test's own that takes part, and does something else than to learn.
struct Outsider {
    ticket: String,
    node: String,
    _swarm: Swarm,
    _runtime: Runtime,
}

#[derive(Clone, Copy, Debug)]
enum Does {
    /// Sends numbers that are none, then numbers that are far too large, then half of what it should.
    Spoil,
    /// Says that it has made steps, and moves by something small.
    Lie,
}

impl Outsider {
    fn start(folder: &Path, does: Does) -> Self {
        let decoder = Decoder::load(&Built::language_model()).unwrap();
        let base = Arc::new(Base::stored(Arc::new(decoder)));
        let lora = LoraConfig {
            rank: RANK,
            alpha: 2.0 * RANK as f32,
            ..LoraConfig::default()
        };
        let trainer = Trainer::open(base, lora, &TrainerOptions::default()).unwrap();
        let runtime = Runtime::new().unwrap();
        let swarm = runtime
            .block_on(Swarm::open(SwarmConfig::loopback(folder)))
            .unwrap();
        swarm.train_with(Arc::new(Part {
            does,
            trainer: Arc::new(trainer),
        }));
        Self {
            ticket: swarm.ticket().to_string(),
            node: swarm.id().to_string(),
            _swarm: swarm,
            _runtime: runtime,
        }
    }
}

/// What it does, with a trainer like everybody's.
#[derive(Clone, Debug)]
struct Part {
    does: Does,
    trainer: Arc<Trainer>,
}

impl Answerer for Part {
    fn answer(&self, channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let part = self.clone();
        Box::pin(async move {
            // What does not come to its end shows in what the leader says of this node.
            let _ = part.take_part(channel).await;
        })
    }
}

impl Part {
    async fn take_part(self, mut channel: Channel) -> Option<()> {
        async fn say(channel: &mut Channel, message: &ToLeader) -> Option<()> {
            channel.say_whole(&message.encode().ok()?).await.ok()
        }
        async fn hear(channel: &mut Channel, limit: usize) -> Option<ToMember> {
            let heard = channel.hear_whole(limit + ENVELOPE, PATIENCE).await.ok()?;
            ToMember::decode(&heard).ok()
        }
        let ToMember::Invitation(invitation) = hear(&mut channel, MAX_INVITATION).await? else {
            return None;
        };
        say(&mut channel, &ToLeader::Accepted).await?;
        hear(&mut channel, 1 << 20).await?;
        let weights = self.trainer.parameters() as u64;
        say(&mut channel, &ToLeader::Ready { weights }).await?;
        let ToMember::State {
            agreed, velocity, ..
        } = hear(&mut channel, 8 * weights as usize).await?
        else {
            return None;
        };
        let mut part = Diloco::join(invitation.how, &agreed, &velocity).ok()?;
        let by = match self.does {
            Does::Spoil => 100.0,
            Does::Lie => 1e-4,
        };
        let begins = self.trainer.state_with(&agreed).ok()?;
        let mut begins = *blake3::hash(&begins).as_bytes();
        let far: Vec<f32> = agreed.iter().map(|x| x + by).collect();
        for round in 0.. {
            let turn = Turn { round, fragment: 0 };
            let mut bytes = part.contribute(turn, &far).ok()?;
            match (self.does, round) {
                (Does::Lie, _) | (_, 1) => {}
                // A scale that is infinite.
                (_, 0) => bytes[Header::BYTES..][..2].copy_from_slice(&[0x80, 0x7f]),
                _ => bytes.truncate(bytes.len() / 2),
            }
            let window = made_up(begins);
            begins = window.after();
            let commitment = Some(Commitment {
                window: window.digest(),
                state: window.after(),
                unsaid: digest_of(part.lost()),
            });
            let contribution = ToLeader::Contribution {
                turn,
                bytes,
                commitment,
            };
            say(&mut channel, &contribution).await?;
            while let ToMember::Open(_) = hear(&mut channel, 8 * weights as usize).await? {
                say(&mut channel, &ToLeader::Opened(window.clone())).await?;
            }
        }
        None
    }
}

/// Four steps on examples that nobody has.
fn made_up(before: Digest) -> Window {
    let step = |number: u8| Event {
        deed: Deed::Step { of: [number; 32] },
        after: [100 + number; 32],
    };
    Window {
        before,
        events: (0..4).map(step).collect(),
    }
}
