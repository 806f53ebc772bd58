"""What choosing one token costs, by settings and vocabulary size, native and NumPy.

Prints a table, or JSON with --json. The logits are random, of the spread that language models
have; the model and the forward pass are not part of it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from tektra.engine.sampler import Sampler, make_sampler
from tektra.engine.sampling_params import SamplingParams

VOCAB_SIZES = (49_152, 151_936, 262_144)
NUM_ROWS = 8  # as many different rows as it takes for none to stay in the nearest cache

SETTINGS = {
    "greedy": SamplingParams.greedy(),
    "default (k 40, p 0.95, min-p 0.05)": SamplingParams(),
    "default, logprobs 5": SamplingParams(logprobs=5),
    "default, penalties and DRY": SamplingParams(
        repetition_penalty=1.1, frequency_penalty=0.2, dry_multiplier=0.8
    ),
    "top-p 0.95, min-p 0.05": SamplingParams(top_k=0),
    "top-p 0.95": SamplingParams(top_k=0, min_p=0.0),
    "top-p 0.95, logprobs 5": SamplingParams(top_k=0, min_p=0.0, logprobs=5),
    "typical 0.95": SamplingParams(top_k=0, top_p=1.0, min_p=0.0, typical_p=0.95),
    "mirostat 2": SamplingParams(mirostat=2),
    "temperature alone": SamplingParams(top_k=0, top_p=1.0, min_p=0.0),
}


def make_rows(vocab_size: int, shape: str) -> list[NDArray[np.float32]]:
    """Random logits. `model`: like those of a model, a few tokens standing out of a wide bell;
    `flat`: nearly uniform, the worst case, where no token can be left out."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(NUM_ROWS):
        row = rng.normal(size=vocab_size) * (2.5 if shape == "model" else 0.1)
        if shape == "model":
            row[rng.integers(0, vocab_size, 200)] += rng.exponential(5.0, 200) + 3.0
        rows.append(row.astype(np.float32))
    return rows


def median_ms(sampler: Sampler, rows: list[NDArray[np.float32]], num_tokens: int) -> float:
    """Median time of one token, in milliseconds."""
    for row in rows:
        sampler.sample(row)
    times = []
    for i in range(num_tokens):
        row = rows[i % len(rows)]
        start = time.perf_counter()
        sampler.sample(row)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def load_native() -> ModuleType | None:
    try:
        return importlib.import_module("tektra._native")
    except ImportError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--tokens", type=int, default=200, help="timed tokens per figure")
    parser.add_argument("--shape", choices=("model", "flat"), default="model")
    args = parser.parse_args()

    native = load_native()
    if native is None:
        print("the native core is not built: timing the NumPy sampler", file=sys.stderr)
    results = []
    for vocab_size in VOCAB_SIZES:
        rows = make_rows(vocab_size, args.shape)
        prompt = np.random.default_rng(1).integers(0, vocab_size, 1000)
        for name, params in SETTINGS.items():
            sampler = make_sampler(params, vocab_size, 1, (), native)
            sampler.accept(prompt)
            time_ms = median_ms(sampler, rows, args.tokens)
            results.append({"vocab_size": vocab_size, "settings": name, "median_ms": time_ms})
    if args.json:
        report = {
            "benchmark": "sampler",
            "native": native is not None,
            "shape": args.shape,
            "machine": platform.processor() or platform.machine(),
            "results": results,
        }
        print(json.dumps(report, indent=2))
        return
    print(f"{'settings':40}" + "".join(f"{size:>12,}" for size in VOCAB_SIZES) + "   ms per token")
    for name in SETTINGS:
        figures = [r["median_ms"] for r in results if r["settings"] == name]
        print(f"{name:40}" + "".join(f"{figure:12.4f}" for figure in figures))


if __name__ == "__main__":
    main()
