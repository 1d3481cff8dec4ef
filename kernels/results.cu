// What a step says, into its place in a ring on the device.
//
//   ring[slot] = {sum of losses, sum of correct, gradient norm}
//
// losses (n) f32, correct (n) u32. A sum that is not finite halts updates. Launch: grid 1, block 1024.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(1024) results_f32(StepResult* ring, GradNorm* norm, const float* losses,
                                                               const uint32_t* correct, uint64_t n,
                                                               const StepState* state) {
  double loss = 0.0, hits = 0.0;
  sum_rows(loss, hits, losses, correct, n);
  if (threadIdx.x == 0) {
    const uint32_t slot = state == nullptr ? 0 : state->slot;
    ring[slot] = {loss, (uint32_t)hits, norm == nullptr ? 0.0f : (float)norm->norm};
    if (norm != nullptr && !isfinite(loss)) norm->halted = 1;
  }
}

EXPORT(results_f32)
