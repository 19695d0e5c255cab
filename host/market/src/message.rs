//! What requester and provider say to each other about a shard, as data.
//!
//! A conversation is one [`Ask`] and what follows from it, over a channel that carries frames
//! (`skep_swarm::Channel`):
//!
//! ```text
//! Quote    →  Quote | Refused
//! Offer    →  Accepted | Refused
//!             then the sealed input, chunk by chunk (`seal`)
//!          →  Working, again and again while it runs
//!          →  Done | Refused
//!             then the sealed output, chunk by chunk
//! Settle   →  Settled | Refused
//! Attest   →  Attested | Refused
//! Claim    →  Claimed | Refused          asked by a provider of its requester
//! Failed   →  Noted                      told by a provider to its requester
//! ```
//!
//! Messages are [postcard](https://postcard.jamesmunns.com/wire-format), and none is longer than
//! [`MAX_MESSAGE`]; statements in them are in their own encoding, and believed only once they are
//! verified. A length inside a message is believed only as far as the message goes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skep_evidence::{AccountId, Credits, Share, Tariff};
use skep_registry::Digest;

use crate::choose::Warmth;

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 24 << 10;
/// The most nodes that a requester names as having the package.
pub const MAX_SOURCES: usize = 8;
/// The most shards that one node is given at once, whatever it says. Each has a conversation, of which a node holds
/// 64 with one other (`skep_swarm`'s `FOR_ONE`): the rest is for prices, receipts and what is asked beside the work.
const MOST_AT_ONCE: u32 = 56;
/// The most characters that are shown of what another node says.
const SHOWN: usize = 300;

/// What a requester asks a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Whether it would take such a shard, and for how much.
    Quote {
        /// The release of the package.
        package: Digest,
        /// The release of the adapter that it runs with, if it does with any.
        adapter: Option<Digest>,
        /// How many bytes the largest shard's input has.
        input_bytes: u64,
        /// For how many seconds package, model and adapter are to be kept ready, if they are.
        residency: u64,
        /// Tickets of nodes that have the package, and the adapter if there is one.
        sources: Vec<String>,
        /// Bytes that nobody asked with before, for the account to sign.
        question: [u8; 32],
    },
    /// To do the work of a lease.
    Offer(Undertaking),
    /// To take receipts that both signed, as proof that they were paid.
    Settle {
        /// The agreed receipts.
        receipts: Vec<Vec<u8>>,
    },
    /// To have its hardware sign what it runs.
    Attest {
        /// Bytes that nobody asked with before.
        challenge: [u8; 32],
    },
    /// To be given the receipt for a lease of the one who is asked, if it has countersigned one: the
    /// provider was not there when it was.
    Claim {
        /// The lease.
        lease: Digest,
    },
    /// To know that nothing comes of a lease that this node took: it was ended in the middle of the work,
    /// and the input is gone. Of a lease that another node has, it says nothing.
    Failed {
        /// The lease.
        lease: Digest,
    },
}

/// A lease that is offered, and what it takes to do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undertaking {
    /// The lease as the requester signed it.
    pub lease: Vec<u8>,
    /// The requester's key to seal with, signed.
    pub key: Vec<u8>,
    /// How many bytes the input has.
    pub input_bytes: u64,
    /// How many bytes the script has that the work has to follow; it comes behind the input.
    pub script_bytes: u64,
    /// Tickets of nodes that have the package, and where the requester itself is found.
    pub sources: Vec<String>,
}

