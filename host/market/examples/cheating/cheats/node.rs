//! What a node signs for a lease: what it did, or what it makes up.

use skep_evidence::following::Script;
use skep_evidence::{AccountKey, Agreed, Keys, Lease, Meter, Receipt, Signed, Statement as _};
use skep_market::{Done, conclude, hand_over};
use skep_registry::Digest;

use super::Fault;
use super::cheat::Cheat;
use super::texts::{self, Texts};

/// What a node sends back, in its encoding, and whether it is not what was asked for.
pub struct Sent {
    pub commitment: Vec<u8>,
    pub receipt: Vec<u8>,
    pub handover: Vec<u8>,
    /// What it shows of its texts, if they are followed.
    pub shown: Vec<u8>,
    pub output: Digest,
    pub is_wrong: bool,
    /// Whether it is what was asked for, and another has made it.
    pub is_copied: bool,
}

/// A node.
pub struct Node {
    pub key: AccountKey,
    pub cheat: Cheat,
    /// Its texts, if those of the job are followed.
    texts: Option<Texts>,
    signed: u64,
    first: Option<[Vec<u8>; 3]>,
}

/// The operations of a shard.
pub const FLOPS: u64 = 1_000_000_000_000;

/// What comes out of a shard's work that is compared byte by byte.
fn right(shard: u32) -> Digest {
    Digest::of(format!("right {shard}").as_bytes())
}

/// What came out of a lease's work.
struct Made {
    output: Digest,
    shown: Vec<u8>,
    is_wrong: bool,
}

impl Node {
    pub fn new(key: AccountKey, cheat: Cheat) -> Result<Self, Fault> {
        Ok(Self {
            key,
            cheat,
            texts: cheat.texts().map(Texts::new).transpose()?,
            signed: 0,
            first: None,
        })
    }

    /// Does the work of a lease, or not. `script` is what it has to follow, if it has; `is_shared` whether its friend
    /// wrote that, or says the same of the shard; `chance` is a number of this lease's own.
    pub fn work(
        &mut self,
        lease: &Agreed<Lease>,
        script: Option<&Script>,
        is_shared: bool,
        chance: u64,
    ) -> Result<Sent, Fault> {
        let Made {
            output,
            shown,
            is_wrong,
        } = self.make(lease, script, is_shared, chance);
        let flops = match self.cheat {
            Cheat::Inflate => 2 * FLOPS,
            _ => FLOPS,
        };
        let mut nonce = [0; 32];
        nonce[..8].copy_from_slice(&chance.to_le_bytes());
        let done = Done {
            output,
            meter: Meter {
                flops,
                ..Meter::default()
            },
            shown: self.texts.is_some().then(|| Digest::of(&shown)),
            sequence: self.signed,
            nonce,
            started: lease.issued,
            finished: lease.issued + 1,
        };
        self.signed += 1;
        let (commitment, mut receipt) = conclude(lease, &done, &self.key)?;
        if self.cheat == Cheat::Overprice {
            receipt = overpriced(&receipt, &self.key)?;
        }
        let old = self.first.as_ref().map(|first| first[1].clone());
        let old = old.filter(|_| self.cheat == Cheat::Replay);
        if let Some(old) = &old {
            receipt = Signed::decode(old, &mut Keys::default())?;
        }
        let handover = hand_over(lease, commitment.digest(), receipt.digest(), &self.key)?;
        let fresh = [commitment.encode(), receipt.encode(), handover.encode()];
        let first = self.first.get_or_insert_with(|| fresh.clone());
        let is_replayed = old.is_some() || (self.cheat == Cheat::ReplayAll && *first != fresh);
        let [commitment, receipt, handover] = match self.cheat {
            Cheat::ReplayAll => first.clone(),
            _ => fresh,
        };
        let is_dishonest = matches!(self.cheat, Cheat::Overprice | Cheat::Inflate);
        Ok(Sent {
            commitment,
            receipt,
            handover,
            shown,
            output,
            is_wrong: is_wrong || is_replayed || is_dishonest,
            is_copied: is_shared && self.cheat == Cheat::Copied,
        })
    }

    fn make(&self, lease: &Lease, script: Option<&Script>, is_shared: bool, chance: u64) -> Made {
        let shard = lease.shard;
        match (&self.texts, script) {
            (None, _) => {
                let output = self.bytes(lease, is_shared, chance);
                Made {
                    output,
                    shown: Vec::new(),
                    is_wrong: output != right(shard),
                }
            }
            (Some(texts), None) => {
                let transcript = texts.write(shard, chance);
                let script = transcript.script();
                Made {
                    output: texts::output(&script),
                    shown: transcript.encode(),
                    is_wrong: texts.is_wrong(&script),
                }
            }
            (Some(texts), Some(script)) => Made {
                output: texts::output(script),
                shown: match self.cheat {
                    Cheat::PairSmaller | Cheat::PairFourBits if is_shared => {
                        texts.back(shard, script).encode()
                    }
                    _ => texts.follow(shard, script).encode(),
                },
                is_wrong: false,
            },
        }
    }

    /// The output of work that is compared byte by byte.
    fn bytes(&self, lease: &Lease, is_shared: bool, chance: u64) -> Digest {
        let shard = lease.shard;
        match self.cheat {
            Cheat::Garbage => Digest::of(&chance.to_le_bytes()),
            Cheat::OneInFive if chance.is_multiple_of(5) => Digest::of(&chance.to_le_bytes()),
            Cheat::Careful if lease.attempt == 0 => Digest::of(&chance.to_le_bytes()),
            Cheat::Neighbour => right(shard + 1),
            Cheat::NoAdapter => Digest::of(format!("no adapter {shard}").as_bytes()),
            Cheat::CopiedLie if is_shared => Digest::of(format!("pair {shard}").as_bytes()),
            Cheat::Pair => Digest::of(format!("pair {shard}").as_bytes()),
            _ => right(shard),
        }
    }
}

fn overpriced(receipt: &Signed<Receipt>, key: &AccountKey) -> Result<Signed<Receipt>, Fault> {
    let mut dear = receipt.body().clone();
    let more = dear.price.checked_add(dear.price);
    dear.price = more.ok_or("there are not so many credits")?;
    let dear = dear.sign(key)?;
    // As it reaches the requester.
    Ok(Signed::decode(&dear.encode(), &mut Keys::default())?)
}
