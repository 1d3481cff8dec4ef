#!/usr/bin/env python3
"""Makes the golden files under tests/golden/adapters: what PEFT says of a few adapters of the golden models.

    python -m venv /tmp/peft
    /tmp/peft/bin/pip install torch==2.11.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0 numpy==2.4.6
    /tmp/peft/bin/python scripts/make_adapter_golden.py [DIRECTORY]

Everything is random with a fixed seed; nothing is downloaded. Factors are in single precision, and every figure is
computed from them in double precision, so that a difference from a golden value is the other side's rounding.

Each directory is an adapter as PEFT saves it, and beside it
  golden.safetensors  tokens (b, t + 1); logits (b, t, v); grad.<factor> of the mean loss, by names as in the file
"""

import json
import os
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy
import peft
import safetensors.numpy
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

PINNED = {"torch": "2.11.0", "transformers": "5.23.0", "peft": "0.21.2", "numpy": "2.4.6"}
BATCH = 3
TOKENS = 12
GOLDEN = Path(__file__).resolve().parent.parent / "tests/golden"
# The golden model, and what its adapters are.
ADAPTERS = {
    "gpt2": ("gelu-tanh-tied", dict(r=3, lora_alpha=6, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True)),
    "llama": (
        "llama-grouped-scaled",
        dict(
            r=4, lora_alpha=5, use_rslora=True,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        ),
    ),
}


def make(name, base, settings, out):
    torch.manual_seed(sum(map(ord, name)))
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings))
    factors = {key: value for key, value in model.named_parameters() if value.requires_grad}
    for value in factors.values():
        value.data = torch.randn_like(value) * 0.1
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    # What lies on this machine is nobody else's affair.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = f"tests/golden/{base}"
    # A set, whose order differs from run to run.
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").unlink(missing_ok=True)

    model = model.double()
    model.train()
    vocab = model.config.vocab_size
    tokens = torch.randint(0, vocab, (BATCH, TOKENS + 1))
    logits = model(input_ids=tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    golden = {
        "tokens": tokens.numpy().astype(numpy.int64),
        "logits": logits.detach().numpy(),
        "loss": loss.detach().numpy().reshape(1),
    }
    for key, value in model.named_parameters():
        if value.grad is not None:
            golden[f"grad.{key.replace('.default', '')}"] = value.grad.numpy()
    golden = {key: numpy.ascontiguousarray(value) for key, value in golden.items()}
    safetensors.numpy.save_file(golden, folder / "golden.safetensors")
    print(f"{name}: loss {loss.item():.6f}, {sum(value.numel() for value in factors.values())} numbers")


def main():
    found = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
             "peft": peft.__version__, "numpy": numpy.__version__}
    if found != PINNED:
        sys.exit(f"expected {PINNED}, got {found}")
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN / "adapters"
    out.mkdir(parents=True, exist_ok=True)
    for name, (base, settings) in ADAPTERS.items():
        make(name, base, settings, out)


if __name__ == "__main__":
    main()
