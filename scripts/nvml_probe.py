#!/usr/bin/env python3
"""Measures how NVML behaves on the boards of this machine, and prints one JSON object.

For each board: which quantities it has, how often power and the energy counter change, how long a call takes, and
how far the counter and the integral of power agree, idle and under load. The samples that the driver takes by itself are
read once a second beside that: how far they are apart, what a call costs, their highest value and mean beside the
counter's, and how old the newest one is by the wall clock (negative: the driver's clock is ahead). Reads through libnvidia-ml itself
(NVML_LIBRARY names another), so nothing needs to be installed. The load is PyTorch's, if that is there: without
it the board is only watched as it is.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import statistics
import sys
import time

FIELD_POWER_AVERAGE = 185
FIELD_POWER_INSTANT = 186
UINT = 1
ULONG_LONG = 3


class Value(ctypes.Union):
    _fields_ = [("double", ctypes.c_double), ("uint", ctypes.c_uint), ("ull", ctypes.c_ulonglong)]


class FieldValue(ctypes.Structure):
    _fields_ = [
        ("field", ctypes.c_uint),
        ("scope", ctypes.c_uint),
        ("timestamp_us", ctypes.c_longlong),
        ("latency_us", ctypes.c_longlong),
        ("value_type", ctypes.c_uint),
        ("status", ctypes.c_uint),
        ("value", Value),
    ]


class Sample(ctypes.Structure):
    _fields_ = [("timestamp_us", ctypes.c_ulonglong), ("value", Value)]


# NVML_TOTAL_POWER_SAMPLES, and what a call that finds nothing new returns.
TOTAL_POWER = 0
NOT_FOUND = 6
MOST_SAMPLES = 4096

# Time that the power limit and others held clocks back, in nanoseconds.
HELD_BACK = {"sw_power_cap": 74, "sync_boost": 76}


class Board:
    """One board through the C interface. A quantity that it does not have reads as None."""

    def __init__(self, nvml, index):
        self.nvml = nvml
        self.handle = ctypes.c_void_p()
        check(nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(self.handle)), "handle")
        self.name = self.text("nvmlDeviceGetName")
        self.uuid = self.text("nvmlDeviceGetUUID")

    def text(self, function):
        buffer = ctypes.create_string_buffer(96)
        check(getattr(self.nvml, function)(self.handle, buffer, len(buffer)), function)
        return buffer.value.decode()

    def field_w(self, field):
        value = FieldValue(field=field)
        if self.nvml.nvmlDeviceGetFieldValues(self.handle, 1, ctypes.byref(value)) or value.status:
            return None
        milliwatts = {UINT: value.value.uint, ULONG_LONG: value.value.ull}.get(value.value_type)
        return None if milliwatts is None else milliwatts / 1e3

    def instant_w(self):
        return self.field_w(FIELD_POWER_INSTANT)

    def average_w(self):
        return self.field_w(FIELD_POWER_AVERAGE)

    def usage_w(self):
        value = ctypes.c_uint()
        status = self.nvml.nvmlDeviceGetPowerUsage(self.handle, ctypes.byref(value))
        return None if status else value.value / 1e3

    def counter_j(self):
        value = ctypes.c_ulonglong()
        status = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle, ctypes.byref(value))
        return None if status else value.value / 1e3


    def samples(self, last_us):
        """The driver's samples after `last_us`, as (microseconds, watts); None where it takes none."""
        kind, count, buffer = ctypes.c_uint(), ctypes.c_uint(MOST_SAMPLES), (Sample * MOST_SAMPLES)()
        status = self.nvml.nvmlDeviceGetSamples(
            self.handle, TOTAL_POWER, ctypes.c_ulonglong(last_us), ctypes.byref(kind), ctypes.byref(count), buffer
        )
        if status == NOT_FOUND:
            return []
        if status:
            return None
        watts = lambda value: (value.uint if kind.value == UINT else value.ull) / 1e3
        new = [(s.timestamp_us, watts(s.value)) for s in buffer[: count.value] if s.timestamp_us > last_us]
        return sorted(new)

    def held_back_s(self):
        counts = {}
        for name, field in HELD_BACK.items():
            value = FieldValue(field=field)
            if not self.nvml.nvmlDeviceGetFieldValues(self.handle, 1, ctypes.byref(value)) and not value.status:
                counts[name] = value.value.ull / 1e9
        return counts


QUANTITIES = {
    "instant_w": Board.instant_w,
    "average_w": Board.average_w,
    "usage_w": Board.usage_w,
    "counter_j": Board.counter_j,
}


def check(status, what):
    if status:
        raise SystemExit(f"NVML: {what} failed with status {status}")


def watch(board, seconds):
    """Reads every quantity as fast as it answers, each with its own times."""
    samples = {name: [] for name in QUANTITIES}
    taken = {"samples": [], "calls_s": [], "cpu_s": [], "ages_s": [], "supported": True}
    before = board.samples(0)
    last_us, due = (before[-1][0] if before else 0), time.monotonic() + 1
    began, held_before = time.monotonic(), board.held_back_s()
    end = began + seconds
    while time.monotonic() < end:
        if time.monotonic() >= due:
            due += 1
            last_us = take_samples(board, last_us, taken)
        for name, read in QUANTITIES.items():
            before = time.monotonic()
            value = read(board)
            after = time.monotonic()
            samples[name].append(((before + after) / 2, value, after - before))
    took = time.monotonic() - began
    held = {name: (count - held_before.get(name, count)) / took for name, count in board.held_back_s().items()}
    return samples, taken, held


