"""What adapters cost: steps of 16 sequences that decode, with 0, 1 and 4 different ones.

Every round runs each variant, so that a machine that changes its speed changes it for all; reported
are medians over the rounds, and their ratios to the same step without adapters. The adapters are
random, and change every linear layer but the output.

    python -m benchmarks.adapters [MODEL] [--rank 16] [--sequences 16] [--rounds 40] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from benchmarks.common import add_common_options, report, write_report

from tektra.backends.base import KV_BLOCK_SIZE, CompileOptions, Step
from tektra.backends.cpu import CpuBackend
from tektra.formats.gguf import GGUFFile
from tektra.formats.low_rank import LowRankUpdate
from tektra.graph import Graph, ops
from tektra.hub import resolve
from tektra.models.base import draw

CACHED = 96  # tokens that each sequence has already
VARIANTS = (0, 1, 4)


def random_adapter(graph: Graph, rank: int, seed: int) -> dict[str, LowRankUpdate]:
    rng = np.random.default_rng(seed)
    updates: dict[str, LowRankUpdate] = {}
    for op in graph.ops:
        for name in op.weights if isinstance(op, ops.Linear) else ():
            if not name.startswith("blk."):
                continue
            rows, width = graph.shape(name)
            a = rng.standard_normal((rank, width), dtype=np.float32) * np.float32(0.01)
            b = rng.standard_normal((rows, rank), dtype=np.float32) * np.float32(0.01)
            updates[name] = LowRankUpdate(a, b, 1.0)
    return updates


def decode_step(sequences: int, adapters: list[int]) -> Step:
    """One new token for each sequence; the adapters are dealt out in turn."""
    blocks = -(-(CACHED + 1) // KV_BLOCK_SIZE)
    step = Step(
        token_ids=np.arange(1, sequences + 1, dtype=np.int32),
        positions=np.full(sequences, CACHED, np.int32),
        row_starts=np.arange(sequences + 1, dtype=np.int32),
        num_cached=np.full(sequences, CACHED, np.int32),
        block_tables=np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks),
        output_rows=np.arange(sequences, dtype=np.int32),
    )
    if not adapters:
        return step
    ids = np.array([[adapters[s % len(adapters)]] for s in range(sequences)], np.int32)
    return replace(step, adapters=ids, adapter_scales=np.ones(ids.shape, np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_common_options(parser)
    parser.add_argument("model", nargs="?", default="smollm2:135m")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    with GGUFFile.open(resolve(options.model).path) as file:
        graph = draw(file.metadata, file.tensors).graph
        executable = CpuBackend(isa=options.isa or None).compile(
            graph,
            file,
            CompileOptions(
                num_threads=options.threads,
                max_rows=64,
                max_outputs=options.sequences,
                num_kv_blocks=options.sequences * (CACHED // KV_BLOCK_SIZE + 1),
            ),
        )
    ids = [
        executable.add_adapter(random_adapter(graph, options.rank, seed))
        for seed in range(max(VARIANTS))
    ]
    steps = {n: decode_step(options.sequences, ids[:n]) for n in VARIANTS}
    for step in steps.values():
        executable.run(step)
    times: dict[int, list[float]] = {n: [] for n in VARIANTS}
    for _ in range(options.rounds):
        for n, step in steps.items():
            start = time.perf_counter()
            executable.run(step)
            times[n].append(time.perf_counter() - start)
    results = []
    for n in VARIANTS:
        median = statistics.median(times[n])
        ratio = statistics.median(t / base for t, base in zip(times[n], times[0], strict=True))
        results.append(
            {
                "adapters": n,
                "milliseconds": round(1e3 * median, 3),
                "tokens_per_second": round(options.sequences / median, 1),
                "ratio": round(ratio, 3),
            }
        )
        print(f"{n} adapters: {1e3 * median:7.2f} ms a step, {ratio:.3f} of that without")
    memory = executable.memory.parts["adapters"]
    executable.close()
    contents = report(
        "adapters: a step of sequences that decode",
        options.threads,
        results,
        model=Path(options.model).name,
        sequences=options.sequences,
        rank=options.rank,
        cached=CACHED,
        rounds=options.rounds,
        bytes_of_an_adapter=memory // len(ids),
    )
    write_report(options.json, contents)


if __name__ == "__main__":
    main()
