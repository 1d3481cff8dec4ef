#!/usr/bin/env python3
"""Measures how NVML behaves on the boards of this machine, and prints one JSON object.

For each board: which quantities it has, how often power and the energy counter change, how long a call takes, and
how far the counter and the integral of power agree, idle and under load. Reads through libnvidia-ml itself
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
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, read in QUANTITIES.items():
            before = time.monotonic()
            value = read(board)
            after = time.monotonic()
            samples[name].append(((before + after) / 2, value, after - before))
    return samples


def describe(samples):
    """Update period, call latency and energy of one stretch."""
    described = {}
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
    return described


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
