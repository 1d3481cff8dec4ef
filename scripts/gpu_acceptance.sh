#!/usr/bin/env bash
# Proves and measures wattle on a bare machine with an NVIDIA GPU, with a binary that was built elsewhere.
#
#   scripts/gpu_acceptance.sh --stage verify|kernels|train|generate|ranks|peers|nvml|all [--binary PATH] [--out DIR] [--work DIR]
#                             [--merge results.json] [--commit SHA] [--self-test]
#
# verify  every operation on the GPU against its f64 reference
# kernels GPT-2 124M with the first kernels, with measured ones and in fp8, in turns; every way of every job; wattle tune
# train   losses against the CPU's, resume to the bit, GPT-2 124M and 1.5B: tokens/s, memory, joules; cost of metering
# generate GPT-2 124M: losses of wattle evaluate against the CPU's; tokens/s and joules a token of one text at a time and of
#         eight, in f32 and bf16
# ranks   a communicator of one rank within the recorded step: its losses against those without, and what it costs, in turns;
#         where NCCL is 2.30 or newer, two ranks on the one board, against one rank, twice: the same bits again
# peers   PyTorch on the same board in the same call, in turns, both under `wattle meter`
# nvml    update periods of power and counter, and how well they agree, idle, under steady and square-wave load; the
#         driver's own power samples: their period, cost, agreement with the counter, and their clock's offset; then
#         what the meter itself costs beside an idle board
#
# A stage takes less than eight minutes; what does not fit any more is recorded as skipped. A measurement that fails is
# recorded with the end of its log, and the others go on. DIR (default gpu-acceptance) gets results.json, with every
# figure and check, results.txt, the short table, and log.txt, the ends of all logs. --merge takes over the stages of an
# earlier call that this one does not run again. --work is for runs and checkpoints (up to 20 GB; default in /dev/shm).
# The commit is that of --commit, of a file COMMIT beside scripts/, or git's. The exit status is 1 if a check fails.
#
# Needs python3; peers, and the load of nvml, PyTorch. --self-test goes through every line on the CPU with tiny shapes:
# its figures mean nothing and are marked so.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
binary=$here/../target/release/wattle
stage=all out=gpu-acceptance work='' merge='' commit='' self_test=false
python=${PYTHON:-python3}
while (($#)); do
  case $1 in
    --stage) stage=$2; shift ;;
    --binary) binary=$2; shift ;;
    --out) out=$2; shift ;;
    --work) work=$2; shift ;;
    --merge) merge=$2; shift ;;
    --commit) commit=$2; shift ;;
    --self-test) self_test=true ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; echo "unknown argument $1" >&2; exit 2 ;;
  esac
  shift
done
case $stage in
  verify | kernels | train | generate | ranks | peers | nvml) stages=("$stage") ;;
  all) stages=(verify kernels train generate ranks peers nvml) ;;
  *) echo "--stage $stage: expected verify, kernels, train, generate, ranks, peers, nvml or all" >&2; exit 2 ;;
esac
[[ -x $binary ]] || { echo "--binary $binary: there is no such program; build it with --features cuda" >&2; exit 2; }
binary=$(realpath "$binary")
mkdir -p "$out"
out=$(realpath "$out")
if [[ -z $work ]]; then
  work=$(mktemp -d "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")/wattle-acceptance.XXXXXX")
  trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"
work=$(realpath "$work")
export XDG_CACHE_HOME=$work/cache TORCHINDUCTOR_CACHE_DIR=$work/inductor PYTHONUNBUFFERED=1
: >"$work/attempts.jsonl"

# Sizes. 124M and 1.5B are GPT-2's; a step is one micro-batch, so that both sides do the same.
stage_seconds=450 curve_steps=100 resume_steps=60 meter_rounds=3 peer_rounds=3 probe_seconds=30 meter_seconds=60 tune_seconds=2
generate_tokens=900 evaluate_lines=256
device=cuda:0 torch_device=cuda
steps_124m=200 every_124m=50 steps_meter=60 every_meter=20 steps_15b=40 every_15b=10
corpus=(--vocab 50257 --tokens 3000000)
curves=(--set model.dropout=0 --set evaluate.batches=10)
shape_124m=(--set train.batch_size=32 --set train.micro_batch_size=32)
shape_15b=(--set model.n_layers=48 --set model.n_heads=25 --set model.d_model=1600
  --set train.batch_size=8 --set train.micro_batch_size=8)
