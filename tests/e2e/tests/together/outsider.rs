//! A node of the test's own that takes part in a training, in whatever way the leader says, and does
//! something else than to learn.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use skep_decoder::Decoder;
use skep_swarm::{Answerer, Channel, Swarm, SwarmConfig};
use skep_tests::Built;
use skep_together::audit::{Commitment, Deed, Digest, Event, Window, digest_of};
use skep_together::message::{ENVELOPE, LAST_ROUND, MAX_INVITATION, StepWith, ToLeader, ToMember};
use skep_together::{Contribution, Diloco, Header, Method, Position, Stepwise, Turn};
use skep_train::{Base, HyperParameters, LoraConfig, Trainer, TrainerOptions};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(120);
const RANK: usize = 4;

/// Such a node.
pub struct Outsider {
    pub ticket: String,
    pub node: String,
    _swarm: Swarm,
    _runtime: Runtime,
}

#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// Sends numbers that are none, then numbers that are far too large, then half of what it should.
    Spoil,
    /// Says that it has made steps, and moves by something small.
    Lie,
    /// The same, in the turn at the end alone.
    LieAtTheEnd,
}

impl Outsider {
    pub fn start(folder: &Path, does: Does) -> Self {
        let decoder = Decoder::load(&Built::language_model()).unwrap();
        let base = Arc::new(Base::stored(Arc::new(decoder)));
        let runtime = Runtime::new().unwrap();
        let swarm = runtime
            .block_on(Swarm::open(SwarmConfig::loopback(folder)))
            .unwrap();
        swarm.train_with(Arc::new(Part { does, base }));
        Self {
            ticket: swarm.ticket().to_string(),
            node: swarm.id().to_string(),
            _swarm: swarm,
            _runtime: runtime,
        }
    }
}

/// What it does, with the base that everybody has.
#[derive(Clone, Debug)]
struct Part {
    does: Does,
    base: Arc<Base>,
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

async fn say(channel: &mut Channel, message: &ToLeader) -> Option<()> {
    channel.say_whole(&message.encode().ok()?).await.ok()
}

async fn hear(channel: &mut Channel, limit: usize) -> Option<ToMember> {
    let heard = channel.hear_whole(limit + ENVELOPE, PATIENCE).await.ok()?;
    ToMember::decode(&heard).ok()
}

impl Part {
    /// A trainer like everybody's.
    fn trainer(&self) -> Option<Trainer> {
        let lora = LoraConfig {
            rank: RANK,
            alpha: 2.0 * RANK as f32,
            ..LoraConfig::default()
        };
        Trainer::open(Arc::clone(&self.base), lora, &TrainerOptions::default()).ok()
    }

    async fn take_part(self, mut channel: Channel) -> Option<()> {
        let ToMember::Invitation(invitation) = hear(&mut channel, MAX_INVITATION).await? else {
            return None;
        };
        say(&mut channel, &ToLeader::Accepted).await?;
        hear(&mut channel, 1 << 20).await?;
        let mut trainer = self.trainer()?;
        let weights = trainer.parameters() as u64;
        // Others than it has: so it is told those that all go on from.
        let ready = ToLeader::Ready {
            weights,
            at: [0; 32],
        };
        say(&mut channel, &ready).await?;
        let limit = 12 * weights as usize + MAX_INVITATION;
        let ToMember::State {
            agreed,
            velocity,
            optimizer,
            ..
        } = hear(&mut channel, limit).await?
        else {
            return None;
        };
        trainer.set_weights(&agreed).ok()?;
        match invitation.how {
            Method::Diloco(how) => {
                let part = Diloco::join(how, &agreed, &velocity).ok()?;
                self.by_turns(channel, part, &trainer).await
            }
            Method::Demo(_) | Method::AllReduce => {
                if invitation.how == Method::AllReduce {
                    trainer.take_optimizer_state(&optimizer).ok()?;
                }
                let tensors = trainer.tensors();
                let matrices: Vec<(usize, usize)> = tensors
                    .iter()
                    .map(|(_, shape, _)| (shape[0], shape[1]))
                    .collect();
                let part = Stepwise::new(&invitation.how, &matrices).ok()??;
                self.by_steps(channel, part, trainer).await
            }
        }
    }

    /// What it says that it has moved by, or that its gradients are, of each weight.
    fn by(&self) -> f32 {
        match self.does {
            Does::Spoil => 100.0,
            Does::Lie | Does::LieAtTheEnd => 1e-4,
        }
    }

