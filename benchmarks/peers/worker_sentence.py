"""Embeds texts with sentence-transformers, or with transformers alone. Started by embed.py.

It says its version, and answers each line ``kind batch path`` with seconds: kind is
``sentence-transformers`` or ``transformers``, path a JSON file with the texts. A line
``vectors path out`` writes the vectors of sentence-transformers as .npy.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import sentence_transformers
import torch
import transformers


def main() -> None:
    folder, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    model = sentence_transformers.SentenceTransformer(folder, device="cpu")
    longest = model.max_seq_length
    tokenizer = model.tokenizer
    bare = model[0].auto_model.eval()

    def by_transformers(texts: list[str]) -> torch.Tensor:
        """What the model's card says: mean of the rows that are not padding, of length 1."""
        with torch.inference_mode():
            batch = tokenizer(
                texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            rows = bare(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(rows.dtype)
            return torch.nn.functional.normalize((rows * mask).sum(1) / mask.sum(1))

    versions = (sentence_transformers, transformers, torch)
    print(", ".join(f"{m.__name__} {m.__version__}" for m in versions), flush=True)
    for line in sys.stdin:
        kind, first, second = line.rstrip("\n").split("\t")
        if kind == "vectors":
            texts = json.loads(Path(first).read_text())
            np.save(second, model.encode(texts, show_progress_bar=False))
            print("done", flush=True)
            continue
        texts = json.loads(Path(second).read_text())
        start = time.perf_counter()
        if kind == "transformers":
            by_transformers(texts)
        else:
            model.encode(texts, batch_size=int(first), show_progress_bar=False)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
