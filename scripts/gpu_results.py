#!/usr/bin/env python3
"""Gathers what scripts/gpu_acceptance.sh measured into results.json, a short table (results.txt) and log.txt.

    gpu_results.py WORK OUT --binary PATH [--merge results.json] [--commit SHA] [--self-test]

Every figure is read from what a measurement wrote; what was not measured is absent, and what failed is named with the
end of its log. A check is pass, FAIL or "not measured"; the aims of issues 6 and 17 are met, missed or "not measured". The exit
status is 1 if a check fails or a measurement that was tried has failed.
"""

import argparse
import bisect
import csv
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import traceback
from datetime import datetime, timezone
from pathlib import Path

SCHEMA = "wattle.gpu_acceptance/2"
# The same arithmetic in another order: f32 stays close, a little less so as steps amplify what differs.
F32_FIRST_10, F32_ALL = 1e-3, 2e-2
# bf16 has 8 bits: single losses differ by their noise, the mean over the run must not.
BF16_MEAN = 3e-2
# Dense bf16 of the tensor cores, FLOP/s (NVIDIA's data sheets, SXM parts), by a part of the board's name.
PEAKS = {"H200": 989.4e12, "H100 80GB HBM3": 989.4e12, "A100": 312e12}
TAIL_LINES = 25


