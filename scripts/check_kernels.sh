#!/usr/bin/env bash
# Compiles every kernel for every target by the real nvcc, prints a table of what each kernel takes, and fails where one
# spills registers or uses local memory, which none is meant to.
#
#   eval "$(scripts/cuda_toolkit.sh --env)" && scripts/check_kernels.sh
#
# nvcc is that of NVCC, else of CUDA_HOME, else the one on PATH, as for crates/ops/build/kernels.rs, whose targets and
# flags are repeated here. The table has the largest of all targets.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
nvcc=${NVCC:-${CUDA_HOME:+$CUDA_HOME/bin/}nvcc}
flags=(-std=c++17 -O3 -fatbin -Xptxas -v)
for target in 80 86 89 90; do flags+=("-gencode=arch=compute_$target,code=sm_$target"); done
flags+=(-gencode=arch=compute_90,code=compute_90)

fail() { printf 'check_kernels.sh: %s\n' "$*" >&2; exit 1; }

command -v "$nvcc" >/dev/null || fail "there is no $nvcc: eval \"\$(scripts/cuda_toolkit.sh --env)\" first"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

compile() {
  local stem
  stem=$(basename "$1" .cu)
  "$nvcc" "${flags[@]}" -o "$scratch/$stem.fatbin" "$1" >"$scratch/$stem.log" 2>&1 ||
    { cat "$scratch/$stem.log" >&2; return 1; }
  [[ -s $scratch/$stem.fatbin ]] || { echo "$1: nvcc made nothing; a stand-in cannot check kernels" >&2; return 1; }
}

printf '%s\n' "$root"/kernels/*.cu >"$scratch/sources"
export -f compile
export nvcc scratch
# Arrays are not exported: each process has them declared anew.
declare -p flags >"$scratch/flags"
xargs -P "$(nproc)" -I{} bash -c 'source "$scratch/flags"; compile "$1"' _ {} <"$scratch/sources" ||
  fail 'a kernel does not compile'

cat "$scratch"/*.log | awk '
  function largest(of, value) { if (value + 0 > of[name] + 0) of[name] = value + 0 }
  function before(word,  i) { for (i = 2; i <= NF; i++) if ($i ~ word) return $(i - 1); return 0 }
  /Compiling entry function/ {
    split($0, quoted, "\047"); name = quoted[2]; n_compiled++
    if (!(name in seen)) { seen[name] = 1; names[++n_names] = name }
  }
  /bytes stack frame/ {
    largest(stack, $1); match($0, /[0-9]+ bytes spill stores/); largest(spills, substr($0, RSTART))
    match($0, /[0-9]+ bytes spill loads/); largest(spills, substr($0, RSTART))
  }
  /Used [0-9]+ registers/ {
    largest(registers, before("^registers"))
    if (match($0, /[0-9]+ bytes smem/)) largest(shared, substr($0, RSTART))
    if (match($0, /[0-9]+ bytes lmem/)) largest(stack, substr($0, RSTART))
  }
  END {
    if (n_names == 0 || n_compiled != 4 * n_names) {
      printf "%d kernels were compiled %d times, not 4 times each\n", n_names, n_compiled > "/dev/stderr"; exit 1
    }
    printf "%-32s %9s %12s %13s %12s\n", "kernel", "registers", "shared bytes", "spilled bytes", "local bytes"
    for (i = 1; i <= n_names; i++) {
      name = names[i]
      printf "%-32s %9d %12d %13d %12d\n", name, registers[name], shared[name], spills[name], stack[name]
      if (spills[name] + stack[name] > 0) faulty = faulty " " name
    }
    printf "%d kernels, 4 targets\n", n_names
    if (faulty != "") { printf "spills or local memory in:%s\n", faulty > "/dev/stderr"; exit 1 }
  }'
