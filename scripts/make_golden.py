#!/usr/bin/env python3
"""Makes the golden files under tests/golden: what transformers and PyTorch say of a few tiny models of each family.

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install torch==2.11.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    /tmp/golden/bin/python scripts/make_golden.py [DIRECTORY]

Everything is random with a fixed seed; nothing is downloaded. Weights are rounded to the type that they are saved
in, read back by transformers, and every figure is computed from them in double precision, so that a difference from
a golden value is the other side's rounding and not ours. Run twice on one machine it writes the same bytes.

Each directory is a model as transformers saves it, and beside it
  golden.safetensors  tokens (steps, b, t + 1); logits (b, t, v) of the first batch; grad.<parameter>;
                      prompt and continuation of greedy generation
  golden.json         versions, loss of the first batch, and of ten AdamW steps the losses, gradient norms and
                      learning rates with the settings that gave them
sampling.json holds what transformers' filters leave of a few fixed logits.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy
import safetensors
import safetensors.numpy
import torch
import transformers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2Model, LlamaConfig
from transformers import ArceeConfig, MistralConfig, Olmo2Config, Qwen2Config, Qwen3Config
from transformers.generation import logits_process

PINNED = {"torch": "2.11.0", "transformers": "5.23.0", "safetensors": "0.8.0", "numpy": "2.4.6"}
STEPS = 10
BATCH = 3
OPTIMIZER = {"learning_rate": 4e-3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
# Some of the gradients are longer, some shorter.
CLIP_NORM = {"gpt2": 4.0, "llama": 7.0, "qwen2": 7.0, "qwen3": 5.7, "mistral": 7.0, "olmo2": 7.0, "arcee": 5.5}
WARMUP_STEPS = 3
MIN_LEARNING_RATE = 4e-4
# Two logits closer than this could change places by rounding in f32.
SAFE_MARGIN = 1e-3

COMMON = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
MODELS = {
    "gelu-tanh-tied": dict(
        vocab_size=61, n_positions=16, n_embd=24, n_layer=2, n_head=3, activation_function="gelu_new"
    ),
    "gelu-untied": dict(
        vocab_size=53, n_positions=18, n_embd=20, n_layer=3, n_head=5, n_inner=36, activation_function="gelu",
        tie_word_embeddings=False,
    ),
    "relu": dict(vocab_size=41, n_positions=13, n_embd=16, n_layer=1, n_head=2, n_inner=64, activation_function="relu"),
    "sharded-bf16": dict(
        vocab_size=37, n_positions=12, n_embd=16, n_layer=2, n_head=4, activation_function="gelu_new"
    ),
    "bare-f16": dict(vocab_size=37, n_positions=12, n_embd=16, n_layer=2, n_head=2, activation_function="gelu_new"),
}
LLAMAS = {
    "llama-tied": dict(
        vocab_size=59, max_position_embeddings=16, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=3, rms_norm_eps=1e-5, tie_word_embeddings=True,
    ),
    # The original context is short enough for frequencies to be kept, changed and between.
    "llama-grouped-scaled": dict(
        vocab_size=47, max_position_embeddings=18, hidden_size=32, intermediate_size=44, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, tie_word_embeddings=False,
        rope_parameters=dict(
            rope_type="llama3", rope_theta=500.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=9,
        ),
    ),
}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
RELATIVES = {
    "qwen2": Qwen2Config(
        vocab_size=43, max_position_embeddings=14, hidden_size=24, intermediate_size=36, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, tie_word_embeddings=True, **NO_TOKENS,
    ),
    # All heads together are wider than the residual stream.
    "qwen3": Qwen3Config(
        vocab_size=41, max_position_embeddings=15, hidden_size=20, intermediate_size=36, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, head_dim=8, rms_norm_eps=1e-6, tie_word_embeddings=False,
        **NO_TOKENS,
    ),
    # All heads together are narrower than the residual stream, and windows are shorter than the context.
    "mistral": MistralConfig(
        vocab_size=45, max_position_embeddings=16, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=4, rms_norm_eps=1e-5, tie_word_embeddings=False,
        sliding_window=5, **NO_TOKENS,
    ),
    "olmo2": Olmo2Config(
        vocab_size=47, max_position_embeddings=13, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, tie_word_embeddings=False, **NO_TOKENS,
    ),
    # A Llama with ReLU squared: a wattle with that activation.
    "arcee": ArceeConfig(
        vocab_size=45, max_position_embeddings=14, hidden_size=24, intermediate_size=44, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, tie_word_embeddings=True, **NO_TOKENS,
    ),
}
# Saved in half precision: read and evaluated, not trained.
HALVES = ("sharded-bf16", "bare-f16")


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "tests" / "golden"
    check_versions()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for seed, (name, settings) in enumerate(MODELS.items()):
        directory = out / name
        shutil.rmtree(directory, ignore_errors=True)
        torch.manual_seed(seed)
        make_model(directory, name, GPT2Config(**COMMON, **settings))
        print(f"{directory}: {sum(file.stat().st_size for file in directory.iterdir())} bytes")
    for seed, (name, settings) in enumerate(LLAMAS.items(), start=100):
        directory = out / name
        shutil.rmtree(directory, ignore_errors=True)
        torch.manual_seed(seed)
        make_model(directory, name, LlamaConfig(bos_token_id=None, eos_token_id=None, **settings))
        print(f"{directory}: {sum(file.stat().st_size for file in directory.iterdir())} bytes")
    for seed, (name, config) in enumerate(RELATIVES.items(), start=200):
        directory = out / name
        shutil.rmtree(directory, ignore_errors=True)
        torch.manual_seed(seed)
        make_model(directory, name, config)
        print(f"{directory}: {sum(file.stat().st_size for file in directory.iterdir())} bytes")
    write_json(out / "sampling.json", {"made_with": PINNED, "cases": sampling_cases()})


def check_versions():
    modules = {"torch": torch, "transformers": transformers, "safetensors": safetensors, "numpy": numpy}
    for name, expected in PINNED.items():
        got = modules[name].__version__.split("+")[0]
        if got != expected:
            sys.exit(f"{name} is {got}, expected {expected}: pip install {name}=={expected}")


def make_model(directory, name, config):
    model = AutoModelForCausalLM.from_config(config)
    randomize(model)
    if name == "sharded-bf16":
        model.to(torch.bfloat16).save_pretrained(directory, max_shard_size="6KB")
    elif name == "bare-f16":
        bare = GPT2Model(config)
        bare.load_state_dict(model.transformer.state_dict())
        bare.to(torch.float16).save_pretrained(directory)
    else:
        model.save_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager").eval()
    tokens = torch.randint(0, config.vocab_size, (STEPS, BATCH, config.max_position_embeddings + 1))
    prompt, continuation = greedy(model, tokens[0, 0, :5])
    tensors = {"tokens": tokens, "prompt": prompt, "continuation": continuation}
    logits, loss = predict(model, tokens[0])
    golden = {"made_with": PINNED, "loss": loss.item()}
    tensors["logits"] = logits.detach().float()
    if name not in HALVES:
        loss.backward()
        for parameter, value in model.named_parameters():
            tensors[f"grad.{parameter}"] = value.grad.float()
        golden["training"] = train(model, tokens)
    arrays = {
        name: value.numpy().astype(numpy.uint32) if value.dtype == torch.int64 else value.numpy()
        for name, value in tensors.items()
    }
    safetensors.numpy.save_file(arrays, directory / "golden.safetensors")
    write_json(directory / "golden.json", golden)
    for file in directory.iterdir():
        file.chmod(0o644)


def randomize(model):
    """Values of the size that trained models have, so that no term is too small to be missed."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if (".ln_" in name or "norm" in name) and name.endswith("weight"):
                value.normal_(1.0, 0.2)
            elif value.dim() == 1:
                value.normal_(0.0, 0.2)
            elif "wte" in name or "wpe" in name or "lm_head" in name or "embed" in name:
                value.normal_(0.0, 0.5)
            else:
                n_in = value.shape[1] if "_proj.weight" in name and "c_proj" not in name else value.shape[0]
                value.normal_(0.0, 1.0 / math.sqrt(n_in))


