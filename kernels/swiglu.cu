// SwiGLU over rows that hold gate and up side by side.
//
//   fwd  out = gate * sigmoid(gate) * up
//   bwd  grad_gate = grad_out * up * s * (1 + gate * (1 - s)), grad_up = grad_out * gate * s, s = sigmoid(gate)
//
// x, grad_x (n, 2 * ff), gate first; out, grad_out (n, ff). Launch: grid (n, ff / (256 * pack)), block 256: rows
// can be more than the 65,535 blocks that a grid has in y.
// out and grad_x are overwritten. No shared memory.
#include "common.cuh"

template <class T> __device__ __forceinline__ void fwd(T* out, const T* x, int ff) {
  constexpr int N = Pack<T>::N;
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (column >= ff) return;
  const T* row = x + (size_t)blockIdx.x * 2 * ff;
  const Pack<T> gate = load(row + column, ff - column), up = load(row + ff + column, ff - column);
  Pack<T> a;
#pragma unroll
  for (int k = 0; k < N; k++) a.values[k] = gate.values[k] / (1.0f + expf(-gate.values[k])) * up.values[k];
  store(out + (size_t)blockIdx.x * ff + column, a, ff - column);
}

template <class T> __device__ __forceinline__ void bwd(T* grad_x, const T* grad_out, const T* x, int ff) {
  constexpr int N = Pack<T>::N;
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (column >= ff) return;
  const size_t at = (size_t)blockIdx.x * 2 * ff + column;
  const Pack<T> gate = load(x + at, ff - column), up = load(x + at + ff, ff - column);
  const Pack<T> g = load(grad_out + (size_t)blockIdx.x * ff + column, ff - column);
  Pack<T> grad_gate, grad_up;
#pragma unroll
  for (int k = 0; k < N; k++) {
    const float s = 1.0f / (1.0f + expf(-gate.values[k]));
    grad_gate.values[k] = g.values[k] * up.values[k] * s * (1.0f + gate.values[k] * (1.0f - s));
    grad_up.values[k] = g.values[k] * gate.values[k] * s;
  }
  store(grad_x + at, grad_gate, ff - column);
  store(grad_x + at + ff, grad_up, ff - column);
}

#define SWIGLU(dtype, T)                                                                                           \
  extern "C" __global__ void __launch_bounds__(256) swiglu_fwd_##dtype(T* out, const T* x, int ff) {               \
    fwd(out, x, ff);                                                                                               \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      swiglu_bwd_##dtype(T* grad_x, const T* grad_out, const T* x, int ff) {                                       \
    bwd(grad_x, grad_out, x, ff);                                                                                  \
  }                                                                                                                \
  EXPORT(swiglu_fwd_##dtype)                                                                                       \
  EXPORT(swiglu_bwd_##dtype)

SWIGLU(f32, float)
SWIGLU(bf16, bf16)
