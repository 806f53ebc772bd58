"""Prints nothing, writes logits: what llama.cpp computes for a text. Run by its own Python.

python llama_cpp_logits.py MODEL.gguf TOKENS.npy OUT.npy [ADAPTER.gguf SCALE]
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import llama_cpp
import numpy as np


def main() -> None:
    path, tokens_path, out_path, *adapter = sys.argv[1:]
    quiet: Any = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    llama_cpp.llama_backend_init()
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
    if not model:
        raise SystemExit("llama.cpp does not load the model")
    tokens = np.load(tokens_path).tolist()
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = max(256, len(tokens))
    params.n_batch = params.n_ubatch = 512
    params.flash_attn_type = 0
    params.type_k = params.type_v = 0  # float32
    params.n_threads = params.n_threads_batch = 2
    state = llama_cpp.llama_init_from_model(model, params)
    if not state:
        raise SystemExit("llama.cpp gives no context")
    if adapter:
        lora = llama_cpp.llama_adapter_lora_init(model, adapter[0].encode())
        if not lora:
            raise SystemExit("llama.cpp does not load the adapter")
        loras = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(lora)
        scales = (ctypes.c_float * 1)(float(adapter[1]))
        if llama_cpp.llama_set_adapters_lora(state, loras, 1, scales) != 0:
            raise SystemExit("llama.cpp does not take the adapter")
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i] = token, i
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = True
    batch.n_tokens = len(tokens)
    if llama_cpp.llama_decode(state, batch) != 0:
        raise SystemExit("llama_decode failed")
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = [
        np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(state, i), (vocabulary,)).copy()
        for i in range(len(tokens))
    ]
    np.save(out_path, np.stack(rows))


if __name__ == "__main__":
    main()
