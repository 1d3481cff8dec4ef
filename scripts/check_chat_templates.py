#!/usr/bin/env python3
"""Holds wattle's conversations against transformers: the same token ids, and the same tokens learnt.

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install transformers==5.24.0 jinja2
    cargo build --release
    /tmp/golden/bin/python scripts/check_chat_templates.py target/release/wattle
    /tmp/golden/bin/python scripts/check_chat_templates.py target/release/wattle --templates DIR

Without --templates it fetches tokenizers and chat templates of eight models from the Hugging Face Hub, from mirrors
without a gate where the original has one. With it, each DIR/*.jinja is checked with two tokenizers made here, one by
bytes as GPT-2's and one of words as Llama 2's, which have the special tokens that the template spells; that needs no
network.

Each conversation is prepared by `wattle prepare --tokenizer DIR` and read back by `wattle show --json`. Held against
`apply_chat_template`: the ids, and with {% generation %} markers `return_assistant_tokens_mask`. Beside DIR/NAME.jinja,
DIR/NAME_training.jinja may be the same template with markers, as TRL has them: then what wattle learns by NAME, which it
finds by rendering prefixes, is held against what the markers say, up to white space and to a token that ends all.
What a template refuses, both must refuse.

Prints a line for each template. Exits 1 if anything differs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jinja2
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

MODELS = {
    "Llama 3": "NousResearch/Meta-Llama-3-8B-Instruct",
    "Qwen2.5": "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen3": "Qwen/Qwen3-0.6B",
    "Gemma": "unsloth/gemma-2-2b-it",
    "Mistral": "mistral-community/Mistral-7B-Instruct-v0.3",
    "Phi": "microsoft/Phi-3.5-mini-instruct",
    "ChatML": "teknium/OpenHermes-2.5-Mistral-7B",
    "Zephyr": "HuggingFaceH4/zephyr-7b-beta",
}

TOOLS = [{
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place, in °C & <words>.",
        "parameters": {"type": "object", "required": ["place"], "properties": {
            "place": {"type": "string", "description": "Where"}, "days": {"type": "number", "default": 1.5}}},
    },
}]


def messages(*turns):
    return [{"role": role, "content": content} for role, content in turns]


CONVERSATIONS = {
    "one turn": {"messages": messages(("user", "Hi!"), ("assistant", "Hello, what can I do?"))},
    "system": {"messages": messages(
        ("system", "Be brief.\nBe kind."), ("user", "Why is the sky blue?"), ("assistant", "It scatters light."))},
    "turns": {"messages": messages(
        ("user", "What is 2 + 2?"), ("assistant", "4"), ("user", "And plus é, 日本 🙂?"),
        ("assistant", "That is\n\n  no number."), ("user", "  Thanks \n"), ("assistant", "You are welcome."))},
    "system and turns": {"messages": messages(
        ("system", "You count."), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"))},
    "thoughts": {"messages": messages(
        ("user", "17 * 3?"), ("assistant", "<think>\n17 * 3 is 51\n</think>\n\nIt is 51."))},
    "tools": {"messages": messages(("user", "Weather in Köln?"), ("assistant", "I look it up.")), "tools": TOOLS},
    "two users": {"messages": messages(("user", "a"), ("user", "b"), ("assistant", "c"))},
}


class Differs(Exception):
    """What is not the same."""


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=Path)
    arguments.add_argument("--templates", type=Path)
    arguments = arguments.parse_args()
    os.environ["WATTLE_BINARY"] = str(arguments.binary.resolve())
    n_different = 0
    for name, tokenizer, marked in cases(arguments.templates):
        outcomes = []
        for what, conversation in CONVERSATIONS.items():
            try:
                outcomes.append((what, check(tokenizer, marked, conversation)))
            except Differs as difference:
                outcomes.append((what, f"DIFFERS: {difference}"))
                n_different += 1
        counts = {}
        for _, outcome in outcomes:
            key = outcome.split(":")[0]
            counts[key] = counts.get(key, 0) + 1
        print(f"{name:32}", ", ".join(f"{n} {what}" for what, n in counts.items()), flush=True)
        for what, outcome in outcomes:
            if outcome.startswith(("DIFFERS", "not told", "ids equal, not")):
                print(f"    {what}: {outcome}")
    sys.exit(1 if n_different else 0)


def cases(folder):
    """A name, a tokenizer with its template, and the same with markers, if there is one."""
    if folder is None:
        for name, model in MODELS.items():
            yield name, AutoTokenizer.from_pretrained(model), None
        return
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text()
        beside = path.with_name(f"{path.stem}_training.jinja")
        for kind in ["bytes", "words"]:
            marked = made(beside.read_text(), source, kind) if beside.exists() else None
            yield f"{path.stem}, {kind}", made(source, source, kind), marked


def made(template, spelled, kind):
    """A tokenizer with the special tokens that `spelled` spells, and the template."""
    library = Tokenizer(BPE())
    if kind == "bytes":
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
    else:
        library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        library.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokens = sorted(set(re.findall(r"<\|[^|<>\s]+\|>|<(?:start|end)_of_\w+>|\[/?[A-Z_]{3,}\]|</?s>", spelled)))
    tokens += [token for token in ["<s>", "</s>"] if token not in tokens]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else list("▁abcdefghijklmnopqrstuvwxyz.,?!")
    fallback = [] if kind == "bytes" else [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420 + len(tokens) + len(fallback), special_tokens=tokens + fallback, initial_alphabet=alphabet,
        show_progress=False)
    text = "Hello, what can I do? It is the assistant's user. "
    library.train_from_iterator([text.replace(" ", "▁") if fallback else text] * 20, trainer)
    if fallback:
        # Bytes are tokens of the model, and none of their spellings is one.
        written = json.loads(library.to_str())
        written["model"]["byte_fallback"] = True
        written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] not in fallback]
        library = Tokenizer.from_str(json.dumps(written))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=library, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    return tokenizer


def check(tokenizer, marked, conversation):
    expected = rendered(tokenizer, conversation)
    got = prepared(tokenizer, conversation)
    if expected is None:
        if isinstance(got, str):
            return "both refuse"
        raise Differs("transformers refuses it, wattle does not")
    if isinstance(got, str):
        # Ids cannot be told apart from what is learnt: nothing is prepared of what cannot be learnt from.
        if "renders otherwise" in got or "cannot be rendered up to" in got or "nothing to learn" in got:
            return f"not told: {got[-160:]}"
        raise Differs(f"wattle refuses it: {got[-300:]}")
    ids, mask = got
    expected_ids, expected_mask = expected
    if ids[:len(expected_ids)] != expected_ids:
        at = next((i for i, (a, b) in enumerate(zip(ids, expected_ids)) if a != b), min(len(ids), len(expected_ids)))
        near = [tokenizer.decode(some[max(0, at - 5):at + 5]) for some in (ids, expected_ids)]
        raise Differs(f"ids from {at} on: {near[0]!r} instead of {near[1]!r}")
    if len(ids) - len(expected_ids) > 2:
        raise Differs(f"{len(ids) - len(expected_ids)} tokens more")
    if expected_mask is not None:
        if mask[:len(expected_ids)] != expected_mask:
            raise Differs(f"learns {learnt(tokenizer, ids, mask)!r}, not {learnt(tokenizer, ids, expected_mask)!r}")
        return "ids and masks equal"
    of_markers = marked and rendered(marked, conversation)
    if not of_markers or of_markers[0] != expected_ids:
        return "ids equal"
    # Prefixes also learn what ends a text for good, and white space after what ends a turn.
    said, by_markers = learnt(tokenizer, ids, mask), learnt(tokenizer, ids, of_markers[1])
    if len(said) != len(by_markers) or any(
            not plain(a, tokenizer).startswith(plain(b, tokenizer)) and
            not plain(b, tokenizer).startswith(plain(a, tokenizer)) for a, b in zip(said, by_markers)):
        # Markers may have more than a model has to say: of DeepSeek V3 also the token that begins its turn.
        return f"ids equal, not what markers say: prefixes {said[0]!r}, markers {by_markers[0]!r}"
    return "ids equal, prefixes learn what markers say"


def plain(text, tokenizer):
    return text.replace(tokenizer.eos_token or "\0", "").strip()


def learnt(tokenizer, ids, mask):
    """The runs of tokens that are learnt, as text."""
    runs, run = [], []
    for token, is_learnt in list(zip(ids, mask)) + [(None, 0)]:
        if is_learnt:
            run.append(token)
        elif run:
            runs.append(tokenizer.decode(run))
            run = []
    return runs


def rendered(tokenizer, conversation):
    """Ids and mask by transformers; None if the template refuses the conversation."""
    has_markers = re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.get_chat_template()) is not None
    try:
        out = tokenizer.apply_chat_template(
            conversation["messages"], tools=conversation.get("tools"), tokenize=True, return_dict=True,
            return_assistant_tokens_mask=has_markers)
    except (jinja2.TemplateError, TypeError):
        return None
    return out["input_ids"], out["assistant_masks"] if has_markers else None


def prepared(tokenizer, conversation):
    """Ids and mask by wattle, or why it refuses."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        tokenizer.save_pretrained(scratch / "tokenizer")
        records = scratch / "chat.jsonl"
        records.write_text(json.dumps(conversation) + "\n")
        out = scratch / "data"
        binary = os.environ["WATTLE_BINARY"]
        prepare = subprocess.run(
            [binary, "prepare", records, "--tokenizer", scratch / "tokenizer", "--val-fraction", "0", "--out", out],
            capture_output=True, text=True)
        if prepare.returncode != 0:
            return prepare.stderr.strip()
        show = subprocess.run(
            [binary, "show", out, "--json", "--first", "1", "--context", "1000000"], capture_output=True, text=True)
        if show.returncode != 0:
            raise Differs(f"wattle show: {show.stderr.strip()}")
        window = json.loads(show.stdout)
        # The first token is no target, and never the assistant's.
        return window["tokens"] + window["targets"][-1:], [0] + window["mask"]


if __name__ == "__main__":
    main()
