// Rows of the token table, and of the position table where there is one.
//
//   fwd                out[r] = dropped(token_table[tokens[r]] + position_table[p])
//   bwd                grad_token_table[token] += sum of the token's rows of grad_out, in the order of `order`
//   bwd_chunks, joins  the same of a token whose rows are many by many blocks: `order` is cut into chunks of 32. A run of
//                      one token within a chunk is added to the table; what comes from the chunk before goes to partial
//                      (chunk, 0), what starts here and goes on to (chunk, 1), and bwd_joins adds those up in order
//   position_bwd       grad_position_table[p] += sum of grad_out[r] over the rows at position p, in their order
//
// p is the row's position in its document: r mod t - documents[r], where documents (n) u32 has the row of its sequence at
// which each row's document starts, or r mod t where documents is null.
//
// tokens, order (n) u32: `order` has the rows sorted by token, equals in their order. out, grad_out (n, c); tables
// (v, c) and (>= t, c); gradients f32, accumulated. No atomics: always the same bits.
// Launch: fwd: grid (n), block 128. bwd: grid (n, c / (32 * pack)), block (32, 8): the block of a token's first row in
// `order` sums all of them, the others end at once. bwd_chunks, bwd_joins: grid (n / 32, c / (128 * pack)), block 128, of
// rows that are whole packs at multiples of 16 bytes; partial (n / 32, 2, c) f32, overwritten. position_bwd: grid (t, c / (128 * pack)), block 128.
#include "philox.cuh"

template <class T>
__device__ __forceinline__ void fwd(T* out, const uint32_t* tokens, const T* token_table, const T* position_table,
                                    const uint32_t* documents, int t, int c, float probability, uint64_t seed,
                                    uint32_t purpose, uint64_t first_element, const StepState* state) {
  constexpr int N = Pack<T>::N;
  const size_t row = blockIdx.x;
  const T* token = token_table + (size_t)tokens[row] * c;
  const T* position = position_table == nullptr ? nullptr : position_table + (size_t)position_of(row, t, documents) * c;
  Dropped dropped(probability, seed, purpose, state);
  for (int i = threadIdx.x * N; i < c; i += blockDim.x * N) {
    Pack<T> a = load(token + i, c - i);
    if (position != nullptr) {
      const Pack<T> b = load(position + i, c - i);
#pragma unroll
      for (int k = 0; k < N; k++) a.values[k] += b.values[k];
    }
#pragma unroll
    for (int k = 0; k < N; k++) a.values[k] *= dropped.factor(first_element + row * c + i + k);
    store(out + row * c + i, a, c - i);
  }
}

template <class T>
__device__ __forceinline__ void bwd(float* grad_token_table, const T* grad_out, const uint32_t* tokens,
                                    const uint32_t* order, int n, int c) {
  constexpr int N = Pack<T>::N;
  constexpr int WARPS = 8;
  __shared__ float sums[WARPS][WARP * N];
  const int first = blockIdx.x;
  const uint32_t token = tokens[order[first]];
  if (first > 0 && tokens[order[first - 1]] == token) return;
  const int column = (blockIdx.y * WARP + threadIdx.x) * N;
  Pack<T> sum{};
  for (int i = first + threadIdx.y; i < n && tokens[order[i]] == token; i += WARPS) {
    const Pack<T> g = column < c ? load(grad_out + (size_t)order[i] * c + column, c - column) : Pack<T>{};
#pragma unroll
    for (int k = 0; k < N; k++) sum.values[k] += g.values[k];
  }
#pragma unroll
  for (int k = 0; k < N; k++) sums[threadIdx.y][threadIdx.x * N + k] = sum.values[k];
  __syncthreads();
  if (threadIdx.y > 0 || column >= c) return;
  float* to = grad_token_table + (size_t)token * c + column;
  Pack<T> total = load_f32<T>(to, c - column);
  for (int warp = 0; warp < WARPS; warp++) {
#pragma unroll
    for (int k = 0; k < N; k++) total.values[k] += sums[warp][threadIdx.x * N + k];
  }
  store_f32<T>(to, total, c - column);
}

constexpr int CHUNK = 32;
constexpr int ROWS_ON_THE_WAY = 8;
constexpr uint32_t NO_TOKEN = 0xffffffffu;

