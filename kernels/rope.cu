// Rotary position embedding of heads within rows, in place.
//
//   (x1, x2) = (x1 * cos - x2 * sin, x2 * cos + x1 * sin), x1 and x2 the halves of a head
//
// The gradient is turned back: direction -1. x: row r has its heads from r * row_stride on; row r stands at position
// r mod t; cos, sin (>= t, d / 2) f32. Launch: grid (n), block 128. No shared memory.
#include "common.cuh"

template <class T>
__device__ __forceinline__ void turn(T* x, const float* cos, const float* sin, int row_stride, int n_heads, int d,
                                     int t, float direction) {
  const int half = d / 2;
  T* row = x + (size_t)blockIdx.x * row_stride;
  const size_t angle = (size_t)(blockIdx.x % t) * half;
  for (int i = threadIdx.x; i < n_heads * half; i += blockDim.x) {
    const int head = i / half, k = i % half;
    T* a = row + head * d + k;
    const float x1 = to_f32(a[0]), x2 = to_f32(a[half]);
    const float c = cos[angle + k], s = direction * sin[angle + k];
    a[0] = from_f32<T>(x1 * c - x2 * s);
    a[half] = from_f32<T>(x2 * c + x1 * s);
  }
}

#define ROPE(dtype, T)                                                                                             \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      rope_fwd_##dtype(T* x, const float* cos, const float* sin, int row_stride, int n_heads, int d, int t) {      \
    turn(x, cos, sin, row_stride, n_heads, d, t, 1.0f);                                                            \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      rope_bwd_##dtype(T* grad, const float* cos, const float* sin, int row_stride, int n_heads, int d, int t) {   \
    turn(grad, cos, sin, row_stride, n_heads, d, t, -1.0f);                                                        \
  }                                                                                                                \
  EXPORT(rope_fwd_##dtype)                                                                                         \
  EXPORT(rope_bwd_##dtype)

ROPE(f32, float)
ROPE(bf16, bf16)