torch_124m=(--layers 12 --heads 12 --width 768 --context 1024 --vocab 50304 --batch 32 --seconds 10)
torch_15b=(--layers 48 --heads 25 --width 1600 --context 1024 --vocab 50304 --batch 8 --seconds 10)
if $self_test; then
  stage_seconds=400 curve_steps=6 resume_steps=6 meter_rounds=1 peer_rounds=1 probe_seconds=1 meter_seconds=1 tune_seconds=0.1
  generate_tokens=20 evaluate_lines=20
  device=cpu torch_device=cpu
  steps_124m=8 every_124m=2 steps_meter=6 every_meter=2 steps_15b=6 every_15b=2
  corpus=(--vocab 500 --tokens 60000)
  tiny=(--set model.vocab_size=512 --set model.d_model=32 --set model.n_heads=2 --set model.context=32
    --set precision.dtype=f32)
  curves+=(--set data.embedded_chars=30000 --set tokenizer.kind=bytes --set model.d_model=32 --set model.n_layers=1)
  shape_124m=(--set train.batch_size=4 --set train.micro_batch_size=4 "${tiny[@]}" --set model.n_layers=1)
  shape_15b=(--set train.batch_size=4 --set train.micro_batch_size=4 "${tiny[@]}" --set model.n_layers=2)
  torch_124m=(--layers 1 --heads 2 --width 32 --context 32 --vocab 512 --batch 4 --seconds 0.1)
  torch_15b=(--layers 2 --heads 2 --width 32 --context 32 --vocab 512 --batch 4 --seconds 0.1)
fi

monotonic_ns() { "$python" -c 'import time; print(time.monotonic_ns())'; }

# Runs one measurement: NAME, LIMIT in seconds, COMMAND. It may fail; the record says how.
measure() {
  local name=$1 limit=$2 left=$((deadline - SECONDS)) status=0 started ended
  shift 2
  started=$(monotonic_ns)
  if ((left < 10)); then
    status=skipped
    echo "no time was left in the stage" >"$work/$name.log"
  else
    timeout -k 5 "$((limit < left ? limit : left))" "$@" >"$work/$name.out" 2>"$work/$name.log" || status=$?
  fi
  ended=$(monotonic_ns)
  printf '{"stage": "%s", "name": "%s", "status": "%s", "started_ns": %d, "ended_ns": %d}\n' \
    "$current" "$name" "$status" "$started" "$ended" >>"$work/attempts.jsonl"
  printf '%-8s %-28s %s (%d s)\n' "$current" "$name" "$([[ $status == 0 ]] && echo ok || echo "status $status")" \
    "$(((ended - started) / 1000000000))"
}

watched() { # NAME, LIMIT, COMMAND: beside a trace of the board
  local name=$1 limit=$2
  shift 2
  measure "$name" "$limit" "$python" "$here/gpu_watch.py" "$work/$name.csv" -- "$@"
}

# A run of the embedded corpus: NAME, DEVICE, steps, more flags.
curve() {
  local name=$1 where=$2 steps=$3
  shift 3
  measure "$name" 120 "$binary" train --out "$work/$name" --device "$where" --set "train.max_steps=$steps" \
    "${curves[@]}" "$@"
}

# A run of GPT-2's layout on the synthetic corpus: NAME, LIMIT, steps, steps between two synchronizations, more flags.
# Beside it run `wattle meter` and a watcher, as beside PyTorch; with BARE=1 neither does.
gpt2() {
  local name=$1 limit=$2 steps=$3 every=$4
  shift 4
  local run=("$binary" train --preset gpt2-124m --out "$work/$name" --device "$device"
    --set "data.dir=\"$work/corpus/data\"" --set train.epochs=0 --set "train.max_steps=$steps"
    --set "evaluate.every_steps=$every" --set evaluate.batches=1 --set checkpoint.every_steps=0
    --set checkpoint.every_epochs=0 --set checkpoint.keep=1 "$@")
  if [[ -n ${BARE:-} ]]; then
    measure "$name" "$limit" "${run[@]}"
  else
    watched "$name" "$limit" "$binary" meter --json "$work/$name.json" -- "${run[@]}"
  fi
  # Twelve bytes a parameter that nobody reads.
  [[ -n ${KEEP:-} ]] || rm -rf "$work/$name/checkpoints"
}

torch() { # NAME, LIMIT, flags of torch_gpu.py
  local name=$1 limit=$2
  shift 2
  watched "$name" "$limit" "$binary" meter --json "$work/$name.json" -- \
    "$python" "$here/peers/torch_gpu.py" "$work/corpus/tokens.u16" --device "$torch_device" "$@"
}

