// Softmax and cross-entropy over rows of logits: losses, hits, and the logits' gradients in their place.
//
//   loss[r] = weight[r] * (ln sum exp(logits[r]) - logits[r, target[r]]), over the first v columns
//   correct[r] = 1 where weight[r] > 0 and the target's is the first of the largest logits, else 0
//   logits[r] = scale * weight[r] * (softmax(logits[r]) - onehot(target[r])), 0 in the columns from v to v_padded
//
// Of a row of weight 0 no logit is read: loss, hit and gradients are 0, whatever it holds.
//
// logits (n, v_padded), overwritten by bwd and left alone by fwd; targets (n) u32; weights (n) f32, at least 0, or null,
// where each is 1; losses (n) f32, correct (n) u32, overwritten.
// Launch: grid (n), block 512. Shared memory: 32 floats, static. No probabilities are stored.
#include "common.cuh"

template <class T, bool GRADIENT>
__device__ __forceinline__ void classify(T* logits, float* losses, uint32_t* correct, const uint32_t* targets,
                                         const float* weights, int v, int v_padded, float scale) {
  constexpr int N = Pack<T>::N;
  T* row = logits + (size_t)blockIdx.x * v_padded;
  const float weight = weights ? weights[blockIdx.x] : 1.0f;
  if (weight == 0.0f) {
    if (threadIdx.x == 0) {
      losses[blockIdx.x] = 0.0f;
      correct[blockIdx.x] = 0;
    }
    for (int i = threadIdx.x; GRADIENT && i < v_padded; i += blockDim.x) row[i] = from_f32<T>(0.0f);
    return;
  }
  const int target = (int)targets[blockIdx.x];
  const float of_target = to_f32(row[target]);
  const int step = blockDim.x * N;
  float max = -INFINITY;
  for (int i = threadIdx.x * N; i < v; i += step) {
    const Pack<T> a = load(row + i, v - i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      if (i + k < v) max = fmaxf(max, a.values[k]);
    }
  }
  max = block_max(max);
  float sum = 0.0f, before = 0.0f;
  for (int i = threadIdx.x * N; i < v; i += step) {
    const Pack<T> a = load(row + i, v - i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      if (i + k >= v) continue;
      sum += expf(a.values[k] - max);
      before += i + k < target && a.values[k] == max ? 1.0f : 0.0f;
    }
  }
  sum = block_sum(sum);
  before = block_sum(before);
  if (threadIdx.x == 0) {
    losses[blockIdx.x] = weight * (logf(sum) + (max - of_target));
    correct[blockIdx.x] = of_target == max && before == 0.0f ? 1 : 0;
  }
  if (!GRADIENT) return;
  scale *= weight;
  const float factor = scale / sum;
  for (int i = threadIdx.x * N; i < v_padded; i += step) {
    Pack<T> a = load(row + i, v_padded - i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float p = i + k < v ? expf(a.values[k] - max) * factor : 0.0f;
      a.values[k] = i + k == target ? p - scale : p;
    }
    store(row + i, a, v_padded - i);
  }
}

#define CLASSIFIER(dtype, T)                                                                                       \
  extern "C" __global__ void __launch_bounds__(512)                                                                \
      classifier_fwd_##dtype(T* logits, float* losses, uint32_t* correct, const uint32_t* targets,                 \
                             const float* weights, int v, int v_padded, float scale) {                             \
    classify<T, false>(logits, losses, correct, targets, weights, v, v_padded, scale);                             \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(512)                                                                \
      classifier_bwd_##dtype(T* logits, float* losses, uint32_t* correct, const uint32_t* targets,                 \
                             const float* weights, int v, int v_padded, float scale) {                             \
    classify<T, true>(logits, losses, correct, targets, weights, v, v_padded, scale);                              \
  }                                                                                                                \
  EXPORT(classifier_fwd_##dtype)                                                                                   \
  EXPORT(classifier_bwd_##dtype)

CLASSIFIER(f32, float)
CLASSIFIER(bf16, bf16)
