//! Tickets: texts that people pass around, saying where something is.
//!
//! A ticket starts with `skep1` (the 1 is the format's version) and goes on in lower-case base32
//! without padding: one byte for the kind, the content in postcard, and four check bytes (the
//! first of the BLAKE3 hash of what precedes them), so that a cut or mistyped ticket is told apart
//! from one whose node is away. A ticket is a hint and carries no authority: what it leads to is
//! verified like anything else.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skep_registry::{Digest, PackageName, PublisherId};

use crate::ids::ProviderAddr;

const PREFIX: &str = "skep1";
const CHECK: usize = 4;
/// Longer texts are no tickets, whatever they contain.
const MAX_TEXT: usize = 4096;
/// A node has no use for more addresses than this.
const MAX_ADDRS: usize = 32;

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTicket {
    /// The node and its addresses.
    pub node: ProviderAddr,
}

/// Where a package is, and which release of it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageTicket {
    /// A node that offers it.
    pub node: ProviderAddr,
    /// Who signed it.
    pub publisher: PublisherId,
    /// Its name under that publisher.
    pub name: PackageName,
    /// The exact release, or `None` for the newest.
    pub release: Option<Digest>,
}

/// Either kind of ticket, for places that take both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ticket {
    /// Where a node is.
    Node(NodeTicket),
    /// Where a package is.
    Package(PackageTicket),
}

#[derive(Serialize, Deserialize)]
struct PackageContent {
    node: ProviderAddr,
    publisher: PublisherId,
    name: String,
    release: Option<Digest>,
}

/// Why a text is not a ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not start like one.
    #[error("a ticket starts with \"skep1\", and this starts with {found:?}")]
    Prefix {
        /// The first characters of the text.
        found: String,
    },
    /// It is far too long.
    #[error("a ticket has at most {MAX_TEXT} characters, and this has {length}")]
    Length {
        /// The number of bytes.
        length: usize,
    },
    /// A character that the alphabet lacks.
    #[error(
        "after \"skep1\" a ticket is written in the characters a-z and 2-7, and this contains {found:?}"
    )]
    Character {
        /// The first such character.
        found: char,
    },
    /// The check bytes do not fit.
    #[error(
        "the ticket is cut or mistyped: its last characters do not fit the others; copy the whole of it again"
    )]
    Check,
    /// It is a sound ticket of the other kind.
    #[error("this is a ticket for a {found}, and one for a {wanted} is needed here")]
    Kind {
        /// What it is a ticket for.
        found: &'static str,
        /// What was expected.
        wanted: &'static str,
    },
    /// It is whole, but this version cannot read it.
    #[error("the ticket is whole but not understood; it may come from a newer version of skep")]
    Content,
}

const NODE: u8 = b'n';
const PACKAGE: u8 = b'p';

fn seal<T: Serialize>(kind: u8, content: &T) -> String {
    let mut bytes = vec![kind];
    // Serialising into memory what has no unserialisable part cannot fail; if it did, the ticket
    // would not pass its own check.
    if let Ok(content) = postcard::to_stdvec(content) {
        bytes.extend_from_slice(&content);
    }
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(&check.as_bytes()[..CHECK]);
    PREFIX.to_owned() + &BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
}

/// The kind and the content of a ticket whose check bytes fit.
fn open(text: &str) -> Result<(u8, Vec<u8>), TicketError> {
    let text = text.trim();
    if text.len() > MAX_TEXT {
        return Err(TicketError::Length { length: text.len() });
    }
    let rest = text
        .strip_prefix(PREFIX)
        .ok_or_else(|| TicketError::Prefix {
            found: text.chars().take(8).collect(),
        })?;
    if let Some(found) = rest.chars().find(|c| !matches!(c, 'a'..='z' | '2'..='7')) {
        return Err(TicketError::Character { found });
    }
    let mut bytes = BASE32_NOPAD
        .decode(rest.to_ascii_uppercase().as_bytes())
        .map_err(|_| TicketError::Check)?;
    let content = bytes.len().checked_sub(CHECK).ok_or(TicketError::Check)?;
    let check = bytes.split_off(content);
    if blake3::hash(&bytes).as_bytes()[..CHECK] != check[..] {
        return Err(TicketError::Check);
    }
    match bytes.split_first() {
        Some((kind, content)) => Ok((*kind, content.to_vec())),
        None => Err(TicketError::Check),
    }
}

