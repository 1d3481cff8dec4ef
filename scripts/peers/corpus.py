#!/usr/bin/env python3
"""Writes a synthetic corpus whose tokens are known: words w0, w1, … as frequent as Zipf's law has it.

    corpus.py DIR [--vocab N] [--tokens N]

DIR gets corpus.txt, a tokenizer.json that maps each word to its number (for `wattle prepare --tokenizer`), and
tokens.u16 with the same numbers for PyTorch. So both train on one sequence with a vocabulary of GPT-2's size, and
nothing has to be fetched or learnt. Needs nothing but Python.
"""

import argparse
import array
import itertools
import json
import random
from pathlib import Path

WORDS_A_LINE = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(options.vocab)))
    tokens = array.array("H", random.Random(1).choices(range(options.vocab), cum_weights=weights, k=options.tokens))
    (options.dir / "tokens.u16").write_bytes(tokens.tobytes())
    with open(options.dir / "corpus.txt", "w") as text:
        for start in range(0, len(tokens), WORDS_A_LINE):
            text.write(" ".join(f"w{token}" for token in tokens[start : start + WORDS_A_LINE]) + "\n")
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(options.vocab)}, "unk_token": "w0"},
    }
    (options.dir / "tokenizer.json").write_text(json.dumps(tokenizer))


if __name__ == "__main__":
    main()
