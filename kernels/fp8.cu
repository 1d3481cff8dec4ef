// Tensors in eight bits, e4m3 or e5m2, with one scale each: crates/ops/src/fp8.
//
//   fp8_largest   parts[part] = the bits of the largest |x| of the part's elements
//   fp8_<format>  scale = least power of two with max over parts <= scale * largest,  out = round(x / scale)
//
// Bits are compared as integers, so not-a-numbers come out on top; the scale is then not a number. Rounding is to the
// nearest, ties to even.
// x (rows, columns), both multiples of 16; out (rows, columns) and transposed (columns, rows), a byte an element, either
// may be null; scale (1) f32; parts (n_parts, at most 256). x, out and transposed at multiples of 16 bytes.
// Launch: fp8_largest: grid parts, block 256. fp8_<format>: grid (columns / 64, rows / 64), each rounded up, block 256,
// 4.4 KB of shared memory, static. One read of x each; fp8_<format> writes a byte an element for each of its outputs.
#include "common.cuh"

struct E4m3 {
  static constexpr uint32_t MANTISSA = 3, BIAS = 7, LARGEST_CODE = 0x7e, LARGEST_EXPONENT = 8;
};
struct E5m2 {
  static constexpr uint32_t MANTISSA = 2, BIAS = 15, LARGEST_CODE = 0x7b, LARGEST_EXPONENT = 15;
};

// Format::encode of crates/ops/src/fp8/mod.rs.
template <class F> __device__ __forceinline__ uint32_t encode(float x) {
  constexpr uint32_t DROPPED = 23 - F::MANTISSA;
  const uint32_t bits = __float_as_uint(x), size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return 0x7f;
  uint32_t code;
  if (size >= (128 - F::BIAS) << 23) {
    const uint32_t rounded = size + (1u << (DROPPED - 1)) - 1 + (size >> DROPPED & 1);
    code = min((rounded >> DROPPED) - ((127 - F::BIAS) << F::MANTISSA), F::LARGEST_CODE);
  } else {
    constexpr uint32_t SHIFT = (128 - F::BIAS + DROPPED) << 23;
    code = __float_as_uint(__fadd_rn(__uint_as_float(size), __uint_as_float(SHIFT))) - SHIFT;
  }
  return bits >> 31 << 7 | code;
}

// Two neighbours: the first in the lower byte. From sm_89 on the device has an instruction for it.
template <class F> __device__ __forceinline__ uint32_t encode_two(float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t codes;
  if (F::MANTISSA == 3) {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(second), "f"(first));
  }
  return codes;
#else
  return encode<F>(first) | encode<F>(second) << 8;
#endif
}

// Format::scale of crates/ops/src/fp8/mod.rs, and its inverse.
struct Scale {
  float scale, inverse;
};

template <class F> __device__ __forceinline__ Scale scale_of(uint32_t largest) {
  if (largest == 0) return {1.0f, 1.0f};
  if (largest >= 0x7f800000u) return {__uint_as_float(0x7fc00000u), __uint_as_float(0x7fc00000u)};
  const uint32_t exponent = (largest >> 23) + ((largest & 0x7fffffu) > 0x600000u ? 1u : 0u);
  const uint32_t field = exponent > F::LARGEST_EXPONENT ? exponent - F::LARGEST_EXPONENT : 1u;
  return {__uint_as_float(field << 23), __uint_as_float((254u - field) << 23)};
}

// The largest over a block of 256 threads, in every thread.
__device__ __forceinline__ uint32_t block_largest(uint32_t x) {
  __shared__ uint32_t largest[8];
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) x = max(x, __shfl_xor_sync(ALL_LANES, x, step));
  __syncthreads();
  if (threadIdx.x % WARP == 0) largest[threadIdx.x / WARP] = x;
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < 8; warp++) x = max(x, largest[warp]);
  return x;
}

