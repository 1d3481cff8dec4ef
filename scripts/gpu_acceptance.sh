#!/usr/bin/env bash
# Proves and measures wattle on a bare machine with an NVIDIA GPU, with a binary that was built elsewhere.
#
#   scripts/gpu_acceptance.sh --stage train|nvml|all [--binary PATH] [--out DIR]
#
# train  a tier-0 run on the GPU, metered; its losses against the CPU's; resume to the bit; cost of metering
# nvml   update periods of power and counter, and how well they agree, idle, under steady and square-wave load
#
# Each stage takes less than eight minutes. DIR (default gpu-acceptance) gets one JSON, results.json, with every
# figure and check, and the logs. The exit status is 1 if a check fails. Needs python3; the nvml stage makes its
# load with PyTorch if that is there.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
binary=$here/../target/release/wattle
stage=all
out=gpu-acceptance
while (($#)); do
  case $1 in
    --stage) stage=$2; shift ;;
    --binary) binary=$2; shift ;;
    --out) out=$2; shift ;;
    *) echo "unknown argument $1; expected --stage train|nvml|all, --binary PATH, --out DIR" >&2; exit 2 ;;
  esac
  shift
done
case $stage in
  train | nvml | all) ;;
  *) echo "--stage $stage: expected train, nvml or all" >&2; exit 2 ;;
esac
mkdir -p "$out"
out=$(cd "$out" && pwd)
export XDG_CACHE_HOME=$out/cache

# One run of the embedded default: NAME, then flags.
train() {
  local name=$1
  shift
  rm -rf "${out:?}/$name"
  "$binary" train --out "$out/$name" --set train.max_steps=100 --set evaluate.batches=10 "$@" \
    >"$out/$name.log" 2>&1 || { echo "run $name failed:" >&2; tail -n 20 "$out/$name.log" >&2; return 1; }
}

stage_train() {
  "$binary" devices --json >"$out/devices.json"
  train gpu --device cuda:0
  train cpu --device cpu
  # Metering on and off, interleaved.
  for round in 1 2 3; do
    train "metered-$round" --device cuda:0
    train "unmetered-$round" --device cuda:0 --set energy.gpus=none --set energy.interval_ms=10000
  done
  train resumed --device cuda:0 --set train.max_steps=50 --set schedule.kind=constant
  "$binary" train --resume --out "$out/resumed" --device cuda:0 --set train.max_steps=100 >>"$out/resumed.log" 2>&1
  train straight --device cuda:0 --set schedule.kind=constant
}

stage_nvml() {
  python3 "$here/nvml_probe.py" >"$out/nvml.json" 2>"$out/nvml.log" ||
    { echo 'the NVML probe failed:' >&2; tail -n 20 "$out/nvml.log" >&2; return 1; }
}

if [[ $stage != nvml ]]; then stage_train; fi
if [[ $stage != train ]]; then stage_nvml; fi
python3 "$here/gpu_results.py" "$out"
