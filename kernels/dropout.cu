// Dropout of rows: out = x * factor, forward and backward alike; out may be x. dropout_add: out += x * factor.
//
// Element i of x is element first_element + i of the step's batch. The factor is 0 with the probability and
// 1 / (1 - probability) otherwise, from the numbers of crates/random. Launch: one thread a pack of 16 bytes, block 256.
#include "philox.cuh"

template <bool ADDS, class T>
__device__ __forceinline__ void drop(T* out, const T* x, uint64_t n, float probability, uint64_t seed,
                                     uint32_t purpose, uint64_t first_element, const StepState* state) {
  const uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * Pack<T>::N;
  if (i >= n) return;
  const int n_left = (int)min((uint64_t)Pack<T>::N, n - i);
  Dropped dropped(probability, seed, purpose, state);
  Pack<T> a = load(x + i, n_left);
#pragma unroll
  for (int k = 0; k < Pack<T>::N; k++) a.values[k] *= dropped.factor(first_element + i + k);
  if (ADDS) {
    const Pack<T> b = load(out + i, n_left);
#pragma unroll
    for (int k = 0; k < Pack<T>::N; k++) a.values[k] += b.values[k];
  }
  store(out + i, a, n_left);
}

#define DROPOUT(dtype, T)                                                                                          \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      dropout_fwd_##dtype(T* out, const T* x, uint64_t n, float probability, uint64_t seed, uint32_t purpose,      \
                          uint64_t first_element, const StepState* state) {                                        \
    drop<false>(out, x, n, probability, seed, purpose, first_element, state);                                      \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      dropout_add_##dtype(T* out, const T* x, uint64_t n, float probability, uint64_t seed, uint32_t purpose,      \
                          uint64_t first_element, const StepState* state) {                                        \
    drop<true>(out, x, n, probability, seed, purpose, first_element, state);                                       \
  }                                                                                                                \
  EXPORT(dropout_fwd_##dtype)                                                                                      \
  EXPORT(dropout_add_##dtype)

DROPOUT(f32, float)
DROPOUT(bf16, bf16)
