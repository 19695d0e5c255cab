//! `skep finetune --nodes` over real node processes: nodes that train together, one that is killed
//! in the middle, and one that sends what would spoil the training.

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

    fn arguments(&self, tickets: &[&str], patience: &str) -> Vec<String> {
        let data = self.path("shop.jsonl");
        let nodes = (tickets.len() + 1).to_string();
        let mut all = vec!["--json", "finetune", "--data", data.to_str().unwrap()];
        all.extend(["--nodes", &nodes, "--every", "4", "--patience", patience]);
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
    for node in [first, second] {
        assert_eq!(node["left_out"], serde_json::json!([]), "{together}");
    }
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

#[test]
fn who_sends_what_would_spoil_a_training_is_left_out_by_name() {
    let setting = Setting::new();
    let honest = setting.member("honest");
    let spoiler = Spoiler::start(&setting.path("spoiler"));
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

/// A node that takes part and sends numbers that are none, then numbers that are far too large,
/// then half of what it should.
struct Spoiler {
    ticket: String,
    node: String,
    _swarm: Swarm,
    _runtime: Runtime,
}

#[derive(Clone, Copy, Debug)]
struct Spoils {
    weights: u64,
}

impl Spoiler {
    fn start(folder: &Path) -> Self {
        let decoder = Decoder::load(&Built::language_model()).unwrap();
        let base = Arc::new(Base::stored(Arc::new(decoder)));
        let lora = LoraConfig {
            rank: RANK,
            ..LoraConfig::default()
        };
        let trainer = Trainer::open(base, lora, &TrainerOptions::default()).unwrap();
        let runtime = Runtime::new().unwrap();
        let swarm = runtime
            .block_on(Swarm::open(SwarmConfig::loopback(folder)))
            .unwrap();
        swarm.train_with(Arc::new(Spoils {
            weights: trainer.parameters() as u64,
        }));
        Self {
            ticket: swarm.ticket().to_string(),
            node: swarm.id().to_string(),
            _swarm: swarm,
            _runtime: runtime,
        }
    }
}

impl Answerer for Spoils {
    fn answer(&self, channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let spoils = *self;
        Box::pin(async move {
            // What does not come to its end shows in what the leader says of this node.
            let _ = spoils.spoil(channel).await;
        })
    }
}

impl Spoils {
    async fn spoil(self, mut channel: Channel) -> Option<()> {
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
        let weights = self.weights;
        say(&mut channel, &ToLeader::Ready { weights }).await?;
        let ToMember::State {
            agreed, velocity, ..
        } = hear(&mut channel, 8 * weights as usize).await?
        else {
            return None;
        };
        let mut part = Diloco::join(invitation.how, &agreed, &velocity).ok()?;
        let far: Vec<f32> = agreed.iter().map(|x| x + 100.0).collect();
        for round in 0.. {
            let turn = Turn { round, fragment: 0 };
            let mut bytes = part.contribute(turn, &far).ok()?;
            match round {
                // A scale that is infinite.
                0 => bytes[Header::BYTES..][..2].copy_from_slice(&[0x80, 0x7f]),
                1 => {}
                _ => bytes.truncate(bytes.len() / 2),
            }
            say(&mut channel, &ToLeader::Contribution { turn, bytes }).await?;
            hear(&mut channel, 8 * weights as usize).await?;
        }
        None
    }
}
