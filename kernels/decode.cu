// What decoding does that training does not: rows of several texts, each of which has keys and values in a cache.
//
// Row r holds token tokens[r] of the text in place slots[r], at position positions[r] of it. Rows whose place is NO_SLOT
// fill a launch up: they store nothing, and what is attended to is 0.
//
//   embed    out[r] = token_table[tokens[r]] + position_table[positions[r]]
//   store    turns queries in place by their positions, and puts turned keys, and values, into the cache
//   attend   of a row, a head and a span of positions: maximum and sum of exp(scores), and the weighted sum of values
//   combine  out = the spans of a head, in their order
//   gather   out[i] = x[rows[i]]
//   linear   out = x * W + bias of up to eight rows, or of eight rows a block of the grid's y: the time goes into reading
//            W once. in: W lies (in, out), out: (out, in). Sums of a row are in one order whatever the number of rows
//
// A row sees the keys j of its text with position - window < j <= position; span s of them is [s * span, (s + 1) * span).
// What a row gets depends on its text, its position and the sizes alone: not on the other rows of the launch.
//
// qkv (n, (h + 2 * h_kv) * d): queries, keys and values side by side. keys, values (slots, h_kv, room, d); partial
// (n, h, spans, d), stats (n, h, spans, 2) f32, of spans that no key of is seen not written. cos, sin (>= room, d / 2) f32,
// null where positions turn nothing. x (n, in), bias (out) or null. out: embed and gather (n, c), combine (n, h * d), linear
// (n, out), overwritten.
// Launch: embed, gather: grid (n), block 128. store: grid (n, heads from first_head on), block 32. attend: grid (spans, h,
// n), block 128, (d + span) * 4 bytes of shared memory beside what is static. combine: grid (h, n), block 64. linear_in:
// grid (out / (2 * pack), n / rows), block 256; linear_out: grid (out / 4, n / rows), block 128.
#include "common.cuh"

constexpr uint32_t NO_SLOT = 0xffffffffu;
constexpr unsigned THREADS = 128;
// Lanes that share a key: whole warps hold several.
constexpr unsigned LANES_A_KEY = 8;
constexpr unsigned KEYS_AT_ONCE = THREADS / LANES_A_KEY;

// The pack at `p`. Where rows are whole packs, no branch stands between one load and the next, so that many are on
// their way at once.
template <bool WHOLE, class T> __device__ __forceinline__ Pack<T> fetch(const T* p, int n_left) {
  if constexpr (WHOLE) return widen<T>(load_line(p, true));
  else return load(p, n_left);
}

template <class T> __device__ __forceinline__ bool are_whole(const T* rows, int width) {
  return width % Pack<T>::N == 0 && is_aligned(rows);
}

template <class T>
__device__ __forceinline__ void embed(T* out, const uint32_t* tokens, const uint32_t* positions, const T* token_table,
                                      const T* position_table, int c) {
  constexpr int N = Pack<T>::N;
  const size_t row = blockIdx.x;
  const T* token = token_table + (size_t)tokens[row] * c;
  const T* position = position_table == nullptr ? nullptr : position_table + (size_t)positions[row] * c;
  for (int i = threadIdx.x * N; i < c; i += blockDim.x * N) {
    Pack<T> a = load(token + i, c - i);
    if (position != nullptr) {
      const Pack<T> b = load(position + i, c - i);
#pragma unroll
      for (int k = 0; k < N; k++) a.values[k] += b.values[k];
    }
    store(out + row * c + i, a, c - i);
  }
}

template <class T>
__device__ __forceinline__ void gather(T* out, const T* x, const uint32_t* rows, int c) {
  constexpr int N = Pack<T>::N;
  const T* from = x + (size_t)rows[blockIdx.x] * c;
  T* to = out + (size_t)blockIdx.x * c;
  for (int i = threadIdx.x * N; i < c; i += blockDim.x * N) store(to + i, load(from + i, c - i), c - i);
}

