// RMSNorm, alone and behind a residual addition, and its gradients.
//
//   fwd           out = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps)
//   residual_fwd  sum = x + dropped(branch), out = RMSNorm(sum)
//   add_fwd       sum = x + RMSNorm(added)
//   bwd_x         grad_x = or += rstd * (g - xhat * mean(g * xhat)), g = grad_out * weight
//   bwd_weight    partial sums over rows of grad_out * xhat; column_sum adds them up
//
// Shapes and launches are those of layer_norm.cu.
#include "norm.cuh"

template <class T>
__device__ __forceinline__ void rms_norm_add(T* sum, float* rstd, const T* x, const T* added, const T* weight, int n,
                                             int c, float eps) {
  constexpr int N = Pack<T>::N;
  const int row = blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP;
  if (row >= n) return;
  const size_t at = (size_t)row * c;
  const int first = threadIdx.x % WARP * N, step = WARP * N;
  float square = 0.0f;
  for (int i = first; i < c; i += step) {
    const Pack<T> a = load(added + at + i, c - i);
#pragma unroll
    for (int k = 0; k < N; k++) square += a.values[k] * a.values[k];
  }
  const float row_rstd = 1.0f / sqrtf(warp_sum(square) / c + eps);
  for (int i = first; i < c; i += step) {
    const Pack<T> a = load(added + at + i, c - i), w = load(weight + i, c - i);
    Pack<T> out = load(x + at + i, c - i);
#pragma unroll
    for (int k = 0; k < N; k++) out.values[k] += a.values[k] * row_rstd * w.values[k];
    store(sum + at + i, out, c - i);
  }
  if (threadIdx.x % WARP == 0) rstd[row] = row_rstd;
}

#define RMS_NORM(dtype, T)                                                                                         \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      rms_norm_fwd_##dtype(T* out, float* rstd, const T* x, const T* weight, int n, int c, float eps) {            \
    norm_fwd<T, false>(out, nullptr, rstd, x, weight, nullptr, n, c, eps);                                         \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128, 5) rms_norm_residual_fwd_##dtype(                              \
      T* sum, T* out, float* rstd, const T* x, const T* branch, const T* addend, const T* weight, int n, int c,    \
      float eps, float probability, uint64_t seed, uint32_t purpose, uint64_t first_element,                       \
      const StepState* state) {                                                                                    \
    norm_residual_fwd<T, false>(sum, out, nullptr, rstd, x, branch, addend, weight, nullptr, n, c, eps,            \
                                probability, seed, purpose, first_element, state);                                 \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      rms_norm_add_fwd_##dtype(T* sum, float* rstd, const T* x, const T* added, const T* weight, int n, int c,     \
                               float eps) {                                                                        \
    rms_norm_add(sum, rstd, x, added, weight, n, c, eps);                                                          \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      rms_norm_bwd_x_##dtype(T* grad_x, const T* grad_out, const T* x, const float* rstd, const T* weight, int n,  \
                             int c, int accumulate) {                                                              \
    norm_bwd_x<T, false>(grad_x, grad_out, x, nullptr, rstd, weight, n, c, accumulate);                            \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      rms_norm_bwd_weight_##dtype(float* partial_weight, const T* grad_out, const T* x, const float* rstd, int n,  \
                                  int c, int rows_a_part) {                                                        \
    norm_bwd_weight<T, false>(partial_weight, nullptr, grad_out, x, nullptr, rstd, n, c, rows_a_part);             \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128) rms_norm_residual_fwd_held4_##dtype(                           \
      T* sum, T* out, float* rstd, const T* x, const T* branch, const T* addend, const T* weight,                  \
      int n, int c, float eps) {                                                                                   \
    norm_residual_held<T, false, 4>(sum, out, nullptr, rstd, x, branch, addend, weight, nullptr, n, c, eps);       \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128) rms_norm_residual_fwd_held8_##dtype(                           \
      T* sum, T* out, float* rstd, const T* x, const T* branch, const T* addend, const T* weight,                  \
      int n, int c, float eps) {                                                                                   \
    norm_residual_held<T, false, 8>(sum, out, nullptr, rstd, x, branch, addend, weight, nullptr, n, c, eps);       \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(512) rms_norm_bwd_fused_##dtype(                                    \
      T* grad_x, float* partial_weight, const T* grad_out, const T* x, const float* rstd, const T* weight, int n,  \
      int c, int rows_a_part, int accumulate) {                                                                    \
    norm_bwd_fused<T, false>(grad_x, partial_weight, nullptr, grad_out, x, nullptr, rstd, weight, n, c,            \
                             rows_a_part, accumulate);                                                             \
  }                                                                                                                \
  EXPORT(rms_norm_fwd_##dtype)                                                                                     \
  EXPORT(rms_norm_residual_fwd_##dtype)                                                                            \
  EXPORT(rms_norm_add_fwd_##dtype)                                                                                 \
  EXPORT(rms_norm_bwd_x_##dtype)                                                                                   \
  EXPORT(rms_norm_bwd_weight_##dtype)                                                                              \
  EXPORT(rms_norm_residual_fwd_held4_##dtype)                                                                      \
  EXPORT(rms_norm_residual_fwd_held8_##dtype)                                                                      \
  EXPORT(rms_norm_bwd_fused_##dtype)

RMS_NORM(f32, float)
RMS_NORM(bf16, bf16)
