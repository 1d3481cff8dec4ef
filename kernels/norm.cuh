// LayerNorm and RMSNorm: one warp a row.
//
//   LayerNorm  out = (x - mean) * rstd * weight + bias, rstd = 1 / sqrt(mean((x - mean)^2) + eps)
//   RMSNorm    the same with mean = 0 and no bias
//
// Statistics are f32, and of the values as they are stored.
#pragma once
#include "common.cuh"
#include "philox.cuh"

constexpr int ROWS_A_BLOCK = 4;

template <class T, bool CENTERED>
__device__ __forceinline__ void normalize_row(T* out, float* mean_out, float* rstd_out, const T* x, const T* weight,
                                              const T* bias, int c, float eps) {
  constexpr int N = Pack<T>::N;
  const int first = threadIdx.x % WARP * N, step = WARP * N;
  float mean = 0.0f;
  if (CENTERED) {
    for (int i = first; i < c; i += step) {
      const Pack<T> a = load(x + i, c - i);
#pragma unroll
      for (int k = 0; k < N; k++) mean += a.values[k];
    }
    mean = warp_sum(mean) / c;
  }
  float square = 0.0f;
  for (int i = first; i < c; i += step) {
    const Pack<T> a = load(x + i, c - i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float centered = i + k < c ? a.values[k] - mean : 0.0f;
      square += centered * centered;
    }
  }
  const float rstd = 1.0f / sqrtf(warp_sum(square) / c + eps);
  for (int i = first; i < c; i += step) {
    Pack<T> a = load(x + i, c - i);
    const Pack<T> w = load(weight + i, c - i);
#pragma unroll
    for (int k = 0; k < N; k++) a.values[k] = (a.values[k] - mean) * rstd * w.values[k];
    if (CENTERED && bias != nullptr) {
      const Pack<T> b = load(bias + i, c - i);
#pragma unroll
      for (int k = 0; k < N; k++) a.values[k] += b.values[k];
    }
    store(out + i, a, c - i);
  }
  if (threadIdx.x % WARP == 0) {
    if (CENTERED) *mean_out = mean;
    *rstd_out = rstd;
  }
}

// sum = x + dropped(branch + addend), element by element of one row.
template <class T>
__device__ __forceinline__ void add_row(T* sum, const T* x, const T* branch, const T* addend, int c,
                                        uint64_t first_element, Dropped& dropped) {
  constexpr int N = Pack<T>::N;
  for (int i = threadIdx.x % WARP * N; i < c; i += WARP * N) {
    Pack<T> a = load(x + i, c - i);
    Pack<T> b = load(branch + i, c - i);
    if (addend != nullptr) {
      const Pack<T> bias = load(addend + i, c - i);
#pragma unroll
      for (int k = 0; k < N; k++) b.values[k] += bias.values[k];
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
      a.values[k] += b.values[k] * dropped.factor(first_element + i + k);
    }
    store(sum + i, a, c - i);
  }
}

template <class T, bool CENTERED>
__device__ __forceinline__ void norm_fwd(T* out, float* mean, float* rstd, const T* x, const T* weight, const T* bias,
                                         int n, int c, float eps) {
  const int row = blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP;
  if (row >= n) return;
  const size_t at = (size_t)row * c;
  normalize_row<T, CENTERED>(out + at, mean + row, rstd + row, x + at, weight, bias, c, eps);
}

template <class T, bool CENTERED>
__device__ __forceinline__ void norm_residual_fwd(T* sum, T* out, float* mean, float* rstd, const T* x,
                                                  const T* branch, const T* addend, const T* weight, const T* bias,
                                                  int n, int c, float eps, float probability, uint64_t seed,
                                                  uint32_t purpose, uint64_t first_element, const StepState* state) {
  const int row = blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP;
  if (row >= n) return;
  const size_t at = (size_t)row * c;
  Dropped dropped(probability, seed, purpose, state);
  add_row(sum + at, x + at, branch + at, addend, c, first_element + at, dropped);
  // Each lane reads what it wrote itself.
  normalize_row<T, CENTERED>(out + at, mean + row, rstd + row, sum + at, weight, bias, c, eps);
}

// grad_x (+)= rstd * (g - mean(g) - xhat * mean(g * xhat)), g = grad_out * weight; without mean(g) for RMSNorm. One row;
// grad_x may be grad_out, since each lane reads what it writes before it writes it.
template <class T, bool CENTERED>
__device__ __forceinline__ void norm_bwd_row(T* grad_x, const T* grad_out, const T* x, float row_mean, float row_rstd,
                                             const T* weight, int c, int accumulate) {
  constexpr int N = Pack<T>::N;
  const int first = threadIdx.x % WARP * N, step = WARP * N;
  float sum = 0.0f, dot = 0.0f;
  for (int i = first; i < c; i += step) {
    const Pack<T> g = load(grad_out + i, c - i), w = load(weight + i, c - i), a = load(x + i, c - i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      // Beyond the row g is 0.
      const float weighted = g.values[k] * w.values[k];
      sum += weighted;
      dot += weighted * (a.values[k] - row_mean) * row_rstd;
    }
  }
  sum = CENTERED ? warp_sum(sum) / c : 0.0f;
  dot = warp_sum(dot) / c;
  for (int i = first; i < c; i += step) {
    const Pack<T> g = load(grad_out + i, c - i), w = load(weight + i, c - i), a = load(x + i, c - i);
    Pack<T> out;
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float normed = (a.values[k] - row_mean) * row_rstd;
      out.values[k] = row_rstd * (g.values[k] * w.values[k] - sum - normed * dot);
    }
    if (accumulate) {
      const Pack<T> before = load(grad_x + i, c - i);
#pragma unroll
      for (int k = 0; k < N; k++) out.values[k] += before.values[k];
    }
    store(grad_x + i, out, c - i);
  }
}