prepare_corpus() {
  [[ ! -e $work/corpus/data/dataset.json ]] || return 0
  measure corpus 120 "$python" "$here/peers/corpus.py" "$work/corpus" "${corpus[@]}"
  measure prepare 120 "$binary" prepare "$work/corpus/corpus.txt" --tokenizer "$work/corpus/tokenizer.json" \
    --val-fraction 0.05 --out "$work/corpus/data"
}

stage_verify() {
  measure verify 400 "$binary" verify --device "$device" --json
}

# In turns. kernels.json has what each way took.
stage_kernels() {
  prepare_corpus
  local round
  for ((round = 1; round <= meter_rounds; round++)); do
    gpt2 "kernels-first-$round" 90 "$steps_124m" "$every_124m" "${shape_124m[@]}" --set train.select=first
    gpt2 "kernels-measured-$round" 90 "$steps_124m" "$every_124m" "${shape_124m[@]}"
    gpt2 "kernels-fp8-$round" 90 "$steps_124m" "$every_124m" "${shape_124m[@]}" --set precision.dtype=fp8
  done
  # Every variant of every job against what the board can do; a CPU has none. No limit of the board is changed.
  local search=(--preset gpt2-124m --device "$device" --set "data.dir=\"$work/corpus/data\"" "${shape_124m[@]}")
  $self_test || measure tune-kernels 60 "$binary" tune "${search[@]}" --kernels
  measure tune 120 "$binary" tune "${search[@]}" --window "$tune_seconds" --rounds 3 --out "$work/tuned.toml"
  local made
  for made in tune-kernels.out tune.out tune.log tuned.toml; do
    [[ ! -e $work/$made ]] || cp "$work/$made" "$out/$made"
  done
  for round in "$work"/kernels-measured-*/kernels.json; do
    [[ ! -e $round ]] || cp "$round" "$out/$(basename "$(dirname "$round")").json"
  done
}

stage_train() {
  prepare_corpus
  curve curve-cpu cpu "$curve_steps"
  curve curve-f32 "$device" "$curve_steps" --set precision.dtype=f32
  curve curve-bf16 "$device" "$curve_steps" --set precision.dtype=bf16
  # The whole, and the same in two halves: weights, moments and losses must be the same bits.
  local dtype half=$((resume_steps / 2))
  for dtype in f32 bf16; do
    curve "straight-$dtype" "$device" "$resume_steps" --set schedule.kind=constant --set "precision.dtype=$dtype"
    # The bits are the same with the same kernels only.
    curve "halves-$dtype" "$device" "$half" --set schedule.kind=constant --set "precision.dtype=$dtype" \
      --set "train.kernels=\"$work/straight-$dtype/kernels.json\""
    measure "resume-$dtype" 120 "$binary" train --resume --out "$work/halves-$dtype" --device "$device" \
      --set "train.max_steps=$resume_steps"
  done
  gpt2 first-step 90 1 1 "${shape_124m[@]}"
  gpt2 gpt2-124m 150 "$steps_124m" "$every_124m" "${shape_124m[@]}"
  gpt2 gpt2-1.5b 200 "$steps_15b" "$every_15b" "${shape_15b[@]}"
  local round
  for ((round = 1; round <= meter_rounds; round++)); do
    BARE=1 gpt2 "metered-$round" 60 "$steps_meter" "$every_meter" "${shape_124m[@]}"
    BARE=1 gpt2 "unmetered-$round" 60 "$steps_meter" "$every_meter" "${shape_124m[@]}" --set energy.gpus='"none"' \
      --set energy.interval_ms=10000
  done
}

# A model of one step: speed does not depend on the values of weights.
stage_generate() {
  prepare_corpus
  BARE=1 KEEP=1 gpt2 generate-model 90 1 1 "${shape_124m[@]}"
  local prompts=() words length dtype batch
  head -n "$evaluate_lines" "$work/corpus/corpus.txt" >"$work/held.txt"
  read -r -a words <"$work/held.txt"
  local evaluate=("$binary" evaluate "$work/generate-model" --text "$work/held.txt" --json)
  measure evaluate-cpu 60 "${evaluate[@]}" --device cpu
  measure evaluate-f32 60 "${evaluate[@]}" --device "$device"
  measure evaluate-bf16 60 "${evaluate[@]}" --device "$device" --dtype bf16
  for length in 1 2 3 5 8 13 21 34; do prompts+=(--prompt "${words[*]:0:length}"); done
  for dtype in f32 bf16; do
    for batch in 1 8; do
      measure "generate-$dtype-$batch" 60 "$binary" generate "$work/generate-model" --device "$device" --dtype "$dtype" \
        --batch "$batch" --max-tokens "$generate_tokens" --temperature 0 --json "${prompts[@]}"
    done
  done
  rm -rf "$work/generate-model/checkpoints"
}

