//! What a node says of itself: where it is, what it has, what work it takes.
//!
//! Signed by the node's own key, so that others can pass it on and nobody can change it, and good
//! for some hours only. On the wire it is the 64 bytes of an ed25519 signature and then
//! [postcard](https://postcard.jamesmunns.com/wire-format).
//!
//! # What it must never do
//!
//! - Be believed: it suggests whom to ask.
//! - Be longer than [`MAX_BYTES`], or be taken when its time is over or has not begun.

use std::net::SocketAddr;

use iroh::{SecretKey, Signature};
use serde::{Deserialize, Serialize};
use skep_registry::Digest;

use crate::discovery::Want;
use crate::filter::Filter;
use crate::ids::{NodeId, ProviderAddr};
use crate::topic::Topic;

/// The most bytes of one, signature included.
pub(crate) const MAX_BYTES: usize = 3072;
/// The most addresses in one.
const MAX_ADDRS: usize = 8;
/// The most characters that a device's name has.
const MAX_DEVICE: usize = 32;
/// How long one is good for, in seconds. So long that a node whose clock is an hour slow is still
/// found for some time.
pub(crate) const LIFE: u64 = 3 * HOUR;
/// The longest that one may say it is good for.
const MAX_LIFE: u64 = 6 * HOUR;
/// How far ahead the clock of whoever signed may be.
const SKEW: u64 = 2 * HOUR;
const HOUR: u64 = 3600;
const SIGNATURE: usize = Signature::LENGTH;
/// What is signed begins with this, so that nothing else that the key signs is an announcement.
const DOMAIN: &[u8] = b"skep announcement 1\n";

/// The work that a node takes from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// What it computes on, such as `processor` or `cuda:0`: at most 32 printable ASCII characters.
    pub device: String,
    /// The most memory that a run may have, in bytes.
    pub memory: u64,
    /// How many shards it works on at once.
    pub slots: u32,
    /// Millionths of a credit for 10⁶ tokens, 10¹² operations, 10⁹ bytes and an hour of residency,
    /// as tariffs have them.
    pub tariff: [u64; 4],
}

/// What work is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Packages, models and adapters that are to be ready there, by the digests of their releases,
    /// each the newest that the node has.
    pub ready: Vec<Digest>,
    /// Releases of which those nodes come first that have all of them ready: others are found as well.
    pub rather: Vec<Digest>,
    /// The device; any, if it is not said.
    pub device: Option<String>,
    /// Memory in bytes that there has to be.
    pub memory: u64,
    /// The most of each of the four prices; any, if it is not said.
    pub tariff: Option<[u64; 4]>,
}

impl Need {
    fn is_met_by(&self, capability: &Capability, has: &Filter) -> bool {
        let device = self.device.as_ref();
        let prices = self.tariff.iter().flatten().zip(&capability.tariff);
        device.is_none_or(|device| *device == capability.device)
            && capability.memory >= self.memory
            && prices.into_iter().all(|(most, price)| price <= most)
            && are_ready(&self.ready, has)
    }
}

fn are_ready(releases: &[Digest], has: &Filter) -> bool {
    let mut releases = releases.iter();
    releases.all(|digest| has.has(&Topic::ready(digest)))
}

/// A node about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    node: NodeId,
    /// Seconds since 1970.
    issued: u64,
    expires: u64,
    addrs: Vec<SocketAddr>,
    capability: Option<Capability>,
    has: Filter,
}

/// Why an announcement is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementError {
    /// More bytes than one has.
    #[error("an announcement of {bytes} bytes, and at most {MAX_BYTES} are allowed")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// The bytes are no announcement.
    #[error("an announcement that does not decode")]
    Malformed,
    /// It does not keep to what one may say.
    #[error("an announcement that is not sound: {reason}")]
    Unsound {
        /// What is wrong.
        reason: &'static str,
    },
    /// Somebody else signed it, or it was changed.
    #[error("an announcement whose signature is not that of node {node}")]
    Forged {
        /// Whose it says it is.
        node: NodeId,
    },
    /// Its time is over.
    #[error("an announcement that expired at {expires} (seconds since 1970), and it is {now}")]
    Expired {
        /// When.
        expires: u64,
        /// This node's time.
        now: u64,
    },
    /// It is signed for a time that has not come.
    #[error("an announcement of {issued} (seconds since 1970), and it is {now}")]
    Future {
        /// The time in it.
        issued: u64,
        /// This node's time.
        now: u64,
    },
}

