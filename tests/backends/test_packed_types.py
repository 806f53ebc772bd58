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


@pytest.mark.parametrize("type_", sorted(DECODABLE_TYPES), ids=lambda t: t.name)
def test_vectors_of_any_type(type_: GGMLType) -> None:
    """Norms and biases that a file keeps in another type than F32."""
    rng = np.random.default_rng(int(type_))
    rows, width = 5, 256
    x = rng.standard_normal((rows, width)).astype(np.float32)
    weights = MemoryWeights().add("x", x).add_random("norm", (width,), type_, rng)
    weights.add_random("w.bias", (width,), type_, rng)
    matrix = rng.standard_normal((width, width)).astype(np.float32)
    weights.add("w.weight", matrix)
    graph = weights.graph()
    normed = graph.rms_norm(graph.embed("x"), "norm", 1e-5)
    graph.output("hidden", graph.select_outputs(graph.linear(normed, "w")))
    step = make_step([Piece(range(rows), range(num_blocks(rows)), 0, range(rows))])
    executable = CpuBackend().compile(
        graph, weights, CompileOptions(num_threads=1, num_kv_blocks=1)
    )
    found = executable.run(step, "hidden").copy()
    executable.close()
    wide = x.astype(float)
    wide /= np.sqrt(np.mean(wide * wide, axis=1, keepdims=True) + 1e-5)
    expected = (wide * weights.floats("norm")) @ matrix.T.astype(float) + weights.floats("w.bias")
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