template <class T>
__device__ __forceinline__ void store_head(T* qkv, T* keys, T* values, const uint32_t* slots,
                                           const uint32_t* positions, const float* cos, const float* sin,
                                           int first_head, int n_heads, int n_kv_heads, int d, int room) {
  const size_t row = blockIdx.x;
  const uint32_t slot = slots[row], position = positions[row];
  if (slot == NO_SLOT) return;
  const int head = first_head + blockIdx.y, half = d / 2;
  T* from = qkv + (row * (n_heads + 2 * n_kv_heads) + head) * d;
  T* to = from;
  if (head >= n_heads) {
    T* cache = head < n_heads + n_kv_heads ? keys : values;
    const size_t kv_head = (head - n_heads) % n_kv_heads;
    to = cache + (((size_t)slot * n_kv_heads + kv_head) * room + position) * d;
  }
  if (cos == nullptr || head >= n_heads + n_kv_heads) {
    for (int i = threadIdx.x; i < d; i += blockDim.x) to[i] = from[i];
    return;
  }
  const size_t angle = (size_t)position * half;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    const float x1 = to_f32(from[i]), x2 = to_f32(from[i + half]), c = cos[angle + i], s = sin[angle + i];
    to[i] = from_f32<T>(x1 * c - x2 * s);
    to[i + half] = from_f32<T>(x2 * c + x1 * s);
  }
}

// The keys that a row sees.
struct Seen {
  int begin, end;

  __device__ __forceinline__ Seen(uint32_t position, int window)
      : begin(max(0, (int)position + 1 - window)), end((int)position + 1) {}
};

// The scores of some keys.
template <bool WHOLE, class T>
__device__ __forceinline__ void score(float* scores, const float* query, const T* keys, int n_keys, int d,
                                      float scale) {
  constexpr int N = Pack<T>::N;
  const int lane = threadIdx.x % LANES_A_KEY, own = threadIdx.x / LANES_A_KEY;
#pragma unroll 4
  for (int j = own; j - own < n_keys; j += KEYS_AT_ONCE) {
    float dot = 0.0f;
    if (j < n_keys) {
      for (int i = lane * N; i < d; i += LANES_A_KEY * N) {
        const Pack<T> key = fetch<WHOLE>(keys + (size_t)j * d + i, d - i);
#pragma unroll
        for (int k = 0; k < N; k++) {
          if (WHOLE || i + k < d) dot += query[i + k] * key.values[k];
        }
      }
    }
#pragma unroll
    for (unsigned step = LANES_A_KEY / 2; step > 0; step /= 2) dot += __shfl_xor_sync(ALL_LANES, dot, step);
    if (lane == 0 && j < n_keys) scores[j] = scale * dot;
  }
}

// Sum of weights * values, by groups of threads that take every n-th key each, then over groups in their order.
template <bool WHOLE, class T>
__device__ __forceinline__ void weigh(float* out, float* sums, const float* weights, const T* values, int n_keys,
                                      int d) {
  constexpr unsigned N = Pack<T>::N;
  const unsigned n_packs = (d + N - 1) / N;
  for (unsigned tile = 0; tile < n_packs; tile += THREADS) {
    const unsigned width = min(n_packs - tile, THREADS), n_groups = THREADS / width;
    const unsigned pack = threadIdx.x % width, group = threadIdx.x / width;
    if (group < n_groups) {
      const int column = (tile + pack) * N;
      Pack<T> sum{};
#pragma unroll 4
      for (int j = group; j < n_keys; j += n_groups) {
        const Pack<T> value = fetch<WHOLE>(values + (size_t)j * d + column, d - column);
        const float weight = weights[j];
#pragma unroll
        for (unsigned k = 0; k < N; k++) sum.values[k] += weight * value.values[k];
      }
#pragma unroll
      for (unsigned k = 0; k < N; k++) sums[(group * width + pack) * N + k] = sum.values[k];
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < width * N; i += THREADS) {
      if (tile * N + i >= (unsigned)d) continue;
      float sum = 0.0f;
      for (unsigned other = 0; other < n_groups; other++) sum += sums[other * width * N + i];
      out[tile * N + i] = sum;
    }
    __syncthreads();
  }
}

