"""Runs pieces of work on Tektra's engine and prints how fast each was. Started by compare.py.

Its lines are as worker_llama_cpp.py says.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from tektra import __version__
from tektra.backends.base import KV_BLOCK_SIZE, CompileOptions, Step
from tektra.backends.select import select_backend
from tektra.formats.gguf import GGUFFile
from tektra.models.base import draw

MAX_ROWS = 512
MAX_SEQUENCES = 16


def main() -> None:
    path, threads, context = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    blocks = -(-context // KV_BLOCK_SIZE) + MAX_SEQUENCES
    with GGUFFile.open(path) as file:
        model = draw(file.metadata, file.tensors)
        options = CompileOptions(
            num_threads=threads, max_rows=MAX_ROWS, max_outputs=MAX_SEQUENCES, num_kv_blocks=blocks
        )
        executable = select_backend("cpu").compile(model.graph, file, options)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, context, dtype=np.int32)

    def run(at: list[int], past: int, count: int, per_sequence: int) -> None:
        """``count`` tokens of each sequence, of which the cache holds ``past``; last rows out."""
        used = -(-(past + count) // KV_BLOCK_SIZE)
        tables = np.add.outer(
            np.array(at, np.int32) * per_sequence, np.arange(used, dtype=np.int32)
        )
        executable.run(
            Step(
                token_ids=np.concatenate([tokens[past : past + count]] * len(at)),
                positions=np.tile(np.arange(past, past + count, dtype=np.int32), len(at)),
                row_starts=np.arange(0, len(at) * count + 1, count, dtype=np.int32),
                num_cached=np.full(len(at), past, np.int32),
                block_tables=tables.astype(np.int32),
                output_rows=np.arange(1, len(at) + 1, dtype=np.int32) * count - 1,
            )
        )

    def prefill(sequence: int, count: int, per_sequence: int = 0) -> None:
        for start in range(0, count, MAX_ROWS):
            run([sequence], start, min(MAX_ROWS, count - start), per_sequence)

    print(__version__, flush=True)
    for line in sys.stdin:
        kind, *rest = line.split()
        count, depth, sequences = map(int, rest)
        per_sequence = -(-(depth + count) // KV_BLOCK_SIZE)
        for sequence in range(sequences):
            prefill(sequence, depth, per_sequence)
        begin = time.perf_counter()
        if kind == "prefill":
            prefill(0, count)
        else:
            for i in range(count):
                run(list(range(sequences)), depth + i, 1, per_sequence)
        print(count * sequences / (time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main()
