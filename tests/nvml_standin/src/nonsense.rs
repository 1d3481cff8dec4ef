//! What a broken driver writes where a value should be.

use std::sync::atomic::{AtomicU64, Ordering};

/// The values of a function that succeeds and tells nothing true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nonsense {
    /// `ones`: every bit set, the largest number there is.
    Ones,
    /// `zeros`: no bit set.
    Zeros,
    /// `noise`: other bits each time, as of a counter that runs to and fro.
    Noise,
}

static DRAWN: AtomicU64 = AtomicU64::new(0);

impl Nonsense {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "ones" => Some(Self::Ones),
            "zeros" => Some(Self::Zeros),
            "noise" => Some(Self::Noise),
            _ => None,
        }
    }

    /// The next byte of a number.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Ones => 0xff,
            Self::Zeros => 0,
            Self::Noise => {
                // The high bits of a Weyl sequence.
                let n = DRAWN.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
                (n >> 56) as u8
            }
        }
    }

    /// A text: one that drives a terminal, none, or one that looks like markup. Each ends as NVML says, in a zero.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Ones => "\u{1b}[31m\u{1b}]0;owned\u{7}",
            Self::Zeros => "",
            Self::Noise => "</script><b>\u{202e}",
        }
    }
}
