#!/usr/bin/env bash
# Runs every campaign against the program at full size and prints a table of what was tried and what failed.
#
#   scripts/attack.sh [SCALE]
#
# SCALE multiplies the number of random cases; at 1, the default, hostile drivers alone take a quarter of an hour. A
# variable below that is set already stays as it is. Campaigns are seeded: the same sizes try the same cases. Each
# failure is printed with the command that repeats it. `cargo test --workspace` runs a sample of each. docs/attack.md
# says what they are and holds the figures of the last run.
set -euo pipefail

cd "$(dirname "$0")/.."
scale=${1:-1}
[[ $scale =~ ^[1-9][0-9]*$ ]] || { echo "attack.sh: SCALE is a whole number from 1, got '$scale'" >&2; exit 2; }

export WATTLE_FUZZ_CASES=${WATTLE_FUZZ_CASES:-$((400 * scale))} # damaged files for each reader
export WATTLE_FAULT_CALLS=${WATTLE_FAULT_CALLS:-$((40 * scale))} # for each command, call and effect
export WATTLE_DRIVER_CASES=${WATTLE_DRIVER_CASES:-1000000}        # all there are
export WATTLE_CRASH_MOMENTS=${WATTLE_CRASH_MOMENTS:-$((200 * scale))}
export WATTLE_HOSTILE_CLIENTS=${WATTLE_HOSTILE_CLIENTS:-$((10000 * scale))}

# A file system in memory: syncing would take most of the time, and kill -9 does not lose what the kernel has.
if [[ -z ${TMPDIR:-} && -w /dev/shm ]]; then
  TMPDIR=$(mktemp -d /dev/shm/attack.XXXXXX)
  export TMPDIR
fi
log=$(mktemp)
trap 'rm -rf "$log"; case ${TMPDIR:-} in /dev/shm/attack.*) rm -rf "$TMPDIR" ;; esac' EXIT

status=0
cargo test --workspace --lib --test '*' -- --nocapture faults:: crash:: hostile damaged 2>&1 | tee "$log" || status=1

echo
printf '%-20s %8s %9s\n' campaign cases failures
sed -n 's/.*attack: \(.*\): \([0-9]*\) cases, \([0-9]*\) failures$/\1|\2|\3/p' "$log" | sort |
  while IFS='|' read -r name cases failures; do printf '%-20s %8s %9s\n' "$name" "$cases" "$failures"; done
exit "$status"
