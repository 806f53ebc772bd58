"""Loads a model and streams the beginning of an answer. compare.py times its first byte."""

from __future__ import annotations

import sys


def main() -> None:
    from llama_cpp import Llama

    model, threads, prompt = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    llm = Llama(model, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
    messages = [{"role": "user", "content": prompt}]
    for chunk in llm.create_chat_completion(messages, max_tokens=4, stream=True):
        text = chunk["choices"][0]["delta"].get("content")
        if text:
            print(text, end="", flush=True)


if __name__ == "__main__":
    main()
