"""Cases of the conformance suite for what encoders add: tables by other numbers, and columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.backends.cases import Case, Prepared, all_rows, input_table, one_step, rng_of
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import i32
from tests.backends.tolerances import TOLERANCES

from tektra.graph import EmbedBy

__all__ = ["table_cases"]


def table_cases() -> Iterator[Case]:
    """Lookups by position and segment, and values cut into columns."""
    yield from _embed_by_cases()
    yield from _split_cases()


def _embed_by_cases() -> Iterator[Case]:
    """Tables that are looked up by other numbers than tokens."""
    for by in (EmbedBy.POSITION, EmbedBy.SEGMENT):
        for given in (True, False):
            name = f"embed-F32-9x40-{by.value}{'' if given else '-unsaid'}"

            def prepare(name: str = name, by: EmbedBy = by, given: bool = given) -> Prepared:
                rng = rng_of(name)
                table, numbers = input_table(rng, 50, 40), i32(rng.integers(0, 50, 9))
                weights = MemoryWeights.of({"x": table})
                graph = weights.graph()
                graph.output("hidden", graph.select_outputs(graph.embed("x", by)))
                step = all_rows(9)
                if given and by is EmbedBy.POSITION:
                    step = replace(step, positions=numbers)
                elif given:
                    step = replace(step, segments=numbers)
                else:
                    numbers = i32(range(9) if by is EmbedBy.POSITION else [0] * 9)
                return Prepared(graph, weights, [step], lambda: table[numbers].astype(float))

            yield Case(name, TOLERANCES["embed"], prepare)


def _split_cases() -> Iterator[Case]:
    for rows, widths in ((1, (5, 1, 90)), (7, (64, 64, 64)), (130, (33, 40))):
        for pick in range(len(widths)):
            name = f"split-F32-{rows}x{'+'.join(map(str, widths))}-out{pick}"

            def prepare(
                name: str = name,
                rows: int = rows,
                widths: tuple[int, ...] = widths,
                pick: int = pick,
            ) -> Prepared:
                table = input_table(rng_of(name), rows, sum(widths))
                first = sum(widths[:pick])
                return one_step(
                    MemoryWeights.of({"x": table}),
                    rows,
                    lambda g: g.split(g.embed("x"), *widths)[pick],
                    lambda: table[:, first : first + widths[pick]].astype(float),
                )

            yield Case(name, TOLERANCES["select"], prepare)