class Work:
    """The folder that the measurements left."""

    def __init__(self, path):
        self.path = path
        attempts = path / "attempts.jsonl"
        self.attempts = [json.loads(line) for line in attempts.read_text().splitlines()] if attempts.exists() else []

    def ok(self, name):
        return any(a["name"] == name and a["status"] == "0" for a in self.attempts)

    def attempt(self, name):
        return next(a for a in self.attempts if a["name"] == name)

    def names(self, prefix):
        """Measurements that succeeded, in order."""
        return [a["name"] for a in self.attempts if a["name"].startswith(prefix) and a["status"] == "0"]

    def runs(self, prefix):
        """Runs that trained past their first window, in order: one that was cut off later has its figures still."""
        trained = lambda name: (self.path / name / "events.jsonl").exists() and len(windows(self.events(name))) > 1
        return [a["name"] for a in self.attempts if a["name"].startswith(prefix) and trained(a["name"])]

    def printed(self, name):
        return (self.path / f"{name}.out").read_text().strip() != ""

    def json_of(self, name):
        """What a measurement printed: one JSON value, or one on its last line."""
        text = (self.path / f"{name}.out").read_text()
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return json.loads(text.strip().splitlines()[-1])

    def events(self, name):
        lines = (self.path / name / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def steps(self, name):
        """The steps of a run, each once: where one was made twice, the later."""
        return {event["step"]: event for event in self.events(name) if event["event"] == "step"}

    def trace(self, name):
        with open(self.path / f"{name}.csv") as file:
            return [{key: int(value) if value else None for key, value in row.items()} for row in csv.DictReader(file)]

    def tail(self, name):
        lines = []
        for suffix in ("out", "log"):
            path = self.path / f"{name}.{suffix}"
            if path.exists():
                lines += path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return lines[-TAIL_LINES:]


def joules_between(trace, start_ns, end_ns):
    """By the counter, interpolated between readings; None where the board has none."""
    known = [(row["t_ns"], row["energy_mj"]) for row in trace if row["energy_mj"] is not None]
    if len(known) < 2 or start_ns < known[0][0] or end_ns > known[-1][0]:
        return None

    def at(t):
        i = min(max(bisect.bisect_left(known, (t, 0)), 1), len(known) - 1)
        (t0, e0), (t1, e1) = known[i - 1], known[i]
        return e0 + (e1 - e0) * (t - t0) / (t1 - t0)

    return (at(end_ns) - at(start_ns)) / 1e3


def board_figures(work, name, window_ns, tokens):
    """What the trace of the board says of a measurement."""
    trace = work.trace(name)
    used = [row["memory_bytes"] for row in trace if row["memory_bytes"] is not None]
    joules = joules_between(trace, *window_ns)
    inside = [row for row in trace if window_ns[0] <= row["t_ns"] <= window_ns[1]]
    mean = lambda key: statistics.fmean(v) if (v := [row[key] for row in inside if row[key] is not None]) else None
    return {
        "window_s": (window_ns[1] - window_ns[0]) / 1e9,
        "joules_per_token": None if joules is None else joules / tokens,
        "mean_power_w": None if joules is None else joules / ((window_ns[1] - window_ns[0]) / 1e9),
        "peak_memory_bytes": max(used) - used[0] if used else None,
        "mean_sm_mhz": mean("sm_mhz"),
        "max_temperature_c": max((row["temperature_c"] for row in inside if row["temperature_c"]), default=None),
    }


def whole_command(work, name):
    """The record of `wattle meter`: the whole command, its start and end included. None if it was cut off."""
    if not (work.path / f"{name}.json").exists():
        return None
    record = json.loads((work.path / f"{name}.json").read_text())
    gpu = [sensor for sensor in record["sensors"] if sensor["kind"] == "gpu"]
    return {
        "duration_s": record["duration_s"],
        "energy_j": record["energy_j"],
        "gpu_j": sum(sensor["energy_j"] for sensor in gpu) if gpu else None,
        "gpu_method": gpu[0]["method"] if gpu else None,
        "measured_fraction": record["measured_fraction"],
    }


def utilization(shape, tokens_per_s, peak):
    """Model FLOPs utilization by the two conventions that published figures use."""
    n, l, c, t = (shape[key] for key in ("parameters", "n_layers", "d_model", "context"))
    per_token = {"nanogpt": 6 * (n - c * t) + 12 * l * c * t, "llm_c": 6 * n + 6 * l * c * t}
    return {key: None if peak is None else flops * tokens_per_s / peak for key, flops in per_token.items()}


def windows(events):
    """Steps at which the device was last synchronized for an evaluation."""
    return [event["step"] for event in events if event["event"] == "evaluate"]


def steady_step_ms(events, steps):
    """Median step after the first evaluation: what came before holds allocations and compilation."""
    start = windows(events)[0]
    rate = statistics.median(event["tokens_per_s"] for number, event in steps.items() if number > start)
    return 1e3 * steps[1]["tokens"] / rate


def wattle_run(work, name, peak):
    """Between the first evaluation and the last step: what the steps took, synchronized at both ends."""
    events = work.events(name)
    steps = work.steps(name)
    start = next(event for event in events if event["event"] == "evaluate")
    end = steps[max(steps)]
    tokens = end["tokens"] - steps[start["step"]]["tokens"]
    step_ms = steady_step_ms(events, steps)
    rate = 1e3 * steps[1]["tokens"] / step_ms
    manifest = json.loads((work.path / name / "manifest.json").read_text())
    config = manifest_config(work.path / name / "config.toml")
    shape = {"parameters": manifest["model"]["parameters"], **config}
    window = [start["t_ns"], end["t_ns"]]
    return {
        "shape": shape,
        "steps": end["step"],
        "tokens": tokens,
        "tokens_per_s": rate,
        "step_ms": step_ms,
        "mfu": utilization(shape, rate, peak),
        "first_loss": steps[1]["loss"],
        "last_loss": end["loss"],
        **board_figures(work, name, window, tokens),
        "whole_command": whole_command(work, name),
    }


def manifest_config(path):
    """The few numbers of the model that are needed; tomllib is there from Python 3.11 on."""
    import tomllib

    model = tomllib.loads(path.read_text())["model"]
    return {key: model[key] for key in ("n_layers", "d_model", "context")}


def torch_run(work, name, shape, peak):
    said = work.json_of(name)
    shape = {**shape, "parameters": said["parameters"]}
    return {
        **{key: said[key] for key in ("engine", "torch", "parameters", "steps", "tokens", "tokens_per_s", "step_ms",
                                      "first_loss", "last_loss", "first_step_s", "peak_allocated_bytes",
                                      "peak_reserved_bytes")},
        "mfu": utilization(shape, said["tokens_per_s"], peak),
        **board_figures(work, name, said["window_ns"], said["tokens"]),
        "whole_command": whole_command(work, name),
    }


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Results:
    """Figures and checks, stage after stage. What cannot be read is a fault, and the rest goes on."""

    def __init__(self, work, peak):
        self.work, self.peak = work, peak
        self.stages, self.checks, self.faults = {}, {}, []

    def take(self, stage, name, read):
        """Keeps what `read` gives under a name, if it gives anything."""
        try:
            figure = read()
        except Exception as error:  # whatever a broken file makes of it
            self.faults.append({"stage": stage, "name": name, "fault": f"{type(error).__name__}: {error}",
                                "tail": traceback.format_exc().splitlines()[-6:]})
            return None
        self.stages.setdefault(stage, {})[name] = figure
        return figure

    def check(self, name, holds):
        self.checks[name] = {True: "pass", False: "FAIL", None: "not measured"}[holds]

    def verify(self):
        work = self.work
        attempted = work.attempt("verify")["status"]
        # It prints its report also when an operation is not within its tolerance.
        said = self.take("verify", "report", lambda: work.json_of("verify")) if work.printed("verify") else None
        self.check("verify: every operation is within its tolerance", None if said is None else attempted == "0")

    def kernels(self):
        runs = {}
        for kind in ("first", "measured", "fp8"):
            names = self.work.runs(f"kernels-{kind}-")
            taken = [self.take("kernels", name, lambda: wattle_run(self.work, name, self.peak)) for name in names]
            runs[kind] = [run for run in taken if run]
        for kind, other in (("measured", "first"), ("fp8", "measured")):
            pairs = zip(runs[kind], runs[other])
            faster = [run["tokens_per_s"] / beside["tokens_per_s"] for run, beside in pairs]
            if faster:
                told = {"tokens_per_s": faster, "median": median(faster)}
                self.take("kernels", f"{kind}_over_{other}", lambda: told)

    def train(self):
        work = self.work
        self.curves()
        for dtype in ("f32", "bf16"):
            names = [f"straight-{dtype}", f"halves-{dtype}", f"resume-{dtype}"]
            if all(work.ok(name) for name in names):
                same = self.take("train", f"resume_{dtype}", lambda: resume(work, *names[:2]))
                self.check(f"train: resume in {dtype} is exact to the bit", same and all(same.values()))
            else:
                self.check(f"train: resume in {dtype} is exact to the bit", None)
        if work.ok("first-step"):
            self.take("train", "first_step_s", lambda: first_step(work, "first-step"))
        for name in work.runs("gpt2-"):
            self.take("train", name, lambda: wattle_run(work, name, self.peak))
        self.meter_cost()

    def curves(self):
        work = self.work
        f32, bf16 = "train: f32 losses follow the CPU's", "train: bf16 losses follow the CPU's"
        for name, check in (("curve-f32", f32), ("curve-bf16", bf16)):
            if not (work.ok("curve-cpu") and work.ok(name)):
                self.check(check, None)
                continue
            gaps = self.take("train", name, lambda: gaps_of(work, "curve-cpu", name))
            if gaps is None:
                self.check(check, None)
            elif name == "curve-f32":
                self.check(check, gaps["largest_of_first_10"] < F32_FIRST_10 and gaps["largest"] < F32_ALL)
            else:
                self.check(check, abs(gaps["mean_signed"]) < BF16_MEAN)
        if work.ok("curve-f32"):
            steps = work.steps("curve-f32")
            self.check("train: the loss falls", steps[max(steps)]["loss"] < steps[1]["loss"])

    def meter_cost(self):
        work = self.work
        rounds = [i for i in range(1, 100) if work.ok(f"metered-{i}") and work.ok(f"unmetered-{i}")]
        if not rounds:
            return
        step_ms = lambda name: steady_step_ms(work.events(name), work.steps(name))
        read = lambda: {
            "step_ms_metered": [step_ms(f"metered-{i}") for i in rounds],
            "step_ms_unmetered": [step_ms(f"unmetered-{i}") for i in rounds],
        }
        cost = self.take("train", "metering", read)
        if cost:
            pairs = zip(cost["step_ms_metered"], cost["step_ms_unmetered"])
            differences = [metered / unmetered - 1 for metered, unmetered in pairs]
            cost["mean_difference"] = statistics.fmean(differences)
            cost["spread"] = statistics.stdev(differences) if len(differences) > 1 else None

    def generate(self):
        work = self.work
        losses = {}
        for name in ("cpu", "f32", "bf16"):
            if work.ok(f"evaluate-{name}"):
                losses[name] = self.take("generate", f"evaluate-{name}", lambda: evaluated(work, f"evaluate-{name}"))
        gap = lambda name: losses[name]["loss"] - losses["cpu"]["loss"] if losses.get(name) and losses.get("cpu") else None
        for name, most in (("f32", F32_FIRST_10), ("bf16", BF16_MEAN)):
            found = gap(name)
            self.check(f"generate: the loss in {name} is the CPU's", None if found is None else abs(found) < most)
        for name in work.names("generate-"):
            if (work.path / f"{name}.out").exists() and name != "generate-model":
                self.take("generate", name, lambda: generated(work, name))

    def ranks(self):
        work = self.work
        rounds = [i for i in range(1, 100) if work.ok(f"ranks-none-{i}") and work.ok(f"ranks-one-{i}")]
        none, one = ([f"ranks-{kind}-{i}" for i in rounds] for kind in ("none", "one"))
        if rounds:
            step_ms = lambda name: steady_step_ms(work.events(name), work.steps(name))
            cost = self.take("ranks", "one_rank", lambda: {"step_ms_alone": list(map(step_ms, none)),
                                                           "step_ms_joined": list(map(step_ms, one))})
            if cost:
                pairs = zip(cost["step_ms_joined"], cost["step_ms_alone"])
                cost["median_difference"] = median([joined / alone - 1 for joined, alone in pairs])
        gaps = self.take("ranks", "one_rank_losses", lambda: gaps_of(work, none[0], one[0])) if rounds else None
        self.check("ranks: losses of a communicator of one rank are those without",
                   None if gaps is None else gaps["largest"] < F32_FIRST_10)
        unrecorded = [name for name in one if any("cannot be recorded" in line for line in work.tail(name))]
        self.check("ranks: a step with collectives is recorded and replayed", not unrecorded if rounds else None)
        pairs = [f"ranks-pair-{i}" for i in (1, 2)]
        if not all(work.ok(name) for name in ("ranks-single", *pairs)):
            self.check("ranks: losses of two ranks on one board follow those of one", None)
            self.check("ranks: two ranks give the same bits again", None)
            return
        gaps = self.take("ranks", "two_ranks_losses", lambda: gaps_of(work, "ranks-single", pairs[0]))
        close = gaps and gaps["largest_of_first_10"] < F32_FIRST_10 and gaps["largest"] < F32_ALL
        self.check("ranks: losses of two ranks on one board follow those of one", None if gaps is None else close)
        same = self.take("ranks", "two_ranks_again", lambda: resume(work, *pairs))
        self.check("ranks: two ranks give the same bits again", None if same is None else all(same.values()))

    def peers(self):
        work, peak = self.work, self.peak
        for size in ("124m", "1.5b"):
            runs = {}
            for name in work.runs(f"wattle-{size}-"):
                runs.setdefault("wattle", []).append(self.take("peers", name, lambda: wattle_run(work, name, peak)))
            shapes = [run["shape"] for run in runs.get("wattle", []) if run]
            shape = shapes[0] if shapes else {}
            for variant in ("compile-cudnn", "compile-flash", "eager-flash"):
                for name in work.names(f"{variant}-{size}-"):
                    run = self.take("peers", name, lambda: torch_run(work, name, shape, peak))
                    runs.setdefault(variant, []).append(run)
            runs = {name: [run for run in of if run] for name, of in runs.items()}
            if runs.get("wattle"):
                self.take("peers", f"ratios-{size}", lambda: ratios(runs))

    def nvml(self):
        said = self.take("nvml", "probe", lambda: self.work.json_of("nvml")) if self.work.ok("nvml") else None
        self.check("nvml: a board answers", None if said is None else bool(said["boards"]))
        cost = self.take("nvml", "meter-cost", lambda: meter_cost(self.work)) if self.work.ok("meter-cost") else None
        share = cost["share_of_a_core"] if cost else None
        # In a second or so the meter does little but begin.
        share = share if cost and cost["seconds"] >= 30 else None
        self.check("nvml: the meter takes at most 0.5 % of a core", None if share is None else share <= 0.005)


def meter_cost(work):
    """The processor time of the meter's threads over that of the command which it metered."""
    record = json.loads((work.path / "meter-cost.json").read_text())
    overhead = record["overhead"]
    return {
        "seconds": record["duration_s"],
        "sampler_cpu_s": overhead["sampler_cpu_s"],
        "share_of_a_core": overhead["sampler_cpu_s"] / record["duration_s"],
    }


def evaluated(work, name):
    said = work.json_of(name)
    return {key: said[key] for key in ("loss", "tokens", "engine", "energy_j")}


def generated(work, name):
    """Joules of the whole, prompts included; tokens a second after the first."""
    said = work.json_of(name)
    energy = said["energy_j"]
    return {
        **{key: said[key] for key in ("tokens", "seconds", "first_token_s", "tokens_per_s", "engine", "energy_j",
                                      "energy_uncertainty_j", "measured_fraction")},
        "joules_per_token": None if energy is None else energy / said["tokens"],
    }


def gaps_of(work, cpu, gpu):
    left, right = work.steps(cpu), work.steps(gpu)
    gaps = [right[step]["loss"] - left[step]["loss"] for step in sorted(left)]
    return {
        "steps": len(gaps),
        "largest": max(map(abs, gaps)),
        "largest_of_first_10": max(map(abs, gaps[:10])),
        "mean_signed": statistics.fmean(gaps),
        "loss_first": right[1]["loss"],
        "loss_last": right[max(right)]["loss"],
    }


def resume(work, straight, halves):
    losses = [{step: event["loss"] for step, event in work.steps(name).items()} for name in (straight, halves)]
    latest = [work.path / name / "checkpoints" / "latest" for name in (straight, halves)]
    files = ("model.safetensors", "optimizer.safetensors")
    same = {file: sha256(latest[0] / file) == sha256(latest[1] / file) for file in files}
    return {"losses": losses[0] == losses[1], **same}


def first_step(work, name):
    """From the start of `wattle meter` and of the watcher, some tens of milliseconds before the program's own."""
    step = min(work.steps(name).values(), key=lambda event: event["step"])
    return (step["t_ns"] - work.attempt(name)["started_ns"]) / 1e9


def ratios(runs):
    """Wattle over each peer, round by round, and the best peer's median."""
    found = {}
    for name, peers in runs.items():
        if name == "wattle" or not peers:
            continue
        pairs = list(zip(runs["wattle"], peers))
        over = lambda key: [ours[key] / theirs[key] for ours, theirs in pairs if ours[key] and theirs[key]]
        speed, cost, memory = over("tokens_per_s"), over("joules_per_token"), over("peak_memory_bytes")
        found[name] = {
            "tokens_per_s": median(speed),
            "tokens_per_s_by_round": speed,
            "tokens_per_joule": median([1 / value for value in cost]),
            "peak_memory": median(memory),
        }
    return found


def median(values):
    return statistics.median(values) if values else None


def aims(stages):
    """Issue 6, part 6, and issue 17, item 8, on one board: what is aimed at, what was measured, and whether that is met."""
    train, peers = stages.get("train", {}), stages.get("peers", {})
    of = lambda table, *path: of(table.get(path[0]) or {}, *path[1:]) if len(path) > 1 else (table or {}).get(path[0])
    rate = of(train, "gpt2-124m", "tokens_per_s")
    compiled = [r for name, r in (peers.get("ratios-124m") or {}).items() if name.startswith("compile")]
    least = lambda key: min((r[key] for r in compiled if r[key] is not None), default=None)
    most = lambda key: max((r[key] for r in compiled if r[key] is not None), default=None)
    cost, spread = of(train, "metering", "mean_difference"), of(train, "metering", "spread")
    rows = [
        ("124M: MFU by nanoGPT's count at least 50 %", of(train, "gpt2-124m", "mfu", "nanogpt"), lambda v: v >= 0.5),
        ("124M: at least 578,000 tokens/s", rate, lambda v: v >= 578_000),
        ("1.5B: MFU by nanoGPT's count at least 60 %", of(train, "gpt2-1.5b", "mfu", "nanogpt"), lambda v: v >= 0.6),
        ("124M: at least 1.2 × torch.compile in tokens/s", least("tokens_per_s"), lambda v: v >= 1.2),
        ("124M: at least 1.15 × torch.compile in tokens a joule", least("tokens_per_joule"), lambda v: v >= 1.15),
        ("124M: peak memory below torch.compile's", most("peak_memory"), lambda v: v < 1),
        ("124M: one text at a time in bf16 at least 1,500 tokens/s",
         of(stages.get("generate", {}), "generate-bf16-1", "tokens_per_s"), lambda v: v >= 1500),
        ("metering: no difference in step time beyond its spread",
         None if spread is None else cost, lambda v: abs(v) <= spread),
    ]
    state = lambda value, met: "not measured" if value is None else "met" if met(value) else "missed"
    return [{"aim": aim, "measured": value, "state": state(value, met)} for aim, value, met in rows]


def machine(work):
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
        gpus = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    except (OSError, subprocess.CalledProcessError):
        gpus = []
    devices = work.path / "devices.json"
    return {
        "gpus": gpus,
        "devices": json.loads(devices.read_text()) if devices.exists() and devices.stat().st_size else None,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def commit_of(given):
    root = Path(__file__).resolve().parent.parent
    if given:
        return given
    if (root / "COMMIT").exists():
        return (root / "COMMIT").read_text().strip()
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def table(results):
    """What a person reads first."""
    show = lambda value, form: "–" if value is None else format(value, form)
    lines = []
    if results["self_test"]:
        lines.append("SELF-TEST on a CPU: the figures mean nothing")
    rows = {f"{stage} {name}": run for stage in ("kernels", "train", "peers")
            for name, run in results["stages"].get(stage, {}).items()
            if isinstance(run, dict) and "mfu" in run}
    if rows:
        lines.append(f"{'':34} {'tokens/s':>10} {'MFU nanoGPT':>12} {'MFU llm.c':>10} {'J/token':>10} {'memory GB':>10}")
    for name, run in rows.items():
        mfu = run["mfu"]
        memory = None if run["peak_memory_bytes"] is None else run["peak_memory_bytes"] / 1e9
        lines.append(f"{name:34} {run['tokens_per_s']:>10,.0f} {show(mfu['nanogpt'], '12.1%'):>12} "
                     f"{show(mfu['llm_c'], '10.1%'):>10} {show(run['joules_per_token'], '.3g'):>10} {show(memory, '.2f'):>10}")
    texts = {name: run for name, run in results["stages"].get("generate", {}).items() if "first_token_s" in run}
    if texts:
        lines.append(f"{'':34} {'tokens/s':>10} {'first, s':>10} {'J/token':>10}")
    for name, run in texts.items():
        lines.append(f"{'generate ' + name:34} {show(run['tokens_per_s'], ',.0f'):>10} {show(run['first_token_s'], '.3f'):>10} "
                     f"{show(run['joules_per_token'], '.3g'):>10}")
    lines += [f"{state:13} {name}" for name, state in results["checks"].items()]
    lines += [f"{aim['state']:13} aim: {aim['aim']} ({show(aim['measured'], '.4g')})" for aim in results["aims"]]
    lines += [f"{'failed':13} {f['stage']} {f['name']}: {f['fault']}" for f in results["failures"]]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--merge", type=Path, help="results of an earlier call, whose other stages are kept")
    parser.add_argument("--commit")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    work = Work(options.work)
    here = machine(work)
    peak = next((peak for name, peak in PEAKS.items() if here["gpus"] and name in here["gpus"][0]), None)
    found = Results(work, peak)
    ran = [stage for stage in ("verify", "kernels", "train", "generate", "ranks", "peers", "nvml") if any(a["stage"] == stage for a in work.attempts)]
    for stage in ran:
        getattr(found, stage)()
    failures = [{"stage": a["stage"], "name": a["name"], "fault": f"status {a['status']}", "tail": work.tail(a["name"])}
                for a in work.attempts if a["status"] != "0"]
    about = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "machine": here,
             "peak_flops": peak, "commit": commit_of(options.commit), "binary_sha256": sha256(options.binary),
             "binary_bytes": options.binary.stat().st_size}
    earlier = json.loads(options.merge.read_text()) if options.merge else {}
    kept = lambda key: {name: of for name, of in earlier.get(key, {}).items() if name.split(":")[0] not in ran}
    stages = {**kept("stages"), **found.stages}
    results = {
        "schema": SCHEMA,
        "self_test": options.self_test or earlier.get("self_test", False),
        "about": {**kept("about"), **{stage: about for stage in ran}},
        "stages": stages,
        "checks": {**kept("checks"), **found.checks},
        "aims": aims(stages),
        "failures": [f for f in earlier.get("failures", []) if f["stage"] not in ran] + failures + found.faults,
        "attempts": [a for a in earlier.get("attempts", []) if a["stage"] not in ran] + work.attempts,
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "results.txt").write_text(table(results))
    with open(options.out / "log.txt", "w") as log:
        for attempt in work.attempts:
            log.write(f"=== {attempt['stage']} {attempt['name']}: status {attempt['status']}\n")
            log.write("\n".join(work.tail(attempt["name"])) + "\n")
    print(table(results), end="")
    print(options.out / "results.json")
    return 1 if "FAIL" in found.checks.values() or failures or found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
