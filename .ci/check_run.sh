#!/usr/bin/env bash
# Holds a run directory of the embedded default against what the README says of it.
set -euo pipefail
run=$1

for file in config.toml manifest.json events.jsonl emissions.jsonl emissions.csv power.trace train.log \
  checkpoints/latest/{model.safetensors,config.json,generation_config.json,tokenizer.json,tokenizer_config.json} \
  checkpoints/latest/{optimizer.safetensors,state.json,emissions.json,README.md} checkpoints/best/model.safetensors; do
  [[ -s $run/$file ]] || { echo "$run/$file is missing or empty" >&2; exit 1; }
done

tail -n 1 "$run/events.jsonl" | grep -q '"event":"stop".*"reason":"done"' ||
  { echo 'the run did not end as done' >&2; exit 1; }
[[ $(grep -c '"kind":"epoch"' "$run/emissions.jsonl") == 3 && $(grep -c '"kind":"final"' "$run/emissions.jsonl") == 1 ]] ||
  { echo 'expected three records of epochs and one of the whole' >&2; exit 1; }

# Guessing costs ln 2048 = 7.6 nats a token; what is learnt in three epochs is far below 2.
loss=$(grep '"event":"evaluate"' "$run/events.jsonl" | tail -n 1 | sed 's/.*"loss":\([0-9.]*\).*/\1/')
awk -v loss="$loss" 'BEGIN { exit !(loss > 0.4 && loss < 2.0) }' ||
  { echo "validation loss $loss: expected between the floor and 2" >&2; exit 1; }
echo "the run directory is complete; validation loss $loss"
