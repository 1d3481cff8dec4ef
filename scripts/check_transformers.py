#!/usr/bin/env python3
"""Holds wattle's checkpoints, commands and imports against transformers, with real programs on a CPU.

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install torch==2.11.0 transformers==5.23.0
    cargo build --release
    /tmp/golden/bin/python scripts/check_transformers.py target/release/wattle

It needs no network and some two minutes. What it does, for each family:
  out  trains a little, in every variant of the family; opens each checkpoint with AutoModelForCausalLM and
       AutoTokenizer and compares logits, loss, token ids and greedy text
  in   makes directories as another program would, in shards of f16 and bf16 with a tokenizer of their own; compares
       the loss of `wattle evaluate` and the starting loss of `wattle train --set model.init_from=…`

Prints a table. Exits 0 if everything held, 1 if something did not.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy
import safetensors.torch
import tokenizers
import torch
import transformers
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig, PreTrainedTokenizerFast
from transformers import ArceeConfig, MistralConfig, Olmo2Config, Qwen2Config, Qwen3Config

# Its bars and its advice on long texts say nothing here.
transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()

REPOSITORY = Path(__file__).resolve().parent.parent
# f32 against f32: some 1e-6 was seen; a wrong term would be thousands of times larger.
TOLERANCE = 1e-4
NEW_TOKENS = 40
END_OF_TEXT = "<|endoftext|>"
# A name in the table, and the settings of the model.
OURS = {
    "gpt2 with biases": {"model.bias": True, "model.activation": "gelu_tanh"},
    "gpt2": {"model.bias": False, "model.activation": "gelu"},
    "llama tied": {"model.family": "llama", "model.rope_theta": 500.0},
    "llama untied, grouped, llama3": {
        "model.family": "llama", "model.tie_embeddings": False, "model.n_kv_heads": 2, "model.d_ff": 100,
        "model.norm_eps": 1e-6, "model.rope_scaling": "llama3", "model.rope_factor": 4.0,
        "model.rope_original_context": 32,
    },
    "llama of one kv head, linear": {
        "model.family": "llama", "model.n_kv_heads": 1, "model.rope_scaling": "linear", "model.rope_factor": 2.0,
    },
    "qwen2": {"model.family": "qwen2", "model.n_kv_heads": 2},
    "qwen3, wide heads": {"model.family": "qwen3", "model.n_kv_heads": 1, "model.head_width": 24, "model.norm_eps": 1e-6},
    "mistral, window": {"model.family": "mistral", "model.n_kv_heads": 2, "model.head_width": 8, "model.window": 20},
    "olmo2": {"model.family": "olmo2", "model.tie_embeddings": False},
    "wattle as qwen3": {"model.family": "wattle", "model.qk_norm": True, "model.tie_embeddings": False},
    "wattle as arcee": {"model.family": "wattle", "model.activation": "relu2", "model.n_kv_heads": 2},
}
SIZES = dict(
    hidden_size=60, intermediate_size=100, num_hidden_layers=3, num_attention_heads=6, max_position_embeddings=48
)
THEIRS = {
    "gpt2": lambda **rest: GPT2Config(n_positions=48, n_embd=60, n_layer=3, n_head=5, n_inner=100, **rest),
    "llama tied": lambda **rest: llama(tie_word_embeddings=True, **rest),
    "llama grouped, llama3": lambda **rest: llama(
        num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters=dict(
            rope_type="llama3", rope_theta=500.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=24,
        ), **rest,
    ),
    "llama linear": lambda **rest: llama(
        rope_parameters=dict(rope_type="linear", rope_theta=10_000.0, factor=3.0), **rest
    ),
    "qwen2": lambda **rest: Qwen2Config(num_key_value_heads=2, **SIZES, **rest),
    "qwen3, wide heads": lambda **rest: Qwen3Config(num_key_value_heads=3, head_dim=16, **SIZES, **rest),
    "mistral, window": lambda **rest: MistralConfig(num_key_value_heads=2, sliding_window=17, **SIZES, **rest),
    "olmo2": lambda **rest: Olmo2Config(num_key_value_heads=3, pad_token_id=None, **SIZES, **rest),
    "arcee": lambda **rest: ArceeConfig(num_key_value_heads=3, pad_token_id=None, **SIZES, **rest),
}


def llama(**rest):
    return LlamaConfig(**SIZES, **rest)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=Path, help="the program wattle")
    arguments.add_argument("--logits", type=Path, help="the example `logits`, if it is built (otherwise cargo runs it)")
    arguments = arguments.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(arguments.binary.resolve(), arguments.logits, Path(folder))
        for name, settings in OURS.items():
            checks.round_trip(name, settings)
        for name, config in THEIRS.items():
            for dtype in (torch.float16, torch.bfloat16):
                checks.foreign(name, config, dtype)
    sys.exit(checks.report())


class Checks:
    def __init__(self, binary, logits, folder):
        self.binary, self.folder, self.rows = binary, folder, []
        cargo = ["cargo", "run", "--quiet", "--release", "-p", "wattle-model", "--example", "logits", "--"]
        self.logits_program = [str(logits.resolve())] if logits else cargo

    def round_trip(self, name, settings):
        """A checkpoint of ours in transformers."""
        run = self.folder / f"run-{name}"
        name = f"out, {name}"
        # A token table with rows to spare, which must never be sampled.
        settings = {
            "data.embedded_chars": 200_000, "tokenizer.kind": "bpe", "tokenizer.vocab_size": 500,
            "model.vocab_size": 512, "model.n_layers": 3, "model.n_heads": 4, "model.d_model": 64, "model.context": 64,
            "train.max_steps": 60, "train.batch_size": 8, "schedule.warmup_steps": 5, "optimizer.learning_rate": 3e-3,
            **settings,
        }
        self.train(run, settings)
        checkpoint = run / "checkpoints" / "latest"
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        # For a Qwen2, AutoTokenizer passes over tokenizer_config.json for a class that adds <|endoftext|> to any vocabulary.
        auto = PreTrainedTokenizerFast if model.config.model_type == "qwen2" else AutoTokenizer
        tokenizer = auto.from_pretrained(checkpoint)

        tokens = torch.randint(0, model.config.vocab_size, (3, model.config.max_position_embeddings))
        with torch.no_grad():
            expected = model(tokens).logits
        for kind, ours in self.our_logits(checkpoint, tokens).items():
            self.compare(f"{name}: {kind}", (ours - expected).abs().max().item())

        text = "Once upon a time, Zoë said: \"1 + 1 = 2\"!\n\n\tThe end… 日本語 🙂 <|endoftext|> and  so on.\n" * 3
        ids = tokenizer(text)["input_ids"]
        self.same(f"{name}: token ids", self.our_ids(checkpoint, text), ids)
        self.evaluation(name, checkpoint, text, *window_loss(model, ids))

        prompt = "Once upon a time"
        ids = tokenizer(prompt, return_tensors="pt")
        theirs = model.generate(
            **ids, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=self.end_of_text(tokenizer)
        )
        theirs = tokenizer.decode(theirs[0], skip_special_tokens=True)
        ours = self.run(
            "generate", checkpoint, "--prompt", prompt, "--max-tokens", NEW_TOKENS, "--temperature", 0, "--device", "cpu"
        )
        self.same(f"{name}: greedy text", ours.removesuffix("\n"), theirs)

    def foreign(self, name, config, dtype):
        """A directory of another program in wattle."""
        name = f"in, {name}, {str(dtype).removeprefix('torch.')}"
        directory = self.folder / name.replace(", ", "-")
        text = random_text()
        tokenizer = train_tokenizer(text)
        model = AutoModelForCausalLM.from_config(
            config(vocab_size=len(tokenizer) + 5, bos_token_id=0, eos_token_id=0)
        )
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        model.to(dtype).save_pretrained(directory, max_shard_size="100KB")
        tokenizer.save_pretrained(directory)
        n_shards = len(list(directory.glob("model-*.safetensors")))
        self.rows.append((f"{name}: shards", str(n_shards), "> 1", n_shards > 1))

        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        ids = tokenizer(text)["input_ids"]
        self.same(f"{name}: token ids", self.our_ids(directory, text), ids)
        expected, n_tokens = window_loss(model, ids)
        file = self.evaluation(name, directory, text, expected, n_tokens)

        run = self.folder / f"run-{name}"
        n_windows = n_tokens // model.config.max_position_embeddings
        # One step over every window: its loss is that of the untrained model.
        settings = {
            "model.init_from": directory, "model.dropout": 0.0, "data.input": [str(file)], "data.val_fraction": 0.0,
            "data.cache_dir": self.folder / "cache", "train.batch_size": n_windows, "train.micro_batch_size": 7,
            "train.max_steps": 1,
        }
        self.train(run, settings)
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        starting = next(event["loss"] for event in events if event["event"] == "step")
        self.compare(f"{name}: starting loss of train", abs(starting - expected))

    def evaluation(self, name, directory, text, expected, n_tokens):
        """`wattle evaluate` of a text, and the file that the text is in."""
        file = self.folder / "text.txt"
        file.write_text(text)
        figures = json.loads(self.run("evaluate", directory, "--text", file, "--json", "--device", "cpu"))
        self.same(f"{name}: tokens evaluated", figures["tokens"], n_tokens)
        self.compare(f"{name}: loss of evaluate", abs(figures["loss"] - expected))
        return file

    def train(self, run, settings):
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={toml(value)}")]
        self.run("train", *sets, "--out", run, "--device", "cpu")

    def our_logits(self, directory, tokens):
        file, out = self.folder / "tokens.txt", self.folder / "logits.safetensors"
        file.write_text("".join(" ".join(map(str, row)) + "\n" for row in tokens.tolist()))
        subprocess.run([*self.logits_program, directory, file, out], check=True, cwd=REPOSITORY)
        return safetensors.torch.load_file(out)

    def our_ids(self, directory, text):
        """The token file that `wattle prepare` makes; its layout stands in crates/data/src/shard.rs."""
        file = self.folder / "ids.txt"
        file.write_text(text)
        out = Path(tempfile.mkdtemp(dir=self.folder)) / "data"
        self.run("prepare", file, "--tokenizer", Path(directory) / "tokenizer.json", "--val-fraction", 0, "--out", out)
        (shard,) = out.glob("train-*.bin")
        content = shard.read_bytes()
        width = int.from_bytes(content[12:16], "little")
        return numpy.frombuffer(content[64:], dtype=f"<u{width}").tolist()

    def end_of_text(self, tokenizer):
        return tokenizer.get_vocab().get(END_OF_TEXT)

    def run(self, *arguments):
        command = [self.binary, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def compare(self, name, difference):
        self.rows.append((name, f"{difference:.1e}", f"< {TOLERANCE:.0e}", difference < TOLERANCE))

    def same(self, name, ours, theirs):
        held = ours == theirs
        self.rows.append((name, "the same" if held else "differ", "the same", held))
        if not held:
            print(f"{name}\n  ours   {ours!r:.400}\n  theirs {theirs!r:.400}")

    def report(self):
        width = max(len(name) for name, *_ in self.rows)
        for name, got, expected, held in self.rows:
            print(f"{name:{width}}  {got:>9}  {expected:>9}  {'ok' if held else 'FAILED'}")
        failed = sum(not held for *_, held in self.rows)
        print(f"{len(self.rows)} checks, {failed} failed")
        return 1 if failed else 0


def window_loss(model, ids):
    """Mean cross-entropy over non-overlapping windows: window i reads tokens iT to iT + T - 1 and predicts the next."""
    t = model.config.max_position_embeddings
    n_windows = (len(ids) - 1) // t
    inputs = torch.tensor(ids[: n_windows * t]).view(n_windows, t)
    targets = torch.tensor(ids[1 : n_windows * t + 1])
    with torch.no_grad():
        logits = model(inputs).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), targets).item(), n_windows * t


def random_text():
    """Sentences of made-up words, with accents, digits and other alphabets among them."""
    source = random.Random(1)
    letters = "aaaeeeiioournstlmdé"
    words = ["".join(source.choices(letters, k=source.randint(1, 8))) for _ in range(200)] + ["42", "Ω", "日本", "it's"]
    sentences = (" ".join(source.choices(words, k=source.randint(3, 12))).capitalize() + "." for _ in range(300))
    return "".join(sentence + source.choice([" ", "\n", "\n\n"]) for sentence in sentences)


def train_tokenizer(text):
    library = tokenizers.Tokenizer(BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[END_OF_TEXT], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=library, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT)


def toml(value):
    """A value as TOML spells it, which for these is as JSON does."""
    return json.dumps(str(value) if isinstance(value, Path) else value)


if __name__ == "__main__":
    main()