def predict(model, batch):
    """Logits and mean cross-entropy of a batch (b, t + 1)."""
    logits = model(batch[:, :-1]).logits
    return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def greedy(model, prompt):
    """A prompt and its greedy continuation up to the whole context, none of whose choices is close."""
    n_new = model.config.max_position_embeddings - len(prompt)
    out = model.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt)[None],
        max_new_tokens=n_new,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    for step, logits in enumerate(out.logits):
        first, second = logits[0].topk(2).values
        if first - second < SAFE_MARGIN:
            sys.exit(f"step {step} of greedy generation is undecided ({first - second:.1e}): change the seed")
    continuation = out.sequences[0, len(prompt) :]
    assert len(continuation) == n_new
    return prompt, continuation


def train(model, tokens):
    """Losses, gradient norms and learning rates of AdamW steps, a batch each."""
    decayed = [value for value in model.parameters() if value.dim() >= 2]
    others = [value for value in model.parameters() if value.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": OPTIMIZER["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=OPTIMIZER["learning_rate"],
        betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]),
        eps=OPTIMIZER["eps"],
    )
    clip_norm = CLIP_NORM[model.config.model_type]
    losses, norms, rates = [], [], []
    for step, batch in enumerate(tokens):
        rate = learning_rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        _, loss = predict(model, batch)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm).item())
        optimizer.step()
        losses.append(loss.item())
        rates.append(rate)
    return {
        "optimizer": OPTIMIZER,
        "clip_norm": clip_norm,
        "schedule": {"kind": "cosine", "warmup_steps": WARMUP_STEPS, "min_learning_rate": MIN_LEARNING_RATE},
        "losses": losses,
        "grad_norms": norms,
        "learning_rates": rates,
    }


