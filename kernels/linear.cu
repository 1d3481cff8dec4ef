// What a linear layer needs beside its matrix products: the gradient of its bias, in two deterministic stages.
//
//   linear_bias_bwd  partial[part] = sum over the part's rows of grad_out
//   column_sum       grad = or += sum over parts of partial, always in the same order
//   column_sums      the same of up to eight arrays, one after the other in the grid; those that are not there have c = 0
//
// grad_out (n, c); partial (parts, c) f32, overwritten; grad (c) f32, overwritten, or accumulated where `accumulate` is
// not 0.
// Launch: linear_bias_bwd: grid (c / (128 * pack), parts), block 128. column_sum: grid (c / 32), column_sums: grid (the
// sum of c / 32, each rounded up), block (32, 8), 1 KB of shared memory, static.
#include "common.cuh"

template <class T>
__device__ __forceinline__ void bias_bwd(float* partial, const T* grad_out, int n, int c, int rows_a_part) {
  constexpr int N = Pack<T>::N;
  const int column = (blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (column >= c) return;
  const int end = min(n, (int)(blockIdx.y + 1) * rows_a_part);
  Pack<T> sum{};
  for (int row = blockIdx.y * rows_a_part; row < end; row++) {
    const Pack<T> g = load(grad_out + (size_t)row * c + column, c - column);
#pragma unroll
    for (int k = 0; k < N; k++) sum.values[k] += g.values[k];
  }
  store_f32<T>(partial + (size_t)blockIdx.y * c + column, sum, c - column);
}

extern "C" __global__ void __launch_bounds__(128)
    linear_bias_bwd_f32(float* partial, const float* grad_out, int n, int c, int rows_a_part) {
  bias_bwd(partial, grad_out, n, c, rows_a_part);
}

extern "C" __global__ void __launch_bounds__(128)
    linear_bias_bwd_bf16(float* partial, const bf16* grad_out, int n, int c, int rows_a_part) {
  bias_bwd(partial, grad_out, n, c, rows_a_part);
}

// Block `block` of those that sum the columns of one array.
__device__ __forceinline__ void sum_columns(float* grad, const float* partial, int parts, int c, unsigned block,
                                            int accumulate) {
  __shared__ float sums[8][WARP];
  const int column = block * WARP + threadIdx.x;
  float sum = 0.0f;
  if (column < c) {
#pragma unroll 8
    for (int part = threadIdx.y; part < parts; part += 8) sum += partial[(size_t)part * c + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < c) {
    float total = 0.0f;
    for (int i = 0; i < 8; i++) total += sums[i][threadIdx.x];
    grad[column] = accumulate ? grad[column] + total : total;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    column_sum_f32(float* grad, const float* partial, int parts, int c, int accumulate) {
  sum_columns(grad, partial, parts, c, blockIdx.x, accumulate);
}

// Where a block's columns are: in the first array whose blocks reach so far.
struct Columns {
  float* grad;
  const float* partial;
  int parts, c;
  unsigned block;
  bool is_found;

  __device__ __forceinline__ void look(float* its_grad, const float* its_partial, int its_parts, int its_c) {
    const unsigned n_blocks = (its_c + WARP - 1) / WARP;
    if (is_found) return;
    if (block >= n_blocks) {
      block -= n_blocks;
      return;
    }
    grad = its_grad;
    partial = its_partial;
    parts = its_parts;
    c = its_c;
    is_found = true;
  }
};

extern "C" __global__ void __launch_bounds__(256) column_sums_f32(
    float* grad0, const float* partial0, int parts0, int c0, float* grad1, const float* partial1, int parts1, int c1,
    float* grad2, const float* partial2, int parts2, int c2, float* grad3, const float* partial3, int parts3, int c3,
    float* grad4, const float* partial4, int parts4, int c4, float* grad5, const float* partial5, int parts5, int c5,
    float* grad6, const float* partial6, int parts6, int c6, float* grad7, const float* partial7, int parts7, int c7,
    int accumulate) {
  Columns columns{nullptr, nullptr, 0, 0, blockIdx.x, false};
  columns.look(grad0, partial0, parts0, c0);
  columns.look(grad1, partial1, parts1, c1);
  columns.look(grad2, partial2, parts2, c2);
  columns.look(grad3, partial3, parts3, c3);
  columns.look(grad4, partial4, parts4, c4);
  columns.look(grad5, partial5, parts5, c5);
  columns.look(grad6, partial6, parts6, c6);
  columns.look(grad7, partial7, parts7, c7);
  sum_columns(columns.grad, columns.partial, columns.parts, columns.c, columns.block, accumulate);
}

EXPORT(linear_bias_bwd_f32)
EXPORT(linear_bias_bwd_bf16)
EXPORT(column_sum_f32)
EXPORT(column_sums_f32)
