//! What a node signs for a lease: what it did, or what it makes up.

use skep_evidence::{AccountKey, Agreed, Keys, Lease, Meter, Receipt, Signed, Statement as _};
use skep_market::{Done, conclude, hand_over};
use skep_registry::Digest;

/// A way to cheat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cheat {
    /// Nobody cheats.
    None,
    /// Makes up another output each time.
    Garbage,
    /// Returns the right output of another shard.
    Neighbour,
    /// Runs a smaller model or leaves the adapter out: other bytes than asked for.
    Smaller,
    /// Makes up one result in five.
    OneInFive,
    /// Two that make up the same outputs, and say of each other that they are right.
    Pair,
    /// Makes up results where it cannot be an auditor, as far as it can tell: of a shard's first
    /// lease.
    Careful,
    /// Sends the receipt of its first lease for every other one too.
    Replay,
    /// Sends all that it sent for its first lease once more.
    ReplayAll,
    /// Bills more than the lease's tariff makes of what it metered.
    Overprice,
    /// Does the work, and meters twice the operations, within what the lease allows.
    Inflate,
}

impl Cheat {
    /// Every way.
    pub const ALL: [Self; 11] = [
        Self::None,
        Self::Garbage,
        Self::Neighbour,
        Self::Smaller,
        Self::OneInFive,
        Self::Pair,
        Self::Careful,
        Self::Replay,
        Self::ReplayAll,
        Self::Overprice,
        Self::Inflate,
    ];

    /// What it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "nobody cheats",
            Self::Garbage => "garbage",
            Self::Neighbour => "another shard's answer",
            Self::Smaller => "a smaller model, no adapter",
            Self::OneInFive => "garbage one time in five",
            Self::Pair => "a pair that backs each other",
            Self::Careful => "garbage where it cannot be an auditor",
            Self::Replay => "an old receipt for a new lease",
            Self::ReplayAll => "all of an old delivery again",
            Self::Overprice => "a price above the tariff",
            Self::Inflate => "twice the operations, within the lease",
        }
    }

    /// How many nodes do it.
    pub fn nodes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Pair => 2,
            _ => 1,
        }
    }
}

/// What a node sends back, in its encoding, and whether it is not what was asked for.
pub struct Sent {
    pub commitment: Vec<u8>,
    pub receipt: Vec<u8>,
    pub handover: Vec<u8>,
    pub output: Digest,
    pub is_wrong: bool,
}

/// A node.
pub struct Node {
    pub key: AccountKey,
    pub cheat: Cheat,
    signed: u64,
    first: Option<[Vec<u8>; 3]>,
}

/// The operations of a shard.
pub const FLOPS: u64 = 1_000_000_000_000;

/// What comes out of a shard's work.
pub fn right(shard: u32) -> Digest {
    Digest::of(format!("right {shard}").as_bytes())
}

impl Node {
    pub fn new(key: AccountKey, cheat: Cheat) -> Self {
        Self {
            key,
            cheat,
            signed: 0,
            first: None,
        }
    }

    /// Does the work of a lease, or not. `chance` is a number of this lease's own.
    pub fn work(
        &mut self,
        lease: &Agreed<Lease>,
        chance: u64,
    ) -> Result<Sent, Box<dyn std::error::Error>> {
        let shard = lease.shard;
        let output = match self.cheat {
            Cheat::Garbage => Digest::of(&chance.to_le_bytes()),
            Cheat::OneInFive if chance.is_multiple_of(5) => Digest::of(&chance.to_le_bytes()),
            Cheat::Careful if lease.attempt == 0 => Digest::of(&chance.to_le_bytes()),
            Cheat::Neighbour => right(shard + 1),
            Cheat::Smaller => Digest::of(format!("smaller {shard}").as_bytes()),
            Cheat::Pair => Digest::of(format!("pair {shard}").as_bytes()),
            _ => right(shard),
        };
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
            shown: None,
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
            output,
            is_wrong: output != right(shard) || is_replayed || is_dishonest,
        })
    }
}

fn overpriced(
    receipt: &Signed<Receipt>,
    key: &AccountKey,
) -> Result<Signed<Receipt>, Box<dyn std::error::Error>> {
    let mut dear = receipt.body().clone();
    let more = dear.price.checked_add(dear.price);
    dear.price = more.ok_or("there are not so many credits")?;
    let dear = dear.sign(key)?;
    // As it reaches the requester.
    Ok(Signed::decode(&dear.encode(), &mut Keys::default())?)
}
