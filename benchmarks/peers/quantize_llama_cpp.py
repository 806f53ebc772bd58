"""llama.cpp's side of `benchmarks.quantize`: quantizes a file, or continues prompts greedily.

It runs in the environment of llama.cpp, and needs nothing of Tektra.

    python quantize_llama_cpp.py quantize IN OUT FTYPE THREADS [IMPORTANCE.npz]
    python quantize_llama_cpp.py greedy MODEL TOKENS PROMPT...
"""

from __future__ import annotations

import ctypes
import json
import sys
import time


def quantize(source: str, target: str, ftype: int, threads: int, importance: str | None) -> None:
    import llama_cpp
    import numpy as np

    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = ftype
    kept = []
    if importance is not None:
        arrays = dict(np.load(importance))
        entries = (llama_cpp.llama_model_imatrix_data * (len(arrays) + 1))()
        for entry, (name, values) in zip(entries, arrays.items(), strict=False):
            kept.append(np.ascontiguousarray(values, np.float32))
            entry.name = name.encode()
            entry.data = kept[-1].ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = kept[-1].size
        kept.append(entries)
        params.imatrix = entries
    start = time.perf_counter()
    code = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    print(json.dumps({"code": code, "seconds": time.perf_counter() - start}))


def greedy(model: str, count: int, prompts: list[str]) -> None:
    import llama_cpp

    llm = llama_cpp.Llama(model, n_ctx=512, verbose=False, logits_all=True, n_threads=2)
    answers = []
    for prompt in prompts:
        tokens = llm.tokenize(prompt.encode(), add_bos=True, special=True)
        llm.reset()
        llm.eval(tokens)
        made: list[int] = []
        gaps: list[float] = []
        while len(made) < count:
            scores = llm.scores[llm.n_tokens - 1]
            best = scores.argsort()[::-1][:2]
            gaps.append(float(scores[best[0]] - scores[best[1]]))
            made.append(int(best[0]))
            llm.eval([made[-1]])
        answers.append({"prompt": list(tokens), "tokens": made, "gaps": gaps})
    print(json.dumps(answers))


if __name__ == "__main__":
    if sys.argv[1] == "quantize":
        importance = sys.argv[6] if len(sys.argv) > 6 else None
        quantize(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), importance)
    else:
        greedy(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
