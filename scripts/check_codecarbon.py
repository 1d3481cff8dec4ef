#!/usr/bin/env python3
"""Holds a run's emissions.csv against CodeCarbon itself.

    python -m venv /tmp/codecarbon
    /tmp/codecarbon/bin/pip install codecarbon==3.3.2
    /tmp/codecarbon/bin/python scripts/check_codecarbon.py runs/mine/emissions.csv

CodeCarbon's own reader must find its columns in the file, so that it would add a row of its own to it and not back
it up as a foreign one; and every figure must be what `emissions.jsonl` says, in CodeCarbon's units. Exits 1 if not.
"""

import csv
import dataclasses
import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from codecarbon.output_methods.emissions_data import EmissionsData
from codecarbon.output_methods.file import FileOutput

CODECARBON = "3.3.2"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if version("codecarbon") != CODECARBON:
        sys.exit(f"codecarbon {version('codecarbon')} is installed; expected {CODECARBON}")
    path = Path(sys.argv[1])
    checks = {"columns": columns_are_known(path), "a row of CodeCarbon's own fits": row_can_be_added(path)}
    checks.update(figures(path))
    for name, holds in checks.items():
        print(f"{name:32} {'ok' if holds else 'FAILED'}")
    sys.exit(0 if all(checks.values()) else 1)


def emissions_data(**values):
    """A row as CodeCarbon makes it, with nothing in it but `values`."""
    fields = {field.name: 0 for field in dataclasses.fields(EmissionsData)}
    return EmissionsData(**{**fields, **values})


def output(path, on_write):
    return FileOutput(path.name, str(path.parent), on_write)


def columns_are_known(path):
    return output(path, "append").has_valid_headers(emissions_data())


def row_can_be_added(path):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copy(path, copy)
        row = emissions_data(run_id="another", project_name="theirs")
        output(copy, "append").out(row, row)
        with copy.open() as file:
            rows = list(csv.DictReader(file))
        return len(list(Path(folder).iterdir())) == 1 and [row["run_id"] for row in rows][1:] == ["another"]


def figures(path):
    with path.open() as file:
        row = list(csv.DictReader(file))[0]
    record = json.loads((path.parent / "emissions.jsonl").read_text().splitlines()[-1])
    kinds = {"gpu": 0.0, "cpu": 0.0, "dram": 0.0}
    for sensor in record["sensors"]:
        kinds[sensor["kind"]] = kinds.get(sensor["kind"], 0.0) + sensor["energy_j"] / 3.6e6

    def close(key, expected):
        return abs(float(row[key]) - expected) <= 1e-9 * max(abs(expected), 1e-9)

    # CodeCarbon applies the building's PUE to its energies, and counts in kilograms.
    return {
        "emissions, kg": close("emissions", record["emissions_g"] / 1000),
        "energy, kWh": close("energy_consumed", record["facility_kwh"]) or close("energy_consumed", record["energy_kwh"]),
        "energy of the processor, kWh": close("cpu_energy", kinds["cpu"]) or record["pue"] != 1,
        "energy of boards, kWh": close("gpu_energy", kinds["gpu"]) or record["pue"] != 1,
        "energy of memory, kWh": close("ram_energy", kinds["dram"]) or record["pue"] != 1,
        "duration, s": close("duration", record["duration_s"]),
    }


if __name__ == "__main__":
    main()
