"""Runs pieces of work on Tektra's engine and prints how long each took. Started by compare.py."""

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


def main() -> None:
    path, threads, context = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    blocks = -(-context // KV_BLOCK_SIZE)
    with GGUFFile.open(path) as file:
        model = draw(file.metadata, file.tensors)
        options = CompileOptions(
            num_threads=threads, max_rows=MAX_ROWS, max_outputs=8, num_kv_blocks=blocks
        )
        executable = select_backend("cpu").compile(model.graph, file, options)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, context, dtype=np.int32)

    def run(first: int, past: int, count: int) -> None:
        used = -(-(past + count) // KV_BLOCK_SIZE)
        executable.run(
            Step(
                token_ids=tokens[first : first + count],
                positions=np.arange(past, past + count, dtype=np.int32),
                row_starts=np.array([0, count], np.int32),
                num_cached=np.array([past], np.int32),
                block_tables=np.arange(used, dtype=np.int32)[None],
                output_rows=np.array([count - 1], np.int32),
            )
        )

    def prefill(count: int) -> None:
        for start in range(0, count, MAX_ROWS):
            run(start, start, min(MAX_ROWS, count - start))

    print(__version__, flush=True)
    for line in sys.stdin:
        kind, count, depth = line.split()
        prefill(int(depth))
        begin = time.perf_counter()
        if kind == "prefill":
            prefill(int(count))
        else:
            for i in range(int(count)):
                run(i, int(depth) + i, 1)
        print(int(count) / (time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main()