def take_samples(board, last_us, taken):
    """One call for the driver's samples, with its cost and the age of the newest by the wall clock."""
    before, cpu_before = time.monotonic(), time.thread_time()
    new = board.samples(last_us)
    now_us = time.time() * 1e6
    taken["calls_s"].append(time.monotonic() - before)
    taken["cpu_s"].append(time.thread_time() - cpu_before)
    taken["supported"] &= new is not None
    if not new:
        return last_us
    taken["samples"] += new
    taken["ages_s"].append((now_us - new[-1][0]) / 1e6)
    return new[-1][0]


def describe_samples(taken):
    """Their period, cost, power, and how the driver's clock is set."""
    if not taken["supported"] or len(taken["samples"]) < 2:
        return "not supported"
    times = [us / 1e6 for us, _ in taken["samples"]]
    powers = [watts for _, watts in taken["samples"]]
    apart = [b - a for a, b in zip(times, times[1:])]
    integral = sum((a + b) / 2 * step for a, b, step in zip(powers, powers[1:], apart))
    return {
        "samples": len(powers),
        "period_ms": 1e3 * statistics.median(apart),
        "period_max_ms": 1e3 * max(apart),
        "call_p50_us": 1e6 * statistics.median(taken["calls_s"]),
        "call_max_us": 1e6 * max(taken["calls_s"]),
        "call_cpu_p50_us": 1e6 * statistics.median(taken["cpu_s"]),
        "max_w": max(powers),
        "mean_w": integral / (times[-1] - times[0]),
        # The least age says how late samples are shown, or how far the driver's clock is from the wall clock.
        "newest_age_min_ms": 1e3 * min(taken["ages_s"]),
        "newest_age_max_ms": 1e3 * max(taken["ages_s"]),
    }


def describe(watched):
    """Update period, call latency and energy of one stretch."""
    samples, taken, held = watched
    described = {"driver_samples": describe_samples(taken), "held_back_fraction": held}
    for name, readings in samples.items():
        known = [(t, value) for t, value, _ in readings if value is not None]
        if not known:
            described[name] = "not supported"
            continue
        changes = [b[0] for a, b in zip(known, known[1:]) if a[1] != b[1]]
        periods = [b - a for a, b in zip(changes, changes[1:])]
        latencies = sorted(latency for _, _, latency in readings)
        described[name] = {
            "update_period_ms": 1e3 * statistics.median(periods) if periods else None,
            "call_p50_us": 1e6 * latencies[len(latencies) // 2],
            "call_p99_us": 1e6 * latencies[int(len(latencies) * 0.99)],
            "samples": len(known),
        }
        if name.endswith("_w"):
            pairs = zip(known, known[1:])
            described[name]["integral_j"] = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs)
            described[name]["mean_w"] = statistics.fmean(value for _, value in known)
        else:
            described[name]["difference_j"] = known[-1][1] - known[0][1]
            jumps = [b[1] - a[1] for a, b in zip(known, known[1:]) if b[1] != a[1]]
            described[name]["step_j"] = statistics.median(jumps) if jumps else None
    counter = described["counter_j"]
    if isinstance(counter, dict) and counter["difference_j"] > 0:
        for name in ("instant_w", "average_w", "usage_w"):
            if isinstance(described[name], dict):
                described[name]["integral_over_counter"] = described[name]["integral_j"] / counter["difference_j"]
        sampled = described["driver_samples"]
        seconds = known_span(samples["counter_j"])
        if isinstance(sampled, dict) and seconds:
            sampled["mean_over_counter"] = sampled["mean_w"] / (counter["difference_j"] / seconds)
    return described


def known_span(readings):
    """From the first reading that has a value to the last."""
    times = [t for t, value, _ in readings if value is not None]
    return times[-1] - times[0] if times else 0


def load(period_s, ready, stop):
    """Keeps the first board busy, all the time or in a square wave of this period."""
    import torch

    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    ready.set()
    while not stop.is_set():
        busy_until = time.monotonic() + (period_s / 2 if period_s else 0.1)
        while time.monotonic() < busy_until:
            x @ x
            torch.cuda.synchronize()
        if period_s:
            time.sleep(period_s / 2)


def under_load(board, seconds, period_s):
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    worker = context.Process(target=load, args=(period_s, ready, stop), daemon=True)
    worker.start()
    try:
        if not ready.wait(120):
            raise SystemExit("the load did not start within two minutes")
        time.sleep(2)
        return describe(watch(board, seconds))
    finally:
        stop.set()
        worker.join(30)


def has_torch():
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="length of each stretch (default 30)")
    parser.add_argument("--no-load", action="store_true", help="only watch the boards as they are")
    args = parser.parse_args()
    nvml = ctypes.CDLL(os.environ.get("NVML_LIBRARY", "libnvidia-ml.so.1"))
    check(nvml.nvmlInit_v2(), "nvmlInit")
    count = ctypes.c_uint()
    check(nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)), "count")
    boards = []
    loaded = not args.no_load and has_torch()
    for index in range(count.value):
        board = Board(nvml, index)
        result = {"index": index, "name": board.name, "uuid": board.uuid}
        result["idle"] = describe(watch(board, args.seconds))
        if loaded and index == 0:
            result["steady"] = under_load(board, args.seconds, None)
            for period_ms in (40, 200, 1000):
                result[f"square_{period_ms}_ms"] = under_load(board, args.seconds, period_ms / 1e3)
        boards.append(result)
    json.dump({"load": "torch" if loaded else "none", "boards": boards}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