template <class T>
__device__ __forceinline__ void attend(float* partial, float* stats, const T* qkv, const T* keys, const T* values,
                                       const uint32_t* slots, const uint32_t* positions, int n_heads, int n_kv_heads,
                                       int d, int room, int window, int span, float scale) {
  DYNAMIC_SHARED(shared);
  __shared__ float sums[THREADS * Pack<T>::N];
  float* query = reinterpret_cast<float*>(shared);
  float* scores = query + d;
  const size_t head = blockIdx.y, row = blockIdx.z;
  const uint32_t slot = slots[row];
  if (slot == NO_SLOT) return;
  const Seen seen(positions[row], window);
  const int start = blockIdx.x * span, first = max(seen.begin, start), n_keys = min(seen.end, start + span) - first;
  if (n_keys <= 0) return;
  const T* q = qkv + (row * (n_heads + 2 * n_kv_heads) + head) * d;
  for (int i = threadIdx.x; i < d; i += THREADS) query[i] = to_f32(q[i]);
  __syncthreads();
  const size_t at = (((size_t)slot * n_kv_heads + head / (n_heads / n_kv_heads)) * room + first) * d;
  const bool whole = are_whole(keys, d) && is_aligned(values);
  if (whole) score<true>(scores, query, keys + at, n_keys, d, scale);
  else score<false>(scores, query, keys + at, n_keys, d, scale);
  __syncthreads();
  float largest = -INFINITY, sum = 0.0f;
  for (int j = threadIdx.x; j < n_keys; j += THREADS) largest = fmaxf(largest, scores[j]);
  largest = block_max(largest);
  for (int j = threadIdx.x; j < n_keys; j += THREADS) {
    scores[j] = expf(scores[j] - largest);
    sum += scores[j];
  }
  sum = block_sum(sum);
  const size_t place = (row * n_heads + head) * gridDim.x + blockIdx.x;
  if (threadIdx.x == 0) {
    stats[2 * place] = largest;
    stats[2 * place + 1] = sum;
  }
  if (whole) weigh<true>(partial + place * d, sums, scores, values + at, n_keys, d);
  else weigh<false>(partial + place * d, sums, scores, values + at, n_keys, d);
}

template <class T>
__device__ __forceinline__ void combine(T* out, const float* partial, const float* stats, const uint32_t* slots,
                                        const uint32_t* positions, int n_spans, int d, int window, int span) {
  const size_t row = blockIdx.y, place = row * gridDim.x + blockIdx.x;
  T* to = out + place * d;
  if (slots[row] == NO_SLOT) {
    for (int i = threadIdx.x; i < d; i += blockDim.x) to[i] = from_f32<T>(0.0f);
    return;
  }
  const Seen seen(positions[row], window);
  const int first = seen.begin / span, last = (seen.end - 1) / span;
  const float* own = stats + 2 * place * n_spans;
  float largest = -INFINITY, total = 0.0f;
  for (int s = first; s <= last; s++) largest = fmaxf(largest, own[2 * s]);
  for (int s = first; s <= last; s++) total += own[2 * s + 1] * expf(own[2 * s] - largest);
  for (int i = threadIdx.x; i < d; i += blockDim.x) {
    float sum = 0.0f;
    for (int s = first; s <= last; s++) {
      sum += partial[(place * n_spans + s) * d + i] * expf(own[2 * s] - largest);
    }
    to[i] = from_f32<T>(sum / total);
  }
}

constexpr unsigned IN_THREADS = 256;
// Neighbouring packs of columns that a block has: the rows of a weight are read in sectors of 32 bytes.
constexpr unsigned PACKS_WIDE = 2;
constexpr unsigned IN_GROUPS = IN_THREADS / PACKS_WIDE;

