#!/usr/bin/env python3
"""Holds `wattle evaluate --tasks` against EleutherAI's lm-evaluation-harness, item by item, on the same local items.

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install torch==2.11.0 transformers==5.23.0 "lm-eval[hf]==0.4.13" numpy==2.4.6
    cargo build --release
    /tmp/golden/bin/python scripts/check_lm_eval.py target/release/wattle

It needs no network and about a minute. It trains a small model with wattle (or takes --checkpoint), opens the checkpoint
as the harness's `hf` model in f32 on the CPU, and gives both the items of tests/golden/lm_eval/*.jsonl, each kind by a
local task of the harness. Compared are every log-likelihood and whether it is greedy, every greedy text, and every score
with its standard error; wattle is run with two batch sizes, whose answers must be the same to the bit.

With --golden the checkpoint and the harness's answers are written to tests/golden/lm_eval, which
tests/tasks.rs reads. Prints a table. Exits 0 if everything held, 1 if something did not.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "golden" / "lm_eval"
# f32 against f32, summed over the tokens of a continuation: some 1e-5 was seen.
TOLERANCE = 2e-4
SETTINGS = {
    "run.name": "lm-eval", "model.n_layers": 2, "model.n_heads": 2, "model.d_model": 32, "model.context": 64,
    "tokenizer.kind": "bpe", "tokenizer.vocab_size": 384, "train.batch_size": 16, "train.max_steps": 250,
    "train.threads": 2, "evaluate.batches": 1, "optimizer.learning_rate": 0.003,
}
HEROES = ["Ada", "Milo", "Greta", "Otto", "Wanda", "Emil"]
COLOURS = ["red", "green", "grey", "golden", "purple", "blue"]
ANIMALS = ["fox", "hare", "otter", "owl", "bear", "mouse"]
TREES = ["oak", "pine", "willow", "birch"]
CRAFTS = ["baker", "weaver", "miller", "potter"]
PLACES = ["Brook", "Fenwick", "Harrow", "Linden"]
# Metrics of the harness by kind; those of wattle have the same names.
METRICS = {"choice": ["acc", "acc_norm", "acc_bytes"], "cloze": ["acc", "perplexity"], "generate": ["exact_match"]}
TASKS = {
    "choice": {
        "output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "answer",
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True}
                        for name in METRICS["choice"]],
    },
    "cloze": {
        "output_type": "loglikelihood", "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
                        {"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "generate": {
        "output_type": "generate_until", "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True,
                         "ignore_case": True, "ignore_punctuation": True}],
    },
}


def documents():
    """Short tales of the words that the items are made of."""
    draw = random.Random(1)
    for _ in range(3000):
        hero, colour, animal = draw.choice(HEROES), draw.choice(COLOURS), draw.choice(ANIMALS)
        yield " ".join([
            draw.choice([
                f"Once upon a time, in the little village of {draw.choice(PLACES)}, there lived {hero}, a "
                f"{draw.choice(CRAFTS)} who never complained.",
                f"Everyone in the village knew {hero}, a {draw.choice(CRAFTS)} who told stories to the children.",
                f"Long ago, when the hills were younger, {hero} lived in the village and sang from dawn until dusk.",
                f"At the edge of the village stood the {colour} cottage of {hero}, who worked better than anyone else.",
                f"Far away, behind the {colour} mountains, lay the village of {hero}, who sang all the while."]),
            draw.choice([
                f"The dearest friend of {hero} was a {animal}, who lived under the {draw.choice(TREES)} tree.",
                f"One day the {animal} said: \"I am hungry.\"",
                f"One day a {colour} {animal} lost the way, and {hero} brought it home."]),
            draw.choice(["In the end they all went home and told their neighbours of it.", "They lived happily."]),
        ])


def train(wattle, scratch):
    corpus, out = scratch / "tales.jsonl", str(scratch / "run")
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents()))
    settings = [word for key, value in {**SETTINGS, "data.input": [str(corpus)]}.items()
                for word in ("--set", f"{key}={json.dumps(value)}")]
    subprocess.run([wattle, "train", "--device", "cpu", "--out", out, *settings], check=True,
                   stdout=subprocess.DEVNULL)
    return (Path(out) / "checkpoints" / "latest").resolve()


def of_harness(checkpoint, scratch):
    """Answers and scores of the harness, by task."""
    for kind, task in TASKS.items():
        config = {
            "task": f"wattle_{kind}", "dataset_path": "json", "test_split": "test",
            "dataset_kwargs": {"data_files": {"test": str(GOLDEN / f"{kind}.jsonl")},
                               "cache_dir": str(scratch / "datasets")},
            "doc_to_text": "{{prompt}}", "target_delimiter": "", "metadata": {"version": 1}, **task,
        }
        (scratch / f"{kind}.yaml").write_text(yaml.safe_dump(config))
    results = lm_eval.simple_evaluate(
        model="hf", model_args={"pretrained": str(checkpoint), "dtype": "float32"}, device="cpu", batch_size=4,
        tasks=[f"wattle_{kind}" for kind in TASKS], log_samples=True, bootstrap_iters=1000,
        task_manager=TaskManager(include_path=str(scratch), include_defaults=False))
    found = {}
    for kind in TASKS:
        samples = sorted(results["samples"][f"wattle_{kind}"], key=lambda sample: sample["doc_id"])
        figures = results["results"][f"wattle_{kind}"]
        answers = []
        for sample in samples:
            if kind == "generate":
                text, = sample["resps"][0]
                answers.append({"text": text, "is_right": bool(sample["exact_match"] == 1.0)})
            else:
                pairs = [response[0] for response in sample["resps"]]
                answers.append({"log_likelihoods": [float(pair[0]) for pair in pairs],
                                "is_greedy": [str(pair[1]) == "True" for pair in pairs]})
        names = METRICS[kind]
        found[kind] = {
            "answers": answers,
            "scores": {name: float(figures[f"{name},none"]) for name in names},
            # The harness bootstraps that of a perplexity.
            "stderr": {name: float(figures[f"{name}_stderr,none"]) for name in names if name != "perplexity"},
        }
    return found


def of_wattle(wattle, checkpoint, batch_size):
    files = [str(GOLDEN / f"{kind}.jsonl") for kind in TASKS]
    told = subprocess.run([wattle, "evaluate", str(checkpoint), "--device", "cpu", "--json", "--batch-size",
                           str(batch_size), "--tasks", *files], check=True, stdout=subprocess.PIPE, text=True)
    return {task["task"]: task for task in json.loads(told.stdout)["tasks"]}


def compare(kind, theirs, ours):
    """The largest difference of log-likelihoods, and everything that is not the same."""
    largest, faults = 0.0, []
    for number, (expected, got) in enumerate(zip(theirs["answers"], ours["answers"], strict=True), 1):
        for key, value in expected.items():
            if key == "log_likelihoods":
                differences = [abs(a - b) for a, b in zip(value, got[key], strict=True)]
                largest = max(largest, *differences)
                if max(differences) > TOLERANCE:
                    faults.append(f"{kind} {number}: {value} in the harness, {got[key]} here")
            elif value != got[key]:
                faults.append(f"{kind} {number}: {key} {value!r} in the harness, {got[key]!r} here")
    scores = {score["metric"]: score for score in ours["scores"]}
    for name, value in theirs["scores"].items():
        if not math.isclose(value, scores[name]["value"], rel_tol=1e-4, abs_tol=1e-9):
            faults.append(f"{kind} {name}: {value} in the harness, {scores[name]['value']} here")
    for name, value in theirs["stderr"].items():
        if not math.isclose(value, scores[name]["stderr"], rel_tol=1e-6, abs_tol=1e-9):
            faults.append(f"{kind} {name}: ± {value} in the harness, ± {scores[name]['stderr']} here")
    return largest, faults


def write_golden(checkpoint, found):
    model = GOLDEN / "model"
    model.mkdir(parents=True, exist_ok=True)
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(checkpoint / name, model / name)
    golden = {"lm_eval": lm_eval.__version__, "tasks": found}
    (GOLDEN / "answers.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(f"written to {GOLDEN}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wattle")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--golden", action="store_true")
    args = parser.parse_args()
    faults = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        checkpoint = args.checkpoint or train(args.wattle, scratch)
        found = of_harness(checkpoint, scratch)
        ours, again = (of_wattle(args.wattle, checkpoint, batch_size) for batch_size in (1, 7))
        print(f"{'task':<10} {'items':>5}  {'largest difference':>18}  scores")
        for kind, theirs in found.items():
            largest, wrong = compare(kind, theirs, ours[kind])
            if ours[kind]["answers"] != again[kind]["answers"]:
                wrong.append(f"{kind}: other answers with another batch size")
            scores = ", ".join(f"{name} {value:.4f}" for name, value in theirs["scores"].items())
            print(f"{kind:<10} {len(theirs['answers']):>5}  {largest:>18.1e}  {scores}  {'FAILED' if wrong else 'ok'}")
            faults += wrong
        for fault in faults:
            print(f"! {fault}")
        if args.golden and not faults:
            write_golden(checkpoint, found)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
