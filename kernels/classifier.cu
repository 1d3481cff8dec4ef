// Softmax and cross-entropy over rows of logits: losses, hits, and the logits' gradients in their place.
//
//   loss[r] = weight[r] * (ln sum exp(logits[r]) - logits[r, target[r]]), over the first v columns
//   correct[r] = 1 where weight[r] > 0 and the target's is the first of the largest logits, else 0
//   logits[r] = scale * weight[r] * (softmax(logits[r]) - onehot(target[r])), 0 in the columns from v to v_padded
//
// classifier_capped_*: logits are cap * tanh(logits / cap), and gradients are those of what they were made of.
//
// Of a row of weight 0 no logit is read: loss, hit and gradients are 0, whatever it holds.
//
// logits (n, v_padded), overwritten by bwd and left alone by fwd; targets (n) u32; weights (n) f32, at least 0, or null,
// where each is 1; losses (n) f32, correct (n) u32, overwritten.
// Launch: grid (n), block 512. Shared memory: 32 floats, static. No probabilities are stored.
//
// Ways of bwd, which differ in how often a row is read from memory; `_fast` has exponentials by the special function
// unit, off by a few units in the last place of f32:
//
//   bwd                three times: for the maximum, the sum, and the gradients
//   bwd_shared[_fast]  once: the row is held in v_padded elements of dynamic shared memory. Without _fast, the same bits
//                      as bwd. Rows must be whole packs at multiples of 16 bytes
//   bwd_online[_fast]  twice: maximum and sum in one pass, in which a thread's sum is scaled as its maximum grows
//                      (Milakov and Gimelshein, Online normalizer calculation for softmax, arXiv 1805.02867, section 3)
#include "common.cuh"

// What the loss takes for a logit, and by how much that changes with it.
struct Uncapped {
  __device__ __forceinline__ float of(float x) const { return x; }
  __device__ __forceinline__ float slope(float) const { return 1.0f; }
};

struct Capped {
  float cap;
  __device__ __forceinline__ float of(float x) const { return cap * tanhf(x / cap); }
  // At a logit that is capped already.
  __device__ __forceinline__ float slope(float x) const { return 1.0f - (x / cap) * (x / cap); }
};

// A row whose probabilities are on their way.
template <class T> struct Row {
  T* logits;
  float weight;
  int target;
  float of_target;
};

template <bool FAST> __device__ __forceinline__ float exponential(float x) { return FAST ? __expf(x) : expf(x); }

// Where the row is and what it is held against; false for a row of weight 0, which is then done.
template <class T, bool GRADIENT, class C>
__device__ __forceinline__ bool begin(Row<T>& row, T* logits, float* losses, uint32_t* correct,
                                      const uint32_t* targets, const float* weights, int v_padded, C cap) {
  constexpr int N = Pack<T>::N;
  row.logits = logits + (size_t)blockIdx.x * v_padded;
  row.weight = weights ? weights[blockIdx.x] : 1.0f;
  if (row.weight == 0.0f) {
    if (threadIdx.x == 0) {
      losses[blockIdx.x] = 0.0f;
      correct[blockIdx.x] = 0;
    }
    for (int i = threadIdx.x * N; GRADIENT && i < v_padded; i += blockDim.x * N) {
      store(row.logits + i, Pack<T>{}, v_padded - i);
    }
    return false;
  }
  row.target = (int)targets[blockIdx.x];
  row.of_target = cap.of(to_f32(row.logits[row.target]));
  return true;
}

// `max`, the sum of exp(logit - max), and how many logits before the target's are as large as `max`.
template <class T>
__device__ __forceinline__ void finish(const Row<T>& row, float max, float sum, float before, float* losses,
                                       uint32_t* correct) {
  if (threadIdx.x == 0) {
    losses[blockIdx.x] = row.weight * (logf(sum) + (max - row.of_target));
    correct[blockIdx.x] = row.of_target == max && before == 0.0f ? 1 : 0;
  }
}

template <class T, bool FAST, class C>
__device__ __forceinline__ void write_gradients(const Row<T>& row, const T* from, float max, float sum, int v,
                                                int v_padded, float scale, C cap) {
  constexpr int N = Pack<T>::N;
  scale *= row.weight;
  const float factor = scale / sum;
  for (int i = threadIdx.x * N; i < v_padded; i += blockDim.x * N) {
    // What lies behind the last pack with a logit is not looked at: it need not be there.
    Pack<T> a = load(from + i, i < v ? v_padded - i : 0);
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float logit = cap.of(a.values[k]);
      const float p = i + k < v ? exponential<FAST>(logit - max) * factor : 0.0f;
      a.values[k] = (i + k == row.target ? p - scale : p) * cap.slope(logit);
    }
    store(row.logits + i, a, v_padded - i);
  }
}

