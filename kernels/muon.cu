// What Muon's update of a matrix takes beside products: momentum, norm, polynomial, and the update of the weights.
//
//   muon_direct      g = grad * factor,  m = m * mu + g * (1 - mu),  u = m * mu + g * (1 - mu) with Nesterov's momentum,
//                    else m;  partial[block] = sum of squares of the block's u, f64
//   muon_scale       x = u / max(sqrt(sum of partials), 1e-7)
//   muon_polynomial  q = b * g + a * I, of a square matrix: c * g * g is added by a product
//   muon_update      w = w * decay - x * learning_rate * scale
//
// weights, u (n) f32; grads, momentum (n) f32 or bfloat16; x, q, g in the type of the products; working (n), the weights
// in bfloat16, may be null. Decay and learning rate come from the step's state, the factor from its norm. A halted run
// keeps weights and momentum. Sums of an update are rounded as on the CPU. Momentum in bfloat16 is rounded at random, as
// AdamW's mean is: by the word of its place in the flat buffer, where the matrix's first element is number `first`; u is by the
// momentum before it is rounded.
// Launch: direct: grid (parts), block 512. The others: one thread a pack of 16 bytes of x (polynomial: one element),
// block 256. Static shared memory of block sums.
#include "philox.cuh"

constexpr double EPS = 1e-7;

__device__ __forceinline__ void keep(float* p, float m, uint32_t) { *p = m; }

__device__ __forceinline__ void keep(bf16* p, float m, uint32_t word) {
  *p = from_f32<bf16>(__uint_as_float(at_random(m, word & 0xffffu) << 16));
}

template <class M, class G>
__device__ __forceinline__ void direct(float* u, double* partial, M* momentum, const G* grads, uint64_t n, float mu,
                                       float one_minus_mu, int nesterov, const StepState* state, const GradNorm* norm,
                                       uint64_t seed, uint32_t purpose, uint64_t first) {
  double sum = 0.0;
  if (!norm->halted) {
    const float factor = norm->factor;
    // Fours of the flat buffer share random words; the first of them may begin before the matrix.
    const uint64_t before = first % 4, n_fours = (before + n + 3) / 4, step = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t four = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; four < n_fours; four += step) {
      Words noise = {{0, 0, 0, 0}};
      if (sizeof(M) == 2) {
        const uint64_t place = first / 4 + four;
        noise = philox({{(uint32_t)place, (uint32_t)(place >> 32), state->step, purpose}}, (uint32_t)seed,
                       (uint32_t)(seed >> 32));
      }
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const uint64_t i = four * 4 + k - before;
        // What lies before the matrix wraps around to a large number.
        if (i < n) {
          const float g = __fmul_rn(to_f32(grads[i]), factor);
          const float m = __fadd_rn(__fmul_rn(to_f32(momentum[i]), mu), __fmul_rn(g, one_minus_mu));
          const float ahead = __fadd_rn(__fmul_rn(m, mu), __fmul_rn(g, one_minus_mu));
          const float direction = nesterov != 0 ? ahead : m;
          keep(momentum + i, m, noise.word[k]);
          u[i] = direction;
          sum += (double)direction * (double)direction;
        }
      }
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class T>
__device__ __forceinline__ void scale(T* x, const float* u, const double* partial, int parts, uint64_t n) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < parts; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  const float inverse_norm = (float)(1.0 / fmax(sqrt(sum), EPS));
  const uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * Pack<T>::N;
  if (i >= n) return;
  const int n_left = (int)min((uint64_t)Pack<T>::N, n - i);
  Pack<T> pack = load_f32<T>(u + i, n_left);
#pragma unroll
  for (int k = 0; k < Pack<T>::N; k++) pack.values[k] = __fmul_rn(pack.values[k], inverse_norm);
  store<T>(x + i, pack, n_left);
}

template <class T> __device__ __forceinline__ void polynomial(T* q, const T* g, float a, float b, uint64_t side) {
  const uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= side * side) return;
  const float diagonal = i % (side + 1) == 0 ? a : 0.0f;
  q[i] = from_f32<T>(__fadd_rn(__fmul_rn(to_f32(g[i]), b), diagonal));
}

template <class T>
__device__ __forceinline__ void update(float* weights, bf16* working, const T* x, uint64_t n, float scale,
                                       const StepState* state, const GradNorm* norm) {
  const uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * Pack<T>::N;
  if (i >= n || norm->halted) return;
  const int n_left = (int)min((uint64_t)Pack<T>::N, n - i);
  const float rate = __fmul_rn(state->learning_rate, scale), decay = state->decay;
  Pack<T> w = load_f32<T>(weights + i, n_left);
  const Pack<T> change = load(x + i, n_left);
#pragma unroll
  for (int k = 0; k < Pack<T>::N; k++) {
    w.values[k] = __fadd_rn(__fmul_rn(w.values[k], decay), -__fmul_rn(change.values[k], rate));
  }
  store_f32<T>(weights + i, w, n_left);
  if (working != nullptr) {
#pragma unroll
    for (int k = 0; k < Pack<T>::N; k++) {
      if (k < n_left) working[i + k] = from_f32<bf16>(w.values[k]);
    }
  }
}

#define MUON_DIRECT(name, M, G)                                                                                     \
  extern "C" __global__ void __launch_bounds__(512)                                                                 \
      name(float* u, double* partial, M* momentum, const G* grads, uint64_t n, float mu, float one_minus_mu,        \
           int nesterov, const StepState* state, const GradNorm* norm, uint64_t seed, uint32_t purpose,             \
           uint64_t first) {                                                                                        \
    direct(u, partial, momentum, grads, n, mu, one_minus_mu, nesterov, state, norm, seed, purpose, first);          \
  }                                                                                                                 \
  EXPORT(name)

MUON_DIRECT(muon_direct_f32, float, float)
MUON_DIRECT(muon_direct_bf16, bf16, float)
MUON_DIRECT(muon_direct_of_bf16_f32, float, bf16)
MUON_DIRECT(muon_direct_of_bf16_bf16, bf16, bf16)

#define MUON(dtype, T)                                                                                              \
  extern "C" __global__ void __launch_bounds__(256)                                                                 \
      muon_scale_##dtype(T* x, const float* u, const double* partial, int parts, uint64_t n) {                      \
    scale(x, u, partial, parts, n);                                                                                 \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256)                                                                 \
      muon_polynomial_##dtype(T* q, const T* g, float a, float b, uint64_t side) {                                  \
    polynomial(q, g, a, b, side);                                                                                   \
  }                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256)                                                                 \
      muon_update_##dtype(float* weights, bf16* working, const T* x, uint64_t n, float scale,                       \
                          const StepState* state, const GradNorm* norm) {                                           \
    update(weights, working, x, n, scale, state, norm);                                                             \
  }                                                                                                                 \
  EXPORT(muon_scale_##dtype)                                                                                        \
  EXPORT(muon_polynomial_##dtype)                                                                                   \
  EXPORT(muon_update_##dtype)

MUON(f32, float)
MUON(bf16, bf16)
