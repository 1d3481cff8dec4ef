#!/usr/bin/env python3
"""Makes tests/golden/muon.safetensors: five updates of a few matrices by torch.optim.Muon, and by its formula in double
precision.

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install torch==2.11.0 safetensors==0.8.0 numpy==2.4.6
    /tmp/golden/bin/python scripts/make_muon_golden.py [DIRECTORY]

Everything is random with a fixed seed; nothing is downloaded. PyTorch orthogonalizes in bfloat16. The second set of
weights has the same updates with numpy in double precision, written down from the documentation of torch.optim.Muon:
the distance between the two is that rounding.

The file has, for each matrix ROWSxCOLUMNS with nesterov or plain momentum,
  NAME.start        (rows, columns)
  NAME.gradients    (5, rows, columns)
  NAME.torch        (5, rows, columns), the weights after each update
  NAME.exact        the same in double precision, rounded to f32
and its metadata say with which settings.
"""

import json
import sys
from pathlib import Path

import numpy
import safetensors
import safetensors.numpy
import torch

PINNED = {"torch": "2.11.0", "safetensors": "0.8.0", "numpy": "2.4.6"}
SHAPES = [(8, 24), (24, 8), (13, 13), (7, 11)]
STEPS = 5
SETTINGS = {"learning_rate": 0.05, "weight_decay": 0.1, "momentum": 0.9, "ns_steps": 5}
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7


def check_versions():
    found = {"torch": torch.__version__.split("+")[0], "safetensors": safetensors.__version__, "numpy": numpy.__version__}
    if found != PINNED:
        sys.exit(f"make_muon_golden.py: expected {PINNED}, got {found}; see the head of this file")


def by_torch(start, gradients, nesterov):
    weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.Muon(
        [weight],
        lr=SETTINGS["learning_rate"],
        weight_decay=SETTINGS["weight_decay"],
        momentum=SETTINGS["momentum"],
        nesterov=nesterov,
        ns_coefficients=COEFFICIENTS,
        eps=EPS,
        ns_steps=SETTINGS["ns_steps"],
        adjust_lr_fn="match_rms_adamw",
    )
    weights = []
    for gradient in gradients:
        weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        weights.append(weight.detach().numpy().copy())
    return numpy.stack(weights)


def orthogonalized(matrix):
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / max(numpy.linalg.norm(x), EPS)
    a, b, c = COEFFICIENTS
    for _ in range(SETTINGS["ns_steps"]):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def in_double_precision(start, gradients, nesterov):
    weight, average = start.astype(numpy.float64), numpy.zeros(start.shape)
    rate, mu = SETTINGS["learning_rate"], SETTINGS["momentum"]
    weights = []
    for gradient in gradients.astype(numpy.float64):
        average = mu * average + (1 - mu) * gradient
        direction = mu * average + (1 - mu) * gradient if nesterov else average
        weight = weight * (1 - rate * SETTINGS["weight_decay"])
        weight = weight - rate * 0.2 * max(start.shape) ** 0.5 * orthogonalized(direction)
        weights.append(weight)
    return numpy.stack(weights).astype(numpy.float32)


def main():
    check_versions()
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests" / "golden"
    random = numpy.random.default_rng(20)
    tensors, furthest = {}, 0.0
    for shape in SHAPES:
        for nesterov in (True, False):
            name = f"{shape[0]}x{shape[1]}.{'nesterov' if nesterov else 'plain'}"
            start = random.standard_normal(shape).astype(numpy.float32)
            gradients = random.standard_normal((STEPS, *shape)).astype(numpy.float32)
            torchs = by_torch(start, gradients, nesterov)
            exact = in_double_precision(start, gradients, nesterov)
            furthest = max(furthest, float(abs(torchs - exact).max()))
            tensors |= {
                f"{name}.start": start,
                f"{name}.gradients": gradients,
                f"{name}.torch": torchs,
                f"{name}.exact": exact,
            }
    metadata = {"versions": json.dumps(PINNED), "settings": json.dumps(SETTINGS)}
    safetensors.numpy.save_file(tensors, directory / "muon.safetensors", metadata=metadata)
    print(f"{len(tensors)} tensors; the furthest that bfloat16 moved a weight: {furthest:.2e}")


if __name__ == "__main__":
    main()
