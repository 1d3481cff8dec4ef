// What every kernel starts from: types, 16-byte packs, sums within a warp, and the registration of kernels with
// the stand-in of tests/kernel_shim, which compiles these files as C++.
#pragma once

#ifdef WATTLE_SHIM
#include "shim.h"
#define EXPORT(name) static const shim::Registration registration_##name{#name, shim::launcher(name)};
#define DYNAMIC_SHARED(name) unsigned char* const name = shim::dynamic_shared()
#else
#include <cstdint>
#include <cuda_bf16.h>
#define EXPORT(name)
// The shared memory that a launch asks for beside what is static, at a multiple of 16 bytes.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

typedef __nv_bfloat16 bf16;

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }

template <class T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16(x); }

// The position of a row in its document. documents: the row of its sequence, of t rows, at which each row's document starts,
// or null where each sequence is one document.
__device__ __forceinline__ unsigned position_of(unsigned row, int t, const uint32_t* documents) {
  return row % t - (documents == nullptr ? 0 : documents[row]);
}

// 16 bytes of neighbours, widened to f32.
template <class T> struct Pack {
  static constexpr int N = 16 / sizeof(T);
  float values[N];
};

template <class T> struct alignas(16) Raw {
  T values[Pack<T>::N];
};

__device__ __forceinline__ bool is_aligned(const void* p) { return ((uintptr_t)p & 15) == 0; }

// The pack at `p`, of which only the first `n_left` elements exist. Those after them are 0.
template <class T> __device__ __forceinline__ Pack<T> load(const T* p, int n_left) {
  Pack<T> pack;
  if (n_left >= Pack<T>::N && is_aligned(p)) {
    const Raw<T> raw = *reinterpret_cast<const Raw<T>*>(p);
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++) pack.values[i] = to_f32(raw.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++) pack.values[i] = i < n_left ? to_f32(p[i]) : 0.0f;
  }
  return pack;
}

// Stores the first `n_left` elements of a pack, each rounded to the nearest.
template <class T> __device__ __forceinline__ void store(T* p, const Pack<T>& pack, int n_left) {
  if (n_left >= Pack<T>::N && is_aligned(p)) {
    Raw<T> raw;
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++) raw.values[i] = from_f32<T>(pack.values[i]);
    *reinterpret_cast<Raw<T>*>(p) = raw;
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++) {
      if (i < n_left) p[i] = from_f32<T>(pack.values[i]);
    }
  }
}

// A pack as it is stored. Held so, it takes four registers, and nothing waits for it until it is widened: loads of
// several come before the first use of one.
struct alignas(16) Line {
  uint32_t words[4];
};

// The pack at `p`, a multiple of 16 bytes, or zeros where there is none.
template <class T> __device__ __forceinline__ Line load_line(const T* p, bool is_there) {
  Line line = {{0, 0, 0, 0}};
  if (is_there) line = *reinterpret_cast<const Line*>(p);
  return line;
}

template <class T> __device__ __forceinline__ void store_line(T* p, const Line& line, bool is_there) {
  if (is_there) *reinterpret_cast<Line*>(p) = line;
}

template <class T> __device__ __forceinline__ Pack<T> widen(const Line& line);

template <> __device__ __forceinline__ Pack<float> widen<float>(const Line& line) {
  Pack<float> pack;
#pragma unroll
  for (int i = 0; i < 4; i++) pack.values[i] = __uint_as_float(line.words[i]);
  return pack;
}

template <> __device__ __forceinline__ Pack<bf16> widen<bf16>(const Line& line) {
  Pack<bf16> pack;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    pack.values[2 * i] = __uint_as_float(line.words[i] << 16);
    pack.values[2 * i + 1] = __uint_as_float(line.words[i] & 0xffff0000u);
  }
  return pack;
}

// Each element rounded to the nearest.
template <class T> __device__ __forceinline__ Line narrow(const Pack<T>& pack) {
  Raw<T> raw;
#pragma unroll
  for (int i = 0; i < Pack<T>::N; i++) raw.values[i] = from_f32<T>(pack.values[i]);
  Line line;
  memcpy(&line, &raw, sizeof(line));
  return line;
}

