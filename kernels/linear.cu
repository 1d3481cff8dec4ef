// What a linear layer needs beside its matrix products: the gradient of its bias, in two deterministic stages.
//
//   linear_bias_bwd  partial[part] = sum over the part's rows of grad_out
//   column_sum       grad += sum over parts of partial, in the order of the parts
//
// grad_out (n, c); partial (parts, c) f32, overwritten; grad (c) f32, accumulated.
// Launch: linear_bias_bwd: grid (c / (128 * pack), parts), block 128. column_sum: grid (c / 32), block (32, 8).
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

extern "C" __global__ void __launch_bounds__(256) column_sum_f32(float* grad, const float* partial, int parts, int c) {
  __shared__ float sums[8][WARP];
  const int column = blockIdx.x * WARP + threadIdx.x;
  float sum = 0.0f;
  if (column < c) {
    for (int part = threadIdx.y; part < parts; part += 8) sum += partial[(size_t)part * c + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < c) {
    float total = 0.0f;
    for (int i = 0; i < 8; i++) total += sums[i][threadIdx.x];
    grad[column] += total;
  }
}

EXPORT(linear_bias_bwd_f32)
EXPORT(linear_bias_bwd_bf16)
EXPORT(column_sum_f32)
