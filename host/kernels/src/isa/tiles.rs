//! Leave to use the processor's tiles, which Linux gives to those who ask.
//!
//! Tiles are 8 KiB of registers a thread, so the kernel saves them only for processes that have
//! asked (its document "x86/xstate"). Leave once given holds for every thread, and for good.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// The system call `arch_prctl`.
const ARCH_PRCTL: usize = 158;
/// Its operation that asks for a component of the processor's state.
const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
/// The component that holds the tiles' data.
const XTILEDATA: usize = 18;

/// Whether the processor has tiles of bytes and this process may use them. Asks once.
pub fn permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| has_tiles() && ask())
}

/// By the processor's own word: tiles (bit 24) and products of bytes in them (bit 25), in at
/// least the shape that the kernels use, eight tiles of sixteen rows of 64 bytes.
fn has_tiles() -> bool {
    let features = __cpuid_count(7, 0).edx;
    if features >> 24 & 3 != 3 || __cpuid_count(0, 0).eax < 0x1d {
        return false;
    }
    let palettes = __cpuid_count(0x1d, 0).eax;
    if palettes < 1 {
        return false;
    }
    let palette = __cpuid_count(0x1d, 1);
    let (row_bytes, tiles, rows) = (
        palette.ebx & 0xffff,
        palette.ebx >> 16,
        palette.ecx & 0xffff,
    );
    row_bytes >= 64 && tiles >= 8 && rows >= 16
}

fn ask() -> bool {
    let result: isize;
    // SAFETY: the call takes two numbers and touches no memory of ours; the kernel clobbers the
    // two registers that every system call does.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL as isize => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}
