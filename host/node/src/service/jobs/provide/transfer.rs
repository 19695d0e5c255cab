//! The bytes of a shard on their way: its input in, and what was made of it out. Each has a time, by how much
//! it is, for whoever moves next to nothing holds a place all the while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skep_market::{Gathered, MAX_SEALED, Opener, Refusal, Sealer};
use skep_swarm::Channel;
use zeroize::Zeroizing;

use super::fault::Fault;
use super::{SILENCE, Stop};

/// How long the smallest transfer may take.
const LEAST: Duration = Duration::from_secs(30);
/// The bytes for which a second is added.
const EACH_SECOND: u64 = 64 << 10;

/// How long so many bytes may be on their way.
fn time_for(bytes: u64) -> Duration {
    LEAST.saturating_add(Duration::from_secs(bytes / EACH_SECOND))
}

/// Moves so many bytes in the time that there is for them, or stops with `late`.
async fn in_time<T>(
    bytes: u64,
    moving: impl Future<Output = Result<T, Stop>>,
    late: Stop,
) -> Result<T, Stop> {
    let moved = tokio::time::timeout(time_for(bytes), moving).await;
    moved.unwrap_or(Err(late))
}

/// Receives so many bytes, which is what was announced.
pub(super) async fn receive(
    channel: &mut Channel,
    opener: Opener,
    bytes: u64,
) -> Result<Zeroizing<Vec<u8>>, Stop> {
    let mut input = Gathered::new(opener, bytes);
    let receiving = async {
        loop {
            let chunk = channel.hear(MAX_SEALED, SILENCE).await;
            let last = input
                .add(chunk.map_err(|_| Stop::Gone)?)
                .map_err(|error| Refusal::Lease(error.to_string()))?;
            if last {
                return Ok::<(), Stop>(());
            }
        }
    };
    let reason = format!(
        "its input did not come within the {} s that so many bytes may take",
        time_for(bytes).as_secs()
    );
    in_time(bytes, receiving, Refusal::Lease(reason).into()).await?;
    Ok(input.into_bytes())
}

/// Sends these bytes, and adds those that are on their way to `sent`. Who does not take them in time is told nothing:
/// it would not hear that either.
pub(super) async fn send(
    channel: &mut Channel,
    sealer: Sealer,
    bytes: &[u8],
    sent: &AtomicU64,
) -> Result<(), Stop> {
    let sending = async {
        for chunk in sealer.chunks(bytes) {
            let chunk = chunk.map_err(Fault::from)?;
            sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            channel.say(&chunk).await.map_err(|_| Stop::Gone)?;
        }
        Ok::<(), Stop>(())
    };
    in_time(bytes.len() as u64, sending, Stop::Gone).await
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_moves_next_to_nothing_is_stopped_when_its_time_is_over() {
        for (bytes, seconds) in [(0, 30), (1, 30), (64 << 10, 31), (16 << 20, 30 + 256)] {
            let begun = Instant::now();
            // Never silent for long enough to be taken for one that has gone.
            let drips = async {
                for _ in 0..1_000 {
                    sleep(SILENCE - Duration::from_secs(1)).await;
                }
                Ok::<(), Stop>(())
            };
            let ended = in_time(bytes, drips, Refusal::Malformed.into()).await;
            assert!(matches!(ended, Err(Stop::Refused(Refusal::Malformed))));
            let took = begun.elapsed();
            assert_eq!(took.as_secs(), seconds, "{bytes} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_is_taken() {
        let slow = async {
            sleep(Duration::from_secs(30 + 255)).await;
            Ok::<u8, Stop>(7)
        };
        assert!(matches!(in_time(16 << 20, slow, Stop::Gone).await, Ok(7)));
    }
}
