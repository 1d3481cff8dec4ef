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
