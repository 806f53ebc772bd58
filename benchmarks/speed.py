"""How many tokens per second: prefill by length, decode by depth, and how near the bound is that?

The bound is what the machine would need at least for the weights and the cache that a step reads
and the multiply-adds that it makes, by peaks measured in the same run (cpu_costs.py, cpu_peaks.py).

    python -m benchmarks.speed [MODEL ...] [--prefill 128,512,2048,4096] [--depth 0,512,2048,8192]
                               [--decode 64] [--rounds 5] [--isa avx2] [--json FILE]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from benchmarks.common import add_common_options, numbers, report, write_report
from benchmarks.models import DEFAULT_MODEL, bound_seconds, int8_seconds, open_model

from tektra.backends.cpu_peaks import PeakMeter
from tektra.cli.bench_runner import BenchTest, Runner, measure, plan_tests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", default=[DEFAULT_MODEL], metavar="MODEL")
    parser.add_argument("--prefill", type=numbers, default=[128, 512, 2048, 4096])
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--depth", type=numbers, default=[0, 512, 2048, 8192])
    parser.add_argument("--rounds", type=int, default=5)
    add_common_options(parser)
    options = parser.parse_args()
    tests = [
        *plan_tests(options.prefill, [], [0]),
        *plan_tests([], [options.decode], options.depth),
    ]
    results: list[dict[str, Any]] = []
    isa = ""
    for reference in options.models:
        context = max(test.context for test in tests)
        with open_model(
            reference, threads=options.threads, isa=options.isa, context=context
        ) as model:
            isa = model.executable.isa
            meter = PeakMeter(isa, options.threads)
            print(f"{model.name}, {isa}, {options.threads} threads, medians of {options.rounds}")
            print(f"{'test':<16}{'tokens/s':>10}{'of bound':>10}{'of int8':>10}")
            for test in tests:
                meter.forget()
                meter.sample(4)
                rounds = options.rounds if test.tokens <= 512 else max(2, options.rounds // 2)
                found = measure(
                    model.executable, test, vocab_size=model.vocab_size, repetitions=rounds
                )
                meter.sample(4)
                result = {
                    "model": model.name,
                    "test": test.name,
                    "tokens_per_second": found.tokens_per_second,
                    "samples": found.samples,
                    **shares(model, test, found.tokens_per_second, meter),
                }
                results.append(result)
                int8 = f"{result['int8_share']:>10.1%}" if test.kind == "prefill" else ""
                print(
                    f"{test.name:<16}{found.tokens_per_second:>10.1f}{result['share']:>10.1%}{int8}",
                    flush=True,
                )
            peaks = meter.ever.to_dict()
    write_report(options.json, report("speed", options.threads, results, isa=isa, peaks=peaks))


def shares(model: Any, test: BenchTest, rate: float, meter: PeakMeter) -> dict[str, float]:
    """Shares of the bounds of a test's steps."""
    chunk = model.executable.options.max_rows if test.kind == "prefill" else 1
    runner = Runner(model.executable, np.zeros(test.context, np.int32))
    steps = list(runner.steps(test.depth, test.context, chunk))
    seconds = test.tokens / rate
    return {
        "share": bound_seconds(model.executable, steps, meter.best) / seconds,
        "int8_share": int8_seconds(model.executable, steps, meter.best) / seconds,
    }


if __name__ == "__main__":
    main()