template <class T> __device__ __forceinline__ void largest(uint32_t* parts, const T* x, uint64_t n) {
  constexpr int N = Pack<T>::N;
  uint32_t most = 0;
  for (uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * N; i < n;
       i += (uint64_t)gridDim.x * blockDim.x * N) {
    const Pack<T> pack = load(x + i, N);
#pragma unroll
    for (int k = 0; k < N; k++) most = max(most, __float_as_uint(pack.values[k]) & 0x7fffffffu);
  }
  most = block_largest(most);
  if (threadIdx.x == 0) parts[blockIdx.x] = most;
}

constexpr int TILE = 64;
// Bytes from one column of the tile to the next: 17 words, so that columns start in different banks.
constexpr int COLUMN = TILE + 4;

template <class F, class T>
__device__ __forceinline__ void quantize(uint8_t* out, uint8_t* transposed, float* scale, const T* x,
                                         const uint32_t* parts, int n_parts, int rows, int columns) {
  constexpr int N = Pack<T>::N, PACKS = TILE / N;
  __shared__ uint32_t tile[TILE * COLUMN / 4];
  const Scale by = scale_of<F>(block_largest((int)threadIdx.x < n_parts ? parts[threadIdx.x] : 0));
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *scale = by.scale;
  const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
#pragma unroll
  for (int k = 0; k < TILE * PACKS / 256; k++) {
    const int pack = k * 256 + threadIdx.x;
    const int row = pack / PACKS, column = pack % PACKS * N;
    if (first_row + row >= rows || first_column + column >= columns) continue;
    const size_t at = (size_t)(first_row + row) * columns + first_column + column;
    const Pack<T> values = load(x + at, N);
    uint32_t words[N / 4];
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
      const float* four = values.values + 4 * i;
      words[i] = encode_two<F>(four[0] * by.inverse, four[1] * by.inverse) |
                 encode_two<F>(four[2] * by.inverse, four[3] * by.inverse) << 16;
    }
    if (out != nullptr) {
#pragma unroll
      for (int i = 0; i < N / 4; i++) reinterpret_cast<uint32_t*>(out + at)[i] = words[i];
    }
    if (transposed != nullptr) {
      uint8_t* const bytes = reinterpret_cast<uint8_t*>(tile);
#pragma unroll
      for (int i = 0; i < N; i++) bytes[(column + i) * COLUMN + row] = (uint8_t)(words[i / 4] >> (8 * (i % 4)));
    }
  }
  if (transposed == nullptr) return;
  __syncthreads();
  const int column = threadIdx.x / 4, row = threadIdx.x % 4 * 16;
  if (first_column + column >= columns || first_row + row >= rows) return;
  Line line;
#pragma unroll
  for (int i = 0; i < 4; i++) line.words[i] = tile[(column * COLUMN + row) / 4 + i];
  store_line(transposed + (size_t)(first_column + column) * rows + first_row + row, line, true);
}

#define FP8(dtype, T)                                                                                              \
  extern "C" __global__ void __launch_bounds__(256) fp8_largest_##dtype(uint32_t* parts, const T* x, uint64_t n) { \
    largest(parts, x, n);                                                                                          \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      fp8_e4m3_##dtype(uint8_t* out, uint8_t* transposed, float* scale, const T* x, const uint32_t* parts,         \
                       int n_parts, int rows, int columns) {                                                       \
    quantize<E4m3>(out, transposed, scale, x, parts, n_parts, rows, columns);                                      \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      fp8_e5m2_##dtype(uint8_t* out, uint8_t* transposed, float* scale, const T* x, const uint32_t* parts,         \
                       int n_parts, int rows, int columns) {                                                       \
    quantize<E5m2>(out, transposed, scale, x, parts, n_parts, rows, columns);                                      \
  }                                                                                                                \
  EXPORT(fp8_largest_##dtype)                                                                                      \
  EXPORT(fp8_e4m3_##dtype)                                                                                         \
  EXPORT(fp8_e5m2_##dtype)

FP8(f32, float)
FP8(bf16, bf16)