template <class T>
__device__ __forceinline__ void bwd_chunks(float* grad_token_table, float* partial, const T* grad_out,
                                           const uint32_t* tokens, const uint32_t* order, int n, int c) {
  constexpr int N = Pack<T>::N;
  // The chunk's tokens, and one before and one behind them.
  __shared__ uint32_t rows[CHUNK], ids[CHUNK + 2];
  const int start = blockIdx.x * CHUNK, len = min(n - start, CHUNK), thread = threadIdx.x;
  if (thread < CHUNK) {
    rows[thread] = thread < len ? order[start + thread] : 0;
    if (thread < len) ids[thread + 1] = tokens[rows[thread]];
  } else if (thread == CHUNK) {
    ids[0] = start > 0 ? tokens[order[start - 1]] : NO_TOKEN;
  } else if (thread == CHUNK + 1) {
    ids[len + 1] = start + len < n ? tokens[order[start + len]] : NO_TOKEN;
  }
  __syncthreads();
  const int column = (blockIdx.y * blockDim.x + thread) * N;
  if (column >= c) return;
  Pack<T> sum{};
  int first_of_run = 0;
  for (int first = 0; first < len; first += ROWS_ON_THE_WAY) {
    Line lines[ROWS_ON_THE_WAY];
#pragma unroll
    for (int j = 0; j < ROWS_ON_THE_WAY; j++) {
      lines[j] = load_line(grad_out + (size_t)rows[first + j] * c + column, first + j < len);
    }
#pragma unroll
    for (int j = 0; j < ROWS_ON_THE_WAY; j++) {
      const int i = first + j;
      if (i >= len) continue;
      const Pack<T> g = widen<T>(lines[j]);
#pragma unroll
      for (int k = 0; k < N; k++) sum.values[k] += g.values[k];
      const uint32_t token = ids[i + 1];
      const bool is_last = i == len - 1, goes_on = ids[i + 2] == token;
      if (goes_on && !is_last) continue;
      if (first_of_run == 0 && ids[0] == token) {
        store_f32<T>(partial + (size_t)blockIdx.x * 2 * c + column, sum, N);
      } else if (goes_on) {
        store_f32<T>(partial + ((size_t)blockIdx.x * 2 + 1) * c + column, sum, N);
      } else {
        float* to = grad_token_table + (size_t)token * c + column;
        Pack<T> total = load_f32<T>(to, N);
#pragma unroll
        for (int k = 0; k < N; k++) total.values[k] += sum.values[k];
        store_f32<T>(to, total, N);
      }
      sum = Pack<T>{};
      first_of_run = i + 1;
    }
  }
}

// The block of the chunk in which a run starts that does not end there.
template <class T>
__device__ __forceinline__ void bwd_joins(float* grad_token_table, const float* partial, const uint32_t* tokens,
                                          const uint32_t* order, int n, int c) {
  constexpr int N = Pack<T>::N;
  const int start = blockIdx.x * CHUNK, end = start + CHUNK;
  if (end >= n) return;
  const uint32_t token = tokens[order[end - 1]];
  if (tokens[order[end]] != token) return;
  if (start > 0 && tokens[order[start - 1]] == token) return;
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (column >= c) return;
  float* to = grad_token_table + (size_t)token * c + column;
  Pack<T> total = load_f32<T>(to, N), part = load_f32<T>(partial + ((size_t)blockIdx.x * 2 + 1) * c + column, N);
#pragma unroll
  for (int k = 0; k < N; k++) total.values[k] += part.values[k];
  for (int chunk = blockIdx.x + 1;; chunk++) {
    part = load_f32<T>(partial + (size_t)chunk * 2 * c + column, N);
#pragma unroll
    for (int k = 0; k < N; k++) total.values[k] += part.values[k];
    const int next = (chunk + 1) * CHUNK;
    if (next >= n || tokens[order[next]] != token) break;
  }
  store_f32<T>(to, total, N);
}

template <class T>
__device__ __forceinline__ void position_bwd(float* grad_position_table, const T* grad_out, const uint32_t* documents,
                                             int n, int t, int c) {
  constexpr int N = Pack<T>::N;
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (column >= c) return;
  float* to = grad_position_table + (size_t)blockIdx.x * c + column;
  Pack<T> total = load_f32<T>(to, c - column);
  // Without documents, one row of each sequence; with them, rows from there on may stand at the same position.
  for (int row = blockIdx.x; row < n; row += documents == nullptr ? t : 1) {
    if (documents != nullptr && position_of(row, t, documents) != blockIdx.x) continue;
    const Pack<T> g = load(grad_out + (size_t)row * c + column, c - column);
#pragma unroll
    for (int k = 0; k < N; k++) total.values[k] += g.values[k];
  }
  store_f32<T>(to, total, c - column);
}

#define EMBEDDING(dtype, T)                                                                                        \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      embedding_fwd_##dtype(T* out, const uint32_t* tokens, const T* token_table, const T* position_table,         \
                            const uint32_t* documents, int t, int c, float probability, uint64_t seed,             \
                            uint32_t purpose, uint64_t first_element, const StepState* state) {                    \
    fwd(out, tokens, token_table, position_table, documents, t, c, probability, seed, purpose, first_element,      \
        state);                                                                                                    \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                \
      embedding_bwd_##dtype(float* grad_token_table, const T* grad_out, const uint32_t* tokens,                    \
                            const uint32_t* order, int n, int c) {                                                 \
    bwd(grad_token_table, grad_out, tokens, order, n, c);                                                          \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      embedding_position_bwd_##dtype(float* grad_position_table, const T* grad_out, const uint32_t* documents,     \
                                     int n, int t, int c) {                                                        \
    position_bwd(grad_position_table, grad_out, documents, n, t, c);                                               \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128) embedding_bwd_chunks_##dtype(                                  \
      float* grad_token_table, float* partial, const T* grad_out, const uint32_t* tokens, const uint32_t* order,   \
      int n, int c) {                                                                                              \
    bwd_chunks(grad_token_table, partial, grad_out, tokens, order, n, c);                                          \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      embedding_bwd_joins_##dtype(float* grad_token_table, const float* partial, const uint32_t* tokens,           \
                                  const uint32_t* order, int n, int c) {                                           \
    bwd_joins<T>(grad_token_table, partial, tokens, order, n, c);                                                  \
  }                                                                                                                \
  EXPORT(embedding_fwd_##dtype)                                                                                    \
  EXPORT(embedding_bwd_##dtype)                                                                                    \
  EXPORT(embedding_bwd_chunks_##dtype)                                                                             \
  EXPORT(embedding_bwd_joins_##dtype)                                                                              \
  EXPORT(embedding_position_bwd_##dtype)

EMBEDDING(f32, float)
EMBEDDING(bf16, bf16)
