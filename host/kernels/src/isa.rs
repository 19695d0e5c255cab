//! Which instruction set the kernels use, found once at run time.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use std::sync::OnceLock;

/// An instruction set that there are kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust; whatever the compiler makes of it.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 (F, BW, DQ, VL, VBMI) and its products of bytes (VNNI).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// As [`Isa::Avx512`], with tiles of bytes (AMX) where many tokens meet quantized weights. A
    /// result has the same bits as with [`Isa::Avx512`].
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AArch64 with NEON and its products of bytes (the dot product extension).
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// What this process computes with.
static BEST: OnceLock<Isa> = OnceLock::new();

impl Isa {
    /// The best instruction set of this machine, or the one that was settled on.
    pub fn best() -> Self {
        *BEST.get_or_init(|| Self::available().into_iter().max().unwrap_or(Isa::Portable))
    }

    /// Has this process compute as a machine does that has nothing better than this. Whether it does
    /// from now on: not if it has computed with something else before, or the machine cannot run it.
    pub fn settle_on(self) -> bool {
        Self::available().contains(&self) && *BEST.get_or_init(|| self) == self
    }

    /// What all machines have in common on which results have the same bits as on this one.
    pub fn alike() -> String {
        let isa = match Self::best() {
            // Tiles give the same bits as what they are built on.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512,
            isa => isa,
        };
        format!("{} with {isa:?}", std::env::consts::ARCH)
    }

    /// Every instruction set that this machine can run, the plainest first: each includes those
    /// before it.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            all.push(Isa::Avx2);
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vbmi")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Isa::Avx512);
                #[cfg(target_os = "linux")]
                if tiles::permitted() {
                    all.push(Isa::Amx);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon")
            && std::arch::is_aarch64_feature_detected!("dotprod")
        {
            all.push(Isa::Neon);
        }
        all
    }

    /// A short name: `portable`, `avx2`, `avx512`, `amx`, `neon`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
        }
    }

    /// Whether there are products of floats that are rounded to bfloat16 beside those of whole ones
    /// ([`Activations::fill_rounded`](crate::Activations::fill_rounded)).
    pub fn rounds_floats(self) -> bool {
        match self.or_portable() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    /// Whether this machine can run it.
    pub(crate) fn is_available(self) -> bool {
        self <= Self::best()
    }

    /// This one if the machine can run it, or else the plain one.
    pub(crate) fn or_portable(self) -> Self {
        if self.is_available() {
            self
        } else {
            Isa::Portable
        }
    }
}
