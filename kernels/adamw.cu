// One AdamW update of flat buffers.
//
//   g = grad * factor,  m = m * beta1 + g * (1 - beta1),  v = v * beta2 + g * g * (1 - beta2)
//   w = w * decay - m / (sqrt(v * inverse_square_correction) + eps) * rate
//
// weights, grads, mean, mean_square (n) f32, of which the first n_decaying decay; working (n), the weights in the type
// that passes read, may be null. Rate, corrections and decay come from the step's state, the factor from its norm; a
// halted run is left as it is. Every operation is rounded by itself, as on the CPU: the same bits.
// Launch: one thread four elements, block 256. No shared memory.
#include "common.cuh"

struct Betas {
  float beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
};

template <class T>
__device__ __forceinline__ void update(float* weights, float* mean, float* mean_square, T* working,
                                       const float* grads, uint64_t n, uint64_t n_decaying, Betas betas,
                                       const StepState* state, const GradNorm* norm) {
  const uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i >= n || norm->halted) return;
  const int n_left = (int)min((uint64_t)4, n - i);
  const float factor = norm->factor, rate = state->rate, correction = state->inverse_square_correction;
  Pack<float> w = load(weights + i, n_left), m = load(mean + i, n_left), v = load(mean_square + i, n_left);
  const Pack<float> grad = load(grads + i, n_left);
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
  store(mean + i, m, n_left);
  store(mean_square + i, v, n_left);
  if (working != nullptr) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      if (k < n_left) working[i + k] = from_f32<T>(w.values[k]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256)
    adamw_f32(float* weights, float* mean, float* mean_square, bf16* working, const float* grads, uint64_t n,
              uint64_t n_decaying, float beta1, float one_minus_beta1, float beta2, float one_minus_beta2, float eps,
              const StepState* state, const GradNorm* norm) {
  update(weights, mean, mean_square, working, grads, n, n_decaying,
         {beta1, one_minus_beta1, beta2, one_minus_beta2, eps}, state, norm);
}

EXPORT(adamw_f32)