template <class T, bool CENTERED>
__device__ __forceinline__ void norm_bwd_x(T* grad_x, const T* grad_out, const T* x, const float* mean,
                                           const float* rstd, const T* weight, int n, int c, int accumulate) {
  const int row = blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP;
  if (row >= n) return;
  const size_t at = (size_t)row * c;
  const float row_mean = CENTERED ? mean[row] : 0.0f;
  norm_bwd_row<T, CENTERED>(grad_x + at, grad_out + at, x + at, row_mean, rstd[row], weight, c, accumulate);
}

// Part of the rows: partial_weight[part] = sum of grad_out * xhat, partial_bias[part] = sum of grad_out. Each thread
// owns a pack of columns; parts are blocks in y.
template <class T, bool CENTERED>
__device__ __forceinline__ void norm_bwd_weight(float* partial_weight, float* partial_bias, const T* grad_out,
                                                const T* x, const float* mean, const float* rstd, int n, int c,
                                                int rows_a_part) {
  constexpr int N = Pack<T>::N;
  const int column = (blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (column >= c) return;
  const int end = min(n, (int)(blockIdx.y + 1) * rows_a_part);
  Pack<T> weight_sum{}, bias_sum{};
  for (int row = blockIdx.y * rows_a_part; row < end; row++) {
    const size_t at = (size_t)row * c + column;
    const Pack<T> g = load(grad_out + at, c - column), a = load(x + at, c - column);
    const float row_mean = CENTERED ? mean[row] : 0.0f, row_rstd = rstd[row];
#pragma unroll
    for (int k = 0; k < N; k++) {
      weight_sum.values[k] += g.values[k] * (a.values[k] - row_mean) * row_rstd;
      bias_sum.values[k] += g.values[k];
    }
  }
  const size_t to = (size_t)blockIdx.y * c + column;
  store_f32<T>(partial_weight + to, weight_sum, c - column);
  if (CENTERED && partial_bias != nullptr) store_f32<T>(partial_bias + to, bias_sum, c - column);
}

// As norm_residual_fwd, where nothing is dropped and a row is whole packs, at most PACKS for each lane: they stay in
// registers from the addition to the normalized row, so that x and branch are read once and nothing is read back. All
// addresses are multiples of 16 bytes. The same bits.
template <class T, bool CENTERED, int PACKS>
__device__ __forceinline__ void norm_residual_held(T* sum, T* out, float* mean_out, float* rstd_out, const T* x,
                                                   const T* branch, const T* addend, const T* weight, const T* bias,
                                                   int n, int c, float eps) {
  constexpr int N = Pack<T>::N;
  const int row = blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP;
  if (row >= n) return;
  const size_t at = (size_t)row * c;
  const int first = threadIdx.x % WARP * N, step = WARP * N;
  Line held[PACKS], added[PACKS];
#pragma unroll
  for (int j = 0; j < PACKS; j++) {
    const int i = first + j * step;
    held[j] = load_line(x + at + i, i < c);
    added[j] = load_line(branch + at + i, i < c);
  }
  float mean = 0.0f;
#pragma unroll
  for (int j = 0; j < PACKS; j++) {
    const int i = first + j * step;
    Pack<T> a = widen<T>(held[j]), b = widen<T>(added[j]);
    if (addend != nullptr) {
      const Pack<T> of_all = widen<T>(load_line(addend + i, i < c));
#pragma unroll
      for (int k = 0; k < N; k++) b.values[k] += of_all.values[k];
    }
#pragma unroll
    for (int k = 0; k < N; k++) a.values[k] += b.values[k];
    held[j] = narrow(a);
    store_line(sum + at + i, held[j], i < c);
    // Statistics are of the values as they are stored.
    a = widen<T>(held[j]);
#pragma unroll
    for (int k = 0; k < N; k++) mean += a.values[k];
  }
  mean = CENTERED ? warp_sum(mean) / c : 0.0f;
  float square = 0.0f;
#pragma unroll
  for (int j = 0; j < PACKS; j++) {
    const Pack<T> a = widen<T>(held[j]);
#pragma unroll
    for (int k = 0; k < N; k++) {
      const float centered = first + j * step < c ? a.values[k] - mean : 0.0f;
      square += centered * centered;
    }
  }
  const float rstd = 1.0f / sqrtf(warp_sum(square) / c + eps);
#pragma unroll
  for (int j = 0; j < PACKS; j++) {
    const int i = first + j * step;
    Pack<T> a = widen<T>(held[j]);
    const Pack<T> w = widen<T>(load_line(weight + i, i < c));
#pragma unroll
    for (int k = 0; k < N; k++) a.values[k] = (a.values[k] - mean) * rstd * w.values[k];
    if (CENTERED && bias != nullptr) {
      const Pack<T> b = widen<T>(load_line(bias + i, i < c));
#pragma unroll
      for (int k = 0; k < N; k++) a.values[k] += b.values[k];
    }
    store_line(out + at + i, narrow(a), i < c);
  }
  if (threadIdx.x % WARP == 0) {
    if (CENTERED) mean_out[row] = mean;
    rstd_out[row] = rstd;
  }
}

// norm_bwd_x and norm_bwd_weight in one pass over grad_out and x, of rows of whole packs at multiples of 16 bytes. A block
// has one part of the rows and a thread one pack of columns. ROWS_AT_ONCE rows are on their way at a time, and their two
// sums over columns are made together, by warps and then over warps in their order. Partial sums are those of
// norm_bwd_weight, to the bit.
constexpr int ROWS_AT_ONCE = 2;
constexpr int MOST_WARPS = 16;

template <class T, bool CENTERED>
__device__ __forceinline__ void norm_bwd_fused(T* grad_x, float* partial_weight, float* partial_bias,
                                               const T* grad_out, const T* x, const float* mean, const float* rstd,
                                               const T* weight, int n, int c, int rows_a_part, int accumulate) {
  constexpr int N = Pack<T>::N;
  // Two, so that one barrier is enough: nobody writes to the one that others still read.
  __shared__ float sums[2][MOST_WARPS][2 * ROWS_AT_ONCE];
  const int column = threadIdx.x * N;
  const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
  const int end = min(n, (int)(blockIdx.x + 1) * rows_a_part);
  const Pack<T> w = widen<T>(load_line(weight + column, column < c));
  Pack<T> weight_sum{}, bias_sum{};
  int turn = 0;
  for (int row = blockIdx.x * rows_a_part; row < end; row += ROWS_AT_ONCE, turn ^= 1) {
    Line grads[ROWS_AT_ONCE], xs[ROWS_AT_ONCE], before[ROWS_AT_ONCE];
    float means[ROWS_AT_ONCE], rstds[ROWS_AT_ONCE];
#pragma unroll
    for (int r = 0; r < ROWS_AT_ONCE; r++) {
      const bool is_there = row + r < end;
      const size_t at = (size_t)(row + r) * c + column;
      grads[r] = load_line(grad_out + at, is_there && column < c);
      xs[r] = load_line(x + at, is_there && column < c);
      before[r] = load_line(grad_x + at, accumulate && is_there && column < c);
      means[r] = CENTERED && is_there ? mean[row + r] : 0.0f;
      rstds[r] = is_there ? rstd[row + r] : 0.0f;
    }
#pragma unroll
    for (int r = 0; r < ROWS_AT_ONCE; r++) {
      const Pack<T> g = widen<T>(grads[r]), a = widen<T>(xs[r]);
      float sum = 0.0f, dot = 0.0f;
#pragma unroll
      for (int k = 0; k < N; k++) {
        // Where there is no row or no column, g is 0.
        const float weighted = g.values[k] * w.values[k];
        sum += weighted;
        dot += weighted * (a.values[k] - means[r]) * rstds[r];
        weight_sum.values[k] += g.values[k] * (a.values[k] - means[r]) * rstds[r];
        bias_sum.values[k] += g.values[k];
      }
      if (CENTERED) sum = warp_sum(sum);
      dot = warp_sum(dot);
      if (lane == 0) {
        sums[turn][warp][2 * r] = sum;
        sums[turn][warp][2 * r + 1] = dot;
      }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS_AT_ONCE; r++) {
      float sum = 0.0f, dot = 0.0f;
      for (unsigned i = 0; i < n_warps; i++) {
        sum += sums[turn][i][2 * r];
        dot += sums[turn][i][2 * r + 1];
      }
      sum = CENTERED ? sum / c : 0.0f;
      dot /= c;
      const Pack<T> g = widen<T>(grads[r]), a = widen<T>(xs[r]), added = widen<T>(before[r]);
      Pack<T> out;
#pragma unroll
      for (int k = 0; k < N; k++) {
        const float normed = (a.values[k] - means[r]) * rstds[r];
        out.values[k] = rstds[r] * (g.values[k] * w.values[k] - sum - normed * dot);
        if (accumulate) out.values[k] += added.values[k];
      }
      store_line(grad_x + (size_t)(row + r) * c + column, narrow(out), row + r < end && column < c);
    }
  }
  const size_t to = (size_t)blockIdx.x * c + column;
  store_f32<T>(partial_weight + to, weight_sum, c - column);
  if (CENTERED && partial_bias != nullptr) store_f32<T>(partial_bias + to, bias_sum, c - column);
}
