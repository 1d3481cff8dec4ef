//! Dropout: the very masks of the reference, so nothing but equality will do.

use candle_core::{Device, Result, Tensor};
use wattle_random::{Purpose, Stream};

use crate::Dropout;
use crate::dropout::cpu::{bwd, fwd};
use crate::verify::numbers::{normal, values};
use crate::verify::{Check, Subject};

/// Sequences.
const B: usize = 3;

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for per_sequence in [1, 7 * 41, 256, 700, 128 * 384] {
        for first_sequence in [0, 5] {
            all.extend(check(per_sequence, first_sequence)?);
        }
    }
    Ok(all)
}

/// Three sequences of a batch, from its sequence `first_sequence` on.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check(per_sequence: usize, first_sequence: usize) -> Result<Vec<Check>> {
    let subject = Subject::f32("dropout", format!("({B}, {per_sequence}) from sequence {first_sequence}"));
    let stream = Stream::new(1, Purpose::Dropout { site_idx: 4 }, 2);
    let dropout = Dropout { probability: 0.3, stream, first_sequence };
    let x = normal(0, B * per_sequence);
    // In f32: the product with a mask is rounded once there, and so it is here.
    let expected = dropout.apply(&Tensor::from_slice(&x, (B, per_sequence), &Device::Cpu)?)?;
    let expected = values(&expected)?;
    let (mut out, mut grad) = (x.clone(), x);
    fwd(&mut out, per_sequence, &dropout);
    bwd(&mut grad, per_sequence, &dropout);
    Ok(vec![subject.compare("out", &out, &expected, 0.0), subject.compare("grad_x", &grad, &expected, 0.0)])
}
