#!/bin/sh
# Times wattle's training step and PyTorch's at the same shapes, in turns, and prints medians and ratios.
#
#   scripts/peers/run.sh [ROUNDS] [SHAPE…]
#
# PYTHON   an interpreter with torch (default python3)
# ENGINES  what to run of wattle, default "auto"; "auto autograd" adds candle's autograd
# TORCH    variants of torch: words of "eager compile bf16 compile-bf16", default "eager"
# NANOGPT  a checkout of karpathy/nanoGPT with data/shakespeare_char prepared: its own train.py runs as well
# THREADS  threads of each (default 2)
#
# Each round runs everything once, one after the other, so that a change of the machine's load meets all alike. On a
# shared machine the ratio within a round is what to trust; the spread of rounds is printed with it.
set -eu
cd "$(dirname "$0")/../.."
rounds=${1:-5}
[ $# -gt 0 ] && shift
shapes=${*:-small big}
python=${PYTHON:-python3}
threads=${THREADS:-2}

bench=$(cargo bench -p wattle-train --bench step --no-run --message-format=json |
    "$python" -c 'import json, sys
for line in sys.stdin:
    artifact = json.loads(line)
    if artifact.get("executable") and artifact["target"]["name"] == "step":
        print(artifact["executable"])')
results=$(mktemp)
trap 'rm -f "$results"' EXIT

for round in $(seq "$rounds"); do
    for shape in $shapes; do
        for engine in ${ENGINES:-auto}; do
            "$bench" "$shape" engine "$engine" threads "$threads" | tee -a "$results"
        done
        for variant in ${TORCH:-eager}; do
            flags=""
            case $variant in *compile*) flags="$flags --compile" ;; esac
            case $variant in *bf16*) flags="$flags --bf16" ;; esac
            # shellcheck disable=SC2086 # flags are words
            "$python" scripts/peers/torch_gpt2.py "$shape" --threads "$threads" $flags | tee -a "$results"
        done
        if [ -n "${NANOGPT:-}" ]; then
            "$python" scripts/peers/nanogpt.py "$NANOGPT" "$shape" --threads "$threads" | tee -a "$results"
        fi
    done
done

"$python" scripts/peers/table.py "$results"
