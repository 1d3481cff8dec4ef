// What a step says whose sequences are those of several ranks. Each rank leaves a row of sums; once all rows are
// gathered, every rank adds them in the same order and so comes to the same norm, factor and result.
//
//   row_sums        row[parts] = sum of losses, row[parts + 1] = sum of correct
//   result_of_rows  norm = sqrt(sum of all parts), factor as in grad_norm.cu
//                   ring[slot] = {sum of losses, sum of correct, norm}
//
// losses (n) f32, correct (n) u32; rows (world, parts + 2) f64, of which the first `parts` of each are sums of squares
// by grad_norm_partial. A norm or a sum that is not finite halts updates.
// Launch: grid 1, block 1024.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(1024)
    row_sums_f32(double* row, int parts, const float* losses, const uint32_t* correct, uint64_t n) {
  double loss = 0.0, hits = 0.0;
  sum_rows(loss, hits, losses, correct, n);
  if (threadIdx.x == 0) {
    row[parts] = loss;
    row[parts + 1] = hits;
  }
}

extern "C" __global__ void __launch_bounds__(1024)
    result_of_rows_f32(StepResult* ring, GradNorm* norm, const double* rows, int world, int parts, double clip_norm,
                       const StepState* state) {
  const int width = parts + 2;
  double squares = 0.0, loss = 0.0, hits = 0.0;
  for (int i = threadIdx.x; i < world * parts; i += blockDim.x) squares += rows[i / parts * width + i % parts];
  for (int rank = threadIdx.x; rank < world; rank += blockDim.x) {
    loss += rows[rank * width + parts];
    hits += rows[rank * width + parts + 1];
  }
  squares = block_sum(squares);
  loss = block_sum(loss);
  hits = block_sum(hits);
  if (threadIdx.x == 0) {
    set_norm(norm, squares, clip_norm);
    ring[state->slot] = {loss, (uint32_t)hits, (float)norm->norm};
    if (!isfinite(loss)) norm->halted = 1;
  }
}

EXPORT(row_sums_f32)
EXPORT(result_of_rows_f32)
