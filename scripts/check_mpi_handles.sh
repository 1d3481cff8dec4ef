#!/usr/bin/env bash
# Compares the MPI tables of crates/dist/src/mpi (handles, constants, signatures) with the headers of MPI libraries.
#
#   scripts/check_mpi_handles.sh [ABI_INCLUDE]
#
# Open MPI's and MPICH's headers are those of mpicc.openmpi and mpicc.mpich (Debian: libopenmpi-dev, libmpich-dev). For
# the MPI-5 ABI, ABI_INCLUDE is a folder with mpi_abi.h, as in PyPI's wheel mpich 5; without it, the wheel is
# downloaded. Headers that are missing are named; that fails only if there are none at all, or with WATTLE_TEST_MPI set.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() { printf 'check_mpi_handles.sh: %s\n' "$*" >&2; exit 1; }

# A test prints the table, one fact a line: TABLE|ABI|kind|name|value, and a function's result.
(cd "$root" && ${CARGO:-cargo} test -q -p wattle-dist --lib -- --exact mpi::abi::tests::table --nocapture) |
  sed -n 's/^.*TABLE|/TABLE|/p' >"$scratch/table"
[[ -s $scratch/table ]] || fail 'the test mpi::abi::tests::table printed nothing'

# Rust's types as C's.
c_type() {
  case $1 in
    c_int) echo 'int' ;;
    '*mut c_int') echo 'int *' ;;
    '*const c_int') echo 'const int *' ;;
    '*mut c_char') echo 'char *' ;;
    '*mut *mut *mut c_char') echo 'char ***' ;;
    '*const c_void') echo 'const void *' ;;
    '*mut c_void') echo 'void *' ;;
    Comm | Datatype | Errhandler) echo "MPI_$1" ;;
    '*mut Request') echo 'MPI_Request *' ;;
    '*mut Status') echo 'MPI_Status *' ;;
    *) fail "no C type is known for $1" ;;
  esac
}

# A C program that compares what the table says of one ABI: program ABI HEADER
program() {
  local abi kind name value result types type
  cat <<C
#include <stdint.h>
#include <stdio.h>
#include "$2"
static int n_checks, n_faults;
static void same(const char *name, uint64_t here, uint64_t there) {
  ++n_checks;
  if (here != there)
    ++n_faults, printf("  %s: %llx here, %llx in the header\n", name, (unsigned long long)here, (unsigned long long)there);
}
/* An integer handle has the sign of an int: compare its 32 bits. */
#define BITS(handle) (sizeof(handle) == 4 ? (uint64_t)(uint32_t)(uintptr_t)(handle) : (uint64_t)(uintptr_t)(handle))
int main(void) {
  same("a handle fits a register", 1, sizeof(MPI_Comm) <= 8 && sizeof(MPI_Datatype) <= 8 && sizeof(MPI_Errhandler) <= 8);
  same("a request fits 64 bits", 1, sizeof(MPI_Request) <= 8);
  same("MPI_SUCCESS", 0, MPI_SUCCESS);
C
  while IFS='|' read -r _ abi kind name value result; do
    [[ $abi == "$1" || $abi == all ]] || continue
    case $kind in
      symbol)
        # The table's symbol, declared as the header does; it is the handle's address.
        echo "  same(\"$name\", (uint64_t)(uintptr_t)&$value, BITS($name));"
        ;;
      handle) echo "  same(\"$name\", ${value}ULL, BITS($name));" ;;
      number) echo "  same(\"$name\", (uint64_t)(int64_t)($value), (uint64_t)(int64_t)($name));" ;;
      function)
        types=
        while IFS= read -r type; do
          [[ -n $type ]] && types+="${types:+, }$(c_type "$type")"
        done < <(tr ',' '\n' <<<"$value")
        echo "  same(\"$name\", 1, __builtin_types_compatible_p(__typeof__(&$name), $(c_type "$result") (*)(${types:-void})));"
        ;;
      *) fail "the table has a line of kind $kind" ;;
    esac
  done <"$scratch/table"
  echo '  printf("  %d facts compared, %d differ\n", n_checks, n_faults); return n_faults != 0; }'
}

n_compared=0
n_missing=0

# compare ABI HEADER COMPILER...; the header's own handles are addresses for one ABI alone, whose library is linked.
compare() {
  local abi=$1 header=$2
  shift 2
  printf '%s: %s\n' "$abi" "$*"
  program "$abi" "$header" >"$scratch/check.c"
  "$@" -o "$scratch/check" "$scratch/check.c" || fail "the program for $abi does not compile"
  "$scratch/check" || fail "the table of $abi differs from the header"
  n_compared=$((n_compared + 1))
}

missing() {
  printf '%s: NOT COMPARED, %s\n' "$1" "$2"
  n_missing=$((n_missing + 1))
}

if command -v mpicc.openmpi >/dev/null; then
  compare 'Open MPI' mpi.h mpicc.openmpi
else
  missing 'Open MPI' 'there is no mpicc.openmpi (libopenmpi-dev)'
fi
if command -v mpicc.mpich >/dev/null; then
  compare MPICH mpi.h mpicc.mpich
else
  missing MPICH 'there is no mpicc.mpich (libmpich-dev)'
fi

abi_include=${1:-}
if [[ -z $abi_include ]] && python3 -m pip download -q --no-deps -d "$scratch" 'mpich>=5' >"$scratch/pip.log" 2>&1; then
  python3 -m zipfile -e "$scratch"/mpich-*.whl "$scratch/wheel"
  abi_include=$(dirname "$(find "$scratch/wheel" -name mpi_abi.h -print -quit)")
fi
if [[ -n $abi_include && -f $abi_include/mpi_abi.h ]]; then
  # Only addresses of functions are taken, within __typeof__: nothing has to be linked.
  compare 'MPI-5 ABI' mpi_abi.h "${CC:-cc}" "-I$abi_include"
else
  missing 'MPI-5 ABI' "there is no mpi_abi.h${abi_include:+ in $abi_include} (pip download mpich)"
fi

[[ $n_compared -gt 0 ]] || fail 'nothing was compared'
[[ $n_missing -eq 0 || -z ${WATTLE_TEST_MPI:-} ]] || fail 'WATTLE_TEST_MPI is set, and not all was compared'
