// The softmax of attention, between its matrix products, for the heads of one sequence.
//
//   fwd  p = softmax(scale * scores) over the keys that a row sees, probabilities = dropped(p), log_sum_exp kept
//   bwd  p = exp(scale * scores - log_sum_exp), probabilities = dropped(p),
//        grad_scores = scale * (p * dropped(grad_probabilities) - p * row sum of probabilities * grad_probabilities)
//
// Row i sees the keys j of its document with i - window < j <= i. Window t is causal attention; window 0 means that a
// row sees all of its document. documents (t) u32: the row at which each row's document starts; it never falls. Null
// means one document.
//
// scores, grad_probabilities (h, t, t) f32; probabilities, grad_scores (h, t, t), overwritten, 0 where a key is not
// seen; log_sum_exp (h, t) f32. Probability (head, i, j) is element first_element + (head * t + i) * t + j of dropout.
// Launch: grid (h * t / 4), block 128, one warp a row. No shared memory.
#include "philox.cuh"

constexpr int COLUMNS = 4;  // neighbours of a lane: they share one draw of random numbers

// The keys that row i sees: from begin to before end.
struct Seen {
  int begin, end;

  __device__ __forceinline__ Seen(int i, int t, int window, const uint32_t* documents)
      : begin(documents ? (int)documents[i] : 0), end(i + 1) {
    if (window > 0) {
      begin = max(begin, i + 1 - window);
      return;
    }
    // Bisects for the first row of the next document; row `last` is of this one, row `end` is not.
    int last = i;
    end = t;
    while (documents && end - last > 1) {
      const int middle = last + (end - last) / 2;
      if ((int)documents[middle] > begin) {
        end = middle;
      } else {
        last = middle;
      }
    }
  }

  __device__ __forceinline__ bool has(int j) const { return j >= begin && j < end; }

  // The first column of a lane: columns are dealt out from a multiple of COLUMNS on.
  __device__ __forceinline__ int first() const {
    return begin / COLUMNS * COLUMNS + (int)(threadIdx.x % WARP) * COLUMNS;
  }
};

template <class T>
__device__ __forceinline__ void fwd(T* probabilities, float* log_sum_exp, const float* scores, int n_rows, int t,
                                    int window, const uint32_t* documents, float scale, float probability,
                                    uint64_t seed, uint32_t purpose, uint64_t first_element,
                                    const StepState* state) {
  const int row = blockIdx.x * 4 + threadIdx.x / WARP;
  if (row >= n_rows) return;
  const Seen seen(row % t, t, window, documents);
  const size_t at = (size_t)row * t;
  const int first = threadIdx.x % WARP * COLUMNS;
  float max = -INFINITY;
  for (int j = seen.first(); j < seen.end; j += WARP * COLUMNS) {
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
      if (seen.has(j + k)) max = fmaxf(max, scale * scores[at + j + k]);
    }
  }
  max = warp_max(max);
  float sum = 0.0f;
  for (int j = seen.first(); j < seen.end; j += WARP * COLUMNS) {
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
      if (seen.has(j + k)) sum += expf(scale * scores[at + j + k] - max);
    }
  }
  sum = warp_sum(sum);
  const float inverse = 1.0f / sum;
  if (threadIdx.x % WARP == 0) log_sum_exp[row] = max + logf(sum);
  Dropped dropped(probability, seed, purpose, state);
  for (int j = first; j < t; j += WARP * COLUMNS) {
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
      if (j + k >= t) continue;
      float p = 0.0f;
      if (seen.has(j + k)) {
        p = expf(scale * scores[at + j + k] - max) * inverse * dropped.factor(first_element + at + j + k);
      }
      probabilities[at + j + k] = from_f32<T>(p);
    }
  }
}

template <class T>
__device__ __forceinline__ void bwd(T* probabilities, T* grad_scores, const float* scores,
                                    const float* grad_probabilities, const float* log_sum_exp, int n_rows, int t,
                                    int window, const uint32_t* documents, float scale, float probability,
                                    uint64_t seed, uint32_t purpose, uint64_t first_element,
                                    const StepState* state) {
  const int row = blockIdx.x * 4 + threadIdx.x / WARP;
  if (row >= n_rows) return;
  const Seen seen(row % t, t, window, documents);
  const size_t at = (size_t)row * t;
  const int first = threadIdx.x % WARP * COLUMNS;
  const float lse = log_sum_exp[row];
  Dropped dropped(probability, seed, purpose, state);
  float level = 0.0f;
  for (int j = seen.first(); j < seen.end; j += WARP * COLUMNS) {
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
      if (!seen.has(j + k)) continue;
      const float p = expf(scale * scores[at + j + k] - lse);
      level += p * dropped.factor(first_element + at + j + k) * grad_probabilities[at + j + k];
    }
  }
  level = warp_sum(level);
  for (int j = first; j < t; j += WARP * COLUMNS) {
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
      if (j + k >= t) continue;
      float p = 0.0f, grad = 0.0f;
      if (seen.has(j + k)) {
        const float factor = dropped.factor(first_element + at + j + k);
        p = expf(scale * scores[at + j + k] - lse);
        grad = scale * p * (factor * grad_probabilities[at + j + k] - level);
        p *= factor;
      }
      probabilities[at + j + k] = from_f32<T>(p);
      grad_scores[at + j + k] = from_f32<T>(grad);
    }
  }
}

#define ATTENTION(dtype, T)                                                                                        \
  extern "C" __global__ void __launch_bounds__(128) attention_fwd_##dtype(                                         \
      T* probabilities, float* log_sum_exp, const float* scores, int n_rows, int t, int window,                    \
      const uint32_t* documents, float scale, float probability, uint64_t seed, uint32_t purpose,                  \
      uint64_t first_element, const StepState* state) {                                                            \
    fwd(probabilities, log_sum_exp, scores, n_rows, t, window, documents, scale, probability, seed, purpose,       \
        first_element, state);                                                                                     \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128) attention_bwd_##dtype(                                         \
      T* probabilities, T* grad_scores, const float* scores, const float* grad_probabilities,                      \
      const float* log_sum_exp, int n_rows, int t, int window, const uint32_t* documents, float scale,             \
      float probability, uint64_t seed, uint32_t purpose, uint64_t first_element, const StepState* state) {        \
    bwd(probabilities, grad_scores, scores, grad_probabilities, log_sum_exp, n_rows, t, window, documents, scale,  \
        probability, seed, purpose, first_element, state);                                                         \
  }                                                                                                                \
  EXPORT(attention_fwd_##dtype)                                                                                    \
  EXPORT(attention_bwd_##dtype)

ATTENTION(f32, float)
ATTENTION(bf16, bf16)
