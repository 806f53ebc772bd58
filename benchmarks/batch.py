"""What do sequences that decode together gain? Tokens per second of all of them, 1, 4 and 16.

Twice: the model alone, one step after another with a row for each sequence, and through `LLM`, with
scheduler, sampler and detokenizer.

    python -m benchmarks.batch [MODEL] [--sequences 1,4,16] [--tokens 64] [--depth 64] [--rounds 5]
                               [--isa avx2] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import numpy as np
from benchmarks.common import add_common_options, numbers, report, write_report
from benchmarks.models import DEFAULT_MODEL, Model, bound_seconds, open_model

from tektra import LLM, SamplingParams
from tektra.backends.cpu_peaks import PeakMeter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--sequences", type=numbers, default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=64, help="that each sequence decodes (64)")
    parser.add_argument("--depth", type=int, default=64, help="tokens of each before (64)")
    parser.add_argument("--rounds", type=int, default=5)
    add_common_options(parser)
    options = parser.parse_args()
    if options.isa:
        os.environ["TEKTRA_ISA"] = options.isa
    results: list[dict[str, Any]] = []
    most, context = max(options.sequences), options.depth + options.tokens
    with open_model(
        options.model,
        threads=options.threads,
        isa=options.isa,
        context=context,
        sequences=most,
    ) as model:
        isa = model.executable.isa
        meter = PeakMeter(isa, options.threads)
        for count in options.sequences:
            meter.sample(4)
            results.append(of_model(model, count, options.depth, options.rounds, meter))
            show(results[-1])
        name = model.name
    with LLM(
        options.model, device="cpu", threads=options.threads, context=context, max_batch=most
    ) as llm:
        for count in options.sequences:
            results.append(of_engine(llm, count, options.depth, options.tokens, options.rounds))
            show(results[-1])
    write_report(
        options.json,
        report(
            "batch",
            options.threads,
            results,
            isa=isa,
            model=name,
            depth=options.depth,
            peaks=meter.best.to_dict(),
        ),
    )


def of_model(model: Model, count: int, depth: int, rounds: int, meter: PeakMeter) -> dict[str, Any]:
    """Steps with a row for each sequence."""
    executable = model.executable
    for start in range(0, depth, executable.options.max_rows // count):
        end = min(depth, start + executable.options.max_rows // count)
        executable.run(model.together(start, end, count))
    steps = [model.together(at, at + 1, count) for at in range(depth, model.context)]
    rates = []
    for turn in range(rounds + 1):
        begin = time.perf_counter()
        for step in steps:
            executable.run(step)
        seconds = time.perf_counter() - begin
        if turn:
            rates.append(count * len(steps) / seconds)
    meter.sample(4)
    median = statistics.median(rates)
    bound = bound_seconds(executable, steps, meter.best)
    return {
        "level": "model",
        "sequences": count,
        "tokens_per_second": median,
        "share": bound / (count * len(steps) / median),
        "samples": rates,
    }


def of_engine(llm: LLM, count: int, depth: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Requests that come at once; the time is from the first token to the last, of the slowest."""
    rng = np.random.default_rng(0)
    rates = []
    for turn in range(rounds + 1):
        prompts = [rng.integers(17, 1000, depth).tolist() for _ in range(count)]
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0.0)
        answers = llm.generate(prompts, params)
        seconds = max(answer.timings.decode_s for answer in answers)
        if turn:
            rates.append(count * (tokens - 1) / seconds)
    return {
        "level": "engine",
        "sequences": count,
        "tokens_per_second": statistics.median(rates),
        "samples": rates,
    }


def show(result: dict[str, Any]) -> None:
    share = f"{result['share']:>8.1%} of bound" if "share" in result else ""
    print(
        f"{result['level']:<8}{result['sequences']:>4} sequences"
        f"{result['tokens_per_second']:>10.1f} tokens/s{share}",
        flush=True,
    )


if __name__ == "__main__":
    main()
