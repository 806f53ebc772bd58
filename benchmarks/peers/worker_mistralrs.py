"""Runs pieces of work on mistral.rs and prints how fast each was. Started by compare.py.

Its lines are as worker_llama_cpp.py says. There is no interface to the model alone: the rates are
those that the engine itself reports of a request, without its tokenizer. What a request cannot say,
such as several sequences in step, is answered with 0.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

WORD = " cat"


def main() -> None:
    path, threads = Path(sys.argv[1]).resolve(), sys.argv[2]
    os.environ["RAYON_NUM_THREADS"] = threads
    os.environ["HF_HUB_OFFLINE"] = "1"
    answers = os.dup(1)  # the engine prints to standard output
    os.dup2(2, 1)
    import mistralrs

    runner = mistralrs.Runner(
        which=mistralrs.Which.GGUF(
            quantized_model_id=str(path.parent), quantized_filename=path.name
        ),
        max_seqs=1,
        prefix_cache_n=0,
        no_paged_attn=True,
    )

    def answer(text: str) -> None:
        os.write(answers, (text + "\n").encode())

    def ask(prompt_tokens: int, max_tokens: int) -> mistralrs.Usage:
        request = mistralrs.CompletionRequest(
            prompt=WORD * prompt_tokens,
            model="default",
            max_tokens=max_tokens,
            temperature=0.0,
            ignore_eos=True,
        )
        return runner.send_completion_request(request).usage

    from importlib.metadata import version

    answer(version("mistralrs"))
    for line in sys.stdin:
        kind, *rest = line.split()
        count, depth, sequences = map(int, rest)
        if sequences > 1:
            answer("0")
        elif kind == "prefill":
            answer(str(ask(count, 1).avg_prompt_tok_per_sec))
        else:
            answer(str(ask(max(depth, 1), count + 1).avg_compl_tok_per_sec))


if __name__ == "__main__":
    main()