impl Announcement {
    /// Checks the bytes of an announcement: its form, its time by this node's clock in seconds since
    /// 1970, and its signature.
    ///
    /// # Errors
    ///
    /// As the variants say.
    pub fn decode(bytes: &[u8], now: u64) -> Result<Self, AnnouncementError> {
        if bytes.len() > MAX_BYTES {
            let bytes = bytes.len();
            return Err(AnnouncementError::TooLong { bytes });
        }
        let (signature, body) = bytes
            .split_first_chunk::<SIGNATURE>()
            .ok_or(AnnouncementError::Malformed)?;
        let announcement = match postcard::take_from_bytes::<Self>(body) {
            Ok((announcement, [])) => announcement,
            Ok(_) | Err(_) => return Err(AnnouncementError::Malformed),
        };
        announcement.check(now)?;
        let message = [DOMAIN, body].concat();
        let node = announcement.node;
        node.endpoint()
            .verify(&message, &Signature::from_bytes(signature))
            .map_err(|_| AnnouncementError::Forged { node })?;
        Ok(announcement)
    }

    fn check(&self, now: u64) -> Result<(), AnnouncementError> {
        let unsound = |reason| Err(AnnouncementError::Unsound { reason });
        if self.addrs.is_empty() || self.addrs.len() > MAX_ADDRS {
            return unsound("it has no address, or too many");
        }
        let reachable = |addr: &SocketAddr| {
            addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast()
        };
        if !self.addrs.iter().all(reachable) {
            return unsound("nobody can be reached at one of its addresses");
        }
        if let Some(Capability { device, .. }) = &self.capability
            && (device.len() > MAX_DEVICE || !device.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return unsound("its device has no name that one may have");
        }
        if !self.has.is_sound() {
            return unsound("it says that it has more than one can have");
        }
        if self.expires <= self.issued || self.expires - self.issued > MAX_LIFE {
            return unsound("it is good for no time, or too long");
        }
        if self.expires <= now {
            let expires = self.expires;
            return Err(AnnouncementError::Expired { expires, now });
        }
        if self.issued > now.saturating_add(SKEW) {
            let issued = self.issued;
            return Err(AnnouncementError::Future { issued, now });
        }
        Ok(())
    }

    /// Whose it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// When it was signed, in seconds since 1970 by the clock of whoever signed.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// Until when it is good.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.expires
    }

    /// The work that it takes, if it takes any.
    #[must_use]
    pub fn capability(&self) -> Option<&Capability> {
        self.capability.as_ref()
    }

    /// How to reach the node.
    #[must_use]
    pub fn addr(&self) -> ProviderAddr {
        ProviderAddr {
            id: self.node,
            addrs: self.addrs.clone(),
        }
    }

    /// Whether the node says that it has this.
    #[must_use]
    pub fn has(&self, want: &Want) -> bool {
        match (want, &self.capability) {
            (Want::Anything, _) => true,
            (Want::Jobs(need), Some(capability)) => need.is_met_by(capability, &self.has),
            (Want::Jobs(_), None) => false,
            (want, _) => self.has.has(&Topic::rarest(want)),
        }
    }

    /// Whether the node says that it has this, and all that had better be there as well.
    pub(crate) fn has_rather(&self, want: &Want) -> bool {
        match want {
            Want::Jobs(need) => {
                !need.rather.is_empty() && are_ready(&need.rather, &self.has) && self.has(want)
            }
            _ => false,
        }
    }
}

/// An announcement with the bytes that were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignedAnnouncement {
    pub(crate) announcement: Announcement,
    pub(crate) bytes: Vec<u8>,
}

