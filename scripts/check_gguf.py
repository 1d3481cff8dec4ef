#!/usr/bin/env python3
"""Holds wattle's GGUF files against llama.cpp and the gguf package, on a CPU.

    python -m venv /tmp/llama
    /tmp/llama/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0 tokenizers
    cargo build --release
    /tmp/llama/bin/python scripts/check_gguf.py target/release/wattle [--checkpoint RUN --data DIR]

llama-cpp-python is compiled when it is installed (some ten minutes on two cores). It needs no network and two minutes.
What it does:
  keys    the gguf package reads each file: architecture, sizes, types of tensors
  tokens  llama.cpp and wattle cut a text with accents, other alphabets and odd spaces into the same ids
  loss    llama.cpp's mean cross-entropy over the windows that `wattle evaluate FILE.gguf` takes, beside wattle's
  text    forty greedy tokens of both
Models: GPT-2s and Llamas, with byte-pair, byte and character tokenizers; with and without biases, tied and untied, with
grouped heads and scaled positions, with rows of the token table to spare, and of a width that no block divides. With --checkpoint also a table of that model: loss, size, joules a token and
tokens a second of wattle and of llama.cpp, the latter under `wattle meter`.

Prints tables. Exits 0 if everything held, 1 if something did not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gguf
import numpy
import tokenizers
from llama_cpp import Llama

# f16 weights and llama.cpp's GELU from a table in f16 leave some 1e-4; q8_0 and q4_0 are multiplied there with
# activations rounded to 8 bits, which wattle's are not. A wrong tensor costs whole nats; a Llama's queries and keys in
# another order, or llama3's divisors left out, some 3e-3.
LOSS_TOLERANCE = {"f16": 5e-4, "q8_0": 5e-3, "q4_0": 2e-2}
NEW_TOKENS = 40
# Positions that turn fast, so that a short text sees what scaling does.
LLAMA = {"model.family": "llama", "model.d_ff": 160, "model.rope_theta": 100.0}
LLAMA3 = {
    "model.rope_scaling": "llama3", "model.rope_factor": 4.0, "model.rope_original_context": 32,
    "model.norm_eps": 1e-6,
}
# Of the table, of which medians are shown.
ROUNDS = 3
TEXT = (
    'Once upon a time, Zoë said: "1 + 1 = 2"!\n\n\tThe end… 日本語 🙂 and  so   on. don\'t we\'ll\r\n   x [unused 3] '
    "¡ÿ! \\n \\x41 <|endoftext|\n"
) * 3
# In the letters of the embedded tales.
ASCII = "Once upon a time there was a boy, and   the boy said: no.\n\nThe end.\n" * 6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, help="the program wattle")
    parser.add_argument("--only-table", action="store_true", help="leave the checks out")
    parser.add_argument("--checkpoint", type=Path, help="a run or checkpoint to make the table of")
    parser.add_argument("--data", type=Path, help="a prepared folder, whose validation split the table is measured on")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*map(Path, arguments.measure))
        return
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(arguments.binary.resolve(), Path(folder))
        if not arguments.only_table:
            checks.all()
        failed = checks.report()
        if arguments.checkpoint:
            checks.table(arguments.checkpoint.resolve(), arguments.data.resolve())
    sys.exit(failed)


class Checks:
    def __init__(self, binary, folder):
        self.binary, self.folder, self.rows = binary, folder, []

    def all(self):
        """Every kind of tokenizer, and each family's variants."""
        self.model("bpe", {"tokenizer.kind": "bpe", "tokenizer.vocab_size": 500, "model.activation": "gelu_tanh"})
        self.model("bpe, biases, padded", {
            "tokenizer.kind": "bpe", "tokenizer.vocab_size": 500, "model.vocab_size": 512, "model.bias": True,
            "model.tie_embeddings": False,
        })
        self.model("bytes", {"tokenizer.kind": "bytes"})
        self.model("chars, width 72", {"tokenizer.kind": "chars", "model.d_model": 72}, ASCII)
        self.model("llama", {**LLAMA, "tokenizer.kind": "bpe", "tokenizer.vocab_size": 500})
        self.model("llama, grouped, llama3, untied, padded", {
            **LLAMA, **LLAMA3, "tokenizer.kind": "bpe", "tokenizer.vocab_size": 500, "model.vocab_size": 512,
            "model.n_kv_heads": 2, "model.tie_embeddings": False,
        })
        self.model("llama, one kv head, linear, bytes", {
            **LLAMA, "tokenizer.kind": "bytes", "model.n_kv_heads": 1, "model.rope_scaling": "linear",
            "model.rope_factor": 2.0,
        })
        self.model("llama, chars, width 72", {**LLAMA, "tokenizer.kind": "chars", "model.d_model": 72}, ASCII)

    def model(self, name, settings, text=TEXT):
        """A small model, exported in each type."""
        run = self.folder / name.replace(", ", "-").replace(" ", "-")
        settings = {
            "data.embedded_chars": 200_000, "model.n_layers": 2, "model.n_heads": 4, "model.d_model": 64,
            "model.context": 64, "train.max_steps": 80, "train.batch_size": 8, "schedule.warmup_steps": 5,
            "optimizer.learning_rate": 3e-3, **settings,
        }
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        self.run("train", *sets, "--out", run, "--device", "cpu")
        library = tokenizers.Tokenizer.from_file(str(run / "checkpoints/latest/tokenizer.json"))
        held = self.folder / "held.txt"
        held.write_text(text * 8)
        for kind in LOSS_TOLERANCE:
            file = self.folder / f"{run.name}-{kind}.gguf"
            self.run("export", run, "--type", kind, "--out", file)
            self.keys(f"{name}: {kind}", file, settings)
            llama = open_llama(file, settings["model.context"])
            ids = library.encode(text, add_special_tokens=False).ids
            self.same(f"{name}: {kind}: token ids", ids, tokens(llama, text))
            pieces = b"".join(llama.detokenize([token]) for token in ids)
            self.same(f"{name}: {kind}: text of the ids", text.encode(), pieces)
            ours = json.loads(self.run("evaluate", file, "--text", held, "--json", "--device", "cpu"))
            theirs, n_tokens = window_loss(llama, library.encode(text * 8, add_special_tokens=False).ids)
            self.same(f"{name}: {kind}: tokens evaluated", ours["tokens"], n_tokens)
            self.near(f"{name}: {kind}: loss", ours["loss"], theirs, LOSS_TOLERANCE[kind])
            if kind == "f16":
                whole = json.loads(self.run("evaluate", run, "--text", held, "--json", "--device", "cpu"))
                self.near(f"{name}: {kind}: loss of the checkpoint", whole["loss"], ours["loss"], LOSS_TOLERANCE[kind])
                prompt = "Once upon a time"
                written = self.run(
                    "generate", file, "--prompt", prompt, "--temperature", 0, "--max-tokens", NEW_TOKENS,
                    "--device", "cpu",
                )
                self.same(f"{name}: {kind}: greedy text", written.removesuffix("\n"), prompt + greedy(llama, prompt))

    def keys(self, name, file, settings):
        """What an independent reader sees."""
        reader = gguf.GGUFReader(file)
        value = lambda key: reader.get_field(key).contents()
        family = settings.get("model.family", "gpt2")
        expected = {
            "context_length": settings["model.context"], "embedding_length": settings["model.d_model"],
            "block_count": settings["model.n_layers"], "attention.head_count": settings["model.n_heads"],
            "feed_forward_length": settings.get("model.d_ff", 4 * settings["model.d_model"]),
        }
        if family == "llama":
            expected["attention.head_count_kv"] = settings.get("model.n_kv_heads", settings["model.n_heads"])
        self.same(f"{name}: architecture", family, value("general.architecture"))
        self.same(f"{name}: keys", expected, {key: value(f"{family}.{key}") for key in expected})
        types = {tensor.name: tensor.tensor_type.name.lower() for tensor in reader.tensors}
        kind = name.rsplit(": ", 1)[1] if settings["model.d_model"] % 32 == 0 else "f16"
        self.same(f"{name}: type of the token table", kind, types["token_embd.weight"])
        self.same(f"{name}: type of a norm", "f32", types["output_norm.weight"])

    def table(self, checkpoint, data):
        """One trained model in every type, by wattle and by llama.cpp."""
        print(f"\n{'file':10}{'size':>11}{'loss':>9}{'bits/byte':>11}{'J/ktoken':>10}{'ktokens/s':>11}"
              f"{'llama.cpp: loss':>18}{'J/ktoken':>10}{'ktokens/s':>11}")
        latest = checkpoint / "checkpoints/latest"
        weights = (latest if latest.exists() else checkpoint) / "model.safetensors"
        files = [("f32", checkpoint, weights.stat().st_size)]
        for kind in LOSS_TOLERANCE:
            file = self.folder / f"table-{kind}.gguf"
            self.run("export", checkpoint, "--type", kind, "--out", file)
            files.append((kind, file, file.stat().st_size))
        # Rounds take turns, so that a busy minute of the machine does not fall on one file alone.
        rounds = [[self.figures(file, data) for _, file, _ in files] for _ in range(ROUNDS)]
        for (kind, _, size), figures in zip(files, zip(*rounds)):
            medians = [statistics.median(values) for values in zip(*figures)]
            loss, bits, joules, rate, *theirs = medians
            row = f"{kind:10}{size:11,}{loss:9.4f}{bits:11.4f}{joules:10.3f}{rate:11.2f}"
            print(row + (f"{theirs[0]:18.4f}{theirs[1]:10.3f}{theirs[2]:11.2f}" if theirs else ""))

    def figures(self, file, data):
        """Loss, bits a byte, joules and thousands of tokens a second; the same but bits of llama.cpp, if it reads it."""
        began = time.monotonic()
        ours = json.loads(self.run("evaluate", file, "--data", data, "--json", "--device", "cpu"))
        rate = ours["tokens"] / (time.monotonic() - began) / 1e3
        figures = [ours["loss"], ours["bits_per_byte"], 1e3 * ours["energy_j"] / ours["tokens"], rate]
        return figures + (self.llama_figures(file, data) if file.suffix == ".gguf" else [])

    def llama_figures(self, file, data):
        record, script = self.folder / "record.json", Path(__file__).resolve()
        done = subprocess.run(
            [self.binary, "meter", "--json", record, "--", sys.executable, script, self.binary, "--measure", file, data],
            capture_output=True, text=True,
        )
        if done.returncode != 0:
            sys.exit(done.stderr)
        figures = json.loads(done.stdout.splitlines()[-1])
        energy = json.loads(record.read_text())["energy_j"]
        rate = figures["tokens"] / figures["seconds"] / 1e3
        return [figures["loss"], 1e3 * energy / figures["tokens"], rate]

    def run(self, *arguments):
        command = [self.binary, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def near(self, name, ours, theirs, tolerance):
        difference = abs(ours - theirs)
        self.rows.append((name, f"{difference:.1e}", f"< {tolerance:.0e}", difference < tolerance))

    def same(self, name, ours, theirs):
        held = ours == theirs
        self.rows.append((name, "the same" if held else "differ", "the same", held))
        if not held:
            print(f"{name}\n  expected {ours!r:.400}\n  got      {theirs!r:.400}")

    def report(self):
        width = max((len(name) for name, *_ in self.rows), default=0)
        for name, got, expected, held in self.rows:
            print(f"{name:{width}}  {got:>9}  {expected:>9}  {'ok' if held else 'FAILED'}")
        failed = sum(not held for *_, held in self.rows)
        print(f"{len(self.rows)} checks, {failed} failed")
        return 1 if failed else 0


def measure(file, data):
    """llama.cpp's loss on the validation split of a prepared folder, as JSON; what `wattle meter` runs."""
    value = lambda key: gguf.GGUFReader(file).get_field(key).contents()
    context = value(f"{value('general.architecture')}.context_length")
    (shard,) = data.glob("val-*.bin")
    # The layout stands in crates/data/src/shard.rs.
    content = shard.read_bytes()
    width = int.from_bytes(content[12:16], "little")
    ids = numpy.frombuffer(content[64:], dtype=f"<u{width}").tolist()
    llama = open_llama(file, context)
    began = time.monotonic()
    loss, n_tokens = window_loss(llama, ids)
    print(json.dumps({"loss": loss, "tokens": n_tokens, "seconds": time.monotonic() - began}))


def open_llama(file, context):
    threads = os.cpu_count()
    return Llama(
        str(file), n_ctx=context, n_batch=context, n_ubatch=context, n_threads=threads, n_threads_batch=threads,
        logits_all=True, verbose=False,
    )


def tokens(llama, text):
    return llama.tokenize(text.encode(), add_bos=False, special=False)


def window_loss(llama, ids):
    """Mean cross-entropy over non-overlapping windows: window i reads tokens iT to iT + T - 1 and predicts the next."""
    t = int(llama.metadata[f"{llama.metadata['general.architecture']}.context_length"])
    n_windows = (len(ids) - 1) // t
    total = 0.0
    for window in range(n_windows):
        llama.reset()
        llama.eval(ids[window * t : (window + 1) * t])
        logits = llama.scores[:t].astype(numpy.float64)
        targets = ids[window * t + 1 : (window + 1) * t + 1]
        largest = logits.max(axis=1, keepdims=True)
        normalizer = largest[:, 0] + numpy.log(numpy.exp(logits - largest).sum(axis=1))
        total += float((normalizer - logits[numpy.arange(t), targets]).sum())
    return total / (n_windows * t), n_windows * t


def greedy(llama, prompt):
    """The likeliest token each time, as long as the window has room."""
    llama.reset()
    written = []
    ids = tokens(llama, prompt)
    for _ in range(NEW_TOKENS):
        llama.eval(ids)
        ids = [int(numpy.argmax(llama.scores[llama.n_tokens - 1]))]
        written += ids
    return b"".join(llama.detokenize([token]) for token in written).decode(errors="replace")


if __name__ == "__main__":
    main()