/// What a provider answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To a quote: it would.
    Quote {
        /// For how much.
        quotation: Quotation,
        /// That this is the account's own, at this node and to this question, signed
        /// ([`Quotation::signed`]).
        signed: Vec<u8>,
    },
    /// It takes the lease.
    Accepted {
        /// The lease with both signatures.
        lease: Vec<u8>,
        /// Its key to seal with, signed.
        key: Vec<u8>,
    },
    /// It is at work.
    Working {
        /// Records done so far.
        done: u64,
    },
    /// It is done; the output follows.
    Done {
        /// The commitment to the result, signed.
        commitment: Vec<u8>,
        /// The receipt, as the provider signed it.
        receipt: Vec<u8>,
        /// Which says that both are for this lease, signed.
        handover: Vec<u8>,
        /// How many bytes the output has.
        output_bytes: u64,
        /// How many bytes has what is shown of the texts; it comes behind the output.
        shown_bytes: u64,
    },
    /// It keeps the receipts.
    Settled,
    /// It does not do it.
    Refused(Refusal),
    /// What its hardware signed: see `skep_attest`.
    Attested {
        /// The quote, in its own encoding.
        quote: Vec<u8>,
    },
    /// The receipt that both signed.
    Claimed {
        /// The agreed receipt.
        receipt: Vec<u8>,
    },
    /// It knows that the lease failed, whether it waited for it or not.
    Noted,
}

/// What a provider asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotation {
    /// The account that is paid, and whose it is only if it signed this.
    pub account: [u8; 32],
    /// For a million tokens, 10¹² operations, 10⁹ bytes and an hour, in micro-credits.
    pub tariff: [u64; 4],
    /// The account that takes a part of that for operating the node or its market, and how many
    /// millionths.
    pub operator: Option<([u8; 32], u32)>,
    /// How many shards it takes at once, as it says: see [`Quotation::room`].
    pub slots: u32,
    /// What of it it has ready already.
    pub warm: Warmth,
    /// The most bytes that an output may have.
    pub largest_output: u64,
    /// What kind of machine it is, as a digest: on all of one kind, work that can be repeated gives
    /// the same bytes.
    pub kind: [u8; 32],
    /// [`NUMERICS`] of its version of skep.
    pub numerics: u32,
}

/// Which versions of skep may follow each other's texts on machines of any kind: it is another number for each
/// that counts work otherwise, names requests otherwise, or has a run's texts lead to another output.
pub const NUMERICS: u32 = 2;

impl Quotation {
    /// Whether one node could tell that a result of another is right: on the same kind of machine by making the
    /// same bytes, and on any by following it (`followed`), if both count and name alike.
    #[must_use]
    pub fn can_audit(&self, other: &Self, followed: bool) -> bool {
        match followed {
            false => self.kind == other.kind,
            true => self.numerics == other.numerics,
        }
    }

    /// How many shards it is given at once: as many as it says, and no more than a machine works on.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.slots.min(MOST_AT_ONCE)
    }

    /// Who takes a part of the price for operating the node.
    #[must_use]
    pub fn operator(&self) -> Option<Share> {
        let share = |(account, parts)| Share {
            account: AccountId::from_bytes(account),
            parts,
        };
        self.operator.map(share)
    }

    /// The tariff.
    #[must_use]
    pub fn tariff(&self) -> Tariff {
        let [tokens, flops, bytes, residency] = self.tariff;
        Tariff {
            tokens,
            flops,
            bytes,
            residency,
        }
    }
}

/// What kind of machine one is that runs this version of skep, and whose results have the same bits
/// as those of others that are called so.
#[must_use]
pub fn machine_kind(version: &str, alike: &str) -> Digest {
    Digest::of(format!("skep {version} on {alike}").as_bytes())
}