# The version of the NCCL that the program would open, as 23203; nothing without one.
nccl_version() {
  "$python" - <<'PYTHON' 2>/dev/null || true
import ctypes, glob, os, sysconfig
wheel = glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "nvidia/nccl/lib/libnccl.so.2"))
for name in filter(None, [os.environ.get("WATTLE_NCCL"), "libnccl.so.2", *wheel]):
    try:
        library = ctypes.CDLL(name)
    except OSError:
        continue
    version = ctypes.c_int()
    library.ncclGetVersion(ctypes.byref(version))
    print(version.value)
    break
PYTHON
}

# Two ranks with torchrun's variables on one board; on a CPU mpirun starts them. NAME, LIMIT, COMMAND.
pair() {
  local name=$1 limit=$2
  shift 2
  if $self_test; then
    measure "$name" "$limit" env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -n 2 "$@"
    return
  fi
  measure "$name" "$limit" bash -c 'ranks=() status=0
      for rank in 0 1; do RANK=$rank LOCAL_RANK=$rank "$@" & ranks+=($!); done
      for rank in "${ranks[@]}"; do wait "$rank" || status=$?; done
      exit "$status"' \
    pair env WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29400 NCCL_MULTI_RANK_GPU_ENABLE=1 "$@"
}

stage_ranks() {
  prepare_corpus
  local round version
  for ((round = 1; round <= meter_rounds; round++)); do
    BARE=1 gpt2 "ranks-none-$round" 60 "$steps_meter" "$every_meter" "${shape_124m[@]}" --set train.select=first
    WATTLE_NCCL_ALONE=1 BARE=1 gpt2 "ranks-one-$round" 60 "$steps_meter" "$every_meter" "${shape_124m[@]}" --set train.select=first
  done
  version=$(nccl_version)
  if $self_test; then
    command -v mpirun >/dev/null || return 0
  elif ((${version:-0} < 23000)); then
    echo "ranks    two ranks on one board need NCCL 2.30 or newer; this one is ${version:-none}"
    return 0
  fi
  curve ranks-single "$device" "$curve_steps" --set precision.dtype=f32 --set train.select=first
  for round in 1 2; do
    pair "ranks-pair-$round" 120 "$binary" train --out "$work/ranks-pair-$round" --device "$device" \
      --set "train.max_steps=$curve_steps" "${curves[@]}" --set precision.dtype=f32 --set train.select=first
  done
}

# In turns, what matters most first.
stage_peers() {
  prepare_corpus
  local round
  for ((round = 1; round <= peer_rounds; round++)); do
    gpt2 "wattle-124m-$round" 120 "$steps_124m" "$every_124m" "${shape_124m[@]}"
    torch "compile-cudnn-124m-$round" 150 "${torch_124m[@]}" --compile --attention cudnn
    torch "compile-flash-124m-$round" 150 "${torch_124m[@]}" --compile --attention flash
    torch "eager-flash-124m-$round" 100 "${torch_124m[@]}" --attention flash
    if ((round == 1)); then
      gpt2 wattle-1.5b-1 150 "$steps_15b" "$every_15b" "${shape_15b[@]}"
      torch compile-cudnn-1.5b-1 180 "${torch_15b[@]}" --compile --attention cudnn
    fi
  done
}

stage_nvml() {
  measure nvml 380 "$python" "$here/nvml_probe.py" --seconds "$probe_seconds"
  # A minute, so that learning the counter's ticks counts for little.
  measure meter-cost 90 "$binary" meter --json "$work/meter-cost.json" -- sleep "$meter_seconds"
}

"$binary" devices --json >"$work/devices.json" 2>"$work/devices.log" || true
for current in "${stages[@]}"; do
  deadline=$((SECONDS + stage_seconds))
  "stage_$current"
done
flags=()
[[ -z $merge ]] || flags+=(--merge "$merge")
[[ -z $commit ]] || flags+=(--commit "$commit")
! $self_test || flags+=(--self-test)
"$python" "$here/gpu_results.py" "$work" "$out" --binary "$binary" "${flags[@]}"
