//! Whether a fetch goes on or crawls.
//!
//! A provider that sends a little now and then never stalls, and one fetch from it alone would take days. Whoever
//! asked for it may wait for that; what is fetched for others has room kept for it, and somebody waits in vain.

use std::time::Duration;

/// How many bytes are more than hardly anything.
const ENOUGH: u64 = 1 << 20;

/// Returns once fewer than [`ENOUGH`] bytes have arrived from one look to the next, which are as far from each other as
/// `patience`. `look` says how many have arrived in all, and whether any are being waited for: while none are, nothing
/// can arrive.
pub(super) async fn until_it_crawls(patience: Duration, look: impl Fn() -> (u64, bool)) {
    let (mut before, _) = look();
    loop {
        tokio::time::sleep(patience).await;
        let (now, is_waiting) = look();
        if is_waiting && now.saturating_sub(before) < ENOUGH {
            return;
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_let_go_on_and_what_crawls_is_not() {
        let patience = Duration::from_secs(60);
        let (arrived, is_waiting) = (Cell::new(5), Cell::new(true));
        let crawling = until_it_crawls(patience, || (arrived.get(), is_waiting.get()));
        tokio::pin!(crawling);
        // From here on each wait has one look in its middle.
        let begun = timeout(patience / 2, &mut crawling).await;
        assert!(begun.is_err(), "it has had no time");
        for more in [ENOUGH, 5 * ENOUGH, ENOUGH] {
            arrived.set(arrived.get() + more);
            let ended = timeout(patience, &mut crawling).await;
            assert!(ended.is_err(), "{more} bytes have arrived");
        }
        is_waiting.set(false);
        let ended = timeout(3 * patience, &mut crawling).await;
        assert!(ended.is_err(), "nothing was to arrive");
        is_waiting.set(true);
        arrived.set(arrived.get() + ENOUGH - 1);
        let ended = timeout(patience, &mut crawling).await;
        assert!(ended.is_ok(), "it crawls");
    }
}
