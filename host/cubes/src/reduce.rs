//! Sums over the units of a cube.

use cubecl::prelude::*;

/// The sum of `value` over all units of a cube of `units`, a power of two, for every one of them.
/// `shared` has room for as many and may be used again afterwards.
#[cube]
pub fn sum_of_cube(value: f32, shared: &mut [f32], #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    sync_cube();
    let mut step = (units / 2usize).runtime();
    while step > 0usize {
        if unit < step {
            let other = shared[unit + step];
            shared[unit] += other;
        }
        sync_cube();
        step /= 2usize;
    }
    let total = shared[0usize];
    sync_cube();
    total
}
