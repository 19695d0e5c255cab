//! In which order examples come, and with which rates.

/// The course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It falls to nothing along half a cosine (arXiv 1608.03983).
    Cosine,
    /// It falls to nothing in a line.
    Linear,
    /// It stays.
    Constant,
}

/// What the learning rate is multiplied with in step `step`, counted from 0, of `steps`. In the
/// first `warm_up` it rises in a line, so that none has no effect.
pub fn factor(course: Course, warm_up: u64, steps: u64, step: u64) -> f32 {
    if step < warm_up {
        return (step + 1) as f32 / (warm_up + 1) as f32;
    }
    let rest = steps.saturating_sub(warm_up).max(1);
    let done = ((step - warm_up) as f64 / rest as f64).min(1.0);
    match course {
        Course::Constant => 1.0,
        Course::Linear => (1.0 - done) as f32,
        Course::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * done).cos())) as f32,
    }
}

/// Numbers that look like chance and are the same on every machine (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// The numbers from 0 to `count` in an order that the seed and the round make.
pub fn shuffled(count: usize, seed: u64, round: u64) -> Vec<usize> {
    let mut chance = Chance(seed ^ round.wrapping_mul(0xd134_2543_de82_ef95));
    let mut order: Vec<usize> = (0..count).collect();
    for place in (1..count).rev() {
        order.swap(place, (chance.next() % (place as u64 + 1)) as usize);
    }
    order
}

/// Which of `count` examples step `step` learns from.
pub fn batch(count: usize, size: usize, seed: u64, step: u64) -> Vec<usize> {
    let by_epoch = count.div_ceil(size).max(1) as u64;
    let (epoch, place) = (step / by_epoch, (step % by_epoch) as usize);
    // Round 0 is the split's.
    let order = shuffled(count, seed, epoch + 1);
    let end = count.min((place + 1) * size);
    order[place * size..end].to_vec()
}

/// Divides a batch into passes of at most `most` tokens, in their order. One that has more alone
/// is a pass alone.
pub fn passes(lengths: &[usize], most: usize) -> Vec<std::ops::Range<usize>> {
    let mut all = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (place, length) in lengths.iter().enumerate() {
        if place > start && tokens + length > most {
            all.push(start..place);
            (start, tokens) = (place, 0);
        }
        tokens += length;
    }
    if start < lengths.len() {
        all.push(start..lengths.len());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall() {
        let at = |step| factor(Course::Linear, 3, 11, step);
        assert_eq!(
            [0, 1, 2, 3, 7, 11, 99].map(at),
            [0.25, 0.5, 0.75, 1.0, 0.5, 0.0, 0.0]
        );
        assert_eq!(factor(Course::Constant, 0, 0, 5), 1.0);
        assert!((factor(Course::Cosine, 0, 10, 5) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn every_epoch_has_every_example_once_in_another_order() {
        let epoch = |number: u64| -> Vec<usize> {
            (0..4)
                .flat_map(|step| batch(10, 3, 7, number * 4 + step))
                .collect()
        };
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(shuffled(10, 1, 0), shuffled(10, 2, 0));
    }

    #[test]
    fn passes_hold_what_fits() {
        assert_eq!(passes(&[3, 3, 3, 9, 1], 6), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(passes(&[1], 6), [0..1]);
        assert!(passes(&[], 6).is_empty());
    }
}