impl SignedAnnouncement {
    /// Signs what a node says of itself from `now` on, in seconds since 1970. More addresses than
    /// one may have are left out.
    ///
    /// # Errors
    ///
    /// When it is not what an announcement may be.
    pub(crate) fn sign(
        key: &SecretKey,
        mut addrs: Vec<SocketAddr>,
        capability: Option<Capability>,
        topics: &[Topic],
        now: u64,
    ) -> Result<Self, AnnouncementError> {
        addrs.truncate(MAX_ADDRS);
        let announcement = Announcement {
            node: key.public().into(),
            issued: now,
            expires: now.saturating_add(LIFE),
            addrs,
            capability,
            has: Filter::of(topics),
        };
        announcement.check(now)?;
        let bytes = encode(key, &announcement)?;
        Ok(Self {
            announcement,
            bytes,
        })
    }

    /// Checks what another node passed on.
    pub(crate) fn decode(bytes: Vec<u8>, now: u64) -> Result<Self, AnnouncementError> {
        let announcement = Announcement::decode(&bytes, now)?;
        Ok(Self {
            announcement,
            bytes,
        })
    }
}

fn encode(key: &SecretKey, announcement: &Announcement) -> Result<Vec<u8>, AnnouncementError> {
    let body = postcard::to_stdvec(announcement).map_err(|_| AnnouncementError::Malformed)?;
    let signature = key.sign(&[DOMAIN, &body].concat());
    Ok([&signature.to_bytes()[..], &body].concat())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) const NOW: u64 = 1_800_000_000;

    pub(crate) fn key(seed: u16) -> SecretKey {
        let mut bytes = [3; 32];
        bytes[..2].copy_from_slice(&seed.to_be_bytes());
        SecretKey::from_bytes(&bytes)
    }

    fn capability() -> Capability {
        Capability {
            device: "cpu".to_owned(),
            memory: 8 << 30,
            slots: 2,
            tariff: [0, 1_000, 10_000, 0],
        }
    }

    pub(crate) fn signed(seed: u16, topics: &[Topic], now: u64) -> SignedAnnouncement {
        let addrs = vec![([127, 0, 0, 1], seed + 1).into()];
        SignedAnnouncement::sign(&key(seed), addrs, Some(capability()), topics, now).unwrap()
    }

    fn altered(change: impl Fn(&mut Announcement)) -> Vec<u8> {
        let mut announcement = signed(1, &[], NOW).announcement;
        change(&mut announcement);
        encode(&key(1), &announcement).unwrap()
    }

    #[test]
    fn what_is_signed_is_read_and_says_what_is_had() {
        let digest = Digest::of(b"a model");
        let topics = [Topic::ready(&digest), Topic::blob(digest.as_bytes())];
        let signed = signed(7, &topics, NOW);
        let read = Announcement::decode(&signed.bytes, NOW).unwrap();
        assert_eq!(read, signed.announcement);
        assert_eq!(read.node(), key(7).public().into());
        assert!(read.has(&Want::Anything));
        assert!(read.has(&Want::Blob(digest)));
        assert!(!read.has(&Want::Release(digest)));
        let need = Need::default();
        assert!(read.has(&Want::Jobs(need.clone())));
        let met = Need {
            ready: vec![digest],
            device: Some("cpu".to_owned()),
            memory: 8 << 30,
            tariff: Some([0, 1_000, 10_000, 0]),
            ..Need::default()
        };
        assert!(read.has(&Want::Jobs(met.clone())));
        for unmet in [
            Need {
                ready: vec![digest, Digest::of(b"another")],
                ..met.clone()
            },
            Need {
                device: Some("cuda".to_owned()),
                ..met.clone()
            },
            Need {
                memory: (8 << 30) + 1,
                ..met.clone()
            },
            Need {
                tariff: Some([0, 999, 10_000, 0]),
                ..met
            },
        ] {
            assert!(!read.has(&Want::Jobs(unmet.clone())), "{unmet:?}");
        }
        let idle = SignedAnnouncement::sign(&key(2), signed.announcement.addrs, None, &topics, NOW);
        assert!(!idle.unwrap().announcement.has(&Want::Jobs(need)));
    }

    #[test]
    fn the_largest_announcement_fits() {
        let digests = (0..5_000_u32).map(|n| *blake3::hash(&n.to_be_bytes()).as_bytes());
        let topics: Vec<_> = digests.map(|digest| Topic::blob(&digest)).collect();
        let addrs = vec![SocketAddr::from(([0xfe; 16], 65_535)); 20];
        let capability = Capability {
            device: "d".repeat(MAX_DEVICE),
            memory: u64::MAX,
            slots: u32::MAX,
            tariff: [u64::MAX; 4],
        };
        let large = SignedAnnouncement::sign(&key(1), addrs, Some(capability), &topics, NOW);
        let large = large.unwrap();
        assert!(large.bytes.len() <= MAX_BYTES, "{}", large.bytes.len());
        Announcement::decode(&large.bytes, NOW).unwrap();
    }

    #[test]
    fn the_time_of_an_announcement_is_kept_and_an_hour_of_skew_is_borne() {
        let bytes = signed(1, &[], NOW).bytes;
        for (now, good) in [
            (NOW - SKEW - 1, false),
            (NOW - SKEW, true),
            (NOW - HOUR, true),
            (NOW + HOUR, true),
            (NOW + LIFE - 1, true),
            (NOW + LIFE, false),
        ] {
            let read = Announcement::decode(&bytes, now);
            assert_eq!(
                read.is_ok(),
                good,
                "{} s: {read:?}",
                now as i64 - NOW as i64
            );
        }
    }

    #[test]
    fn what_is_signed_and_not_sound_is_refused() {
        let many = vec![SocketAddr::from(([127, 0, 0, 1], 9)); MAX_ADDRS + 1];
        let cases: [&dyn Fn(&mut Announcement); 9] = [
            &|a| a.addrs.clear(),
            &|a| a.addrs.clone_from(&many),
            &|a| a.addrs = vec![([127, 0, 0, 1], 0).into()],
            &|a| a.addrs = vec![([0, 0, 0, 0], 9).into()],
            &|a| a.addrs = vec![([224, 0, 0, 1], 9).into()],
            &|a| a.expires = a.issued,
            &|a| a.expires = a.issued + MAX_LIFE + 1,
            &|a| a.capability.as_mut().unwrap().device = "a\u{1b}[2J".to_owned(),
            &|a| a.has = Filter::default(),
        ];
        for (number, change) in cases.into_iter().enumerate() {
            let read = Announcement::decode(&altered(change), NOW);
            assert!(
                matches!(read, Err(AnnouncementError::Unsound { .. })),
                "{number}: {read:?}"
            );
        }
        // A key that is not the one in it.
        let other = Announcement {
            node: key(2).public().into(),
            ..signed(1, &[], NOW).announcement
        };
        let forged = encode(&key(1), &other).unwrap();
        assert!(matches!(
            Announcement::decode(&forged, NOW),
            Err(AnnouncementError::Forged { .. })
        ));
        assert!(matches!(
            Announcement::decode(&vec![0; MAX_BYTES + 1], NOW),
            Err(AnnouncementError::TooLong { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Announcement::decode(&bytes, NOW).is_err());
        }

        #[test]
        fn any_flipped_bit_is_noticed(bit in 0_usize..8 * 160) {
            let mut bytes = signed(1, &[], NOW).bytes;
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Announcement::decode(&bytes, NOW).is_err());
        }

        #[test]
        fn no_cut_or_longer_one_is_taken(cut in 1_usize..200, more in 1_usize..8) {
            let bytes = signed(1, &[], NOW).bytes;
            let short = &bytes[..bytes.len().saturating_sub(cut)];
            prop_assert!(Announcement::decode(short, NOW).is_err());
            let long = [&bytes[..], &vec![0; more]].concat();
            prop_assert!(Announcement::decode(&long, NOW).is_err());
        }
    }
}
