// LayerNorm, alone and behind a residual addition, and its gradients.
//
//   fwd           out = (x - mean) * rstd * weight + bias
//   residual_fwd  sum = x + dropped(branch + addend), out = LayerNorm(sum)
//   bwd_x         grad_x = or += rstd * (g - mean(g) - xhat * mean(g * xhat)), g = grad_out * weight
//   bwd_weight    partial sums over rows of grad_out * xhat and of grad_out; column_sum adds them up
//   bwd_fused     bwd_x and bwd_weight in one pass over grad_out and x
//   residual_fwd_held4, residual_fwd_held8
//                 residual_fwd without dropout, of rows of at most 4 or 8 packs a lane, kept in registers
//
// x, branch, out, sum, grads (n, c); weight, bias, addend (c), bias and addend may be null; mean, rstd (n) f32.
// Launch: fwd, residual_fwd, bwd_x: grid (n / 4), block 128, one warp a row. bwd_weight: grid (c / (128 * pack),
// parts), block 128; partials (parts, c) f32, overwritten. No shared memory. bwd_fused: grid (parts), block of a thread
// for each pack of a row, rounded up to whole warps, at most 512; 512 bytes of shared memory, static. bwd_fused and
// residual_fwd_held take rows of whole packs at multiples of 16 bytes.
#include "norm.cuh"

#define LAYER_NORM(dtype, T)                                                                                       \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      layer_norm_fwd_##dtype(T* out, float* mean, float* rstd, const T* x, const T* weight, const T* bias, int n,  \
                             int c, float eps) {                                                                   \
    norm_fwd<T, true>(out, mean, rstd, x, weight, bias, n, c, eps);                                                \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128) layer_norm_residual_fwd_##dtype(                               \
      T* sum, T* out, float* mean, float* rstd, const T* x, const T* branch, const T* addend, const T* weight,     \
      const T* bias, int n, int c, float eps, float probability, uint64_t seed, uint32_t purpose,                  \
      uint64_t first_element, const StepState* state) {                                                            \
    norm_residual_fwd<T, true>(sum, out, mean, rstd, x, branch, addend, weight, bias, n, c, eps, probability,      \
                               seed, purpose, first_element, state);                                               \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      layer_norm_bwd_x_##dtype(T* grad_x, const T* grad_out, const T* x, const float* mean, const float* rstd,     \
                               const T* weight, int n, int c, int accumulate) {                                    \
    norm_bwd_x<T, true>(grad_x, grad_out, x, mean, rstd, weight, n, c, accumulate);                                \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      layer_norm_bwd_weight_##dtype(float* partial_weight, float* partial_bias, const T* grad_out, const T* x,     \
                                    const float* mean, const float* rstd, int n, int c, int rows_a_part) {         \
    norm_bwd_weight<T, true>(partial_weight, partial_bias, grad_out, x, mean, rstd, n, c, rows_a_part);            \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128) layer_norm_residual_fwd_held4_##dtype(                         \
      T* sum, T* out, float* mean, float* rstd, const T* x, const T* branch, const T* addend, const T* weight,     \
      const T* bias, int n, int c, float eps) {                                                                    \
    norm_residual_held<T, true, 4>(sum, out, mean, rstd, x, branch, addend, weight, bias, n, c, eps);              \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128) layer_norm_residual_fwd_held8_##dtype(                         \
      T* sum, T* out, float* mean, float* rstd, const T* x, const T* branch, const T* addend, const T* weight,     \
      const T* bias, int n, int c, float eps) {                                                                    \
    norm_residual_held<T, true, 8>(sum, out, mean, rstd, x, branch, addend, weight, bias, n, c, eps);              \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(512) layer_norm_bwd_fused_##dtype(                                  \
      T* grad_x, float* partial_weight, float* partial_bias, const T* grad_out, const T* x, const float* mean,     \
      const float* rstd, const T* weight, int n, int c, int rows_a_part, int accumulate) {                         \
    norm_bwd_fused<T, true>(grad_x, partial_weight, partial_bias, grad_out, x, mean, rstd, weight, n, c,           \
                            rows_a_part, accumulate);                                                              \
  }                                                                                                                \
  EXPORT(layer_norm_fwd_##dtype)                                                                                   \
  EXPORT(layer_norm_residual_fwd_##dtype)                                                                          \
  EXPORT(layer_norm_bwd_x_##dtype)                                                                                 \
  EXPORT(layer_norm_bwd_weight_##dtype)                                                                            \
  EXPORT(layer_norm_residual_fwd_held4_##dtype)                                                                    \
  EXPORT(layer_norm_residual_fwd_held8_##dtype)                                                                    \
  EXPORT(layer_norm_bwd_fused_##dtype)

LAYER_NORM(f32, float)
LAYER_NORM(bf16, bf16)