/// Why a provider does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Its owner takes no jobs.
    #[error("it takes no jobs")]
    NoJobs,
    /// Its owner does not run this publisher's packages.
    #[error("its owner does not run packages of this publisher")]
    Publisher,
    /// Its owner does not run this kind of package.
    #[error("its owner does not run packages of the world `{}`", said(.0))]
    World(String),
    /// The input is larger than its owner allows.
    #[error("an input has {bytes} bytes, and it takes at most {limit}; make more shards")]
    InputTooLarge {
        /// How many there are.
        bytes: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The lease is not one that it can keep.
    #[error("it cannot keep the lease: {}", said(.0))]
    Lease(String),
    /// The package, or a model that it needs, cannot be had there.
    #[error("it cannot get what the work needs: {}", said(.0))]
    Unavailable(String),
    /// It does as much as it may.
    #[error("it is busy")]
    Busy,
    /// It is not the time for jobs there.
    #[error("its owner lets in jobs only at {}, by the clock there", said(.0))]
    Hours(String),
    /// Its owner uses the machine.
    #[error("its owner uses the machine; it takes jobs again when that is over")]
    InUse,
    /// It cannot show what hardware it runs on.
    #[error("it shows no hardware that protects what it is given: {}", said(.0))]
    NoHardware(String),
    /// The work failed.
    #[error("the work failed there: {}", said(.0))]
    Failed(String),
    /// It does not understand.
    #[error("it does not understand what it was asked")]
    Malformed,
    /// Whoever asks has not paid for what was done before.
    #[error(
        "it has no receipt back of work for {} credits, and its owner lets nobody owe more than {}; of what it did \
         since yesterday a node that runs in the home of the job gives it the receipts, and what was called off or \
         failed counts for an hour",
        Credits::from_micro(*owed),
        Credits::from_micro(*limit)
    )]
    Unpaid {
        /// How much it owes, in micro-credits.
        owed: u64,
        /// How much it may.
        limit: u64,
    },
    /// It has countersigned no receipt for that lease.
    #[error("it has countersigned no receipt for that lease")]
    NoReceipt,
    /// It keeps nothing ready for so long.
    #[error("it is asked to keep things ready for {asked} s, and its owner allows for {limit} s")]
    Residency {
        /// For how many seconds.
        asked: u64,
        /// For how many it would.
        limit: u64,
    },
}

impl Refusal {
    /// What kind of refusal it is, in a word that has nothing of an input, nor of what a guest says.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoJobs => "no jobs",
            Self::Publisher => "publisher",
            Self::World(_) => "world",
            Self::InputTooLarge { .. } => "input too large",
            Self::Lease(_) => "lease",
            Self::Unavailable(_) => "unavailable",
            Self::Busy => "busy",
            Self::Hours(_) => "hours",
            Self::InUse => "in use",
            Self::NoHardware(_) => "no hardware",
            Self::Failed(_) => "failed",
            Self::Malformed => "malformed",
            Self::Unpaid { .. } => "unpaid",
            Self::NoReceipt => "no receipt",
            Self::Residency { .. } => "residency",
        }
    }

    /// The same with no more of its reason than is shown, so that a message has room for it.
    #[must_use]
    pub fn clipped(mut self) -> Self {
        match &mut self {
            Self::World(text)
            | Self::Lease(text)
            | Self::Unavailable(text)
            | Self::Hours(text)
            | Self::NoHardware(text)
            | Self::Failed(text) => {
                let end = text.char_indices().nth(SHOWN).map(|(end, _)| end);
                if let Some(end) = end {
                    text.truncate(end);
                }
            }
            Self::NoJobs
            | Self::Publisher
            | Self::InputTooLarge { .. }
            | Self::Busy
            | Self::InUse
            | Self::Malformed
            | Self::Unpaid { .. }
            | Self::NoReceipt
            | Self::Residency { .. } => {}
        }
        self
    }
}

