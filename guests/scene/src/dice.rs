//! Dice that fall the same way on every machine: SplitMix64 (Steele, Lea, Flood, "Fast Splittable
//! Pseudorandom Number Generators", OOPSLA 2014, figure 15).

/// A sequence of numbers that its seed decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Where in its sequence it is: `new` goes on from there.
    pub fn state(&self) -> u64 {
        self.0
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `sides`, or 0 if that is 0.
    pub fn below(&mut self, sides: usize) -> usize {
        let drawn = (u128::from(self.draw()) * sides as u128) >> 64;
        usize::try_from(drawn).unwrap_or(0)
    }

    /// True `times` times out of a hundred.
    pub fn chance(&mut self, times: usize) -> bool {
        self.below(100) < times
    }

    /// One of the list.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }

    /// Puts a list into any order (Fisher and Yates, as Knuth's algorithm P).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}
