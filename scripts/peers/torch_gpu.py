#!/usr/bin/env python3
"""Trains GPT-2 in PyTorch on one GPU for a while, the way a careful user would, and prints one line of JSON.

    torch_gpu.py TOKENS.u16 [--layers 12 --heads 12 --width 768 --context 1024 --vocab 50304 --batch 32]
                 [--compile] [--attention flash|cudnn|math] [--seconds 10] [--device cuda|cpu]

The model is the one that wattle trains under --preset gpt2-124m: biases, tanh GELU, tied head, no dropout. Weights
are f32 under bf16 autocast, attention is F.scaled_dot_product_attention, AdamW is the fused one, gradients are
clipped. Steps are made in groups of ten, with one synchronization a group, as wattle does without one a step.

Times are of the monotonic clock, so that joules can be read off a trace that gpu_watch.py took meanwhile.
"""

import argparse
import array
import contextlib
import json
import math
import statistics
import sys
import time

STARTED_NS = time.monotonic_ns()

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

GROUP = 10
ATTENTION = {
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
    "math": [SDPBackend.MATH],
}


class Block(nn.Module):
    def __init__(self, c, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(c)
        self.attention_in = nn.Linear(c, 3 * c)
        self.attention_out = nn.Linear(c, c)
        self.mlp_norm = nn.LayerNorm(c)
        self.mlp_in = nn.Linear(c, 4 * c)
        self.mlp_out = nn.Linear(4 * c, c)

    def forward(self, x):
        b, t, c = x.shape
        qkv = self.attention_in(self.attention_norm(x)).split(c, dim=2)
        q, k, v = (part.view(b, t, self.n_heads, c // self.n_heads).transpose(1, 2) for part in qkv)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(attended.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, options):
        super().__init__()
        c = options.width
        self.tokens = nn.Embedding(options.vocab, c)
        self.positions = nn.Embedding(options.context, c)
        self.blocks = nn.ModuleList(Block(c, options.heads) for _ in range(options.layers))
        self.norm = nn.LayerNorm(c)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith("_out.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * options.layers) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, inputs, targets):
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))


class Batches:
    """Windows of the corpus, copied ahead from pinned memory."""

    def __init__(self, path, options):
        numbers = array.array("H")
        with open(path, "rb") as file:
            numbers.frombytes(file.read())
        self.tokens = torch.tensor(numbers.tolist(), dtype=torch.int64)
        self.options = options
        self.generator = torch.Generator().manual_seed(1)

    def next(self):
        b, t = self.options.batch, self.options.context
        starts = torch.randint(len(self.tokens) - t - 1, (b,), generator=self.generator)
        windows = torch.stack([self.tokens[start : start + t + 1] for start in starts.tolist()])
        pair = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
        if self.options.device == "cuda":
            pair = tuple(part.pin_memory().to("cuda", non_blocking=True) for part in pair)
        return pair


def optimizer_of(model):
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens")
    for name, default in (("layers", 12), ("heads", 12), ("width", 768), ("context", 1024), ("vocab", 50304),
                          ("batch", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--attention", choices=ATTENTION, default="cudnn")
    parser.add_argument("--seconds", type=float, default=10, help="least time to measure over")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    cuda = options.device == "cuda"
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    model = Gpt2(options).to(options.device)
    optimizer = optimizer_of(model)
    forward = torch.compile(model) if options.compile else model
    batches = Batches(options.tokens, options)

    def backends():
        # A context manager of one use: every step makes its own.
        return sdpa_kernel(ATTENTION[options.attention], set_priority=True) if cuda else contextlib.nullcontext()

    def step():
        with torch.autocast(options.device, torch.bfloat16), backends():
            loss = forward(*batches.next())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    first_loss = step().item()
    synchronize()
    first_step_s = (time.monotonic_ns() - STARTED_NS) / 1e9
    for _ in range(GROUP):
        step()
    synchronize()
    start = now = time.monotonic_ns()
    seconds = []
    while now - start < options.seconds * 1e9:
        before = now
        for _ in range(GROUP):
            loss = step()
        synchronize()
        now = time.monotonic_ns()
        seconds.append((now - before) / 1e9 / GROUP)
    tokens_per_step = options.batch * options.context
    median = statistics.median(seconds)
    json.dump({
        "engine": f"torch {'compile' if options.compile else 'eager'} {options.attention}",
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "window_ns": [start, now],
        "steps": GROUP * len(seconds),
        "tokens": GROUP * len(seconds) * tokens_per_step,
        "step_ms": median * 1e3,
        "tokens_per_s": tokens_per_step / median,
        "first_loss": first_loss,
        "last_loss": loss.item(),
        "first_step_s": first_step_s,
        "peak_allocated_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "peak_reserved_bytes": torch.cuda.max_memory_reserved() if cuda else None,
    }, sys.stdout)
    print()


if __name__ == "__main__":
    main()