fn read<T: DeserializeOwned>(content: &[u8]) -> Result<T, TicketError> {
    match postcard::take_from_bytes(content) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(TicketError::Content),
    }
}

impl fmt::Display for NodeTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&seal(NODE, &self.node))
    }
}

impl fmt::Display for PackageTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = PackageContent {
            node: self.node.clone(),
            publisher: self.publisher,
            name: self.name.to_string(),
            release: self.release,
        };
        f.write_str(&seal(PACKAGE, &content))
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(ticket) => ticket.fmt(f),
            Self::Package(ticket) => ticket.fmt(f),
        }
    }
}

impl Ticket {
    /// The node that the ticket names.
    #[must_use]
    pub fn node(&self) -> &ProviderAddr {
        match self {
            Self::Node(ticket) => &ticket.node,
            Self::Package(ticket) => &ticket.node,
        }
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, content) = open(text)?;
        let ticket = match kind {
            NODE => Self::Node(NodeTicket {
                node: read(&content)?,
            }),
            PACKAGE => {
                let content: PackageContent = read(&content)?;
                Self::Package(PackageTicket {
                    node: content.node,
                    publisher: content.publisher,
                    name: content.name.parse().map_err(|_| TicketError::Content)?,
                    release: content.release,
                })
            }
            _ => return Err(TicketError::Content),
        };
        if ticket.node().addrs.len() > MAX_ADDRS {
            return Err(TicketError::Content);
        }
        Ok(ticket)
    }
}

impl FromStr for NodeTicket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse()? {
            Ticket::Node(ticket) => Ok(ticket),
            Ticket::Package(_) => Err(TicketError::Kind {
                found: "package",
                wanted: "node",
            }),
        }
    }
}

impl FromStr for PackageTicket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse()? {
            Ticket::Package(ticket) => Ok(ticket),
            Ticket::Node(_) => Err(TicketError::Kind {
                found: "node",
                wanted: "package",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::NodeId;

    fn node() -> ProviderAddr {
        ProviderAddr {
            id: NodeId::from(iroh::SecretKey::from_bytes(&[5; 32]).public()),
            addrs: vec![
                "127.0.0.1:4711".parse().unwrap(),
                "[::1]:9".parse().unwrap(),
            ],
        }
    }

    fn package() -> PackageTicket {
        PackageTicket {
            node: node(),
            publisher: PublisherId::from_bytes(node().id.as_bytes()).unwrap(),
            name: "batch-classifier".parse().unwrap(),
            release: Some(Digest::of(b"release")),
        }
    }

    #[test]
    fn tickets_come_back_whole() {
        let ticket = NodeTicket { node: node() };
        assert_eq!(ticket.to_string().parse(), Ok(ticket));
        let ticket = package();
        assert_eq!(format!("  {ticket}\n").parse(), Ok(ticket));
    }

    #[test]
    fn every_mistyped_or_cut_ticket_is_refused() {
        let text = package().to_string();
        for i in PREFIX.len()..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[i] = if wrong[i] == b'q' { b'r' } else { b'q' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert!(wrong.parse::<Ticket>().is_err(), "{wrong}");
            assert!(text[..i].parse::<Ticket>().is_err(), "{}", &text[..i]);
        }
    }

    #[test]
    fn the_errors_say_what_is_wrong() {
        let error = |text: &str| text.parse::<PackageTicket>().unwrap_err();
        assert!(matches!(error("hello"), TicketError::Prefix { .. }));
        assert_eq!(error("skep1ab!"), TicketError::Character { found: '!' });
        assert_eq!(error("skep1"), TicketError::Check);
        assert_eq!(
            error(&NodeTicket { node: node() }.to_string()).to_string(),
            "this is a ticket for a node, and one for a package is needed here"
        );
        let long = "skep1".to_owned() + &"a".repeat(5000);
        assert_eq!(error(&long), TicketError::Length { length: 5005 });
        // A kind that this version does not know, with fitting check bytes.
        assert_eq!(error(&seal(b'z', &1_u8)), TicketError::Content);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(skep1)?[a-z2-7é]{0,200}") {
            let _ = text.parse::<Ticket>();
        }
    }
}
