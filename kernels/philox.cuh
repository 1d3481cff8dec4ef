// Philox4x32-10, and the numbers of crates/random's `Stream`: element `i` of one purpose at one step under one seed.
// Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011, section 3.3.
#pragma once
#include "common.cuh"

struct Words {
  uint32_t word[4];
};

__device__ __forceinline__ Words philox(Words counter, uint32_t key0, uint32_t key1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    if (round > 0) {
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    const uint32_t high0 = __umulhi(0xD2511F53u, counter.word[0]), low0 = 0xD2511F53u * counter.word[0];
    const uint32_t high1 = __umulhi(0xCD9E8D57u, counter.word[2]), low1 = 0xCD9E8D57u * counter.word[2];
    counter = {{high1 ^ counter.word[1] ^ key0, low1, high0 ^ counter.word[3] ^ key1, low0}};
  }
  return counter;
}

// bf16::at_random of crates/ops.
__device__ __forceinline__ uint32_t at_random(float x, uint32_t noise) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits >> 16 | ((bits & 0x7fffffu) != 0 ? 0x40u : 0u);
  return (bits + noise) >> 16;
}

// One place in a model where elements are dropped. With probability 0 nothing is.
struct Dropped {
  float probability;
  uint32_t key0, key1;
  uint32_t purpose;
  uint32_t step;
  uint64_t block;
  Words words;

  __device__ __forceinline__ Dropped(float probability, uint64_t seed, uint32_t purpose, const StepState* state)
      : probability(probability), key0((uint32_t)seed), key1((uint32_t)(seed >> 32)), purpose(purpose),
        step(probability > 0.0f ? state->step : 0), block(~uint64_t(0)), words{} {}

  // The factor of an element, counted from the start of the step's whole batch: 0 or 1 / (1 - probability).
  // Neighbours share the work of four.
  __device__ __forceinline__ float factor(uint64_t element) {
    if (probability == 0.0f) return 1.0f;
    if (element / 4 != block) {
      block = element / 4;
      words = philox({{(uint32_t)block, (uint32_t)(block >> 32), step, purpose}}, key0, key1);
    }
    const unsigned which = (unsigned)(element % 4);
    const uint32_t word = which < 2 ? (which == 0 ? words.word[0] : words.word[1])
                                    : (which == 2 ? words.word[2] : words.word[3]);
    const float u = (float)(word >> 8) * (1.0f / 16777216.0f);
    return u >= probability ? 1.0f / (1.0f - probability) : 0.0f;
  }
};
