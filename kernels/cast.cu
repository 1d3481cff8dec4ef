// Numbers in another type: out[i] = x[i], rounded to the nearest. Launch: one thread eight elements, block 256.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256) cast_bf16(bf16* out, const float* x, uint64_t n) {
  const uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= n) return;
  const int n_left = (int)min((uint64_t)8, n - i);
  store<bf16>(out + i, load_f32<bf16>(x + i, n_left), n_left);
}

EXPORT(cast_bf16)