/// What another node says, fit to be shown: short, and nothing that moves a cursor.
#[must_use]
pub fn said(text: &str) -> String {
    let shown = text.chars().take(SHOWN);
    shown
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

/// Bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other side says something that is not of this protocol")]
pub struct MessageError;

macro_rules! message {
    ($($type:ty),*) => {$(
        impl $type {
            /// The message as it is sent.
            ///
            /// # Errors
            ///
            /// When it is longer than a message may be.
            pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
                let bytes = postcard::to_stdvec(self).map_err(|_| MessageError)?;
                match bytes.len() <= MAX_MESSAGE {
                    true => Ok(bytes),
                    false => Err(MessageError),
                }
            }

            /// The message in these bytes, all of which must belong to it.
            ///
            /// # Errors
            ///
            /// When they are no such message.
            pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
                decode(bytes)
            }
        }
    )*};
}
message!(Ask, Answer);

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(MessageError);
    }
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(MessageError),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::digest;

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(ask) = Ask::decode(&bytes) {
                prop_assert_eq!(Ask::decode(&ask.encode().unwrap()), Ok(ask));
            }
            if let Ok(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(Answer::decode(&answer.encode().unwrap()), Ok(answer));
            }
        }
    }

    #[test]
    fn a_claimed_length_is_not_believed() {
        // So many receipts.
        let mut bytes = vec![2];
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(Ask::decode(&bytes), Err(MessageError));
        assert_eq!(Ask::decode(&vec![0; MAX_MESSAGE + 1]), Err(MessageError));
        let long = Ask::Settle {
            receipts: vec![vec![0; MAX_MESSAGE]],
        };
        assert_eq!(long.encode(), Err(MessageError));
    }

    #[test]
    fn messages_come_back_whole_and_cut_ones_do_not() {
        let ask = Ask::Quote {
            package: digest("package", 1),
            adapter: Some(digest("adapter", 1)),
            input_bytes: 77,
            residency: 3_600,
            sources: vec!["skep1…".to_owned()],
            question: [5; 32],
        };
        let failed = Ask::Failed {
            lease: digest("lease", 1),
        };
        for ask in [ask, failed] {
            let bytes = ask.encode().unwrap();
            for cut in 0..bytes.len() {
                assert_eq!(Ask::decode(&bytes[..cut]), Err(MessageError));
            }
            assert_eq!(Ask::decode(&bytes), Ok(ask));
        }
    }

    #[test]
    fn nobody_is_given_more_at_once_than_a_machine_works_on() {
        let room = |slots| {
            let quotation = Quotation {
                account: [1; 32],
                tariff: [0; 4],
                operator: None,
                slots,
                warm: Warmth::default(),
                largest_output: 1,
                kind: [2; 32],
                numerics: NUMERICS,
            };
            quotation.room()
        };
        assert_eq!([0, 1, 56, 57, u32::MAX].map(room), [0, 1, 56, 56, 56]);
    }

    #[test]
    fn what_others_say_cannot_move_a_cursor() {
        let refusal = Refusal::Failed(format!("a\u{1b}[2Jb\r\n{}", "c".repeat(1_000)));
        let text = refusal.to_string();
        assert!(!text.contains('\u{1b}') && !text.contains('\r') && text.len() < 400);
    }

    #[test]
    fn the_longest_reason_fits_into_a_message_and_loses_nothing_that_is_shown() {
        let long = format!("because {}", "é".repeat(100_000));
        let reasons: [fn(String) -> Refusal; 6] = [
            Refusal::World,
            Refusal::Lease,
            Refusal::Unavailable,
            Refusal::Hours,
            Refusal::NoHardware,
            Refusal::Failed,
        ];
        for refusal in reasons.map(|of| of(long.clone())) {
            assert_eq!(Answer::Refused(refusal.clone()).encode(), Err(MessageError));
            let sent = Answer::Refused(refusal.clone().clipped()).encode().unwrap();
            let Ok(Answer::Refused(heard)) = Answer::decode(&sent) else {
                panic!("{} is not a refusal", refusal.kind());
            };
            assert_eq!(heard.to_string(), refusal.to_string());
            assert_eq!(heard.clone().clipped(), heard);
        }
        let short = Refusal::Failed("é".repeat(SHOWN));
        assert_eq!(short.clone().clipped(), short);
    }

    #[test]
    fn what_kind_a_refusal_is_says_nothing_of_its_reason() {
        let refusal = |reason: &str| Refusal::Failed(reason.to_owned());
        assert_eq!(refusal("a record").kind(), refusal("another").kind());
        assert_ne!(refusal("a record").kind(), Refusal::Busy.kind());
    }
}