// As many f32 as there are elements in a pack of T, from `p` on.
template <class T> __device__ __forceinline__ Pack<T> load_f32(const float* p, int n_left) {
  Pack<T> pack;
#pragma unroll
  for (int first = 0; first < Pack<T>::N; first += 4) {
    const Pack<float> four = load<float>(p + first, n_left - first);
#pragma unroll
    for (int i = 0; i < 4; i++) pack.values[first + i] = four.values[i];
  }
  return pack;
}

template <class T> __device__ __forceinline__ void store_f32(float* p, const Pack<T>& pack, int n_left) {
#pragma unroll
  for (int first = 0; first < Pack<T>::N; first += 4) {
    Pack<float> four;
#pragma unroll
    for (int i = 0; i < 4; i++) four.values[i] = pack.values[first + i];
    store<float>(p + first, four, n_left - first);
  }
}

// Starts to copy 16 bytes to shared memory; both addresses are multiples of 16.
__device__ __forceinline__ void copy_async(void* to, const void* from) {
#ifdef WATTLE_SHIM
  std::memcpy(to, from, 16);
#else
  const unsigned place = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(from) : "memory");
#endif
}

// Waits for the copies that this thread started; it alone sees them until the block's next barrier.
__device__ __forceinline__ void wait_for_copies() {
#ifndef WATTLE_SHIM
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// The sum over a warp, in every lane. All lanes must take part.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}

__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
  return x;
}

// The sum over a block of whole warps, in every thread, in an order that depends on the block's size alone.
template <class X> __device__ __forceinline__ X block_sum(X x) {
  __shared__ X sums[WARP];
  const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  x = warp_sum(x);
  __syncthreads();
  if (lane == 0) sums[warp] = x;
  __syncthreads();
  const X sum = lane < blockDim.x / WARP ? sums[lane] : X(0);
  return warp_sum(sum);
}

__device__ __forceinline__ float block_max(float x) {
  __shared__ float maxima[WARP];
  const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  x = warp_max(x);
  __syncthreads();
  if (lane == 0) maxima[warp] = x;
  __syncthreads();
  return warp_max(lane < blockDim.x / WARP ? maxima[lane] : -INFINITY);
}

// What differs from step to step. crates/ops/src/board/step_state.rs writes the very same layout.
struct StepState {
  // Which update it is, counted from 1: the counter word of dropout's numbers.
  uint32_t step;
  // Where in the ring its results go.
  uint32_t slot;
  // lr / (1 - beta1^step)
  float rate;
  // 1 / (1 - beta2^step)
  float inverse_square_correction;
  // 1 - lr * weight_decay
  float decay;
  // lr
  float learning_rate;
};

// What is known of a step's gradient. crates/ops/src/board/step_result.rs reads the same layout.
struct GradNorm {
  double norm;
  // What clipping multiplies gradients by.
  float factor;
  // 1 from the first step on whose loss or gradient is not finite: no update is made any more.
  uint32_t halted;
};

// What a step said. crates/ops/src/board/step_result.rs reads the same layout.
struct StepResult {
  double loss;
  uint32_t n_correct;
  float grad_norm;
};

// The norm from its sum of squares, and what clipping makes of it. By one thread.
__device__ __forceinline__ void set_norm(GradNorm* out, double squares, double clip_norm) {
  const double norm = sqrt(squares);
  const double factor = clip_norm / (norm + 1e-6);
  out->norm = norm;
  // A norm that is not a number gives a factor that is none: it must show.
  out->factor = clip_norm > 0.0 && !(factor > 1.0) ? (float)factor : 1.0f;
  if (!isfinite(norm)) out->halted = 1;
}

// Sums over n rows by one block, in a fixed order; thread 0 has them.
__device__ __forceinline__ void sum_rows(double& loss, double& hits, const float* losses, const uint32_t* correct,
                                         uint64_t n) {
  for (uint64_t i = threadIdx.x; i < n; i += blockDim.x) {
    loss += losses[i];
    hits += correct[i];
  }
  loss = block_sum(loss);
  hits = block_sum(hits);
}
