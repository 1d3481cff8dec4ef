//! Rotary position embedding.

use candle_core::{Result, Tensor};

use super::embedding::documents;
use crate::HeadRows;
use crate::rope::cpu::{bwd, fwd};
use crate::rope::{Rotary, Scaling, rope};
use crate::verify::numbers::{gradients, normal, tensor, values, var};
use crate::verify::{Check, Subject};

/// Sequences.
pub const B: usize = 2;
/// Two products and a sum of numbers of up to 5.
const TOLERANCE: f64 = 1e-6;

/// (t, h, d): odd ones, and heads of Llama's width.
pub const TABLE: [[usize; 3]; 5] = [[1, 1, 2], [9, 7, 42], [5, 2, 32], [33, 3, 64], [128, 4, 128]];

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for shape in TABLE {
        all.extend(check(shape, None)?);
        all.extend(check(shape, Some(&documents(B * shape[0], shape[0])))?);
    }
    Ok(all)
}

/// Heads that lie between other columns, which must not change.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check([t, h, d]: [usize; 3], documents: Option<&[u32]>) -> Result<Vec<Check>> {
    let of_documents = documents.map_or("", |_| ", within documents");
    let subject = Subject::f32("rope", format!("({B}, {h}, {t}, {d}){of_documents}"));
    let rotary = Rotary::new(10_000.0, d, t + 3, Scaling::None);
    let angles = |table: &[f32]| {
        let table = tensor(&table[..t * d / 2], &[t, d / 2])?;
        let Some(documents) = documents else { return Ok(table) };
        let at: Vec<u32> = (0..).zip(documents).map(|(row, start)| row % t as u32 - start).collect();
        table.index_select(&Tensor::new(at, table.device())?, 0)?.reshape((B, 1, t, d / 2))
    };
    let (cos, sin) = (angles(rotary.cos())?, angles(rotary.sin())?);
    let rows = HeadRows { offset: 3, row_stride: h * d + 5 };
    let (x, grad_out) = (normal(0, B * t * rows.row_stride), normal(1, B * t * rows.row_stride));
    let picked = |x: &[f32]| -> Vec<f32> {
        x.chunks(rows.row_stride).flat_map(|row| row[3..3 + h * d].to_vec()).collect()
    };
    let others = |x: &[f32]| -> Vec<f32> {
        x.chunks(rows.row_stride).flat_map(|row| [&row[..3], &row[3 + h * d..]].concat()).collect()
    };
    let x_var = var(&picked(&x), &[B, t, h, d])?;
    let expected = rope(&x_var.transpose(1, 2)?, &cos, &sin)?.transpose(1, 2)?;
    let [grad_x] = gradients(&expected, &picked(&grad_out), [&x_var])?;

    let mut got = x.clone();
    fwd(&mut got, rows, B * t, h, t, documents, &rotary);
    let untouched: Vec<f64> = others(&x).into_iter().map(f64::from).collect();
    let mut grad = grad_out.clone();
    bwd(&mut grad, rows, B * t, h, t, documents, &rotary);
    Ok(vec![
        subject.compare("out", &picked(&got), &values(&expected)?, TOLERANCE),
        subject.compare("other columns", &others(&got), &untouched, 0.0),
        subject.compare("grad_x", &picked(&grad), &grad_x, TOLERANCE),
    ])
}
