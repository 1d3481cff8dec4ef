#!/usr/bin/env bash
# Stands in for nvcc where code is only type-checked: makes empty outputs of the names that nvcc would give.
# Use as NVCC=scripts/nvcc_standin.sh with CUDA_COMPUTE_CAP and CUDARC_CUDA_VERSION set; see .ci/run.
set -euo pipefail

output='' directory=. mode=object sources=()
while (($#)); do
  case $1 in
    --version)
      echo 'nvcc: NVIDIA (R) Cuda compiler driver (stand-in)'
      echo 'Cuda compilation tools, release 13.0, V13.0.88'
      exit
      ;;
    -o) output=$2; shift ;;
    --output-directory) directory=$2; shift ;;
    --default-stream | -Xcompiler | -ccbin) shift ;;
    --ptx | -ptx) mode=ptx ;;
    --lib | -lib) mode=archive ;;
    *.cu) sources+=("$1") ;;
  esac
  shift
done

case $mode in
  ptx) for source in "${sources[@]}"; do : >"$directory/$(basename "${source%.cu}").ptx"; done ;;
  archive) rm -f "$output" && ar rcs "$output" ;;
  object) : >"$output" ;;
esac
