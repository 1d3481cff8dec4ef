"""The same work in Python: read a text, encode it with Hugging Face tokenizers on all cores, write uint16.

python peer.py FILE TOKENIZER.json [ROUNDS] [lines|blocks]
"""
import os, sys, time

os.environ["TOKENIZERS_PARALLELISM"] = "true"
import numpy as np
from tokenizers import Tokenizer

path, tokenizer, rounds = sys.argv[1], Tokenizer.from_file(sys.argv[2]), int((sys.argv[3:] or [3])[0])
how = (sys.argv[4:] or ["blocks"])[0]
BLOCK = 1 << 16


def pieces(text):
    if how == "lines":
        return text.splitlines(keepends=True)
    found, start = [], 0
    while start < len(text):
        end = text.rfind("\n", start, start + BLOCK) if start + BLOCK < len(text) else len(text)
        found.append(text[start : end if end > start else start + BLOCK])
        start += len(found[-1])
    return found


times = []
for _ in range(rounds):
    start = time.perf_counter()
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    n = 0
    with open("/tmp/peer.bin", "wb") as out:
        batch = pieces(text)
        for i in range(0, len(batch), 4096):
            encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
            for encoding in encode(batch[i : i + 4096], add_special_tokens=False):
                ids = np.array(encoding.ids, dtype=np.uint16)
                n += len(ids)
                ids.tofile(out)
    times.append(time.perf_counter() - start)
times.sort()
median = times[len(times) // 2]
print(f"{how}: {n} tokens, {median:.2f} s ({times[0]:.2f} to {times[-1]:.2f}), {os.path.getsize(path) / 1e6 / median:.1f} MB/s")
