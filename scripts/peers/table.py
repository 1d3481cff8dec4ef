#!/usr/bin/env python3
"""Medians and ratios of the lines that `run.sh` collected: for each shape, every engine against torch eager."""

import collections
import json
import statistics
import sys


def main():
    rows = [json.loads(line) for line in open(sys.argv[1])]
    by_shape = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in rows:
        by_shape[row["shape"]][row["engine"]].append(row)
    for shape, engines in by_shape.items():
        peer = engines.get("torch eager")
        print(f"\n{shape:<18} {'ms a step':>10} {'CPU ms':>8} {'tokens/s':>9} {'peak MB':>8}  speed over torch eager, by round")
        for engine, rounds in engines.items():
            median = {key: statistics.median(r[key] for r in rounds) for key in ("ms", "tokens_per_s", "peak_mb")}
            # Not known of a program that runs as a process of its own.
            cpu_ms = f"{statistics.median(r['cpu_ms'] for r in rounds):.1f}" if "cpu_ms" in rounds[0] else "–"
            line = f"{engine:<18} {median['ms']:>10.2f} {cpu_ms:>8} {median['tokens_per_s']:>9.0f} {median['peak_mb']:>8.0f}"
            if peer:
                ratios = sorted(p["ms"] / r["ms"] for p, r in zip(peer, rounds))
                line += f"  {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
            print(line)


if __name__ == "__main__":
    main()