template <class T, bool GRADIENT, bool SHARED, bool FAST, class C>
__device__ __forceinline__ void classify(T* logits, float* losses, uint32_t* correct, const uint32_t* targets,
                                         const float* weights, int v, int v_padded, float scale, C cap) {
  constexpr int N = Pack<T>::N;
  DYNAMIC_SHARED(shared);
  Row<T> row;
  if (!begin<T, GRADIENT>(row, logits, losses, correct, targets, weights, v_padded, cap)) return;
  const int step = blockDim.x * N;
  T* copy = reinterpret_cast<T*>(shared);
  if (SHARED) {
    // All of the row is on its way at once. Each thread reads what it copied itself.
    for (int i = threadIdx.x * N; i < v; i += step) copy_async(copy + i, row.logits + i);
    wait_for_copies();
  }
  const T* from = SHARED ? copy : row.logits;
  float max = -INFINITY;
  for (int i = threadIdx.x * N; i < v; i += step) {
    const Pack<T> a = load(from + i, SHARED ? v_padded - i : v - i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      if (i + k < v) max = fmaxf(max, cap.of(a.values[k]));
    }
  }
  max = block_max(max);
  float sum = 0.0f, before = 0.0f;
  for (int i = threadIdx.x * N; i < v; i += step) {
    const Pack<T> a = load(from + i, SHARED ? v_padded - i : v - i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      if (i + k >= v) continue;
      const float logit = cap.of(a.values[k]);
      sum += exponential<FAST>(logit - max);
      before += i + k < row.target && logit == max ? 1.0f : 0.0f;
    }
  }
  sum = block_sum(sum);
  before = block_sum(before);
  finish(row, max, sum, before, losses, correct);
  if (GRADIENT) write_gradients<T, FAST>(row, from, max, sum, v, v_padded, scale, cap);
}

template <class T, bool FAST, class C>
__device__ __forceinline__ void classify_online(T* logits, float* losses, uint32_t* correct, const uint32_t* targets,
                                                const float* weights, int v, int v_padded, float scale, C cap) {
  constexpr int N = Pack<T>::N;
  Row<T> row;
  if (!begin<T, true>(row, logits, losses, correct, targets, weights, v_padded, cap)) return;
  float max = -INFINITY, sum = 0.0f, before = 0.0f;
  for (int i = threadIdx.x * N; i < v; i += blockDim.x * N) {
    Pack<T> a = load(row.logits + i, v - i);
    float next = max;
#pragma unroll
    for (int k = 0; k < N; k++) {
      a.values[k] = cap.of(a.values[k]);
      if (i + k < v) next = fmaxf(next, a.values[k]);
    }
    // Where all so far are -inf, so that each of them adds 0 and not-a-number adds itself.
    const float base = next == -INFINITY ? 0.0f : next;
    if (next > max) {
      sum *= exponential<FAST>(max - base);
      before = 0.0f;
      max = next;
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
      if (i + k >= v) continue;
      sum += exponential<FAST>(a.values[k] - base);
      before += i + k < row.target && a.values[k] == max ? 1.0f : 0.0f;
    }
  }
  const float of_row = block_max(max);
  sum = block_sum(max == of_row ? sum : sum * exponential<FAST>(max - of_row));
  before = block_sum(max == of_row ? before : 0.0f);
  finish(row, of_row, sum, before, losses, correct);
  write_gradients<T, FAST>(row, row.logits, of_row, sum, v, v_padded, scale, cap);
}

#define CLASSIFIER_KERNEL(pass, T, ...)                                                                            \
  extern "C" __global__ void __launch_bounds__(512)                                                                \
      classifier_##pass(T* logits, float* losses, uint32_t* correct, const uint32_t* targets,                      \
                        const float* weights, int v, int v_padded, float scale) {                                  \
    __VA_ARGS__(logits, losses, correct, targets, weights, v, v_padded, scale, Uncapped{});                        \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(512)                                                                \
      classifier_capped_##pass(T* logits, float* losses, uint32_t* correct, const uint32_t* targets,               \
                               const float* weights, int v, int v_padded, float scale, float cap) {                \
    __VA_ARGS__(logits, losses, correct, targets, weights, v, v_padded, scale, Capped{cap});                       \
  }                                                                                                                \
  EXPORT(classifier_##pass)                                                                                        \
  EXPORT(classifier_capped_##pass)

#define CLASSIFIER(dtype, T)                                                                                       \
  CLASSIFIER_KERNEL(fwd_##dtype, T, classify<T, false, false, false>)                                              \
  CLASSIFIER_KERNEL(bwd_##dtype, T, classify<T, true, false, false>)                                               \
  CLASSIFIER_KERNEL(bwd_shared_##dtype, T, classify<T, true, true, false>)                                         \
  CLASSIFIER_KERNEL(bwd_shared_fast_##dtype, T, classify<T, true, true, true>)                                     \
  CLASSIFIER_KERNEL(bwd_online_##dtype, T, classify_online<T, false>)                                              \
  CLASSIFIER_KERNEL(bwd_online_fast_##dtype, T, classify_online<T, true>)

CLASSIFIER(f32, float)
CLASSIFIER(bf16, bf16)