// The sums of one pack of columns over every IN_GROUPS-th row of W.
template <bool WHOLE, int ROWS, class T>
__device__ __forceinline__ void sum_rows(float (&sums)[ROWS][Pack<T>::N], const T* x, const T* weight, int first,
                                         int n_in, int n_out, int column) {
#pragma unroll(ROWS == 8 ? 2 : 4)
  for (int i = first; i < n_in; i += IN_GROUPS) {
    const Pack<T> w = fetch<WHOLE>(weight + (size_t)i * n_out + column, n_out - column);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const float a = to_f32(x[(size_t)r * n_in + i]);
#pragma unroll
      for (int k = 0; k < Pack<T>::N; k++) sums[r][k] += a * w.values[k];
    }
  }
}

// Each group of threads takes every n-th row of W; then groups are added up, within warps and over them.
template <int ROWS, class T>
__device__ __forceinline__ void linear_in(T* out, const T* x, const T* weight, const T* bias, int n_in, int n_out) {
  constexpr int N = Pack<T>::N;
  __shared__ float partial[IN_THREADS / WARP][ROWS][PACKS_WIDE * N];
  const unsigned pack = threadIdx.x % PACKS_WIDE, group = threadIdx.x / PACKS_WIDE;
  const int first = blockIdx.x * PACKS_WIDE * N, column = first + pack * N;
  const size_t row = (size_t)blockIdx.y * ROWS;
  x += row * n_in;
  float sums[ROWS][N] = {};
  if (column < n_out) {
    if (are_whole(weight, n_out)) sum_rows<true, ROWS>(sums, x, weight, group, n_in, n_out, column);
    else sum_rows<false, ROWS>(sums, x, weight, group, n_in, n_out, column);
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
#pragma unroll
    for (int k = 0; k < N; k++) {
#pragma unroll
      for (unsigned step = WARP / 2; step >= PACKS_WIDE; step /= 2) {
        sums[r][k] += __shfl_xor_sync(ALL_LANES, sums[r][k], step);
      }
      if (threadIdx.x % WARP < PACKS_WIDE) partial[threadIdx.x / WARP][r][pack * N + k] = sums[r][k];
    }
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < ROWS * PACKS_WIDE * N; i += IN_THREADS) {
    const int r = i / (PACKS_WIDE * N), place = i % (PACKS_WIDE * N), c = first + place;
    if (c >= n_out) continue;
    float sum = 0.0f;
#pragma unroll
    for (unsigned warp = 0; warp < IN_THREADS / WARP; warp++) sum += partial[warp][r][place];
    out[(row + r) * n_out + c] = from_f32<T>(bias == nullptr ? sum : sum + to_f32(bias[c]));
  }
}

// A lane's part of the products of rows of x with a row of W.
template <bool WHOLE, int ROWS, class T>
__device__ __forceinline__ void multiply_rows(float (&sums)[ROWS], const T* x, const T* weight, int n_in) {
  constexpr int N = Pack<T>::N;
#pragma unroll(ROWS == 8 ? 2 : 4)
  for (int i = threadIdx.x % WARP * N; i < n_in; i += WARP * N) {
    const Pack<T> w = fetch<WHOLE>(weight + i, n_in - i);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const Pack<T> a = fetch<WHOLE>(x + (size_t)r * n_in + i, n_in - i);
#pragma unroll
      for (int k = 0; k < N; k++) sums[r] += a.values[k] * w.values[k];
    }
  }
}

