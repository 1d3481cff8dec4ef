#!/usr/bin/env bash
# Compares the NCCL table of crates/dist/src/nccl (signatures, constants, the configuration's layout) with nccl.h, and
# runs the tests that need the library.
#
#   scripts/check_nccl_abi.sh [WHEEL]
#
# WHEEL is a folder with include/nccl.h and lib/libnccl.so.2, as nvidia/nccl in PyPI's wheel nvidia-nccl-cu13 (305 MB);
# without it, the wheel is downloaded. No GPU and no CUDA headers are needed: of CUDA's, nccl.h uses the types
# of streams and events alone, pointers, which stand here.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() { printf 'check_nccl_abi.sh: %s\n' "$*" >&2; exit 1; }

wheel=${1:-}
if [[ -z $wheel ]]; then
  "${PYTHON:-python3}" -m pip download -q --no-deps -d "$scratch" nvidia-nccl-cu13 || fail 'the wheel cannot be fetched'
  "${PYTHON:-python3}" -m zipfile -e "$scratch"/nvidia_nccl_cu13-*.whl "$scratch"
  wheel=$scratch/nvidia/nccl
fi
[[ -f $wheel/include/nccl.h && -f $wheel/lib/libnccl.so.2 ]] || fail "$wheel lacks include/nccl.h or lib/libnccl.so.2"

# A test prints the table, one fact a line: TABLE|NCCL|kind|name|value, and a function's result.
(cd "$root" && ${CARGO:-cargo} test -q -p wattle-dist --lib -- --exact nccl::config::tests::table --nocapture) |
  sed -n 's/^.*TABLE|/TABLE|/p' >"$scratch/table"
[[ -s $scratch/table ]] || fail 'the test nccl::config::tests::table printed nothing'

# Rust's types as C's.
c_type() {
  case $1 in
    '') echo void ;;
    c_int) echo int ;;
    usize) echo size_t ;;
    NcclResult) echo ncclResult_t ;;
    DataType) echo ncclDataType_t ;;
    RedOp) echo ncclRedOp_t ;;
    Comm) echo ncclComm_t ;;
    Stream) echo cudaStream_t ;;
    UniqueId) echo ncclUniqueId ;;
    '*mut c_int') echo 'int *' ;;
    '*mut UniqueId') echo 'ncclUniqueId *' ;;
    '*mut Comm') echo 'ncclComm_t *' ;;
    '*mut Config') echo 'ncclConfig_t *' ;;
    '*mut NcclResult') echo 'ncclResult_t *' ;;
    '*const c_char') echo 'const char *' ;;
    '*const c_void') echo 'const void *' ;;
    '*mut c_void') echo 'void *' ;;
    *) fail "no C type is known for $1" ;;
  esac
}

program() {
  cat <<'C'
#include <stddef.h>
#include <nccl.h>
#include <stdint.h>
#include <stdio.h>
static int n_checks, n_faults;
static void same(const char *name, int64_t here, int64_t there) {
  ++n_checks;
  if (here != there) ++n_faults, printf("  %s: %lld here, %lld in the header\n", name, (long long)here, (long long)there);
}
int main(void) {
C
  while IFS='|' read -r _ _ kind name value result; do
    case $kind in
      number) echo "  same(\"$name\", $value, $name);" ;;
      function)
        types=
        while IFS= read -r type; do
          types+="${types:+, }$(c_type "$type")"
        done < <(tr ',' '\n' <<<"$value")
        echo "  same(\"$name\", 1, __builtin_types_compatible_p(__typeof__(&$name), $(c_type "$result") (*)($types)));"
        ;;
      *) fail "the table has a line of kind $kind" ;;
    esac
  done <"$scratch/table"
  echo '  printf("NCCL %d: %d facts compared, %d differ\n", NCCL_VERSION_CODE, n_checks, n_faults); return n_faults != 0; }'
}

mkdir "$scratch/cuda"
echo 'typedef struct CUstream_st *cudaStream_t; typedef struct CUevent_st *cudaEvent_t;' >"$scratch/cuda/cuda_runtime.h"
echo >"$scratch/cuda/cuda_fp16.h"
program >"$scratch/check.c"
"${CC:-cc}" "-I$scratch/cuda" "-I$wheel/include" -o "$scratch/check" "$scratch/check.c" ||
  fail 'the program does not compile'
"$scratch/check" || fail 'the table differs from the header'

cd "$root"
WATTLE_NCCL=$wheel/lib/libnccl.so.2 WATTLE_TEST_NCCL=required ${CARGO:-cargo} test -q -p wattle-dist --test tests nccl
