#!/usr/bin/env python3
"""Holds the signatures and constants of crates/ops/src/board/cuda and crates/dist/src/nccl against NVIDIA's headers.

scripts/check_cuda_abi.py INCLUDE...   folders that hold cuda.h and cublasLt.h, as of the PyPI wheels
                                       nvidia-cuda-runtime and nvidia-cublas; needs c++

Each `entry_points!` line and each constant whose comment begins with its name in C becomes a check in a C++ program.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

CRATES = pathlib.Path(__file__).parent.parent / "crates"
SOURCES = ["ops/src/board/cuda/driver.rs", "ops/src/board/cuda/cublaslt.rs", "dist/src/nccl/driver.rs"]

# What a type in Rust may be in C: i integer or enum, f float, p pointer; then its size, or what it points to.
KINDS = {
    "c_int": "i4", "c_uint": "u4", "u64": "u8 pv", "i64": "i8", "usize": "u8", "u8": "u1", "f32": "f4",
    "Handle": "ps pv", "*const c_void": "pv", "*mut c_void": "pv", "*mut c_int": "pi4", "*mut c_uint": "pi4",
    "*mut f32": "pf4", "*mut usize": "pi8", "*mut u64": "pi8", "*mut Handle": "pp", "*mut *mut c_void": "pp",
    "*mut *const c_char": "pp", "*mut c_char": "pi1", "*const c_char": "pi1", "*mut Heuristic": "ps",
    "*const u64": "ps", "*mut Uuid": "ps",
}

PRELUDE = r"""
#include <cuda.h>
#include <cublasLt.h>
#include <cstddef>
#include <cstdio>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>
int n_checks, n_faults;
template <class T> std::string kind() {
  using U = std::remove_cv_t<T>;
  if constexpr (std::is_pointer_v<U>) {
    using P = std::remove_cv_t<std::remove_pointer_t<U>>;
    if constexpr (std::is_void_v<P>) return "pv";
    else if constexpr (std::is_pointer_v<P>) return "pp";
    else if constexpr (std::is_floating_point_v<P>) return "pf" + std::to_string(sizeof(P));
    else if constexpr (std::is_integral_v<P> || std::is_enum_v<P>) return "pi" + std::to_string(sizeof(P));
    else return "ps";
  } else if constexpr (std::is_floating_point_v<U>) return "f" + std::to_string(sizeof(U));
  else if constexpr (std::is_enum_v<U>) return "i" + std::to_string(sizeof(U));
  else return (std::is_signed_v<U> ? "i" : "u") + std::to_string(sizeof(U));
}
bool fits(const std::string& kinds, const std::string& found) {
  std::istringstream words(kinds);
  for (std::string word; words >> word;) if (word == found) return true;
  return false;
}
template <class F> struct Signature;
template <class R, class... A> struct Signature<R (*)(A...)> {
  static std::vector<std::string> kinds() { return {kind<R>(), kind<A>()...}; }
};
template <class F> void function(const char* name, std::vector<std::string> here) {
  auto there = Signature<F>::kinds();
  bool same = here.size() == there.size();
  for (size_t i = 0; same && i < here.size(); ++i) same = fits(here[i], there[i]);
  ++n_checks;
  if (!same) ++n_faults, std::printf("%s: another signature\n", name);
}
void number(const char* name, long here, long there) {
  ++n_checks;
  if (here != there) ++n_faults, std::printf("%s: %ld here, %ld in the header\n", name, here, there);
}
int main() {
"""

LAYOUT = """
  number("cublasLtMatmulAlgo_t", 64, sizeof(cublasLtMatmulAlgo_t));
  number("cublasLtMatmulHeuristicResult_t", 96, sizeof(cublasLtMatmulHeuristicResult_t));
  number("workspaceSize", 64, offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
  number("state", 72, offsetof(cublasLtMatmulHeuristicResult_t, state));
  number("wavesCount", 76, offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));
  number("CUDA_R_32F", 0, CUDA_R_32F);
  number("CUDA_R_16BF", 14, CUDA_R_16BF);
  number("CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES", 5, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
  number("CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES", 8, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
  std::printf("%d checks, %d faults\\n", n_checks, n_faults);
  return n_faults != 0;
}
"""


def checks(text):
    """A line of C++ for each entry point and each constant."""
    table = text[text.index("entry_points! {"):]
    table = table[: table.index("\n}\n")]
    for symbol, args, ret in re.findall(r"\w+ = (\w+)\(([^)]*)\) -> ([^;]+);", table):
        types = [ret.strip()] + [arg.strip() for arg in args.split(",") if arg.strip()]
        kinds = ", ".join(f'"{KINDS[rust]}"' for rust in types)
        # From CUDA 13 on the header means _v2 by this name; the library still has this one, with this signature.
        yield f'  function<decltype(&{symbol})>("{symbol}", {{{kinds}}});'
    known = dict(re.findall(r"const (\w+): [^=]*= ([^;]+);", text))
    for name, value in re.findall(r"/// `(CU\w+)`[^\n]*\npub\(super\) const \w+: [^=]*= ([^;]+);", text):
        # One constant may be made of another.
        value = re.sub(r"[A-Z]\w+", lambda word: known.get(word[0], word[0]), value)
        yield f'  number("{name}", {value}, long({name}));'


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    lines = [line for name in SOURCES for line in checks((CRATES / name).read_text())]
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "abi"
        source = program.with_suffix(".cpp")
        source.write_text(PRELUDE + "\n".join(lines) + LAYOUT)
        includes = [f"-I{path}" for path in sys.argv[1:]]
        # Nothing of the libraries is called: types and constants are all that is compiled.
        subprocess.run(["c++", "-std=c++17", *includes, str(source), "-o", str(program)], check=True)
        sys.exit(subprocess.run([str(program)]).returncode)


main()
