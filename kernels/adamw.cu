// One AdamW update of flat buffers.
//
//   g = grad * factor,  m = m * beta1 + g * (1 - beta1),  v = v * beta2 + g * g * (1 - beta2)
//   w = w * decay - m / (sqrt(v * inverse_square_correction) + eps) * rate
//
// weights (n) f32, grads, mean, mean_square (n) f32 or bfloat16, of which the first n_decaying decay; working (n), the
// weights in the type that passes read, may be null. Rate, corrections and decay come from the step's state, the factor
// from its norm; a halted run is left as it is. Every operation is rounded by itself, as on the CPU: the same bits.
// Kernels are named by the type of moments, adamw_of_bf16 are those of gradients in bfloat16, which are widened.
// Moments in bfloat16 are widened, and what the update leaves of them is rounded at random: element i by word first + i
// of the stream of `purpose` at this step under `seed`, its lower half for the mean, its upper half for the mean of
// squares; first is a multiple of 4. The weights' change is by the moments before they are rounded.
// Launch: one thread four elements, block 256. No shared memory.
#include "philox.cuh"

struct Betas {
  float beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
};

// Four neighbours, of which the first `n_left` exist.
__device__ __forceinline__ Pack<float> load_four(const float* p, int n_left) { return load(p, n_left); }

__device__ __forceinline__ Pack<float> load_four(const bf16* p, int n_left) {
  uint64_t words = 0;
  if (n_left >= 4) {
    words = *reinterpret_cast<const uint64_t*>(p);
  } else {
#pragma unroll
    for (int k = 0; k < 3; k++) {
      if (k < n_left) words |= (uint64_t)(__float_as_uint(to_f32(p[k])) >> 16) << (16 * k);
    }
  }
  Pack<float> four;
#pragma unroll
  for (int k = 0; k < 4; k++) four.values[k] = __uint_as_float((uint32_t)(words >> (16 * k)) << 16);
  return four;
}

__device__ __forceinline__ void store_four(float* p, const Pack<float>& four, int n_left, const Words&, int) {
  store(p, four, n_left);
}

__device__ __forceinline__ void store_four(bf16* p, const Pack<float>& four, int n_left, const Words& noise, int shift) {
  uint64_t words = 0;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    words |= (uint64_t)at_random(four.values[k], noise.word[k] >> shift & 0xffffu) << (16 * k);
  }
  if (n_left >= 4) {
    *reinterpret_cast<uint64_t*>(p) = words;
  } else {
#pragma unroll
    for (int k = 0; k < 3; k++) {
      if (k < n_left) p[k] = from_f32<bf16>(__uint_as_float((uint32_t)(words >> (16 * k)) << 16));
    }
  }
}

template <class M, class G, class T>
__device__ __forceinline__ void update(float* weights, M* mean, M* mean_square, T* working, const G* grads,
                                       uint64_t n, uint64_t n_decaying, Betas betas, const StepState* state,
                                       const GradNorm* norm, uint64_t seed, uint32_t purpose, uint64_t first) {
  const uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i >= n || norm->halted) return;
  const int n_left = (int)min((uint64_t)4, n - i);
  const float factor = norm->factor, rate = state->rate, correction = state->inverse_square_correction;
  Pack<float> w = load(weights + i, n_left), m = load_four(mean + i, n_left), v = load_four(mean_square + i, n_left);
  const Pack<float> grad = load_four(grads + i, n_left);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const float decay = i + k < n_decaying ? state->decay : 1.0f;
    const float g = __fmul_rn(grad.values[k], factor);
    m.values[k] = __fadd_rn(__fmul_rn(m.values[k], betas.beta1), __fmul_rn(g, betas.one_minus_beta1));
    v.values[k] = __fadd_rn(__fmul_rn(v.values[k], betas.beta2), __fmul_rn(__fmul_rn(g, g), betas.one_minus_beta2));
    const float root = __fadd_rn(__fsqrt_rn(__fmul_rn(v.values[k], correction)), betas.eps);
    const float change = __fmul_rn(__fdiv_rn(m.values[k], root), rate);
    w.values[k] = __fadd_rn(__fmul_rn(w.values[k], decay), -change);
  }
  store(weights + i, w, n_left);
  Words noise = {{0, 0, 0, 0}};
  if (sizeof(M) == 2) {
    const uint64_t four = (first + i) / 4;
    noise = philox({{(uint32_t)four, (uint32_t)(four >> 32), state->step, purpose}}, (uint32_t)seed,
                   (uint32_t)(seed >> 32));
  }
  store_four(mean + i, m, n_left, noise, 0);
  store_four(mean_square + i, v, n_left, noise, 16);
  if (working != nullptr) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      if (k < n_left) working[i + k] = from_f32<T>(w.values[k]);
    }
  }
}

#define ADAMW(name, M, G)                                                                                           \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      name(float* weights, M* mean, M* mean_square, bf16* working, const G* grads, uint64_t n, uint64_t n_decaying, \
           float beta1, float one_minus_beta1, float beta2, float one_minus_beta2, float eps,                      \
           const StepState* state, const GradNorm* norm, uint64_t seed, uint32_t purpose, uint64_t first) {        \
    update(weights, mean, mean_square, working, grads, n, n_decaying,                                              \
           {beta1, one_minus_beta1, beta2, one_minus_beta2, eps}, state, norm, seed, purpose, first);              \
  }                                                                                                                \
  EXPORT(name)

ADAMW(adamw_f32, float, float)
ADAMW(adamw_bf16, bf16, float)
ADAMW(adamw_of_bf16_f32, float, bf16)
ADAMW(adamw_of_bf16_bf16, bf16, bf16)
