#!/usr/bin/env python3
"""Watches the first GPU while a command runs: one line a reading, in CSV.

    gpu_watch.py TRACE.csv -- COMMAND…

Columns: t_ns (monotonic clock), energy_mj (NVML's counter), power_mw (instant power), memory_bytes (all that is used on
the board), sm_mhz, temperature_c. What the board does not tell is empty. The command's exit status is passed on. Where
there is no NVML, the command runs unwatched. NVML_LIBRARY names another library. Needs nothing but Python.
"""

import ctypes
import os
import subprocess
import sys
import threading
import time

from nvml_probe import FIELD_POWER_INSTANT, FieldValue, UINT

PERIOD_S = 0.05
SM_CLOCK = 1
GPU_SENSOR = 0


class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Board:
    """The first board. A quantity that it does not have reads as None."""

    def __init__(self):
        self.nvml = ctypes.CDLL(os.environ.get("NVML_LIBRARY", "libnvidia-ml.so.1"))
        self.handle = ctypes.c_void_p()
        if self.nvml.nvmlInit_v2() or self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.handle)):
            raise OSError("NVML shows no board")

    def read(self, function, kind, *arguments):
        value = kind()
        call = getattr(self.nvml, function, None)
        status = call(self.handle, *arguments, ctypes.byref(value)) if call else 1
        return None if status else value

    def number(self, function, kind, *arguments):
        value = self.read(function, kind, *arguments)
        return None if value is None else value.value

    def power_mw(self):
        value = FieldValue(field=FIELD_POWER_INSTANT)
        status = self.nvml.nvmlDeviceGetFieldValues(self.handle, 1, ctypes.byref(value)) or value.status
        if status or value.value_type != UINT:
            return self.number("nvmlDeviceGetPowerUsage", ctypes.c_uint)
        return value.value.uint

    def row(self):
        before = time.monotonic_ns()
        energy = self.number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong)
        after = time.monotonic_ns()
        memory = self.read("nvmlDeviceGetMemoryInfo", Memory)
        return [
            (before + after) // 2,
            energy,
            self.power_mw(),
            None if memory is None else memory.used,
            self.number("nvmlDeviceGetClockInfo", ctypes.c_uint, SM_CLOCK),
            self.number("nvmlDeviceGetTemperature", ctypes.c_uint, GPU_SENSOR),
        ]


def watch(trace, stop):
    try:
        board = Board()
    except (OSError, AttributeError) as error:
        print(f"gpu_watch: {error}: nothing is watched", file=sys.stderr)
        return
    while not stop.is_set():
        trace.write(",".join("" if value is None else str(value) for value in board.row()) + "\n")
        stop.wait(PERIOD_S)


def main():
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        raise SystemExit("expected: gpu_watch.py TRACE.csv -- COMMAND…")
    stop = threading.Event()
    with open(sys.argv[1], "w", buffering=1) as trace:
        trace.write("t_ns,energy_mj,power_mw,memory_bytes,sm_mhz,temperature_c\n")
        thread = threading.Thread(target=watch, args=(trace, stop))
        thread.start()
        try:
            status = subprocess.call(sys.argv[3:])
        finally:
            stop.set()
            thread.join()
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