// A warp a column.
template <int ROWS, class T, class Out>
__device__ __forceinline__ void linear_out(Out* out, const T* x, const T* weight, const T* bias, int n_in,
                                           int n_out) {
  const int c = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
  const size_t row = (size_t)blockIdx.y * ROWS;
  if (c >= n_out) return;
  x += row * n_in;
  float sums[ROWS] = {};
  const T* row_of_w = weight + (size_t)c * n_in;
  if (are_whole(weight, n_in) && is_aligned(x)) multiply_rows<true, ROWS>(sums, x, row_of_w, n_in);
  else multiply_rows<false, ROWS>(sums, x, row_of_w, n_in);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const float sum = warp_sum(sums[r]);
    if (threadIdx.x % WARP == 0) {
      out[(row + r) * n_out + c] = from_f32<Out>(bias == nullptr ? sum : sum + to_f32(bias[c]));
    }
  }
}

#define DECODE(dtype, T)                                                                                           \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      decode_embed_##dtype(T* out, const uint32_t* tokens, const uint32_t* positions, const T* token_table,        \
                           const T* position_table, int c) {                                                       \
    embed(out, tokens, positions, token_table, position_table, c);                                                 \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128)                                                                \
      decode_gather_##dtype(T* out, const T* x, const uint32_t* rows, int c) {                                     \
    gather(out, x, rows, c);                                                                                       \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(32)                                                                 \
      decode_store_##dtype(T* qkv, T* keys, T* values, const uint32_t* slots, const uint32_t* positions,           \
                           const float* cos, const float* sin, int first_head, int n_heads, int n_kv_heads, int d, \
                           int room) {                                                                             \
    store_head(qkv, keys, values, slots, positions, cos, sin, first_head, n_heads, n_kv_heads, d, room);           \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128, 8)                                                             \
      decode_attend_##dtype(float* partial, float* stats, const T* qkv, const T* keys, const T* values,            \
                            const uint32_t* slots, const uint32_t* positions, int n_heads, int n_kv_heads, int d,  \
                            int room, int window, int span, float scale) {                                         \
    attend(partial, stats, qkv, keys, values, slots, positions, n_heads, n_kv_heads, d, room, window, span,        \
           scale);                                                                                                 \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(64)                                                                 \
      decode_combine_##dtype(T* out, const float* partial, const float* stats, const uint32_t* slots,              \
                             const uint32_t* positions, int n_spans, int d, int window, int span) {                \
    combine(out, partial, stats, slots, positions, n_spans, d, window, span);                                      \
  }                                                                                                                \
  EXPORT(decode_embed_##dtype)                                                                                     \
  EXPORT(decode_gather_##dtype)                                                                                    \
  EXPORT(decode_store_##dtype)                                                                                     \
  EXPORT(decode_attend_##dtype)                                                                                    \
  EXPORT(decode_combine_##dtype)

DECODE(f32, float)
DECODE(bf16, bf16)

#define LINEAR_IN(rows, dtype, T)                                                                                  \
  extern "C" __global__ void __launch_bounds__(256, 2)                                                             \
      decode_linear_in_##rows##_##dtype(T* out, const T* x, const T* weight, const T* bias, int n_in, int n_out) { \
    linear_in<rows>(out, x, weight, bias, n_in, n_out);                                                            \
  }                                                                                                                \
  EXPORT(decode_linear_in_##rows##_##dtype)

// `name` ends in the type of the result, where that is not that of x.
#define LINEAR_OUT(rows, name, T, Out)                                                                             \
  extern "C" __global__ void __launch_bounds__(128, 4) decode_linear_out_##rows##_##name(                          \
      Out* out, const T* x, const T* weight, const T* bias, int n_in, int n_out) {                                 \
    linear_out<rows>(out, x, weight, bias, n_in, n_out);                                                           \
  }                                                                                                                \
  EXPORT(decode_linear_out_##rows##_##name)

#define LINEAR(rows)                       \
  LINEAR_IN(rows, f32, float)              \
  LINEAR_IN(rows, bf16, bf16)              \
  LINEAR_OUT(rows, f32, float, float)      \
  LINEAR_OUT(rows, bf16, bf16, bf16)       \
  LINEAR_OUT(rows, bf16_to_f32, bf16, float)

LINEAR(1)
LINEAR(2)
LINEAR(4)
LINEAR(8)
