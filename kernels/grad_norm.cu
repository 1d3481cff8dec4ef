// The norm of a flat gradient, and what clipping makes of it, in two stages and the same bits always.
//
//   grad_norm_partial  partial[block] = sum of squares of the block's elements, f64
//   grad_norm          norm = sqrt(sum of partials), factor = min(1, clip_norm / (norm + 1e-6)), or 1 without clipping
//
// x (n) f32 or bfloat16; partial (grid) f64. Launch: partial: grid (parts), block 512; the other: grid 1, block 1024.
#include "common.cuh"

template <class T> __device__ __forceinline__ void sum_squares(double* partial, const T* x, uint64_t n) {
  constexpr int N = Pack<T>::N;
  double sum = 0.0;
  const uint64_t step = (uint64_t)gridDim.x * blockDim.x * N;
  for (uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * N; i < n; i += step) {
    const Pack<T> a = load(x + i, (int)min((uint64_t)N, n - i));
#pragma unroll
    for (int k = 0; k < N; k++) sum += (double)a.values[k] * (double)a.values[k];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(512) grad_norm_partial_f32(double* partial, const float* x, uint64_t n) {
  sum_squares(partial, x, n);
}

extern "C" __global__ void __launch_bounds__(512) grad_norm_partial_bf16(double* partial, const bf16* x, uint64_t n) {
  sum_squares(partial, x, n);
}

extern "C" __global__ void __launch_bounds__(1024)
    grad_norm_f32(GradNorm* out, const double* partial, int parts, double clip_norm) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < parts; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) set_norm(out, sum, clip_norm);
}

EXPORT(grad_norm_partial_f32)
EXPORT(grad_norm_partial_bf16)
EXPORT(grad_norm_f32)
