#!/usr/bin/env bash
# Counts the calls of CUDA that a step of candle's autograd makes, without a GPU and without NVIDIA's compiler.
#
#   scripts/candle_calls/count.sh [--set KEY=VALUE …]
#
# Builds the program with the stand-in for nvcc, trains 3 and 13 steps on a library that computes nothing (calls.cpp), and
# prints the difference a step. Arguments are passed on to `wattle train`.
set -euo pipefail
cd "$(dirname "$0")/../.."

build=$PWD/target/candle-calls
mkdir -p "$build"
env -u CUDA_HOME NVCC="$PWD/scripts/nvcc_standin.sh" CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000 \
  CARGO_TARGET_DIR="$build" cargo build -p wattle --features cuda --config 'profile.dev.package."*".opt-level=0' \
  --config 'profile.dev.debug=0' --config 'profile.dev.opt-level=0'

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${CXX:-c++}" -std=c++20 -O2 -fPIC -shared -o "$scratch/libcuda.so.1" scripts/candle_calls/calls.cpp
for library in libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libnvrtc.so.13; do
  ln -s libcuda.so.1 "$scratch/$library"
done

for steps in 3 13; do
  LD_LIBRARY_PATH=$scratch COUNT_OUT=$scratch/$steps XDG_CACHE_HOME=$scratch/cache "$build/debug/wattle" train \
    --device cuda:0 --out "$scratch/run$steps" --set train.engine=autograd --set train.max_steps=$steps "$@" \
    >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
done
awk 'NR == FNR { before[$1] = $2; next } $2 > before[$1] { printf "%-26s %8.1f\n", $1, ($2 - before[$1]) / 10 }' \
  "$scratch/3" "$scratch/13" | sort -k2 -rn
