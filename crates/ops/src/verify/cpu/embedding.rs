//! Token and position vectors.

use candle_core::{Device, Result, Tensor};

use super::sum_tolerance;
use crate::embedding::cpu::{bwd, fwd};
use crate::embedding::{embedding, embedding_at};
use crate::verify::numbers::{gradients, normal, values, var};
use crate::verify::{Check, Subject};

/// (b, t, c, v): odd ones, and one with more tokens than rows of the table.
pub const TABLE: [[usize; 4]; 4] = [[1, 1, 1, 1], [9, 7, 41, 11], [4, 33, 17, 65], [4, 128, 384, 1000]];

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for shape in TABLE {
        all.extend(check(shape, None)?);
        all.extend(check(shape, Some(&documents(shape[0] * shape[1], shape[1])))?);
    }
    Ok(all)
}

/// Tokens, some of which come several times.
pub fn tokens(n: usize, v: usize) -> Vec<u32> {
    (0..n).map(|i| (i * i % v) as u32).collect()
}

/// Documents of three rows, the first of each sequence of one: where each starts that one of `n` rows belongs to.
pub fn documents(n: usize, t: usize) -> Vec<u32> {
    let start = |place: usize| if place == 0 { 0 } else { 1 + (place - 1) / 3 * 3 };
    (0..n).map(|row| start(row % t) as u32).collect()
}

/// Both tables, the position table with rows to spare.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check([b, t, c, v]: [usize; 4], documents: Option<&[u32]>) -> Result<Vec<Check>> {
    let of_documents = documents.map_or("", |_| ", within documents");
    let subject = Subject::f32("embedding", format!("({b}, {t}, {c}), {v} tokens{of_documents}"));
    let tokens = tokens(b * t, v);
    let (table, positions, grad_out) = (normal(0, v * c), normal(1, (t + 2) * c), normal(2, b * t * c));
    let token_tensor = Tensor::from_slice(&tokens, (b, t), &Device::Cpu)?;
    let (table_var, position_var) = (var(&table, &[v, c])?, var(&positions, &[t + 2, c])?);
    let expected = match documents {
        None => embedding(&token_tensor, &table_var, &position_var)?,
        Some(documents) => {
            let at: Vec<u32> = (0..).zip(documents).map(|(row, start)| row % t as u32 - start).collect();
            let at = Tensor::from_vec(at, (b, t), &Device::Cpu)?;
            embedding_at(&token_tensor, &at, &table_var, &position_var)?
        }
    };
    let [grad_tokens, grad_positions] = gradients(&expected, &grad_out, [&table_var, &position_var])?;

    let mut out = vec![f32::NAN; b * t * c];
    fwd(&mut out, &tokens, &table, Some(&positions), documents, t, c);
    let (mut got_tokens, mut got_positions) = (vec![0.0; v * c], vec![0.0; (t + 2) * c]);
    bwd(&mut got_tokens, Some(&mut got_positions), &grad_out, &tokens, documents, t, c);
    Ok(vec![
        // One addition of numbers of size 5.
        subject.compare("out", &out, &values(&expected)?, 1e-6),
        subject.compare("grad_token_table", &got_tokens, &grad_tokens, sum_tolerance(b * t)),
        subject.compare("grad_position_table", &got_positions, &grad_positions, sum_tolerance(b * t)),
    ])
}
