"""What do sequences that decode together gain? Tokens per second of all of them, 1, 4 and 16.

Twice: the model alone, one step after another with a row for each sequence, and through `LLM`, with
scheduler, sampler and detokenizer, from the requests to their answers.

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
from tektra.backends.base import KV_BLOCK_SIZE
from tektra.backends.cpu_peaks import PeakMeter

SHORT_PROMPT = 8


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
            meter.forget()
            meter.sample(4)
            results.append(of_model(model, count, options.depth, options.rounds, meter))
            show(results[-1])
        name = model.name
    # its cache is shared: blocks for one long context are blocks for many short ones
    of_all = most * (SHORT_PROMPT + options.tokens + KV_BLOCK_SIZE)
    with LLM(
        options.model, device="cpu", threads=options.threads, context=of_all, max_batch=most
    ) as llm:
        for count in options.sequences:
            results.append(of_engine(llm, count, options.tokens, options.rounds))
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
            peaks=meter.ever.to_dict(),
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


def of_engine(llm: LLM, count: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Requests with short prompts that come at once; until all are answered."""
    rng = np.random.default_rng(0)
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0.0)
    rates = []
    for turn in range(rounds + 1):
        prompts = [rng.integers(17, 1000, SHORT_PROMPT).tolist() for _ in range(count)]
        begin = time.perf_counter()
        llm.generate(prompts, params)
        seconds = time.perf_counter() - begin
        if turn:
            rates.append(count * tokens / seconds)
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
