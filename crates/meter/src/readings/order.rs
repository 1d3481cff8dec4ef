//! The lesser and the greater of two quantities, which `Ord` does not give for floats.

/// The lesser; `a` where they do not compare.
pub(crate) fn min<T: PartialOrd>(a: T, b: T) -> T {
    if b < a { b } else { a }
}

/// The greater; `a` where they do not compare.
pub(crate) fn max<T: PartialOrd>(a: T, b: T) -> T {
    if b > a { b } else { a }
}
