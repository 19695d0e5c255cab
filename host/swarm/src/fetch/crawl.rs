//! Whether a fetch goes on or crawls.
//!
//! A provider that sends a little now and then never stalls, and one fetch from it alone would take days. Whoever
//! asked for it may wait for that; what is fetched for others has room kept for it, and somebody waits in vain.

use std::time::Duration;

/// How many bytes are more than hardly anything.
const ENOUGH: u64 = 1 << 20;

/// Returns once fewer than [`ENOUGH`] bytes have arrived from one look to the next, which are as far from each other as
/// `patience`. Where no more are missing than have arrived, they have as long again, for which that pace is enough.
/// `look` says how many have arrived in all, and how many are missing if any are being waited for: while none are,
/// nothing can arrive.
pub(super) async fn until_it_crawls(patience: Duration, look: impl Fn() -> (u64, Option<u64>)) {
    let (mut before, _) = look();
    let mut may_take_longer = true;
    loop {
        tokio::time::sleep(patience).await;
        let (now, missing) = look();
        let arrived = now.saturating_sub(before);
        if let Some(missing) = missing
            && arrived < ENOUGH
        {
            if !may_take_longer || arrived < missing {
                return;
            }
            // Once: what more than one provider sends counts for each of them, so that less may seem to be missing.
            may_take_longer = false;
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_let_go_on_and_what_crawls_is_not() {
        let (arrived, missing) = (Cell::new(5), Cell::new(Some(ENOUGH)));
        let crawling = until_it_crawls(PATIENCE, || (arrived.get(), missing.get()));
        tokio::pin!(crawling);
        // From here on each wait has one look in its middle.
        let begun = timeout(PATIENCE / 2, &mut crawling).await;
        assert!(begun.is_err(), "it has had no time");
        for more in [ENOUGH, 5 * ENOUGH, ENOUGH] {
            arrived.set(arrived.get() + more);
            let ended = timeout(PATIENCE, &mut crawling).await;
            assert!(ended.is_err(), "{more} bytes have arrived");
        }
        missing.set(None);
        let ended = timeout(3 * PATIENCE, &mut crawling).await;
        assert!(ended.is_err(), "nothing was to arrive");
        missing.set(Some(ENOUGH));
        arrived.set(arrived.get() + ENOUGH - 1);
        let ended = timeout(PATIENCE, &mut crawling).await;
        assert!(ended.is_ok(), "it crawls");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_of_what_comes_slowly_is_waited_for_once() {
        let (arrived, missing) = (Cell::new(0), Cell::new(1_400_000));
        let crawling = until_it_crawls(PATIENCE, || (arrived.get(), Some(missing.get())));
        tokio::pin!(crawling);
        let begun = timeout(PATIENCE / 2, &mut crawling).await;
        assert!(begun.is_err(), "it has had no time");
        // As much as 100 kbit/s bring in that time.
        arrived.set(750_000);
        missing.set(650_000);
        let ended = timeout(PATIENCE, &mut crawling).await;
        assert!(
            ended.is_err(),
            "the rest will have arrived by the next look"
        );
        arrived.set(1_390_000);
        missing.set(10_000);
        let ended = timeout(PATIENCE, &mut crawling).await;
        assert!(ended.is_ok(), "it has had as long again");
    }
}
