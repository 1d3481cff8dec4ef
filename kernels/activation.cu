// The nonlinearity of a feed-forward block, with the bias of the projection before it.
//
//   fwd  out = f(x + bias)
//   bwd  grad = grad * f'(x + bias), in place
//
// kind: 0 GELU, x * Phi(x); 1 its tanh form; 2 ReLU, with slope 1 at 0 as on the CPU; 3 ReLU squared.
// x, out, grad (n, c); bias (c), may be null. Launch: one thread a pack of 16 bytes, block 256; c a row's width.
// out and grad are overwritten. No shared memory.
#include "common.cuh"

constexpr float GELU_LINEAR = 1.5957691216057308f;         // 2 * sqrt(2 / pi)
constexpr float GELU_CUBIC = 0.044715f * GELU_LINEAR;
constexpr float DENSITY_AT_0 = 0.3989422804014327f;        // 1 / sqrt(2 * pi)
constexpr float SQRT_HALF = 0.7071067811865476f;

__device__ __forceinline__ float activate(int kind, float x) {
  if (kind == 0) return x * 0.5f * erfcf(-x * SQRT_HALF);
  if (kind == 1) return x / (1.0f + expf(-x * (GELU_LINEAR + GELU_CUBIC * x * x)));
  const float positive = x < 0.0f ? 0.0f : x;
  return kind == 2 ? positive : positive * positive;
}

__device__ __forceinline__ float slope(int kind, float x) {
  if (kind == 0) return 0.5f * erfcf(-x * SQRT_HALF) + x * DENSITY_AT_0 * expf(-0.5f * x * x);
  if (kind == 1) {
    const float gate = 1.0f / (1.0f + expf(-x * (GELU_LINEAR + GELU_CUBIC * x * x)));
    return gate + x * gate * (1.0f - gate) * (GELU_LINEAR + 3.0f * GELU_CUBIC * x * x);
  }
  if (kind == 2) return x < 0.0f ? 0.0f : 1.0f;
  return x < 0.0f ? 0.0f : 2.0f * x;
}

// The pack of x + bias that starts at element i of all; packs do not end at rows.
template <class T>
__device__ __forceinline__ Pack<T> biased(const T* x, const T* bias, uint64_t i, uint64_t n, int c) {
  constexpr int N = Pack<T>::N;
  const int n_left = (int)min((uint64_t)N, n - i);
  Pack<T> a = load(x + i, n_left);
  if (bias != nullptr) {
    const int column = (int)(i % c);
    if (column + N <= c) {
      const Pack<T> b = load(bias + column, N);
#pragma unroll
      for (int k = 0; k < N; k++) a.values[k] += b.values[k];
    } else {
#pragma unroll
      for (int k = 0; k < N; k++) a.values[k] += to_f32(bias[(column + k) % c]);
    }
  }
  return a;
}

template <class T>
__device__ __forceinline__ void fwd(T* out, const T* x, const T* bias, uint64_t n, int c, int kind) {
  const uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * Pack<T>::N;
  if (i >= n) return;
  Pack<T> a = biased(x, bias, i, n, c);
#pragma unroll
  for (int k = 0; k < Pack<T>::N; k++) a.values[k] = activate(kind, a.values[k]);
  store(out + i, a, (int)min((uint64_t)Pack<T>::N, n - i));
}

template <class T>
__device__ __forceinline__ void bwd(T* grad, const T* x, const T* bias, uint64_t n, int c, int kind) {
  const uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * Pack<T>::N;
  if (i >= n) return;
  const int n_left = (int)min((uint64_t)Pack<T>::N, n - i);
  const Pack<T> a = biased(x, bias, i, n, c);
  Pack<T> g = load(grad + i, n_left);
#pragma unroll
  for (int k = 0; k < Pack<T>::N; k++) g.values[k] *= slope(kind, a.values[k]);
  store(grad + i, g, n_left);
}

#define ACTIVATION(dtype, T)                                                                                       \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      activation_fwd_##dtype(T* out, const T* x, const T* bias, uint64_t n, int c, int kind) {                     \
    fwd(out, x, bias, n, c, kind);                                                                                 \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      activation_bwd_##dtype(T* grad, const T* x, const T* bias, uint64_t n, int c, int kind) {                    \
    bwd(grad, x, bias, n, c, kind);                                                                                \
  }                                                                                                                \
  EXPORT(activation_fwd_##dtype)                                                                                   \
  EXPORT(activation_bwd_##dtype)

ACTIVATION(f32, float)
ACTIVATION(bf16, bf16)
