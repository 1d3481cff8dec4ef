use candle_core::{Result, Tensor};

/// `out[b, t] = token_table[tokens[b, t]] + position_table[t]`
///
/// # Shapes
/// `tokens` (b, t) of `u32`, `token_table` (v, c), `position_table` (context, c) with context ≥ t → (b, t, c).
pub fn embedding(tokens: &Tensor, token_table: &Tensor, position_table: &Tensor) -> Result<Tensor> {
    let (b, t) = tokens.dims2()?;
    let c = token_table.dim(1)?;
    let token_vectors = token_table.index_select(&tokens.flatten_all()?, 0)?.reshape((b, t, c))?;
    token_vectors.broadcast_add(&position_table.narrow(0, 0, t)?)
}

/// [`embedding`] of tokens at any positions: `out[b, t] = token_table[tokens[b, t]] + position_table[positions[b, t]]`
///
/// # Shapes
/// `tokens`, `positions` (b, t) of `u32`, `token_table` (v, c), `position_table` (context, c) → (b, t, c).
pub fn embedding_at(
    tokens: &Tensor,
    positions: &Tensor,
    token_table: &Tensor,
    position_table: &Tensor,
) -> Result<Tensor> {
    let (b, t) = tokens.dims2()?;
    let rows = |table: &Tensor, ids: &Tensor| {
        table.index_select(&ids.flatten_all()?, 0)?.reshape((b, t, table.dim(1)?))
    };
    rows(token_table, tokens)? + rows(position_table, positions)?
}
