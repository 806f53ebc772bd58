"""What choosing one token costs, by settings and vocabulary size, native and NumPy.

Prints a table for each spread of the logits and the worst figure, or JSON with --json. The logits
are random; the model and the forward pass are not part of it. A copy of 1 MiB is timed in the same
run: what it costs says how busy the machine was.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from tektra.engine.sampler import Sampler, make_sampler
from tektra.engine.sampling_params import SamplingParams

DEFAULT_VOCAB = 262_144
NUM_GROUPS = 4
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
    "typical 0.95, temperature 1": SamplingParams(
        top_k=0, top_p=1.0, min_p=0.0, typical_p=0.95, temperature=1.0
    ),
    "XTC 1e-5": SamplingParams(
        top_k=0, top_p=1.0, min_p=0.0, xtc_probability=1.0, xtc_threshold=1e-5
    ),
    "top-k 50000": SamplingParams(top_k=50_000),
    "mirostat 2": SamplingParams(mirostat=2),
    "temperature alone": SamplingParams(top_k=0, top_p=1.0, min_p=0.0),
}


SPREADS: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    # like those of a model: a few tokens standing out of a wide bell
    "model": lambda rng, size: _peaks(rng, 2.5 * rng.normal(size=size)),
    "std 5": lambda rng, size: 5 * rng.normal(size=size),
    "std 3": lambda rng, size: 3 * rng.normal(size=size),
    "std 1": lambda rng, size: rng.normal(size=size),
    "std 0.1": lambda rng, size: 0.1 * rng.normal(size=size),
    "grid": lambda rng, size: np.round(4 * rng.normal(size=size)) / 4,
    "equal": lambda rng, size: np.zeros(size),
}


def _peaks(rng: np.random.Generator, row: NDArray[np.float64]) -> NDArray[np.float64]:
    row[rng.integers(0, row.size, 200)] += rng.exponential(5.0, 200) + 3.0
    return row


def make_rows(vocab_size: int, spread: str) -> list[NDArray[np.float32]]:
    """Random logits, as `SPREADS` says."""
    rng = np.random.default_rng(0)
    return [SPREADS[spread](rng, vocab_size).astype(np.float32) for _ in range(NUM_ROWS)]


def median_ms(sampler: Sampler, rows: list[NDArray[np.float32]], num_tokens: int) -> float:
    """Median time of one token, in milliseconds: the least of a few groups', as others may be
    using the machine."""
    for row in rows:
        sampler.sample(row)
    return min(
        _median_ms(lambda i: sampler.sample(rows[i % len(rows)]), num_tokens // NUM_GROUPS)
        for _ in range(NUM_GROUPS)
    )


def copy_ms() -> float:
    """The same for a copy of 1 MiB."""
    source, copy = np.zeros((NUM_ROWS, 2**18), np.float32), np.empty(2**18, np.float32)
    return min(_median_ms(lambda i: np.copyto(copy, source[i % NUM_ROWS]), 50) for _ in range(10))


def _median_ms(run: Callable[[int], object], count: int) -> float:
    times = []
    for i in range(max(count, 1)):
        start = time.perf_counter()
        run(i)
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
    parser.add_argument("--tokens", type=int, default=100, help="timed tokens per figure")
    parser.add_argument("--vocab", type=int, action="append", help="vocabulary size; repeatable")
    parser.add_argument("--spread", choices=tuple(SPREADS), action="append", help="repeatable")
    args = parser.parse_args()

    native = load_native()
    if native is None:
        print("the native core is not built: timing the NumPy sampler", file=sys.stderr)
    spreads = args.spread or list(SPREADS)
    results = []
    for vocab_size in args.vocab or [DEFAULT_VOCAB]:
        for spread in spreads:
            rows = make_rows(vocab_size, spread)
            prompt = np.random.default_rng(1).integers(0, vocab_size, 1000)
            for name, params in SETTINGS.items():
                sampler = make_sampler(params, vocab_size, 1, (), native)
                sampler.accept(prompt)
                figures = {
                    "vocab_size": vocab_size,
                    "spread": spread,
                    "settings": name,
                    "median_ms": median_ms(sampler, rows, args.tokens),
                }
                results.append(figures)
    worst = max(results, key=lambda figures: float(str(figures["median_ms"])))
    report = {
        "benchmark": "sampler",
        "native": native is not None,
        "machine": platform.processor() or platform.machine(),
        "copy_1mib_ms": copy_ms(),
        "worst": worst,
        "results": results,
    }
    if args.json:
        print(json.dumps(report, indent=2))
        return
    for vocab_size in args.vocab or [DEFAULT_VOCAB]:
        title = f"{vocab_size:,} tokens"
        print(f"{title:36}" + "".join(f"{s:>9}" for s in spreads) + "   ms per token")
        for name in SETTINGS:
            row = [
                r["median_ms"]
                for r in results
                if r["settings"] == name and r["vocab_size"] == vocab_size
            ]
            print(f"{name:36}" + "".join(f"{figure:9.3f}" for figure in row))
    print(f"copying 1 MiB: {report['copy_1mib_ms']:.3f} ms")
    print(f"worst: {worst['median_ms']:.3f} ms, {worst['settings']}, spread {worst['spread']}")


if __name__ == "__main__":
    main()
