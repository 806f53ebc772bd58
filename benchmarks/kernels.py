"""How near does each matrix kernel come to what the machine can do?

Decode (1 row) walks through more weights than any cache holds and is bound by reading memory;
prefill (512 rows) is bound by multiply-adds; steps of 4 and 16 rows lie between. The share is that
of the tighter bound, with the peaks measured in the same run, between the kernels.

    python -m benchmarks.kernels [--types Q4_0,Q6_K] [--shape 1536x1536,576x1536]
                                 [--rows 1,4,16,512] [--isa avx2] [--rounds 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.common import add_common_options, numbers, report, write_report
from benchmarks.kernel_rates import TYPES, MatrixSet, Shape

from tektra.backends.cpu import CpuBackend
from tektra.backends.cpu_peaks import PeakMeter, Peaks
from tektra.formats.ggml_types import GGMLType

COLD_BYTES = 256 << 20
MANY_ROWS = 64  # from so many rows on the weights of a walk need not be cold
WARM_OPERATIONS = 2e9


def measure(
    types: list[GGMLType],
    shapes: list[Shape],
    row_counts: list[int],
    *,
    threads: int,
    isa: str,
    rounds: int,
    meter: PeakMeter,
) -> Iterator[dict[str, Any]]:
    """One entry a type, shape and row count, with the peaks that were measured meanwhile."""
    for shape in shapes:
        for type_ in types:
            if not shape.fits(type_):
                continue
            for many in (False, True):
                wanted = [rows for rows in row_counts if (rows >= MANY_ROWS) is many]
                if not wanted:
                    continue
                total_bytes = COLD_BYTES
                if many:
                    operations = shape.rows * shape.width * max(wanted)
                    total_bytes = round(WARM_OPERATIONS / operations) * shape.num_bytes(type_)
                matrices = MatrixSet(
                    type_,
                    shape,
                    total_bytes=total_bytes,
                    max_rows=max(wanted),
                    threads=threads,
                    isa=isa,
                )
                times: dict[int, list[float]] = {rows: [] for rows in wanted}
                for rows in wanted:
                    matrices.walk(rows)
                meter.forget()
                for _ in range(rounds):
                    meter.sample()
                    for rows in wanted:
                        times[rows] += matrices.each(rows)
                for rows in wanted:
                    yield entry(matrices, rows, times[rows], meter.best)
                matrices.close()


def entry(matrices: MatrixSet, rows: int, times: list[float], peaks: Peaks) -> dict[str, Any]:
    """The figures of one kernel, from the times of single matrices."""
    seconds = matrices.count * statistics.median(times)
    best = matrices.count * sorted(times)[len(times) // 10]
    memory, arithmetic = matrices.bounds(peaks, rows)
    bound = max(memory, arithmetic)
    return {
        "type": matrices.type.name,
        "shape": str(matrices.shape),
        "rows": rows,
        "matrices": matrices.count,
        "seconds": seconds,
        "peak_gb_per_second": peaks.read_bytes_per_second / 1e9,
        "gb_per_second": matrices.file_bytes / seconds / 1e9,
        "gop_per_second": matrices.operations(rows) / seconds / 1e9,
        "bound": "memory" if memory >= arithmetic else "arithmetic",
        "share": bound / seconds,
        "best_share": bound / best,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--types", default=",".join(t.name for t in TYPES))
    parser.add_argument("--shape", default="1536x1536", help="rows x width, with commas between")
    parser.add_argument("--rows", type=numbers, default=[1, 4, 16, 512])
    parser.add_argument("--rounds", type=int, default=9)
    add_common_options(parser)
    options = parser.parse_args()
    isa = CpuBackend(isa=options.isa or None).isa
    meter = PeakMeter(isa, options.threads)
    meter.sample(8)
    print_peaks(meter.ever)
    head = ("type", "shape", "rows", "GB/s", "Gop/s", "bound", "share", "best")
    print(f"{head[0]:<6}{head[1]:>12}{head[2]:>6}{head[3]:>8}{head[4]:>9}{head[5]:>12}"
          f"{head[6]:>8}{head[7]:>8}")  # fmt: skip
    results = []
    for result in measure(
        [GGMLType[name] for name in options.types.split(",")],
        [Shape.parse(text) for text in options.shape.split(",")],
        options.rows,
        threads=options.threads,
        isa=isa,
        rounds=options.rounds,
        meter=meter,
    ):
        results.append(result)
        print(
            f"{result['type']:<6}{result['shape']:>12}{result['rows']:>6}"
            f"{result['gb_per_second']:>8.1f}{result['gop_per_second']:>9.1f}"
            f"{result['bound']:>12}{result['share']:>8.1%}{result['best_share']:>8.1%}",
            flush=True,
        )
    print_peaks(meter.ever)
    write_report(
        options.json,
        report("kernels", options.threads, results, isa=isa, peaks=meter.ever.to_dict()),
    )


def print_peaks(peaks: Peaks) -> None:
    """A line with what the machine can do."""
    print(
        f"{peaks.isa}, {peaks.threads} threads: reads {peaks.read_bytes_per_second / 1e9:.1f} GB/s,"
        f" {peaks.int8_per_second / 1e9:.0f} int8 and {peaks.float_per_second / 1e9:.0f} float"
        f" Gmul-add/s, a parallel loop {peaks.loop_seconds * 1e6:.2f} us"
        f" ({peaks.meeting_seconds * 1e6:.2f} us until all have met)",
        flush=True,
    )


if __name__ == "__main__":
    main()
