//! Rows of tables on slices of `f32`.

use rayon::prelude::*;

use crate::positions::position;

/// `out[r] = token_table[tokens[r]] + position_table[p]`, with p the row's position in its document.
///
/// # Shapes
/// `tokens` (b·t), `token_table` (v, c), `position_table` (≥ t, c) → `out` (b·t, c), overwritten. `documents` (b·t): the
/// row of its sequence at which each row's document starts; absent, each sequence is one.
///
/// # Panics
/// If the lengths do not fit or a token is not in the table.
pub fn fwd(
    out: &mut [f32],
    tokens: &[u32],
    token_table: &[f32],
    position_table: Option<&[f32]>,
    documents: Option<&[u32]>,
    t: usize,
    c: usize,
) {
    assert_eq!(out.len(), tokens.len() * c, "a row of {c} for each token");
    for (row, (out, &token)) in out.chunks_exact_mut(c).zip(tokens).enumerate() {
        let vector = &token_table[token as usize * c..][..c];
        match position_table {
            Some(table) => {
                let position = &table[position(row, t, documents) * c..][..c];
                for ((out, &x), &y) in out.iter_mut().zip(vector).zip(position) {
                    *out = x + y;
                }
            }
            None => out.copy_from_slice(vector),
        }
    }
}

/// `grad_token_table[tokens[r]] += grad_out[r]` and `grad_position_table[p] += grad_out[r]`, with p the row's position in
/// its document, in the order of the rows.
///
/// # Shapes
/// `grad_out` (b·t, c) → `grad_token_table` (v, c), `grad_position_table` (≥ t, c), accumulated. `documents` as for
/// [`fwd`].
///
/// # Panics
/// If the lengths do not fit or a token is not in the table.
pub fn bwd(
    grad_token_table: &mut [f32],
    grad_position_table: Option<&mut [f32]>,
    grad_out: &[f32],
    tokens: &[u32],
    documents: Option<&[u32]>,
    t: usize,
    c: usize,
) {
    assert_eq!(grad_out.len(), tokens.len() * c, "a row of {c} for each token");
    for (grad, &token) in grad_out.chunks_exact(c).zip(tokens) {
        add(&mut grad_token_table[token as usize * c..][..c], grad);
    }
    if let Some(table) = grad_position_table {
        for (row, grad) in grad_out.chunks_exact(c).enumerate() {
            add(&mut table[position(row, t, documents) * c..][..c], grad);
        }
    }
}

/// [`bwd`] on rayon's threads, each of which owns blocks of the tables. Every element is summed in the same
/// order as there.
///
/// # Shapes
/// As for [`bwd`].
///
/// # Panics
/// As for [`bwd`].
pub fn bwd_par(
    grad_token_table: &mut [f32],
    grad_position_table: Option<&mut [f32]>,
    grad_out: &[f32],
    tokens: &[u32],
    documents: Option<&[u32]>,
    t: usize,
    c: usize,
) {
    assert_eq!(grad_out.len(), tokens.len() * c, "a row of {c} for each token");
    let n_tokens = grad_token_table.len() / c;
    let outside = tokens.iter().find(|&&token| token as usize >= n_tokens);
    assert!(outside.is_none(), "token {outside:?} of a table of {n_tokens} rows");
    // Each block of the table goes through all tokens and takes its own: that is little beside the additions.
    let block_rows = n_tokens.div_ceil(16).max(1);
    grad_token_table.par_chunks_mut(block_rows * c).enumerate().for_each(|(block_idx, block)| {
        let first = block_idx * block_rows;
        let rows = first..first + block.len() / c;
        for (grad, token) in grad_out.chunks_exact(c).zip(tokens.iter().map(|&token| token as usize)) {
            if rows.contains(&token) {
                add(&mut block[(token - first) * c..][..c], grad);
            }
        }
    });
    if let Some(table) = grad_position_table {
        table[..t * c].par_chunks_mut(c).enumerate().for_each(|(place, sum)| {
            let grads = grad_out.chunks_exact(c).enumerate();
            match documents {
                None => grads.skip(place).step_by(t).for_each(|(_, grad)| add(sum, grad)),
                Some(_) => grads
                    .filter(|(row, _)| position(*row, t, documents) == place)
                    .for_each(|(_, grad)| add(sum, grad)),
            }
        });
    }
}

fn add(sum: &mut [f32], grad: &[f32]) {
    for (sum, &grad) in sum.iter_mut().zip(grad) {
        *sum += grad;
    }
}
