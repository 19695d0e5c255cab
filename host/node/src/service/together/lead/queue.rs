//! Places of a training that nobody has, and nodes that have none: who is asked to take which.
//!
//! A node that has gone keeps its place for as long as a turn would wait for it, and longer where nobody
//! else could take it. A place that nobody has goes around among those who wait.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::super::guest::{Guest, Place};
use super::super::seat::Seat;

/// How long a node that has not taken a place is left alone before it is asked again.
const WAITING: Duration = Duration::from_secs(1);

/// Both of them, the next one first.
#[derive(Default)]
pub(super) struct Queue {
    free: VecDeque<Place>,
    waiting: VecDeque<Guest>,
}

impl Queue {
    /// A node without a place.
    pub fn wait(&mut self, guest: Guest) {
        self.waiting.push_back(guest);
    }

    /// A place without a node.
    pub fn offer(&mut self, place: Place) {
        self.free.push_back(place);
    }

    pub fn has_no_place(&self) -> bool {
        self.free.is_empty()
    }

    pub fn places(&mut self) -> impl Iterator<Item = &mut Place> {
        self.free.iter_mut()
    }

    pub fn guests(&self) -> impl Iterator<Item = &Guest> {
        self.waiting.iter()
    }

    /// Clears the seats of those who have lost their place or have not taken it, and seats others there
    /// who are to be asked.
    pub fn fill(&mut self, seats: &mut Vec<Seat>, patience: Duration, now: Instant) {
        for seat in &mut *seats {
            seat.forget_what_failed();
        }
        self.clear(seats, Seat::is_free);
        // Nobody loses a place for which there is nobody else.
        let welcome = self.waiting.iter().filter(|guest| guest.welcome).count();
        let mut others = welcome.saturating_sub(self.free.len());
        self.clear(seats, |seat| {
            let is_cleared = others > 0 && seat.is_away_for(patience, now);
            others -= usize::from(is_cleared);
            is_cleared
        });
        let may = |guest: &Guest| guest.may_be_asked(now, WAITING);
        while !self.free.is_empty()
            && let Some(next) = self.waiting.iter().position(may)
            && let Some(guest) = self.waiting.remove(next)
            && let Some(place) = self.free.pop_front()
        {
            seats.push(Seat::offered(place, guest));
        }
    }

    fn clear(&mut self, seats: &mut Vec<Seat>, is_lost: impl FnMut(&Seat) -> bool) {
        let all = std::mem::take(seats).into_iter();
        let (lost, kept): (Vec<Seat>, Vec<Seat>) = all.partition(is_lost);
        *seats = kept;
        for seat in lost {
            let (place, guest) = seat.give_up();
            self.offer(place);
            self.wait(guest);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use skep_swarm::{NodeId, ProviderAddr};

    use super::super::super::Broken;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn guest(rank: usize) -> Guest {
        // Not all bytes are a key.
        let mut ids = (0..=u8::MAX).filter_map(|byte| NodeId::from_bytes(&[byte; 32]));
        let node = ProviderAddr {
            id: ids.nth(rank).unwrap(),
            addrs: Vec::new(),
        };
        Guest::new(rank, node)
    }

    fn place(number: u16) -> Place {
        Place::new(number, vec![b'0'; usize::from(number)])
    }

    /// Which place whom is offered, or has.
    fn seated(seats: &[Seat]) -> Vec<(u16, usize)> {
        let who = |seat: &Seat| (seat.place.number, seat.guest.rank);
        seats.iter().map(who).collect()
    }

    /// Those who are to be asked are asked, and nothing comes of it.
    fn ask(seats: &mut [Seat], now: Instant) {
        for seat in seats {
            seat.guest.asked = Some(now);
        }
    }

    #[test]
    fn a_place_goes_around_among_those_who_wait() {
        let (mut queue, mut seats, now) = (Queue::default(), Vec::new(), Instant::now());
        queue.offer(place(2));
        queue.fill(&mut seats, PATIENCE, now);
        assert!(seated(&seats).is_empty());
        for rank in 0..3 {
            queue.wait(guest(rank));
        }
        for rank in 0..3 {
            queue.fill(&mut seats, PATIENCE, now);
            assert_eq!(seated(&seats), [(2, rank)]);
            assert!(queue.has_no_place());
            ask(&mut seats, now);
        }
        // All have just been asked.
        queue.fill(&mut seats, PATIENCE, now);
        assert!(seated(&seats).is_empty());
        assert!(!queue.has_no_place());
        queue.fill(&mut seats, PATIENCE, now + WAITING);
        assert_eq!(seated(&seats), [(2, 0)]);
        assert_eq!(queue.guests().count(), 2);
    }

    #[test]
    fn nobody_is_asked_for_two_places() {
        let (mut queue, mut seats, now) = (Queue::default(), Vec::new(), Instant::now());
        for number in 1..4 {
            queue.offer(place(number));
        }
        queue.wait(guest(0));
        queue.wait(guest(1));
        queue.fill(&mut seats, PATIENCE, now);
        assert_eq!(seated(&seats), [(1, 0), (2, 1)]);
        ask(&mut seats, now);
        // The third is next.
        queue.fill(&mut seats, PATIENCE, now + WAITING);
        assert_eq!(seated(&seats), [(3, 0), (1, 1)]);
    }

    #[test]
    fn who_is_away_keeps_its_place_for_a_while() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let left = |number, rank| Seat::left(place(number), guest(rank), &Broken::Behind);
        let mut seats = vec![left(1, 0), left(2, 1)];
        let later = now + 2 * PATIENCE;
        // Nobody else could take it.
        queue.fill(&mut seats, PATIENCE, later);
        assert_eq!(seated(&seats), [(1, 0), (2, 1)]);
        queue.wait(guest(2));
        queue.fill(&mut seats, PATIENCE, now);
        assert_eq!(seated(&seats), [(1, 0), (2, 1)]);
        // Of two places one goes to the one who waits.
        queue.fill(&mut seats, PATIENCE, later);
        assert_eq!(seated(&seats), [(2, 1), (1, 2)]);
        ask(&mut seats, later);
        // It has not taken it, and may take the other one later.
        queue.fill(&mut seats, PATIENCE, later);
        assert_eq!(seated(&seats), [(1, 0)]);
    }

    #[test]
    fn who_is_let_go_for_good_is_not_asked_again() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let mut seat = Seat::left(place(1), guest(0), &Broken::Behind);
        seat.ban(&Broken::Behind);
        let mut seats = vec![seat];
        queue.fill(&mut seats, PATIENCE, now);
        assert!(seated(&seats).is_empty());
        assert!(!queue.has_no_place());
        queue.wait(guest(1));
        queue.fill(&mut seats, PATIENCE, now);
        assert_eq!(seated(&seats), [(1, 1)]);
        ask(&mut seats, now);
        queue.fill(&mut seats, PATIENCE, now + WAITING);
        assert_eq!(seated(&seats), [(1, 1)]);
        // What is told of it is still there.
        let told: Vec<bool> = queue.guests().map(|guest| guest.took_part).collect();
        assert_eq!(told, [true]);
    }
}
