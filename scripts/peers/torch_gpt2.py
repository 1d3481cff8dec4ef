#!/usr/bin/env python3
"""Times PyTorch at the shapes of `cargo bench -p wattle-train`: one line of JSON, in the same words.

The model is the one that wattle trains (GPT-2 without biases or dropout, exact GELU, tied head), written the way a
PyTorch user would: nn.Linear, F.layer_norm, F.scaled_dot_product_attention, F.cross_entropy, clip_grad_norm_ and
the fused AdamW. Tokens are random; initial weights are PyTorch's own draws, so losses agree with wattle's in the
first digits alone (ln 65 = 4.17 at first).

    torch_gpt2.py small|big [--steps N] [--threads N] [--compile] [--bf16] [--foreach]
"""

import argparse
import json
import math
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

VOCAB_SIZE = 65
N_WARM_UP = 3
SHAPES = {
    "small": dict(n_layers=4, n_heads=4, d_model=128, context=64, batch_size=12, steps=200),
    "big": dict(n_layers=6, n_heads=6, d_model=384, context=256, batch_size=8, steps=12),
}


class Block(nn.Module):
    def __init__(self, c, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(c, bias=False)
        self.attention_in = nn.Linear(c, 3 * c, bias=False)
        self.attention_out = nn.Linear(c, c, bias=False)
        self.mlp_norm = nn.LayerNorm(c, bias=False)
        self.mlp_in = nn.Linear(c, 4 * c, bias=False)
        self.mlp_out = nn.Linear(4 * c, c, bias=False)

    def forward(self, x):
        b, t, c = x.shape
        qkv = self.attention_in(self.attention_norm(x)).split(c, dim=2)
        q, k, v = (part.view(b, t, self.n_heads, c // self.n_heads).transpose(1, 2) for part in qkv)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(attended.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))


class Gpt2(nn.Module):
    def __init__(self, n_layers, n_heads, d_model, context):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB_SIZE, d_model)
        self.positions = nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith("_out.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layers) if residual else 0.02)

    def forward(self, inputs, targets):
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.float().view(-1, VOCAB_SIZE), targets.view(-1))


def optimizer_of(model, foreach):
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    how = {"foreach": True} if foreach else {"fused": True}
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, **how)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true", help="under torch.autocast")
    parser.add_argument("--foreach", action="store_true", help="AdamW's foreach form instead of the fused one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    shape = dict(SHAPES[options.shape])
    batch_size, steps = shape.pop("batch_size"), options.steps or shape.pop("steps")
    shape.pop("steps", None)
    model = Gpt2(**shape)
    optimizer = optimizer_of(model, options.foreach)
    forward = torch.compile(model) if options.compile else model
    batches = [torch.randint(VOCAB_SIZE, (2, batch_size, shape["context"])) for _ in range(4)]
    seconds, cpu_start = [], 0.0
    for n in range(steps + N_WARM_UP):
        if n == N_WARM_UP:
            cpu_start = time.process_time()
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            loss = forward(*batches[n % 4])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = loss.item()
        seconds.append(time.perf_counter() - start)
    # As in wattle's bench, the first steps do not count: memory is touched and code compiled.
    cpu_ms = (time.process_time() - cpu_start) / steps * 1e3
    median = statistics.median(seconds[N_WARM_UP:])
    engine = "torch " + ("compile" if options.compile else "eager") + (" bf16" if options.bf16 else "")
    print(json.dumps({
        "shape": options.shape,
        "engine": engine,
        "threads": options.threads,
        "ms": round(median * 1e3, 3),
        "cpu_ms": round(cpu_ms, 3),
        "tokens_per_s": round(batch_size * shape["context"] / median),
        "loss": round(loss, 6),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
    }))


if __name__ == "__main__":
    main()
