//! The operators that a layer is made of, each with its backward pass.
//!
//! | module | forward | backward |
//! |---|---|---|
//! | [`frozen`] | `x · Wᵀ + b` with W as it is stored | `dy · W`, W unpacked tile by tile |
//! | [`lora`] | what an adapter adds to it | gradients of both its matrices and of the input |
//! | [`dora`] | both, each row brought to a length of its own | of that length too |
//! | [`rows`] | norms, gates, rotary positions | theirs |
//! | [`layer_norm`] | an encoder's norms | theirs |
//! | [`activation`] | an encoder's curve between two linear layers | its slope |
//! | [`attention`] | attention within each sequence of a packed batch | the same |
//! | [`pooling`] | one vector of a sequence's | of all of them |
//! | [`head`] | log-probabilities of tokens, a few rows of logits at a time | of the hidden state |
//!
//! Each backward pass is held against differences of its forward pass in 64-bit arithmetic of the
//! test's own. A GPU's implementation is another one of these functions, held against the same.
//!
//! What these modules must never do: keep a dense copy of packed weights; sum in an order that
//! depends on the number of threads.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod dora;
pub(crate) mod frozen;
pub(crate) mod head;
pub(crate) mod layer_norm;
pub(crate) mod lora;
pub(crate) mod pooling;
pub(crate) mod rows;

use std::marker::PhantomData;
use std::ops::Range;

/// Floats that members of a team write to, each other ones.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: `slice` promises that no two threads have the same elements.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub fn new(values: &'a mut [f32]) -> Self {
        Self {
            start: values.as_mut_ptr(),
            len: values.len(),
            values: PhantomData,
        }
    }

    /// Some of the elements.
    ///
    /// # Safety
    /// Nobody else has any of them while the result lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller promises that parts are disjoint"
    )]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [f32] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "a part of a buffer"
        );
        // SAFETY: in bounds, as was checked, and the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

impl Shared<'_> {
    /// Where some of the elements begin. Reading and writing there is for who has them alone.
    pub fn pointer(&self, range: Range<usize>) -> *mut f32 {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "a part of a buffer"
        );
        self.start.wrapping_add(range.start)
    }
}

/// Calls `work` with runs of rows of `width` elements: the number of the first, and the rows.
pub(crate) fn share_rows(
    team: &skep_kernels::Team,
    values: &mut [f32],
    width: usize,
    work: impl Fn(usize, &mut [f32]) + Sync,
) {
    let rows = values.len() / width.max(1);
    // About 16 thousand elements: some ten microseconds of most operators.
    let chunk = (16_384 / width.max(1)).clamp(1, rows.max(1));
    let shared = Shared::new(values);
    team.share(rows, chunk, |range| {
        // SAFETY: every row is in one range.
        let part = unsafe { shared.slice(range.start * width..range.end * width) };
        work(range.start, part);
    });
}
