// Gradients in bfloat16, to which the products of micro-batches are added.
//
//   grad = round(grad + x), or round(x)
//
// grad (n) bfloat16, accumulated where `accumulate` is not 0, else overwritten; x (n) f32, the product of one micro-batch.
// The sum is made in f32 and rounded at random between its two neighbours: element i by a half of a word of the stream of
// `purpose` at the state's step under `seed`, of which eight neighbours share the four words of block `first_block` + i / 8.
// Launch: one thread eight elements, block 256. No shared memory.
#include "philox.cuh"

extern "C" __global__ void __launch_bounds__(256)
    grad_sum_bf16(bf16* grad, const float* x, uint64_t n, int accumulate, const StepState* state, uint64_t seed,
                  uint32_t purpose, uint64_t first_block) {
  const uint64_t eight = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x, i = eight * 8;
  if (i >= n) return;
  const int n_left = (int)min((uint64_t)8, n - i);
  Pack<bf16> sum = load_f32<bf16>(x + i, n_left);
  if (accumulate != 0) {
    const Pack<bf16> before = load(grad + i, n_left);
#pragma unroll
    for (int k = 0; k < 8; k++) sum.values[k] = before.values[k] + sum.values[k];
  }
  const uint64_t block = first_block + eight;
  const Words noise = philox({{(uint32_t)block, (uint32_t)(block >> 32), state->step, purpose}}, (uint32_t)seed,
                             (uint32_t)(seed >> 32));
#pragma unroll
  for (int k = 0; k < 8; k++) {
    const uint32_t half = noise.word[k / 2] >> (16 * (k % 2)) & 0xffffu;
    sum.values[k] = __uint_as_float(at_random(sum.values[k], half) << 16);
  }
  // What is stored is in bfloat16 already.
  store(grad + i, sum, n_left);
}

EXPORT(grad_sum_bf16)
