// Rotary position embedding of heads within rows, in place.
//
//   (x1, x2) = (x1 * cos - x2 * sin, x2 * cos + x1 * sin), x1 and x2 the halves of a head
//
// The gradient is turned back: direction -1. x: row r has its heads from r * row_stride on; row r stands at position
// r mod t - documents[r], where documents (n) u32 has the row of its sequence at which each row's document starts, or
// r mod t where documents is null; cos, sin (>= t, d / 2) f32. Launch: grid (n), block 128. No shared memory.
//
// fwd_packs, bwd_packs: the same bits, where halves of heads are whole packs at multiples of 16 bytes: a thread turns two
// packs. Launch: grid (n * n_heads * d / 2 / pack / 256), block 256.
#include "common.cuh"

template <class T>
__device__ __forceinline__ void turn(T* x, const float* cos, const float* sin, const uint32_t* documents,
                                     int row_stride, int n_heads, int d, int t, float direction) {
  const int half = d / 2;
  T* row = x + (size_t)blockIdx.x * row_stride;
  const size_t angle = (size_t)position_of(blockIdx.x, t, documents) * half;
  for (int i = threadIdx.x; i < n_heads * half; i += blockDim.x) {
    const int head = i / half, k = i % half;
    T* a = row + head * d + k;
    const float x1 = to_f32(a[0]), x2 = to_f32(a[half]);
    const float c = cos[angle + k], s = direction * sin[angle + k];
    a[0] = from_f32<T>(x1 * c - x2 * s);
    a[half] = from_f32<T>(x2 * c + x1 * s);
  }
}

template <class T>
__device__ __forceinline__ void turn_packs(T* x, const float* cos, const float* sin, const uint32_t* documents, int n,
                                           int row_stride, int n_heads, int d, int t, float direction) {
  constexpr int N = Pack<T>::N;
  const unsigned half = d / 2, packs = half / N, i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned row = i / (n_heads * packs), head = i / packs % n_heads, k = i % packs * N;
  if (row >= (unsigned)n) return;
  T* a = x + (size_t)row * row_stride + head * d + k;
  const size_t angle = (size_t)position_of(row, t, documents) * half + k;
  const Line first = load_line(a, true), second = load_line(a + half, true);
  const Pack<T> c = load_f32<T>(cos + angle, N), s = load_f32<T>(sin + angle, N);
  Pack<T> x1 = widen<T>(first), x2 = widen<T>(second);
#pragma unroll
  for (int j = 0; j < N; j++) {
    const float turned = direction * s.values[j], before = x1.values[j];
    x1.values[j] = before * c.values[j] - x2.values[j] * turned;
    x2.values[j] = x2.values[j] * c.values[j] + before * turned;
  }
  store_line(a, narrow(x1), true);
  store_line(a + half, narrow(x2), true);
}

#define ROPE(dtype, T)                                                                                             \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      rope_fwd_##dtype(T* x, const float* cos, const float* sin, const uint32_t* documents,                        \
                       int row_stride, int n_heads, int d, int t) {                                                \
    turn(x, cos, sin, documents, row_stride, n_heads, d, t, 1.0f);                                                 \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      rope_bwd_##dtype(T* grad, const float* cos, const float* sin, const uint32_t* documents,                     \
                       int row_stride, int n_heads, int d, int t) {                                                \
    turn(grad, cos, sin, documents, row_stride, n_heads, d, t, -1.0f);                                             \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      rope_fwd_packs_##dtype(T* x, const float* cos, const float* sin, const uint32_t* documents,                  \
                             int n, int row_stride, int n_heads, int d, int t) {                                   \
    turn_packs(x, cos, sin, documents, n, row_stride, n_heads, d, t, 1.0f);                                        \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      rope_bwd_packs_##dtype(T* grad, const float* cos, const float* sin, const uint32_t* documents,               \
                             int n, int row_stride, int n_heads, int d, int t) {                                   \
    turn_packs(grad, cos, sin, documents, n, row_stride, n_heads, d, t, -1.0f);                                    \
  }                                                                                                                \
  EXPORT(rope_fwd_##dtype)                                                                                         \
  EXPORT(rope_bwd_##dtype)                                                                                         \
  EXPORT(rope_fwd_packs_##dtype)                                                                                   \
  EXPORT(rope_bwd_packs_##dtype)

ROPE(f32, float)
ROPE(bf16, bf16)
