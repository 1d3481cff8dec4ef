//! Slices of `f32` rounded to numbers of eight bits, as a product on a GPU reads them.

use rayon::prelude::*;

use super::Format;

/// Elements that one thread takes at once.
const BLOCK: usize = 1 << 14;

/// The bits of the largest magnitude; those of what is not finite are above all others.
pub fn largest_bits(x: &[f32]) -> u32 {
    x.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff))
}

/// `out = x`, each rounded to `format` with one scale for all, which is returned. The same bits for any number of
/// threads.
///
/// # Panics
/// If the slices differ in length.
pub fn round_par(out: &mut [f32], x: &[f32], format: Format) -> f32 {
    assert_eq!(out.len(), x.len(), "elements of a rounded tensor");
    let largest = x.par_chunks(BLOCK).map(largest_bits).reduce(|| 0, u32::max);
    let scale = format.scale(largest);
    // A power of two, as its inverse is.
    let inverse = 1.0 / scale;
    out.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(out, x)| {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = format.decode(format.encode(x * inverse)) * scale;
        }
    });
    scale
}
