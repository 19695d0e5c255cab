//! Sums and maxima over the units of a cube.
//!
//! `lanes` is how many units a plane has, where the device has planes of one size, and else 0.

use cubecl::prelude::*;

/// The sum of `value` over all units of a cube of `units`, a power of two, for every one of them.
/// `shared` has room for as many and may be used again afterwards.
#[cube]
pub fn sum_of_cube(
    value: f32,
    shared: &mut [f32],
    #[comptime] units: usize,
    #[comptime] lanes: u32,
) -> f32 {
    let unit = UNIT_POS as usize;
    let planes = comptime!(if lanes == 0 {
        0
    } else {
        units / lanes as usize
    });
    if comptime!(planes > 0) {
        let of_plane = plane_sum(value);
        if unit % comptime!(lanes as usize) == 0usize {
            shared[unit / comptime!(lanes as usize)] = of_plane;
        }
        sync_cube();
        let mut total = 0.0f32;
        #[unroll]
        for n in 0..planes {
            total += shared[n];
        }
        sync_cube();
        total
    } else {
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
}

/// The largest `value` of the `together` neighbouring units that a unit is one of, a power of two
/// that the cube's units are a multiple of, for every one of them. `shared` has room for a number
/// of each unit and may be used again afterwards.
#[cube]
pub fn most_of_team(
    value: f32,
    shared: &mut [f32],
    #[comptime] together: usize,
    #[comptime] lanes: u32,
) -> f32 {
    let unit = UNIT_POS as usize;
    let planes = comptime!(if lanes == 0 {
        0
    } else {
        together / lanes as usize
    });
    if comptime!(planes > 0) {
        let of_plane = plane_max(value);
        if unit % comptime!(lanes as usize) == 0usize {
            shared[unit / comptime!(lanes as usize)] = of_plane;
        }
        sync_cube();
        let first = unit / together * planes;
        let mut most = shared[first];
        #[unroll]
        for n in 1..planes {
            most = max(most, shared[first + n]);
        }
        sync_cube();
        most
    } else {
        shared[unit] = value;
        sync_cube();
        let mut step = (together / 2usize).runtime();
        while step > 0usize {
            if unit % together < step {
                let other = shared[unit + step];
                shared[unit] = max(shared[unit], other);
            }
            sync_cube();
            step /= 2usize;
        }
        let most = shared[unit / together * together];
        sync_cube();
        most
    }
}
