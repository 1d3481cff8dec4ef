// RMSNorm of heads within rows, in place, and its gradients.
//
//   fwd         saved = x, x = saved * rstd * weight, rstd = 1 / sqrt(mean(saved^2) + eps)
//   bwd_x       grad = rstd * (g - xhat * mean(g * xhat)), g = grad * weight
//   bwd_weight  partial sums over heads of grad * xhat; column_sum adds them up
//
// Head h of row r starts at r * stride + h * c, with a stride of its own for x (and grad) and for saved; (n) rows of
// n_heads heads; rstd (n * n_heads) f32. fwd overwrites x and saved, bwd_x overwrites grad, bwd_weight overwrites its
// partial sums (parts, c) and has to come before bwd_x. Launches: fwd and bwd_x grid (n * n_heads / 4), block 128, a
// warp a head; bwd_weight grid (c / pack / 128, parts), block 128. No shared memory.
#include "norm.cuh"

template <class T>
__device__ __forceinline__ T* head_of(T* rows, int head, int n_heads, int stride, int c) {
  return rows + (size_t)(head / n_heads) * stride + (size_t)(head % n_heads) * c;
}

template <class T>
__device__ __forceinline__ void heads_fwd(T* x, T* saved, float* rstd, const T* weight, int n, int n_heads, int c,
                                          int x_stride, int saved_stride, float eps) {
  constexpr int N = Pack<T>::N;
  const int head = blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP;
  if (head >= n * n_heads) return;
  T* to = head_of(x, head, n_heads, x_stride, c);
  T* kept = head_of(saved, head, n_heads, saved_stride, c);
  for (int i = threadIdx.x % WARP * N; i < c; i += WARP * N) store(kept + i, load(to + i, c - i), c - i);
  // Each lane reads what it wrote itself.
  normalize_row<T, false>(to, nullptr, rstd + head, kept, weight, nullptr, c, eps);
}

template <class T>
__device__ __forceinline__ void heads_bwd_x(T* grad, const T* saved, const float* rstd, const T* weight, int n,
                                            int n_heads, int c, int grad_stride, int saved_stride) {
  const int head = blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP;
  if (head >= n * n_heads) return;
  T* row = head_of(grad, head, n_heads, grad_stride, c);
  const T* x = head_of(saved, head, n_heads, saved_stride, c);
  norm_bwd_row<T, false>(row, row, x, 0.0f, rstd[head], weight, c, 0);
}

template <class T>
__device__ __forceinline__ void heads_bwd_weight(float* partial_weight, const T* grad, const T* saved,
                                                 const float* rstd, int n, int n_heads, int c, int grad_stride,
                                                 int saved_stride, int heads_a_part) {
  constexpr int N = Pack<T>::N;
  const int column = (blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (column >= c) return;
  const int end = min(n * n_heads, (int)(blockIdx.y + 1) * heads_a_part);
  Pack<T> sum{};
  for (int head = blockIdx.y * heads_a_part; head < end; head++) {
    const Pack<T> g = load(head_of(grad, head, n_heads, grad_stride, c) + column, c - column);
    const Pack<T> a = load(head_of(saved, head, n_heads, saved_stride, c) + column, c - column);
#pragma unroll
    for (int k = 0; k < N; k++) sum.values[k] += g.values[k] * a.values[k] * rstd[head];
  }
  store_f32<T>(partial_weight + (size_t)blockIdx.y * c + column, sum, c - column);
}

#define HEAD_NORM(dtype, T)                                                                                        \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      head_norm_fwd_##dtype(T* x, T* saved, float* rstd, const T* weight, int n, int n_heads, int c, int x_stride, \
                            int saved_stride, float eps) {                                                         \
    heads_fwd(x, saved, rstd, weight, n, n_heads, c, x_stride, saved_stride, eps);                                 \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      head_norm_bwd_x_##dtype(T* grad, const T* saved, const float* rstd, const T* weight, int n, int n_heads,     \
                              int c, int grad_stride, int saved_stride) {                                          \
    heads_bwd_x(grad, saved, rstd, weight, n, n_heads, c, grad_stride, saved_stride);                              \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      head_norm_bwd_weight_##dtype(float* partial_weight, const T* grad, const T* saved, const float* rstd, int n, \
                                   int n_heads, int c, int grad_stride, int saved_stride, int heads_a_part) {      \
    heads_bwd_weight(partial_weight, grad, saved, rstd, n, n_heads, c, grad_stride, saved_stride, heads_a_part);   \
  }                                                                                                                \
  EXPORT(head_norm_fwd_##dtype)                                                                                    \
  EXPORT(head_norm_bwd_x_##dtype)                                                                                  \
  EXPORT(head_norm_bwd_weight_##dtype)

HEAD_NORM(f32, float)
HEAD_NORM(bf16, bf16)
