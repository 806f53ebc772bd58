"""Runs pieces of work on llama.cpp and prints how long each took. Started by compare.py.

Uses the C API through llama-cpp-python, so that neither tokenizer nor sampler is timed.
"""

from __future__ import annotations

import sys
import time

import llama_cpp
import numpy as np


def main() -> None:
    path, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    llama_cpp.llama_backend_init()
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = context, 2048, 512
    params.n_threads = params.n_threads_batch = threads
    state = llama_cpp.llama_init_from_model(model, params)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    memory = llama_cpp.llama_get_memory(state)
    tokens = np.random.default_rng(0).integers(0, vocabulary, context).tolist()

    def decode(ids: list[int]) -> None:
        array = (llama_cpp.llama_token * len(ids))(*ids)
        if llama_cpp.llama_decode(state, llama_cpp.llama_batch_get_one(array, len(ids))) != 0:
            raise SystemExit("llama_decode failed")
        llama_cpp.llama_synchronize(state)

    print(llama_cpp.__version__, flush=True)
    for line in sys.stdin:
        kind, count, depth = line.split()
        llama_cpp.llama_memory_clear(memory, True)
        for start in range(0, int(depth), 512):
            decode(tokens[start : min(start + 512, int(depth))])
        begin = time.perf_counter()
        if kind == "prefill":
            for start in range(0, int(count), 2048):
                decode(tokens[start : min(start + 2048, int(count))])
        else:
            for i in range(int(count)):
                decode([tokens[i]])
        print(int(count) / (time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main()
