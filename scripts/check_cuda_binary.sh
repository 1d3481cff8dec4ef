#!/usr/bin/env bash
# Checks that a binary built with --features cuda starts anywhere, and says what it lacks.
#
#   scripts/check_cuda_binary.sh [BINARY]      default target/release/wattle
#
# - It needs no library of NVIDIA's to start, and every entry point that it calls is a trampoline.
# - Stripped, it is smaller than 40 MB.
# - Without a driver, with one that is too old, or one that finds no GPU, `devices` and `train` say so in a sentence:
#   --device auto trains on the CPU, --device cuda fails before it makes a run directory.
#
# With a toolkit in CUDA_HOME, or PyTorch in VIRTUAL_ENV, the names in crates/cuda/symbols.txt are held against its own.
#
# Needs binutils and a C compiler, with which it makes stand-ins for the driver. No GPU is used, also where there is one.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
binary=$(realpath "${1:-$root/target/release/wattle}")
limit=40000000
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

pass() { printf 'pass  %s\n' "$1"; }
fail() { printf 'FAIL  %s\n' "$1"; failed=1; }

# A stand-in driver in a folder of its own: NAME, then macros of standin.c.
standin() {
  local dir=$scratch/$1
  shift
  mkdir -p "$dir"
  "${CC:-cc}" -shared -fPIC -Wl,-soname,libcuda.so.1 -DDRIVER "$@" -o "$dir/libcuda.so.1" \
    "$root/crates/cuda/tests/standin.c"
}

# The program, seeing nothing of this user's: FOLDER of libraries, then arguments.
wattle() {
  local libraries=$1
  shift
  env -u CUDA_HOME -u CUDA_PATH -u VIRTUAL_ENV LD_LIBRARY_PATH="$libraries" XDG_CACHE_HOME="$scratch/cache" \
    NVML_LIBRARY=/nonexistent "$binary" "$@" 2>&1
}

# WHAT: the program's words must hold PATTERN and no panic: WHAT PATTERN STATUS FOLDER ARGUMENTS…
says() {
  local what=$1 pattern=$2 expected=$3 libraries=$4 said status=0
  shift 4
  said=$(wattle "$libraries" "$@") || status=$?
  if [[ $said == *panicked* ]] || ((status != expected)) || ! grep -q -- "$pattern" <<<"$said"; then
    fail "$what: expected status $expected and \"$pattern\", got status $status and:"
    tail -n 12 <<<"$said" | sed 's/^/        /'
  else
    pass "$what: $(grep -m 1 -- "$pattern" <<<"$said" | sed 's/^ *//')"
  fi
}

echo "$binary"
needed=$(readelf -d "$binary" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
if grep -E '^lib(cuda|cublas|curand|nvrtc|cudnn|nv)' <<<"$needed"; then
  fail 'libraries of NVIDIA'\''s are needed to start (above)'
else
  pass "needs to start: $(tr '\n' ' ' <<<"$needed")"
fi

missing=$(nm -D --undefined-only "$binary" | awk '{print $NF}' |
  grep -E '^(cu[A-Z]|cublas|curand|nvrtc|cudnn|cuda[A-Z]|__cuda)' || true)
if [[ -n $missing ]]; then
  fail 'not trampolines, to be added to crates/cuda/symbols.txt:'
  sed 's/^/        /' <<<"$missing"
else
  pass 'every entry point is a trampoline'
fi

cp "$binary" "$scratch/stripped"
strip "$scratch/stripped"
size=$(stat -c %s "$scratch/stripped")
if ((size < limit)); then pass "stripped $size bytes"; else fail "stripped $size bytes, $limit are allowed"; fi

header=${CUDA_HOME:-/nonexistent}/include/cuda.h
if [[ -e $header ]]; then
  echo '#include <cuda.h>' | "${CC:-cc}" -E -P -I "$(dirname "$header")" -x c - | grep -oE 'cu[A-Z][A-Za-z0-9_]+' |
    sort -u >"$scratch/declared"
  if undeclared=$(awk '$1 == "cuda" { print $2 }' "$root/crates/cuda/symbols.txt" | grep -vxFf "$scratch/declared"); then
    fail "cuda.h does not declare: $undeclared"
  else
    pass 'cuda.h declares every entry point of the driver in symbols.txt'
  fi
fi

# Where the libraries are at hand, every name must be theirs: load() refuses one that lacks an entry point.
for name in cublas curand nvrtc; do
  for file in "${CUDA_HOME:-/nonexistent}"/lib64/lib$name.so.* "${VIRTUAL_ENV:-/nonexistent}"/lib/python3*/site-packages/nvidia/cu*/lib/lib$name.so.*; do
    [[ -e $file ]] || continue
    nm -D --defined-only "$file" | awk '{ sub(/@.*/, "", $NF); print $NF }' >"$scratch/defined"
    if lacking=$(awk -v of="$name" '$1 == of { print $2 }' "$root/crates/cuda/symbols.txt" | grep -vxFf "$scratch/defined"); then
      fail "$file lacks: $(tr '\n' ' ' <<<"$lacking")"
    else
      pass "$(basename "$file") has every entry point of symbols.txt"
    fi
    break
  done
done

quick=(train --out "$scratch/run" --set train.max_steps=2 --set train.epochs=0 --set data.embedded_chars=20000
  --set tokenizer.kind=bytes --set model.n_layers=1 --set evaluate.batches=1)
mkdir "$scratch/none"
devices=$(wattle "$scratch/none" devices) || true
if [[ $devices != *'no NVIDIA driver'* && -e /proc/driver/nvidia/version ]]; then
  echo 'skip  without a driver: this machine has one'
else
  says 'no driver, devices' 'no GPU: there is no NVIDIA driver here' 0 "$scratch/none" devices
  says 'no driver, --device auto' 'on cpu (there is no NVIDIA driver here' 0 "$scratch/none" "${quick[@]}"
  rm -rf "$scratch/run"
  says 'no driver, --device cuda' '--device cuda:0 cannot be had: there is no NVIDIA driver' 1 "$scratch/none" \
    "${quick[@]}" --device cuda
  if [[ -e $scratch/run ]]; then fail 'a run that could not start left a directory'; fi
fi
standin old -DVERSION=11040
says 'old driver, devices' 'offers CUDA 11.4, and this program is built for CUDA' 0 "$scratch/old" devices
says 'old driver, --device cuda' 'update the driver to' 1 "$scratch/old" "${quick[@]}" --device cuda:0
standin empty -DVERSION=99000 -DINIT=100
says 'no GPU, devices' 'CUDA_ERROR_NO_DEVICE (100); no GPU is there' 0 "$scratch/empty" devices
standin partial -DVERSION=99000
says 'a driver that lacks an entry point' 'libcuda.so.1 has no cu' 0 "$scratch/partial" devices

((failed == 0)) && echo 'all is as it should be'
exit "$failed"
