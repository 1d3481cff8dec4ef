#!/usr/bin/env python3
"""Times nanoGPT's own train.py at the shapes of `cargo bench -p wattle-train`: one line of JSON, as torch_gpt2.py.

It is to show that torch_gpt2.py is no strawman. CHECKOUT is a clone of karpathy/nanoGPT in which
`python data/shakespeare_char/prepare.py` has been run; nothing in it is changed. Its loop also draws each batch from
the text and prints each loss, both a small part of a step.

    nanogpt.py CHECKOUT small|big [--steps N] [--threads N]
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile

from torch_gpt2 import N_WARM_UP, SHAPES, VOCAB_SIZE

# The AdamW of torch_gpt2.py, at a constant rate; all in f32, as train.py would not do of itself without a GPU.
COMMON = dict(
    dataset="shakespeare_char", device="cpu", dtype="float32", compile=False, gradient_accumulation_steps=1,
    dropout=0.0, bias=False, learning_rate=1e-3, beta2=0.99, decay_lr=False, eval_iters=1, eval_interval=10**6,
    log_interval=1, always_save_checkpoint=False,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not os.path.exists(os.path.join(options.checkout, "data", "shakespeare_char", "train.bin")):
        sys.exit(f"{options.checkout}: no data/shakespeare_char/train.bin; run its data/shakespeare_char/prepare.py")
    shape = SHAPES[options.shape]
    steps = options.steps or shape["steps"]
    with tempfile.TemporaryDirectory() as out_dir:
        settings = COMMON | dict(
            out_dir=out_dir, n_layer=shape["n_layers"], n_head=shape["n_heads"], n_embd=shape["d_model"],
            block_size=shape["context"], batch_size=shape["batch_size"], max_iters=steps + N_WARM_UP - 1,
        )
        train = subprocess.run(
            [sys.executable, "train.py"] + [f"--{key}={value}" for key, value in settings.items()],
            cwd=options.checkout, env=os.environ | {"OMP_NUM_THREADS": str(options.threads)},
            capture_output=True, text=True,
        )
    iterations = re.findall(r"^iter \d+: loss ([\d.]+), time ([\d.]+)ms", train.stdout, re.MULTILINE)
    if len(iterations) != steps + N_WARM_UP:
        sys.exit(f"train.py said {len(iterations)} times, not {steps + N_WARM_UP}:\n{train.stdout}{train.stderr}")
    if f"vocab_size = {VOCAB_SIZE}" not in train.stdout:
        sys.exit(f"train.py has another vocabulary than {VOCAB_SIZE}:\n{train.stdout}")
    median = statistics.median(float(ms) for _, ms in iterations[N_WARM_UP:])
    print(json.dumps({
        "shape": options.shape,
        "engine": "nanoGPT",
        "threads": options.threads,
        "ms": round(median, 3),
        "tokens_per_s": round(shape["batch_size"] * shape["context"] / median * 1e3),
        "loss": float(iterations[-1][0]),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6, 1),
    }))


if __name__ == "__main__":
    main()
