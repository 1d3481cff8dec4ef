#!/usr/bin/env bash
# Finds a CUDA compiler, or sets one up from PyPI wheels (104 MB to fetch, 271 MB on disk).
#
#   scripts/cuda_toolkit.sh [DIR] [--with cudnn] [--with libraries] [--env]
#   eval "$(scripts/cuda_toolkit.sh --env)" && cargo build --release --features cuda
#
# A toolkit that is installed is used as it is: that of CUDA_HOME, else of the nvcc on PATH. Otherwise nvcc 13.0 and
# what it needs to compile go to DIR (default target/cuda-toolkit), laid out as a CUDA_HOME. What is there already is
# not fetched again. PYTHON is the interpreter whose pip fetches (default python3).
#
# --with cudnn      headers of cuDNN and NVRTC (460 MB to fetch, of which the headers stay) and of cuDNN's C++ frontend,
#                   for fused attention: the libraries themselves are opened at run time
# --with libraries  cuBLAS, cuRAND, NVRTC and cuDNN themselves (1.3 GB), for a machine with a GPU but without them,
#                   and for processors on which wattle is linked against them
# --env             nothing but the lines that set the environment
#
# Versions are those of PyTorch 2.11+cu130, so that one environment serves both.
set -euo pipefail

compiler=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
frontend=(nvidia-cudnn-frontend==1.32.0)
headers_of=(nvidia-cudnn-cu13==9.19.0.56 nvidia-cuda-nvrtc==13.0.88)
libraries=(nvidia-cublas==13.1.0.3 nvidia-cuda-nvrtc==13.0.88 nvidia-curand==10.4.0.35 nvidia-cudnn-cu13==9.19.0.56)

root=$(cd "$(dirname "$0")/.." && pwd)
home=$root/target/cuda-toolkit
python=${PYTHON:-python3}
wanted=("${compiler[@]}")
with_libraries=false with_cudnn=false only_env=false

say() { $only_env || printf '%s\n' "$*" >&2; }
fail() { printf 'cuda_toolkit.sh: %s\n' "$*" >&2; exit 1; }

while (($#)); do
  case $1 in
    --with)
      case ${2:-} in
        cudnn) with_cudnn=true wanted+=("${frontend[@]}") ;;
        libraries) with_libraries=true wanted+=("${libraries[@]}") ;;
        *) echo "--with ${2:-}: expected cudnn or libraries" >&2; exit 2 ;;
      esac
      shift ;;
    --env) only_env=true ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit ;;
    -*) echo "unknown argument $1; expected [DIR] [--with cudnn|libraries] [--env]" >&2; exit 2 ;;
    *) home=$1 ;;
  esac
  shift
done

