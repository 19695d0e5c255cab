//! Which instruction set the kernels use, found once at run time.

use std::sync::OnceLock;

/// An instruction set for which the kernels are instantiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust on small arrays; whatever the compiler makes of it (NEON on 64-bit Arm).
    Portable,
    /// Plain Rust in the shape of the AVX-512 kernels, so that tests on any machine go through it.
    #[cfg(test)]
    Wide,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// As [`Isa::Avx512`], with the 16-bit dot product of AVX-512 VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl Isa {
    /// The best instruction set of this machine.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().into_iter().max().unwrap_or(Isa::Portable))
    }

    /// Every instruction set that this machine can run, the plainest first.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Isa::Portable];
        #[cfg(test)]
        all.push(Isa::Wide);
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Isa::Avx2);
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                all.push(Isa::Avx512);
                if is_x86_feature_detected!("avx512vnni") {
                    all.push(Isa::Avx512Vnni);
                }
            }
        }
        all
    }

    /// A short name: `portable`, `avx2`, `avx512`, `avx512-vnni`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(test)]
            Isa::Wide => "wide",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => "avx512-vnni",
        }
    }
}

/// Calls the generic kernel `$f::<V, …>` with the vector type of `$isa`, from a function that
/// has the instruction set's features enabled, so that everything inlines into it.
///
/// `dispatch!(isa, run(a: *const f32, m: usize))`; the kernel returns nothing.
macro_rules! dispatch {
    ($isa:expr, $f:ident ($($arg:ident : $ty:ty),* $(,)?)) => {{
        use $crate::kernels::{simd, Isa};
        match $isa {
            // SAFETY: the caller of the kernel vouches for its pointers; no feature is needed.
            Isa::Portable => unsafe { $f::<simd::portable::Portable>($($arg),*) },
            #[cfg(test)]
            // SAFETY: as above.
            Isa::Wide => unsafe { $f::<simd::portable::Wide>($($arg),*) },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                #[target_feature(enable = "avx2,fma")]
                unsafe fn go($($arg: $ty),*) {
                    // SAFETY: as promised by the caller of `go`.
                    unsafe { $f::<simd::avx2::Avx2>($($arg),*) }
                }
                // SAFETY: an `Isa` value exists only where the machine was seen to have it.
                unsafe { go($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
                unsafe fn go($($arg: $ty),*) {
                    // SAFETY: as promised by the caller of `go`.
                    unsafe { $f::<simd::avx512::Avx512>($($arg),*) }
                }
                // SAFETY: an `Isa` value exists only where the machine was seen to have it.
                unsafe { go($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => {
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
                unsafe fn go($($arg: $ty),*) {
                    // SAFETY: as promised by the caller of `go`.
                    unsafe { $f::<simd::avx512::Avx512Vnni>($($arg),*) }
                }
                // SAFETY: an `Isa` value exists only where the machine was seen to have it.
                unsafe { go($($arg),*) }
            }
        }
    }};
}
pub(crate) use dispatch;
