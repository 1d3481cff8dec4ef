#!/usr/bin/env python3
"""Gathers what scripts/gpu_acceptance.sh left in a folder into one results.json and a short table.

Every figure is read from a file that a stage wrote; a stage that did not run is absent from the results.
The exit status is 1 if a check fails.
"""

import json
import platform
import statistics
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

# Losses of f32 arithmetic in another order, over 100 steps of a small model.
LOSS_TOLERANCE = 2e-2


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps(run):
    """The steps of a run, each once: where one was made twice, the later."""
    events = lines(run / "events.jsonl")
    return {event["step"]: event for event in events if event["event"] == "step"}


def final_record(run):
    return next(record for record in reversed(lines(run / "emissions.jsonl")) if record["kind"] == "final")


def tokens_per_s(run):
    """Median over the second half of the steps."""
    made = sorted(steps(run).items())
    return statistics.median(event["tokens_per_s"] for _, event in made[len(made) // 2 :])


def train_results(out):
    gpu, cpu = steps(out / "gpu"), steps(out / "cpu")
    record = final_record(out / "gpu")
    boards = [sensor for sensor in record["sensors"] if sensor["kind"] == "gpu"]
    gap = max(abs(gpu[step]["loss"] - cpu[step]["loss"]) for step in gpu)
    resumed, straight = steps(out / "resumed"), steps(out / "straight")
    metered = [tokens_per_s(out / f"metered-{i}") for i in (1, 2, 3)]
    unmetered = [tokens_per_s(out / f"unmetered-{i}") for i in (1, 2, 3)]
    figures = {
        "steps": len(gpu),
        "loss_first": gpu[1]["loss"],
        "loss_last": gpu[max(gpu)]["loss"],
        "largest_loss_gap_to_cpu": gap,
        "tokens_per_s": tokens_per_s(out / "gpu"),
        "joules_per_token": record["joules_per_token"],
        "measured_fraction": record["measured_fraction"],
        "boards": boards,
        "tokens_per_s_metered": metered,
        "tokens_per_s_unmetered": unmetered,
    }
    checks = {
        "the loss falls": gpu[max(gpu)]["loss"] < gpu[1]["loss"],
        "losses follow the CPU's": gap < LOSS_TOLERANCE,
        "one board is measured": len(boards) == 1 and boards[0]["method"] != "estimated",
        "resume is exact to the bit": {s: e["loss"] for s, e in resumed.items()}
        == {s: e["loss"] for s, e in straight.items()},
    }
    return figures, checks


def main():
    out = Path(sys.argv[1])
    results = {
        "schema": "wattle.gpu_acceptance/1",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": platform.platform(),
        "commit": commit(),
        "stages": {},
        "checks": {},
    }
    if (out / "straight").exists():
        results["stages"]["train"], checks = train_results(out)
        results["checks"].update(checks)
    if (out / "nvml.json").exists():
        results["stages"]["nvml"] = json.loads((out / "nvml.json").read_text())
        results["checks"]["NVML answers"] = bool(results["stages"]["nvml"]["boards"])
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    for name, passed in results["checks"].items():
        print(f"{'pass' if passed else 'FAIL':5} {name}")
    print(out / "results.json")
    return 0 if all(results["checks"].values()) else 1


def commit():
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


if __name__ == "__main__":
    sys.exit(main())
