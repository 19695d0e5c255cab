//! Serving blobs over a connection for as long as some are sent over it.
//!
//! Which blobs those are is for the `gate`, and whose connections there is a place for is for `admission`. Neither they
//! nor the blob protocol ends a connection on which nothing is asked, and nor does QUIC, as long as the other side's
//! system keeps it alive.
//!
//! # What it must never do
//!
//! - Have a connection keep its place for anything but what is sent over it: not for a question of which the rest
//!   never comes, and not for an answer that nobody reads.
//! - End a connection over which something is being sent, unless its place is another's.

use std::time::Duration;

use iroh::endpoint::Connection;
use iroh::protocol::{AcceptError, ProtocolHandler};
use iroh_blobs::BlobsProtocol;
use iroh_blobs::protocol::ERR_LIMIT;

use crate::admission::Admission;
use crate::config::Limits;

/// How often it is looked whether something was sent, within the time after which a connection ends. Where this
/// node was kept from running for a while, one look sees that nothing was, and not all of them.
const LOOKS: u32 = 20;
/// For so many of these nothing is sent over a connection that rests.
const RESTS: u32 = 2;
/// What whoever has no place is told, or has none any more, as by the blob protocol itself.
const NO_PLACE: &[u8] = b"limit";

/// Serves blobs to whoever has them sent.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    protocol: BlobsProtocol,
    admission: Admission,
    idle: Duration,
}

impl Serving {
    /// Serves so many connections at once as these limits say, and ends one over which nothing was sent for as long as
    /// they say.
    pub(crate) fn new(protocol: BlobsProtocol, limits: &Limits) -> Self {
        let idle = limits.idle;
        Self {
            protocol,
            admission: Admission::new(limits.connections, idle / LOOKS * RESTS),
            idle,
        }
    }
}

impl ProtocolHandler for Serving {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let Some(admitted) = self.admission.admit(connection.remote_id().into()) else {
            connection.close(ERR_LIMIT, NO_PLACE);
            return Ok(());
        };
        let serving = self.protocol.accept(connection.clone());
        tokio::pin!(serving);
        let sent = || connection.stats().frame_tx.stream;
        tokio::select! {
            served = &mut serving => return served,
            () = until_still(self.idle, sent, || admitted.used()) => {
                connection.close(1_u32.into(), b"nothing was sent");
            }
            () = admitted.given_up() => connection.close(ERR_LIMIT, NO_PLACE),
        }
        // That ends it, and gives its place back.
        serving.await
    }

    async fn shutdown(&self) {
        ProtocolHandler::shutdown(&self.protocol).await;
    }
}

/// Returns once `sent`, a count of what was sent, has stayed the same for as long as `idle`. Each time that it is seen
/// to have changed is told.
async fn until_still(idle: Duration, sent: impl Fn() -> u64, changed: impl Fn()) {
    let (mut before, mut same) = (sent(), 0);
    while same < LOOKS {
        tokio::time::sleep(idle / LOOKS).await;
        let now = sent();
        same = match now == before {
            true => same + 1,
            false => {
                changed();
                0
            }
        };
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_now_and_then_puts_the_end_off() {
        let idle = Duration::from_secs(60);
        let sent = Cell::new(0);
        let changes = Cell::new(0);
        let still = until_still(idle, || sent.get(), || changes.set(changes.get() + 1));
        tokio::pin!(still);
        for _ in 0..10 {
            let ended = timeout(idle * 9 / 10, &mut still).await;
            assert!(ended.is_err(), "it ends at {}", sent.get());
            sent.set(sent.get() + 1);
        }
        let last = Instant::now();
        still.await;
        let after = last.elapsed();
        assert!((idle..idle * 3 / 2).contains(&after), "{after:?}");
        assert_eq!(changes.get(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn over_which_nothing_is_ever_sent_it_ends_in_time() {
        let idle = Duration::from_secs(60);
        let since = Instant::now();
        until_still(idle, || 7, || panic!("nothing was sent")).await;
        let after = since.elapsed();
        assert!((idle..idle * 5 / 4).contains(&after), "{after:?}");
    }
}
