// RMSNorm, alone and behind a residual addition, and its gradients.
//
//   fwd           out = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps)
//   residual_fwd  sum = x + dropped(branch), out = RMSNorm(sum)
//   bwd_x         grad_x = or += rstd * (g - xhat * mean(g * xhat)), g = grad_out * weight
//   bwd_weight    partial sums over rows of grad_out * xhat; column_sum adds them up
//
// Shapes and launches are those of layer_norm.cu.
#include "norm.cuh"

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
      rms_norm_bwd_x_##dtype(T* grad_x, const T* grad_out, const T* x, const float* rstd, const T* weight, int n,  \
                             int c, int accumulate) {                                                              \
    norm_bwd_x<T, false>(grad_x, grad_out, x, nullptr, rstd, weight, n, c, accumulate);                            \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      rms_norm_bwd_weight_##dtype(float* partial_weight, const T* grad_out, const T* x, const float* rstd, int n,  \
                                  int c, int rows_a_part) {                                                        \
    norm_bwd_weight<T, false>(partial_weight, nullptr, grad_out, x, nullptr, rstd, n, c, rows_a_part);             \
  }                                                                                                                \
  EXPORT(rms_norm_fwd_##dtype)                                                                                     \
  EXPORT(rms_norm_residual_fwd_##dtype)                                                                            \
  EXPORT(rms_norm_bwd_x_##dtype)                                                                                   \
  EXPORT(rms_norm_bwd_weight_##dtype)

RMS_NORM(f32, float)
RMS_NORM(bf16, bf16)
