//! Which vector instructions a kernel is compiled for, chosen when it runs.
//!
//! A kernel is written once, as plain loops over slices that the compiler turns into vector instructions, and
//! is generic over a `Simd`. `dispatch!` compiles it several times, each for another instruction set, and
//! calls the best that this processor has. So a binary built for any x86-64 is as fast as one built for the
//! machine at hand.
//!
//! Results depend on the level, in the last digits: the two upper levels multiply and add with one rounding,
//! the baseline of x86-64 with two. On one level they are the same on every machine.

use std::sync::atomic::{AtomicU8, Ordering};

/// A set of vector instructions, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of this architecture has: SSE2 on x86-64, NEON on aarch64.
    Baseline,
    /// 256-bit vectors with fused multiplication and addition (x86-64-v3).
    Avx2,
    /// 512-bit vectors (x86-64-v4).
    Avx512,
}

impl Level {
    /// All of them, from the least to the most.
    pub const ALL: [Self; 3] = [Self::Baseline, Self::Avx2, Self::Avx512];

    /// Its name, for a person and for JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

/// The level in use, or `UNKNOWN` before the first kernel ran.
static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = u8::MAX;

/// The level that kernels run at: the best that this processor has, unless [`limit`] set a lower one.
#[inline]
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        0 => Level::Baseline,
        1 => Level::Avx2,
        2 => Level::Avx512,
        _ => {
            limit(Level::Avx512);
            detected()
        }
    }
}

/// Lets kernels use no more than `highest`, in the whole process: for tests of the lower levels, and to get
/// the digits of a lesser machine on a better one. What the processor lacks is not used whatever the limit.
pub fn limit(highest: Level) {
    LEVEL.store(highest.min(detected()) as u8, Ordering::Relaxed);
}

/// The levels that this processor has, from the least to the most.
pub fn available() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|&level| level <= detected())
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    match (avx2, avx512) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Baseline,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detected() -> Level {
    Level::Baseline
}

/// What differs between levels in a kernel's text.
pub(crate) trait Simd {
    /// Whether 32 numbers fit in two registers and there are 32 registers.
    const WIDE: bool;

    /// `a · b + c`, rounded once where the level can.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// [`Level::Avx512`].
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx512;

/// [`Level::Avx2`].
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx2;

/// [`Level::Baseline`].
pub(crate) struct Baseline;

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
    const WIDE: bool = true;

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    const WIDE: bool = false;

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl Simd for Baseline {
    const WIDE: bool = false;

    /// Without the instruction, `f32::mul_add` is a call into the C library.
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
    }
}

/// Calls `kernel::<S, …>(arguments)` compiled for the level at hand: `dispatch!(kernel(x: &[f32]) -> f32)`, or
/// `dispatch!(kernel::<Gelu>(…))` with further type parameters after the `Simd`.
///
/// The kernel, and all it calls, must be `#[inline(always)]`: code that is not inlined is compiled for the
/// baseline. Arguments are variables of the same names.
macro_rules! dispatch {
    ($kernel:ident $(::<$($generic:ty),+>)? ($($argument:ident : $type:ty),* $(,)?) $(-> $out:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "those of the kernel")]
            fn avx512($($argument: $type),*) $(-> $out)? {
                $kernel::<$crate::simd::Avx512 $(, $($generic),+)?>($($argument),*)
            }
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "those of the kernel")]
            fn avx2($($argument: $type),*) $(-> $out)? {
                $kernel::<$crate::simd::Avx2 $(, $($generic),+)?>($($argument),*)
            }
            match $crate::simd::level() {
                // SAFETY: `level` never exceeds what the processor was found to have.
                $crate::simd::Level::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                $crate::simd::Level::Avx2 => unsafe { avx2($($argument),*) },
                $crate::simd::Level::Baseline => {
                    $kernel::<$crate::simd::Baseline $(, $($generic),+)?>($($argument),*)
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            $kernel::<$crate::simd::Baseline $(, $($generic),+)?>($($argument),*)
        }
    }};
}
pub(crate) use dispatch;