def learning_rate(step):
    """Linear warm-up, then half a cosine, as in nanoGPT."""
    peak = OPTIMIZER["learning_rate"]
    if step < WARMUP_STEPS:
        return peak * (step + 1) / (WARMUP_STEPS + 1)
    progress = (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)
    return MIN_LEARNING_RATE + (peak - MIN_LEARNING_RATE) * 0.5 * (1.0 + math.cos(math.pi * progress))


def sampling_cases():
    """Probabilities that are left of fixed logits, one pair of which is equal."""
    logits = torch.tensor([1.5, -0.5, 3.0, 0.25, 1.5, 2.0, -2.0, 0.75, 2.5, -1.0], dtype=torch.float64)
    settings = [
        (1.0, None, None),
        (0.7, None, None),
        (1.0, 4, None),
        (1.0, None, 0.9),
        (1.3, 5, 0.7),
        (0.5, 3, 0.6),
        (2.0, 100, 1.0),
        (1.0, None, 0.01),
    ]
    cases = []
    for temperature, top_k, top_p in settings:
        processors = logits_process.LogitsProcessorList()
        if temperature != 1.0:
            processors.append(logits_process.TemperatureLogitsWarper(temperature))
        if top_k is not None:
            processors.append(logits_process.TopKLogitsWarper(top_k))
        if top_p is not None and top_p < 1.0:
            processors.append(logits_process.TopPLogitsWarper(top_p))
        left = processors(torch.zeros((1, 1), dtype=torch.long), logits[None].clone()).softmax(-1)[0]
        # Which of two equal logits top-p drops hangs on torch's sort.
        assert (left[0] > 0) == (left[4] > 0), "equal logits, one of them dropped: change top_p"
        cases.append(
            {
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "logits": logits.tolist(),
                "probabilities": left.tolist(),
            }
        )
    return cases


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