# The toolkit that is installed, if any.
installed() {
  if [[ -n ${CUDA_HOME:-} && $CUDA_HOME != "$home" ]]; then
    [[ -x $CUDA_HOME/bin/nvcc ]] ||
      fail "CUDA_HOME is $CUDA_HOME, which has no bin/nvcc: unset it, or point it at a toolkit"
    echo "$CUDA_HOME"
  elif command -v nvcc >/dev/null; then
    local nvcc
    nvcc=$(readlink -f "$(command -v nvcc)")
    [[ $nvcc == "$(readlink -f "$home")"/* ]] || dirname "$(dirname "$nvcc")"
  fi
}

has_pip() {
  [[ $(uname -s) == Linux ]] || fail 'the wheels are for Linux alone: install a CUDA toolkit and set CUDA_HOME'
  "$python" -m pip --version >/dev/null 2>&1 ||
    fail "$python has no pip to fetch the compiler with: install python3-pip, name another interpreter in PYTHON," \
      'or install a CUDA toolkit and set CUDA_HOME'
}

pip() {
  local command=$1
  shift
  PIP_ROOT_USER_ACTION=ignore "$python" -m pip "$command" --quiet --disable-pip-version-check --no-deps \
    --only-binary :all: "$@" >&2 ||
    fail "pip $command failed (its words are above): is there a network, and a wheel for this machine? ($*)"
}

# Fetches what is missing into $home/packages.
fetch() {
  local stamp=$home/packages.txt missing=() package
  for package in "${wanted[@]}"; do
    grep -qxF "$package" "$stamp" 2>/dev/null || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  has_pip
  say "fetching ${missing[*]}"
  mkdir -p "$home"
  pip install --no-compile --upgrade --target "$home/packages" "${missing[@]}"
  printf '%s\n' "${missing[@]}" >>"$stamp"
}

# Of large wheels, the headers alone.
fetch_headers() {
  [[ ! -e $home/packages/nvidia/cudnn/include/cudnn.h || ! -e $home/packages/nvidia/cu13/include/nvrtc.h ]] || return 0
  has_pip
  say "fetching the headers of ${headers_of[*]}"
  local wheel
  wheel=$(mktemp -d)
  # shellcheck disable=SC2064 # as it is now
  trap "rm -rf '$wheel'" EXIT
  pip download --dest "$wheel" "${headers_of[@]}"
  "$python" - "$wheel" "$home/packages" <<'PYTHON'
import pathlib, sys, zipfile
for wheel in pathlib.Path(sys.argv[1]).glob("*.whl"):
    archive = zipfile.ZipFile(wheel)
    archive.extractall(sys.argv[2], [name for name in archive.namelist() if "/include/" in name])
PYTHON
}

# Makes $home look like a toolkit: links alone, so that it can be done again at any time.
lay_out() {
  local packages=$home/packages
  local cuda=$packages/nvidia/cu13 from file name
  rm -rf "${home:?}/include" "${home:?}/lib"
  mkdir -p "$home/include" "$home/lib/stubs"
  ln -sfnr "$cuda/bin" "$home/bin"
  ln -sfnr "$cuda/nvvm" "$home/nvvm"
  ln -sfn lib "$home/lib64"
  for from in "$cuda" "$packages/nvidia/cudnn" "$packages"; do
    for file in "$from"/include/*; do
      [[ ! -e $file ]] || ln -sfr "$file" "$home/include/"
    done
    [[ $from != "$packages" ]] || continue
    # A wheel holds libX.so.N alone; a linker asks for libX.so.
    for file in "$from"/lib/lib*; do
      [[ -e $file ]] || continue
      name=$(basename "$file")
      ln -sfr "$file" "$home/lib/$name"
      [[ $name != *.so.* ]] || ln -sfr "$file" "$home/lib/${name%%.so.*}.so"
    done
  done
  if $with_libraries; then stub_driver; fi
}

# The driver's library comes with the driver, and no wheel has the stub of it that a linker could use.
stub_driver() {
  local stubs=$home/lib/stubs
  echo '#include <cuda.h>' | "${CC:-cc}" -E -P -I "$home/include" -x c - | tr '\n' ' ' |
    grep -oE 'CUresult +cu[A-Za-z0-9_]+ *\(' | grep -oE 'cu[A-Za-z0-9_]+' | sort -u |
    sed 's/.*/int &(void) { return 34; } \/* CUDA_ERROR_STUB_LIBRARY *\//' >"$stubs/libcuda.c"
  "${CC:-cc}" -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$stubs/libcuda.so" "$stubs/libcuda.c"
}

# A toolkit's version as 13.0.
version_of() { "$1/bin/nvcc" --version | sed -n 's/.*release \([0-9]*\.[0-9]*\).*/\1/p'; }

# What a build reads. Candle's kernels for 8.0 become, at load, code for whatever board there is.
print_env() {
  local version
  version=$(version_of "$1")
  [[ -n $version ]] || fail "$1/bin/nvcc does not run here (try it with --version)"
  printf 'export CUDA_HOME=%q\n' "$1"
  printf 'export NVCC=%q\n' "$1/bin/nvcc"
  # shellcheck disable=SC2016 # for the shell that reads it
  printf 'export PATH=%q:"$PATH"\n' "$1/bin"
  printf 'export CUDARC_CUDA_VERSION=%d0%d0\n' "${version%.*}" "${version#*.}"
  printf 'export CUDA_COMPUTE_CAP=%q\n' "${CUDA_COMPUTE_CAP:-80}"
  printf 'export CUDAFORGE_THREADS=%q\n' "${CUDAFORGE_THREADS:-$(nproc)}"
  # Smaller machine code, which nvcc knows to make from 12.8 on.
  [[ $(printf '12.8\n%s\n' "$version" | sort -V | head -n 1) != 12.8 ]] ||
    printf 'export NVCC_APPEND_FLAGS=%q\n' "${NVCC_APPEND_FLAGS:---compress-mode=size}"
}

found=$(installed)
if [[ -n $found ]]; then
  say "using the toolkit in $found (nvcc $(version_of "$found"))"
  ! $with_cudnn || [[ -e $found/include/cudnn.h ]] ||
    say "it has no include/cudnn.h: build with cuDNN's headers by unsetting CUDA_HOME and taking nvcc off PATH"
else
  fetch
  if $with_cudnn; then fetch_headers; fi
  lay_out
  home=$(cd "$home" && pwd)
  found=$home
  say "nvcc $(version_of "$home") is in $home"
fi
say 'set this environment, or eval the output of --env:'
print_env "$found"
