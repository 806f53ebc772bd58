"""Int8 keys and values: what they take, what is refused, and what rounding them costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import Piece, make_step
from tests.backends.test_same_answer import MODEL, VOCABULARY, model

from tektra.backends.base import Backend, CompileOptions, KvGeometry
from tektra.backends.reference_kv import KvCache
from tektra.config import KV_TYPES, KvType, Settings
from tektra.engine.loader import LoadOptions
from tektra.errors import BackendError, InvalidParameterError
from tektra.formats.ggml_types import GGMLType
from tektra.graph import AttentionSpec

OPTIONS = CompileOptions(num_threads=2, max_rows=320, max_outputs=300, num_kv_blocks=10)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_the_plan_is_what_is_taken(backend: Backend, kv_type: KvType) -> None:
    graph, weights = model(GGMLType.Q4_1)
    options = replace(OPTIONS, kv_type=kv_type)
    executable = backend.compile(graph, weights, options)
    planned = backend.plan(graph, weights.tensors, options).parts["kv_cache"]
    assert planned == executable.memory.parts["kv_cache"]
    # layers, heads, keys and values, and the scale of each
    width = MODEL.hidden // MODEL.heads
    per_head = 2 * {"f16": 2 * width, "int8": width + 4, "f32": 4 * width}[kv_type]
    assert planned == 2 * MODEL.kv_heads * per_head * 32 * options.num_kv_blocks
    executable.close()


def test_logits_hardly_change(backend: Backend) -> None:
    """A random model with flat attention; real ones are in docs/log.md."""
    graph, weights = model(GGMLType.F32)
    ids = np.random.default_rng(1).integers(0, VOCABULARY, 300).tolist()
    step = make_step([Piece(ids, range(10), 0, range(300))])
    logits = []
    for kv_type in ("f16", "int8"):
        executable = backend.compile(graph, weights, replace(OPTIONS, kv_type=kv_type))
        logits.append(executable.run(step).astype(float))
        executable.close()
    difference = np.sqrt(np.mean((logits[0] - logits[1]) ** 2) / np.mean(logits[0] ** 2))
    # an element is rounded by 0.29 * 2.5 / 127 of their deviation; keys and values of two layers
    assert 0 < difference < 0.02


def test_rotated_keys_lose_little_to_an_outlier() -> None:
    """One element in 64 is a hundred times the others: without a rotation they would be zero."""
    rng = np.random.default_rng(2)
    keys = rng.standard_normal((32, 1, 64)).astype(np.float32)
    keys[..., 5] *= 100
    cache = KvCache(1, KvGeometry(1, 64, 64), "int8", np.dtype(np.float16))
    places = np.arange(32)
    cache.write(np.zeros(32, np.int64), places, keys, keys)
    rotated, plain = cache.read(np.zeros(1, np.int64), 32)
    others = np.arange(64) != 5

    def error(back: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
        return float(np.abs(back - keys)[..., others].mean())

    assert error(rotated) < error(plain) / 4


def test_what_is_not_finite_stays_so() -> None:
    cache = KvCache(1, KvGeometry(1, 8, 8), "int8", np.dtype(np.float16))
    rows = np.ones((2, 1, 8), np.float32)
    rows[0, 0, 3] = np.inf
    cache.write(np.zeros(2, np.int64), np.arange(2), rows, rows)
    for back in cache.read(np.zeros(1, np.int64), 2):
        assert np.isnan(back[0]).all()
        np.testing.assert_allclose(back[1], 1, rtol=1e-6)


def test_heads_too_wide_for_int8(other_backend: Backend) -> None:
    spec = AttentionSpec(1, 1, 514)
    rows = np.ones((2, 514), np.float32)
    weights = MemoryWeights.of({"q": rows, "k": rows, "v": rows})
    graph = weights.graph()
    q, k, v = (graph.embed(name) for name in "qkv")
    graph.output("hidden", graph.select_outputs(graph.attention(q, k, v, layer=0, spec=spec)))
    other_backend.compile(graph, weights, OPTIONS).close()
    with pytest.raises(BackendError, match="at most 512 elements"):
        other_backend.compile(graph, weights, replace(OPTIONS, kv_type="int8"))


def test_other_types_are_refused() -> None:
    with pytest.raises(InvalidParameterError, match=r"kv_type.*int4.*f16, int8, f32"):
        LoadOptions(kv_type="int4")  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterError, match="TEKTRA_KV_TYPE"):
        Settings.from_environment({"TEKTRA_KV_TYPE": "int4"})
    assert Settings.from_environment({"TEKTRA_KV_TYPE": "INT8"}).kv_type == "int8"
