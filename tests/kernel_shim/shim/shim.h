// CUDA's execution model on a CPU, as far as kernels/ uses it: one block after the other, each of its threads a fiber
// that runs until a barrier. Which warps run first is drawn from a seed, so that a missing barrier shows.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Blocks run one after the other, and each host thread has its own.
#define __shared__ static thread_local

using std::isfinite;
using std::max;
using std::min;

struct Index3 {
  unsigned x, y, z;
};

namespace shim {

extern thread_local Index3 thread_idx, block_idx, block_dim, grid_dim;

// Waits for the block's other threads, or for the other lanes of the warp.
void block_barrier();
void warp_barrier();

// Where the shared memory lies that the launch asked for. It holds not-a-numbers when a block starts.
unsigned char* dynamic_shared();

// The eight bytes that lane `source` of the warp gives; all living lanes must take part.
uint64_t exchange(uint64_t value, unsigned source);
unsigned lane();

using Call = void (*)(void* const* args);

struct Launcher {
  Call call;
  // The types of its parameters, a letter each: see `code_of`.
  const char* types;
};

// A lower-case letter for a value, an upper-case one for a pointer, as crates/ops/src/board/args.rs has them.
template <class T> constexpr char code_of() {
  if constexpr (std::is_pointer_v<T>) {
    using To = std::remove_cv_t<std::remove_pointer_t<T>>;
    if constexpr (std::is_same_v<To, float>) return 'F';
    else if constexpr (std::is_same_v<To, double>) return 'D';
    else if constexpr (std::is_same_v<To, uint32_t>) return 'U';
    else if constexpr (std::is_same_v<To, uint8_t>) return 'B';
    else if constexpr (requires(To x) { x.bits; }) return 'H';
    else if constexpr (requires(To x) { x.slot; }) return 'S';
    else if constexpr (requires(To x) { x.halted; }) return 'N';
    else if constexpr (requires(To x) { x.n_correct; }) return 'R';
    else return '?';
  }
  else if constexpr (std::is_same_v<T, int>) return 'i';
  else if constexpr (std::is_same_v<T, uint32_t>) return 'u';
  else if constexpr (std::is_same_v<T, uint64_t>) return 'q';
  else if constexpr (std::is_same_v<T, float>) return 'f';
  else if constexpr (std::is_same_v<T, double>) return 'd';
  else return '?';
}

// A kernel's name and how to call it with an array of pointers to its arguments.
struct Registration {
  Registration(const char* name, Launcher launcher);
};

template <auto kernel, class... A, size_t... I>
void call_with(void* const* args, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cv_t<A>*>(args[I])...);
}

template <auto kernel> struct Unpack;

template <class... A, void (*kernel)(A...)> struct Unpack<kernel> {
  static void call(void* const* args) { call_with<kernel, A...>(args, std::index_sequence_for<A...>{}); }
  static constexpr char types[] = {code_of<std::remove_cv_t<A>>()..., 0};
};

template <auto kernel> constexpr Launcher launcher_of() { return {&Unpack<kernel>::call, Unpack<kernel>::types}; }

template <class T> T exchange_typed(T value, unsigned source) {
  static_assert(sizeof(T) <= 8);
  uint64_t bytes = 0;
  std::memcpy(&bytes, &value, sizeof(T));
  bytes = exchange(bytes, source);
  std::memcpy(&value, &bytes, sizeof(T));
  return value;
}

}  // namespace shim

#define launcher(kernel) launcher_of<&kernel>()

#define threadIdx shim::thread_idx
#define blockIdx shim::block_idx
#define blockDim shim::block_dim
#define gridDim shim::grid_dim

inline void __syncthreads() { shim::block_barrier(); }
inline void __syncwarp() { shim::warp_barrier(); }

template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
  return shim::exchange_typed(value, shim::lane() ^ (unsigned)mask);
}

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// Compiled without contraction: each is rounded by itself.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }

// On a device, off by 2 + |1.17 x| units in the last place.
inline float __expf(float x) { return expf(x); }

// bfloat16: the upper half of a float, rounded to the nearest, ties to even.
struct __nv_bfloat16 {
  uint16_t bits;
};

inline __nv_bfloat16 __float2bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {(uint16_t)(bits >> 16 | 0x40)};
  return {(uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = (uint32_t)x.bits << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
