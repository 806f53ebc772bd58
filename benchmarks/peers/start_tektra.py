"""Loads a model and streams the beginning of an answer. compare.py times its first byte."""

from __future__ import annotations

import sys


def main() -> None:
    from tektra import LLM, SamplingParams

    model, threads, prompt = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with LLM(model, threads=threads) as llm:
        messages = [{"role": "user", "content": prompt}]
        for chunk in llm.chat(messages, SamplingParams(max_tokens=4), stream=True):
            if chunk.text:
                print(chunk.text, end="", flush=True)
        llm.wait_packed_copy(30.0)  # as `tektra run` does: the next start is a second one


if __name__ == "__main__":
    main()
