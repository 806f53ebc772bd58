"""Packed matrices give back the weights of the file to the bit, in every type and set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import Piece, make_step, num_blocks
from tests.backends.tolerances import WEIGHT_TYPES

from tektra.backends.base import CompileOptions
from tektra.backends.cpu import CpuBackend, native_core
from tektra.formats.ggml_types import GGMLType
from tektra.formats.quants import DECODABLE_TYPES, dequantize

core: Any = native_core()
pytestmark = pytest.mark.skipif(core is None, reason="the native core is not built")

ISAS = [isa for isa in core.compiled_isas() if core.runs_here(isa)] if core else []


def test_every_type_that_is_decoded_has_kernels() -> None:
    assert set(WEIGHT_TYPES) == DECODABLE_TYPES
    for type_ in DECODABLE_TYPES:
        assert all(core.packed_bytes(isa, int(type_), 16, 256) for isa in ISAS)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_", sorted(DECODABLE_TYPES), ids=lambda t: t.name)
def test_rows_of_any_bytes(type_: GGMLType, isa: str) -> None:
    """Every code word, sign and scale: a lookup gives what the NumPy decoder does."""
    rng = np.random.default_rng(int(type_))
    rows, width = 29, 512
    data = rng.integers(0, 256, (rows, type_.row_bytes(width)), np.uint8)
    expected = dequantize(data, type_, (rows, width))
    weights = MemoryWeights()
    weights._put("table", (rows, width), type_, data.reshape(-1))
    graph = weights.graph()
    graph.output("hidden", graph.select_outputs(graph.embed("table")))
    options = CompileOptions(num_threads=1, num_kv_blocks=num_blocks(rows))
    executable = CpuBackend(isa=isa).compile(graph, weights, options)
    try:
        step = make_step([Piece(range(rows), range(num_blocks(rows)), 0, range(rows))])
        found = executable.run(step, "hidden")
        finite = ~np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(found), ~finite)
        assert (found[finite] == expected[finite]).all()
    finally:
        executable.close()
