"""Prints nothing, writes ids: llama.cpp's tokens of texts. Run by its own Python.

python llama_cpp_tokens.py MODEL.gguf TEXTS.json OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import llama_cpp


def main() -> None:
    path, texts, out = sys.argv[1:]
    model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    ids = [
        model.tokenize(text.encode(), add_bos=False, special=True)
        for text in json.loads(Path(texts).read_text())
    ]
    Path(out).write_text(json.dumps(ids))


if __name__ == "__main__":
    main()
