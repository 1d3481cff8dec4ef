"""Parquet to tokens in Python: pyarrow reads batches of rows, Hugging Face tokenizers encodes them on all cores.

    peer_parquet.py make TEXT.txt OUT.parquet TIMES [snappy|zstd]   TEXT as documents of some 2 kB, TIMES over
    peer_parquet.py time FILE.parquet TOKENIZER.json [ROUNDS]       read, encode, write uint16

Needs pyarrow, tokenizers and numpy.
"""

import os
import resource
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "true"
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

DOCUMENT_CHARS = 2000
ROWS_A_GROUP = 10_000
ROWS_A_BATCH = 1024


def documents(text):
    """Paragraphs of `text`, as many together as come to DOCUMENT_CHARS."""
    document = []
    for paragraph in text.split("\n\n"):
        document.append(paragraph)
        if sum(map(len, document)) >= DOCUMENT_CHARS:
            yield "\n\n".join(document)
            document = []
    if document:
        yield "\n\n".join(document)


def make(text_file, out, times, packer="snappy"):
    with open(text_file, encoding="utf-8") as file:
        own = list(documents(file.read()))
    schema = pa.schema([("text", pa.string()), ("id", pa.int64())])
    with pq.ParquetWriter(out, schema, compression=packer, use_dictionary=False) as writer:
        rows = [f"{copy}: {document}" for copy in range(int(times)) for document in own]
        for start in range(0, len(rows), ROWS_A_GROUP):
            group = rows[start : start + ROWS_A_GROUP]
            writer.write_table(pa.table({"text": group, "id": range(len(group))}, schema=schema), len(group))
    print(f"{len(rows)} documents, {sum(map(len, rows)) / 1e6:.1f} million characters")


def encode(path, tokenizer, end):
    n_tokens = n_bytes = 0
    encode_batch = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    with open("/tmp/peer.bin", "wb") as out:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=ROWS_A_BATCH, columns=["text"]):
            column = batch.column(0)
            n_bytes += column.buffers()[1] and int(np.frombuffer(column.buffers()[1], np.int32)[len(column)])
            for encoding in encode_batch(column.to_pylist(), add_special_tokens=False):
                ids = np.array(encoding.ids + [end], dtype=np.uint16)
                n_tokens += len(ids)
                ids.tofile(out)
    return n_tokens, n_bytes


def measure(path, tokenizer_file, rounds=3):
    tokenizer = Tokenizer.from_file(tokenizer_file)
    end = tokenizer.token_to_id("<|endoftext|>")
    times = []
    for _ in range(int(rounds)):
        start = time.perf_counter()
        n_tokens, n_bytes = encode(path, tokenizer, end)
        times.append(time.perf_counter() - start)
    times.sort()
    median = times[len(times) // 2]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{n_tokens} tokens, {median:.2f} s ({times[0]:.2f} to {times[-1]:.2f}), "
        f"{n_bytes / 1e6 / median:.1f} MB/s, peak memory {peak:.0f} MiB"
    )


{"make": make, "time": measure}[sys.argv[1]](*sys.argv[2:])
