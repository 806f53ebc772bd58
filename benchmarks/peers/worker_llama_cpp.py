"""Runs pieces of work on llama.cpp and prints how fast each was. Started by compare.py.

Uses the C API through llama-cpp-python, so that neither tokenizer nor sampler is timed. It says its
version, and answers each line ``kind count depth sequences`` with tokens per second: a prefill of
``count`` tokens, or a decode of so many tokens in each of the sequences together, which have
``depth`` tokens in the cache before.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import llama_cpp
import numpy as np

CHUNK = 512


class State:
    """A context of the model for so many sequences, each of so many tokens."""

    def __init__(self, model: Any, threads: int, length: int, sequences: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = sequences * length
        params.n_batch, params.n_ubatch = 2048, CHUNK
        params.n_seq_max = sequences
        params.kv_unified = False  # a cache for each sequence: faster here than one for all
        params.n_threads = params.n_threads_batch = threads
        self.state = llama_cpp.llama_init_from_model(model, params)
        if not self.state:
            raise SystemExit("llama_init_from_model failed")
        self.memory = llama_cpp.llama_get_memory(self.state)
        self.batch = llama_cpp.llama_batch_init(2048, 0, 1)

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self.memory, True)

    def run(self, rows: list[tuple[int, int, int]], wanted: set[int]) -> None:
        """Rows of (token, position, sequence); logits of the wanted rows."""
        for i, (token, position, sequence) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = i in wanted
        self.batch.n_tokens = len(rows)
        if llama_cpp.llama_decode(self.state, self.batch) != 0:
            raise SystemExit("llama_decode failed")
        llama_cpp.llama_synchronize(self.state)

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.state)


def main() -> None:
    path, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    llama_cpp.llama_backend_init()
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    tokens = np.random.default_rng(0).integers(0, vocabulary, context).tolist()
    single = State(model, threads, context, 1)

    print(llama_cpp.__version__, flush=True)
    for line in sys.stdin:
        kind, *rest = line.split()
        count, depth, sequences = map(int, rest)
        state = single
        if sequences > 1:
            state = State(model, threads, -(-(depth + count) // 256) * 256, sequences)
        state.clear()
        for sequence in range(sequences):
            prefill(state, tokens, depth, CHUNK, sequence)
        begin = time.perf_counter()
        if kind == "prefill":
            prefill(state, tokens, count, 2048, 0)
        else:
            for i in range(count):
                position = depth + i
                rows = [(tokens[position], position, s) for s in range(sequences)]
                state.run(rows, set(range(sequences)))
        print(count * sequences / (time.perf_counter() - begin), flush=True)
        if state is not single:
            state.close()


def prefill(state: State, tokens: list[int], count: int, chunk: int, sequence: int) -> None:
    """``count`` tokens of a sequence, from its beginning; logits of each chunk's last one."""
    for start in range(0, count, chunk):
        end = min(start + chunk, count)
        state.run([(tokens[i], i, sequence) for i in range(start, end)], {end - start - 1})


if __name__ == "__main__":
    main()
