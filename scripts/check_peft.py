#!/usr/bin/env python3
"""Holds wattle's adapters against PEFT, with real programs on a CPU.

    python -m venv /tmp/peft
    /tmp/peft/bin/pip install torch==2.11.0 transformers==5.23.0 peft==0.21.2
    cargo build --release
    /tmp/peft/bin/python scripts/check_peft.py target/release/wattle

It needs no network and a minute. For a GPT-2 and a Llama it trains a little, then adapters of it, and compares
  out     the logits of the checkpoint as PEFT opens it with those of the folder that `export --merge` writes, as
          transformers opens it; and the loss of `wattle evaluate` with PEFT's
  in      an adapter that PEFT made: the loss of `wattle evaluate --adapter` with PEFT's

Prints a table. Exits 0 if everything held, 1 if something did not.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()

# Of the largest logit, and of the loss; f32 against f32.
TOLERANCE = 1e-5
CONTEXT = 16
COMMON = [
    "train.batch_size=8", "train.max_steps=30", "schedule.warmup_steps=2", "optimizer.learning_rate=1e-2",
    'data.input=["text.txt"]', "data.val_fraction=0.2",
]
SMALL = ["tokenizer.kind=chars", "model.n_layers=2", "model.n_heads=4", "model.d_model=32", f"model.context={CONTEXT}"]
CASES = {
    "gpt2, c_attn": (["model.bias=true", "model.activation=gelu_tanh"], ["lora.rank=4"]),
    "gpt2, all": (["model.activation=gelu"], ["lora.rank=3", "lora.alpha=7.5", 'lora.targets=["all-linear"]']),
    "llama, q and v": (["model.family=llama", "model.n_kv_heads=2"], ["lora.rank=8", "lora.rslora=true"]),
    "llama, all": (
        ["model.family=llama", "model.tie_embeddings=false"],
        ["lora.rank=2", 'lora.targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]'],
    ),
}


def wattle(program, cwd, *args):
    done = subprocess.run([program, *args], cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"wattle {' '.join(args)}\n{done.stderr}")
    return done.stdout


def train(program, cwd, out, settings):
    sets = [part for pair in settings for part in ("--set", pair)]
    wattle(program, cwd, "train", "--device", "cpu", "--out", out, *sets)


def loss_by_wattle(program, cwd, *checkpoint):
    return json.loads(wattle(program, cwd, "evaluate", *checkpoint, "--data", "prepared", "--split", "train", "--device",
                             "cpu", "--json"))["loss"]


def windows(program, cwd):
    lines = wattle(program, cwd, "show", "prepared", "--split", "train", "--first", "100000", "--context", str(CONTEXT),
                   "--json").splitlines()
    return [json.loads(line) for line in lines]


def logits(model, examples):
    with torch.no_grad():
        return model(input_ids=torch.tensor([example["tokens"] for example in examples])).logits.double()


def loss(model, examples):
    targets = torch.tensor([example["targets"] for example in examples])
    return torch.nn.functional.cross_entropy(logits(model, examples).flatten(0, 1), targets.flatten()).item()


def check(program, name, model_settings, lora_settings):
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        text = "".join(f"{i * 7 % 10} and {i * 3 % 10} make {i * 7 % 10 + i * 3 % 10}. " for i in range(150))
        (cwd / "text.txt").write_text(text)
        train(program, cwd, "base", COMMON + SMALL + model_settings)
        train(program, cwd, "tuned", COMMON + ['model.init_from="base"'] + lora_settings)
        tokenizer = cwd / "base/checkpoints/latest/tokenizer.json"
        wattle(program, cwd, "prepare", "text.txt", "--out", "prepared", "--tokenizer", str(tokenizer))
        examples = windows(program, cwd)

        theirs = AutoPeftModelForCausalLM.from_pretrained(cwd / "tuned/checkpoints/latest", dtype=torch.float32)
        wattle(program, cwd, "export", "tuned", "--merge", "--format", "safetensors", "--out", "merged")
        merged = AutoModelForCausalLM.from_pretrained(cwd / "merged", dtype=torch.float32)
        expected = logits(theirs, examples)
        yield "merged logits", ((logits(merged, examples) - expected).abs().max() / expected.abs().max()).item()
        base = AutoModelForCausalLM.from_pretrained(cwd / "base/checkpoints/latest", dtype=torch.float32)
        of_base = loss(base, examples)
        of_adapter = loss(theirs, examples)
        yield "loss", abs(loss_by_wattle(program, cwd, "tuned") / of_adapter - 1)
        if of_adapter > of_base - 0.01:
            sys.exit(f"{name}: the adapter learnt nothing: {of_base} before, {of_adapter} after")

        config = LoraConfig(r=5, lora_alpha=9, target_modules="all-linear", task_type="CAUSAL_LM",
                            fan_in_fan_out="gpt2" in name)
        torch.manual_seed(1)
        foreign = get_peft_model(base, config)
        for key, value in foreign.named_parameters():
            if "lora_" in key:
                value.data = torch.randn_like(value) * 0.1
        foreign.save_pretrained(cwd / "foreign")
        expected = loss(foreign.eval(), examples)
        yield "PEFT's own", abs(loss_by_wattle(program, cwd, "base", "--adapter", "foreign") / expected - 1)


def main():
    program = Path(sys.argv[1]).resolve()
    failed = False
    print(f"{'':16} {'':14} {'gap':>9}")
    for name, settings in CASES.items():
        for what, gap in check(program, name, *settings):
            held = gap <= TOLERANCE
            failed |= not held
            print(f"{name:16} {what:14} {gap:9.1e} {'' if held else f'above {TOLERANCE:.0e}'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
