#!/usr/bin/env python3
"""What the meter costs the training beside it.

    cargo build --release
    python3 scripts/meter_cost.py target/release/wattle --rounds 12

Each round makes the same short run twice, in alternating order: metered 20 times a second, and with the least the
program allows, one reading in ten seconds. Compared are the times of a step, by the run's own events. Prints the
mean difference with its 95 % interval (Student's t over the rounds). Needs nothing but Python.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

# Two-sided 95 % quantiles of Student's t (NIST/SEMATECH e-Handbook, table 1.3.6.7.2) for n - 1 = 1 to 30.
STUDENT = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
]
METERED_MS, UNMETERED_MS = 50, 10_000


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=Path, help="the program wattle")
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--steps", type=int, default=150, help="steps of a run")
    arguments = arguments.parse_args()
    if arguments.rounds < 2:
        raise SystemExit("--rounds: expected at least 2, to tell a spread")
    binary = arguments.binary.resolve()
    differences = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            order = [METERED_MS, UNMETERED_MS][:: 1 if number % 2 == 0 else -1]
            seconds = {ms: step_seconds(binary, Path(folder) / f"{number}-{ms}", ms, arguments.steps) for ms in order}
            difference = seconds[METERED_MS] / seconds[UNMETERED_MS] - 1
            differences.append(difference)
            print(f"round {number + 1:2}: {seconds[METERED_MS] * 1e3:7.2f} ms metered, "
                  f"{seconds[UNMETERED_MS] * 1e3:7.2f} ms not, {difference * 100:+.2f} %")
    n = len(differences)
    t = STUDENT[n - 2] if n - 2 < len(STUDENT) else 1.96
    half_width = t * statistics.stdev(differences) / n**0.5
    print(f"metering costs {statistics.mean(differences) * 100:+.2f} % ± {half_width * 100:.2f} % of a step "
          f"(95 % interval, {n} rounds of {arguments.steps} steps)")


def step_seconds(binary, run, interval_ms, steps):
    """Median time of a step of one run."""
    settings = [f"train.max_steps={steps}", f"energy.interval_ms={interval_ms}", "checkpoint.every_epochs=0",
                f'data.cache_dir="{run.parent / "cache"}"']
    command = [binary, "-q", "train", "--device", "cpu", "--out", run]
    command += [part for setting in settings for part in ("--set", setting)]
    subprocess.run(command, check=True)
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    batch_tokens, times = None, []
    for event in events:
        if event["event"] == "step":
            batch_tokens = batch_tokens or event["tokens"]
            times.append(batch_tokens / event["tokens_per_s"])
    return statistics.median(times)


if __name__ == "__main__":
    main()
