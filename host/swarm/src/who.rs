//! Which node is at an address: the distributed hash table says only where somebody is, and a
//! connection needs to know who.
//!
//! A question is one UDP datagram of [`QUESTION`] bytes, the answer a shorter one, so that nobody is
//! sent more in another's name than that other sent.
//!
//! | question | |
//! |---|---|
//! | 8 bytes | `skepwho1` |
//! | 16 bytes | chosen by who asks |
//! | 104 bytes | zero |
//!
//! | answer | |
//! |---|---|
//! | 8 bytes | `skepwho1` |
//! | 32 bytes | the node's public key |
//! | 2 bytes | the UDP port that it listens on for connections |
//! | 64 bytes | the signature over a domain, the 16 bytes and the port |
//!
//! The 16 bytes make each answer good for one question, so nothing here needs a clock.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::{SecretKey, Signature};
use n0_future::task::AbortOnDropHandle;
use tokio::net::UdpSocket;

use crate::ids::{NodeId, ProviderAddr};

const MAGIC: &[u8; 8] = b"skepwho1";
const NONCE: usize = 16;
/// Bytes of a question.
const QUESTION: usize = 128;
/// Bytes of an answer.
const ANSWER: usize = 8 + 32 + 2 + Signature::LENGTH;
const _: () = assert!(ANSWER <= QUESTION);
const DOMAIN: &[u8] = b"skep who is at this address 1\n";
/// The most answers in a second: each costs a signature.
const MAX_ANSWERS: u32 = 256;
/// How long an answer is waited for before the question is asked again.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often a question is asked.
const TRIES: usize = 2;

/// Answers who this node is, on a port of its own.
#[derive(Debug)]
pub(crate) struct Who {
    port: u16,
    _answering: AbortOnDropHandle<()>,
}

impl Who {
    /// Answers from now on that the node of this key listens on `port`.
    pub(crate) async fn answer(ip: IpAddr, key: SecretKey, port: u16) -> std::io::Result<Self> {
        let socket = UdpSocket::bind((ip, 0)).await?;
        let own = socket.local_addr()?.port();
        let answering = async move {
            let mut buffer = [0; QUESTION + 1];
            let (mut since, mut answers) = (Instant::now(), 0);
            loop {
                let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                    // Of an earlier answer that could not be delivered.
                    tokio::task::yield_now().await;
                    continue;
                };
                if since.elapsed() >= Duration::from_secs(1) {
                    (since, answers) = (Instant::now(), 0);
                }
                let Some(nonce) = read_question(&buffer[..length]) else {
                    continue;
                };
                if answers < MAX_ANSWERS {
                    answers += 1;
                    // Whoever does not get it asks again.
                    let _ = socket.send_to(&write_answer(&key, nonce, port), from).await;
                }
            }
        };
        Ok(Self {
            port: own,
            _answering: AbortOnDropHandle::new(tokio::spawn(answering)),
        })
    }

    /// The port on which it answers.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// Asks who is at an address. `None` if nobody answers, or not as a node does.
pub(crate) async fn ask(from: IpAddr, at: SocketAddr) -> Option<ProviderAddr> {
    let socket = Arc::new(UdpSocket::bind((from, 0)).await.ok()?);
    // Datagrams from anywhere else are not even seen.
    socket.connect(at).await.ok()?;
    let nonce: [u8; NONCE] = rand::random();
    for _ in 0..TRIES {
        socket.send(&write_question(&nonce)).await.ok()?;
        let answer = async {
            let mut buffer = [0; ANSWER + 1];
            loop {
                let length = socket.recv(&mut buffer).await.ok()?;
                if let Some((id, port)) = read_answer(&buffer[..length], &nonce) {
                    return Some(ProviderAddr {
                        id,
                        addrs: vec![SocketAddr::new(at.ip(), port)],
                    });
                }
            }
        };
        if let Ok(answer) = tokio::time::timeout(PATIENCE, answer).await {
            return answer;
        }
    }
    None
}

fn write_question(nonce: &[u8; NONCE]) -> [u8; QUESTION] {
    let mut question = [0; QUESTION];
    question[..8].copy_from_slice(MAGIC);
    question[8..8 + NONCE].copy_from_slice(nonce);
    question
}

fn read_question(bytes: &[u8]) -> Option<&[u8; NONCE]> {
    let rest = bytes.strip_prefix(MAGIC)?;
    (bytes.len() == QUESTION).then(|| rest.first_chunk())?
}

fn message(nonce: &[u8; NONCE], port: u16) -> Vec<u8> {
    [DOMAIN, nonce, &port.to_be_bytes()].concat()
}

fn write_answer(key: &SecretKey, nonce: &[u8; NONCE], port: u16) -> Vec<u8> {
    let signature = key.sign(&message(nonce, port));
    let public = key.public();
    [
        &MAGIC[..],
        public.as_bytes(),
        &port.to_be_bytes(),
        &signature.to_bytes(),
    ]
    .concat()
}

fn read_answer(bytes: &[u8], nonce: &[u8; NONCE]) -> Option<(NodeId, u16)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (id, rest) = rest.split_first_chunk::<32>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let signature = Signature::from_bytes(rest.try_into().ok()?);
    let (id, port) = (NodeId::from_bytes(id)?, u16::from_be_bytes(*port));
    let signed = id.endpoint().verify(&message(nonce, port), &signature);
    (signed.is_ok() && port != 0).then_some((id, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::announcement::tests::key;

    #[tokio::test]
    async fn a_node_says_who_it_is_and_nonsense_gets_no_answer() {
        let local = IpAddr::from([127, 0, 0, 1]);
        let who = Who::answer(local, key(1), 4242).await.unwrap();
        let at = SocketAddr::new(local, who.port());
        let stranger = UdpSocket::bind((local, 0)).await.unwrap();
        for nonsense in [&[0; QUESTION][..], MAGIC, &[0xff; 1200], b""] {
            stranger.send_to(nonsense, at).await.unwrap();
        }
        let found = ask(local, at).await.unwrap();
        assert_eq!(found.id, key(1).public().into());
        assert_eq!(found.addrs, [SocketAddr::new(local, 4242)]);
        let mut buffer = [0; 2];
        let unanswered = stranger.try_recv(&mut buffer);
        assert!(unanswered.is_err(), "{unanswered:?}");
    }

    proptest! {
        #[test]
        fn an_answer_is_good_for_one_question_and_whole(
            nonce in any::<[u8; NONCE]>(),
            other in any::<[u8; NONCE]>(),
            bit in 0_usize..ANSWER * 8,
        ) {
            let answer = write_answer(&key(1), &nonce, 7);
            prop_assert_eq!(answer.len(), ANSWER);
            let read = read_answer(&answer, &nonce);
            prop_assert_eq!(read, Some((key(1).public().into(), 7)));
            if nonce != other {
                prop_assert_eq!(read_answer(&answer, &other), None);
            }
            let mut changed = answer.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(read_answer(&changed, &nonce), None);
            prop_assert_eq!(read_answer(&answer[1..], &nonce), None);
            prop_assert_eq!(read_answer(&[&answer[..], &[0]].concat(), &nonce), None);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(read_answer(&bytes, &[0; NONCE]), None);
            prop_assert!(read_question(&bytes).is_none() || bytes.starts_with(MAGIC));
        }
    }
}
