#!/usr/bin/env python3
"""Times `wattle evaluate` and `wattle generate` against transformers: the same weights, text and threads, in turns.

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install torch==2.11.0 transformers==5.23.0
    cargo build --release
    /tmp/golden/bin/python scripts/peers/transformers_eval.py target/release/wattle [--rounds N] [--threads N] \\
        [--shapes small big llama] [--batch-tokens N]

Weights are those of a few steps of `wattle train` on the embedded tales, whose checkpoint transformers opens; the
text is this repository's own documentation. What is unequal is in transformers' favour:
  evaluate  wattle is timed from outside, with its start, loading and tokenizing; transformers in this process, warmed
            up, without any of these
  generate  greedy, one text as long as the context, with each side's own cache: the speed that `wattle generate` says,
            in a new process each time, against that of a warmed-up `model.generate`

Prints, for each, the medians of the rounds, the median of their ratios, and the least and the largest ratio. Exits 1
if losses or texts differ.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# f32 against f32, means of thousands of tokens: 1e-6 was seen.
TOLERANCE = 1e-4
PROMPT = "Nobody in"
# The model's settings, the steps it is trained for, and the length of the text.
SHAPES = {
    "small": (dict(n_layers=4, n_heads=4, d_model=128, context=64), 60, 400_000),
    "big": (dict(n_layers=6, n_heads=6, d_model=384, context=256), 10, 100_000),
    "llama": (dict(family="llama", n_layers=6, n_heads=6, n_kv_heads=2, d_model=384, context=256), 10, 100_000),
}
# Tokens of a training step, whatever the context.
STEP_TOKENS = 1024
PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=Path)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments.add_argument("--batch-tokens", type=int, default=4096, help="tokens that transformers evaluates at once")
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    agree = True
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes:
            agree &= compare(shape, arguments, Path(folder))
    sys.exit(0 if agree else 1)


def compare(shape, arguments, folder):
    binary = arguments.binary.resolve()
    model_settings, steps, text_bytes = SHAPES[shape]
    context = model_settings["context"]
    environment = dict(os.environ, RAYON_NUM_THREADS=str(arguments.threads), CANDLE_NUM_THREADS=str(arguments.threads))

    def wattle(*words):
        command = [binary, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        if done.returncode != 0:
            sys.exit(f"{command}\n{done.stderr}")
        return done

    run = folder / shape
    settings = [f"model.{key}={value}" for key, value in model_settings.items()]
    settings += [f"train.batch_size={STEP_TOKENS // context}", f"train.max_steps={steps}", "evaluate.batches=1"]
    wattle("train", "--device", "cpu", "--out", run, *(word for pair in settings for word in ("--set", pair)))
    checkpoint = run / "checkpoints" / "latest"
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    text = folder / "text.txt"
    text.write_bytes(documentation(text_bytes))
    ids = tokenizer.encode(text.read_text(), add_special_tokens=False)
    n_new = context - len(tokenizer.encode(PROMPT, add_special_tokens=False))
    evaluate(model, ids[: arguments.batch_tokens + 1], context, arguments.batch_tokens)
    generate(model, tokenizer, n_new)

    rows = {name: [] for name in ("evaluate", "generate")}
    agree = True
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        found = json.loads(wattle("evaluate", checkpoint, "--text", text, "--device", "cpu", "--json").stdout)
        ours = found["tokens"] / (time.perf_counter() - start)
        start = time.perf_counter()
        loss, n_tokens = evaluate(model, ids, context, arguments.batch_tokens)
        theirs = n_tokens / (time.perf_counter() - start)
        rows["evaluate"].append((ours, theirs))
        if n_tokens != found["tokens"] or abs(loss - found["loss"]) > TOLERANCE:
            print(f"{shape}: {found['tokens']} tokens, loss {found['loss']}; transformers {n_tokens}, {loss}")
            agree = False

        words = ("generate", checkpoint, "--prompt", PROMPT, "--temperature", 0, "--max-tokens", n_new)
        done = wattle(*words, "--device", "cpu")
        speed, prefix = re.search(r"([\d.]+) ([kM]?)tokens/s", done.stderr).groups()
        start = time.perf_counter()
        theirs_text, n_written = generate(model, tokenizer, n_new)
        rows["generate"].append((float(speed) * PREFIXES[prefix], n_written / (time.perf_counter() - start)))
        if done.stdout.strip() != theirs_text.strip():
            print(f"{shape}: {done.stdout!r}; transformers {theirs_text!r}")
            agree = False

    for name, rounds in rows.items():
        ours, theirs = (statistics.median(column) for column in zip(*rounds))
        ratios = sorted(a / b for a, b in rounds)
        print(
            f"{shape:<6} {name:<9} wattle {ours:>8.0f} tokens/s, transformers {theirs:>8.0f}: "
            f"{statistics.median(ratios):.2f} times ({ratios[0]:.2f}–{ratios[-1]:.2f})",
            flush=True,
        )
    return agree


def documentation(n_bytes):
    """The repository's pages, again and again, in plain characters."""
    pages = "".join((REPOSITORY / name).read_text() for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md"))
    plain = pages.encode("ascii", "ignore")
    return (plain * (n_bytes // len(plain) + 1))[:n_bytes]


@torch.inference_mode()
def evaluate(model, ids, context, batch_tokens):
    """Mean loss over the non-overlapping windows that `wattle evaluate` takes."""
    n_windows = (len(ids) - 1) // context
    inputs = torch.tensor(ids[: n_windows * context]).view(-1, context)
    targets = torch.tensor(ids[1 : n_windows * context + 1]).view(-1, context)
    total, batch = 0.0, max(1, batch_tokens // context)
    for first in range(0, n_windows, batch):
        logits = model(inputs[first : first + batch]).logits
        right = targets[first : first + batch].reshape(-1)
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), right, reduction="sum").item()
    return total / (n_windows * context), n_windows * context


@torch.inference_mode()
def generate(model, tokenizer, n_new):
    prompt = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)
    out = model.generate(**prompt, do_sample=False, max_new_tokens=n_new, pad_token_id=0)
    return tokenizer.decode(out[0], skip_special_tokens=True), out.shape[1] - prompt["input_ids"].shape[1]


if __name__ == "__main__":
    main()