    /// What is left of what it should say.
    fn spoil(&self, round: u32, bytes: &mut Vec<u8>) {
        match (self.does, round) {
            (Does::Lie | Does::LieAtTheEnd, _) | (_, 1) => {}
            // A scale, or a gradient, that is infinite.
            (_, 0) => bytes[Header::BYTES..][..2].copy_from_slice(&[0x80, 0x7f]),
            _ => bytes.truncate(bytes.len() / 2),
        }
    }

    async fn by_turns(
        self,
        mut channel: Channel,
        mut part: Diloco,
        trainer: &Trainer,
    ) -> Option<()> {
        let mut begins = *blake3::hash(&trainer.state().ok()?).as_bytes();
        let far: Vec<f32> = part.agreed().iter().map(|x| x + self.by()).collect();
        let first = match self.does {
            Does::LieAtTheEnd => LAST_ROUND,
            Does::Lie | Does::Spoil => 0,
        };
        for round in first..=LAST_ROUND {
            let turn = Turn { round, fragment: 0 };
            let mut bytes = part.contribute(turn, &far).ok()?;
            self.spoil(round, &mut bytes);
            let window = made_up(begins, 4);
            begins = window.after();
            let contribution = ToLeader::Contribution {
                turn,
                bytes,
                commitment: Some(Commitment {
                    window: window.digest(),
                    state: window.after(),
                    unsaid: digest_of(part.lost()),
                }),
                at: None,
            };
            say(&mut channel, &contribution).await?;
            while let ToMember::Open(_) = hear(&mut channel, 8 * far.len()).await? {
                say(&mut channel, &ToLeader::Opened(window.clone())).await?;
            }
        }
        None
    }

    /// It makes every step that is decided, so that it has the same weights as all.
    async fn by_steps(
        self,
        mut channel: Channel,
        mut part: Stepwise,
        mut trainer: Trainer,
    ) -> Option<()> {
        let position = Position {
            batches: 0,
            unsaid: part.unsaid().to_vec(),
        };
        let mut begins = position.digest();
        // Less than many steps come to.
        let gradients = vec![0.1 * self.by(); trainer.parameters()];
        for round in 0.. {
            let turn = Turn { round, fragment: 0 };
            let mut bytes = part.contribute(round, &gradients, 1.0).ok()?;
            self.spoil(round, &mut bytes);
            let said = bytes.clone();
            let window = made_up(begins, 1);
            begins = window.after();
            let contribution = ToLeader::Contribution {
                turn,
                bytes,
                commitment: Some(Commitment {
                    window: window.digest(),
                    state: window.after(),
                    unsaid: digest_of(&[]),
                }),
                at: Some(digest_of(trainer.weights())),
            };
            say(&mut channel, &contribution).await?;
            loop {
                match hear(&mut channel, 8 * part.bytes()).await? {
                    ToMember::Open(_) => {
                        say(&mut channel, &ToLeader::Opened(window.clone())).await?;
                    }
                    ToMember::Round { accepted, with, .. } => {
                        // What it has said itself is not said once more.
                        let read = accepted.iter().map(|(who, passed)| {
                            let bytes = if passed.is_empty() { &said } else { passed };
                            Some((*who, part.read(round, bytes).ok()?))
                        });
                        let read: Option<BTreeMap<u16, Contribution>> = read.collect();
                        step(&part, &read?, with?, &mut trainer)?;
                        break;
                    }
                    _ => return None,
                }
            }
        }
        None
    }
}

/// The step that all make.
fn step(
    part: &Stepwise,
    accepted: &BTreeMap<u16, Contribution>,
    with: StepWith,
    trainer: &mut Trainer,
) -> Option<()> {
    match part {
        Stepwise::Demo(demo) => {
            let mut weights = trainer.weights().to_vec();
            demo.step(accepted, with.rate, with.weight_decay, &mut weights)
                .ok()?;
            trainer.step_to(&weights).ok()?;
        }
        Stepwise::AllReduce(all) => {
            let hyper = HyperParameters {
                learning_rate: with.rate,
                betas: with.betas,
                epsilon: with.epsilon,
                weight_decay: with.weight_decay,
                clip: None,
            };
            trainer.step_along(&hyper, all.mean(accepted).ok()?).ok()?;
        }
    }
    Some(())
}

/// Steps on examples that nobody has.
fn made_up(before: Digest, steps: u8) -> Window {
    let step = |number: u8| Event {
        deed: Deed::Step { of: [number; 32] },
        after: [100 + number; 32],
    };
    Window {
        before,
        events: (0..steps).map(step).collect(),
    }
}
