"""The reference backend as an executable: loading, outputs, memory, cancellation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from tests.backends.memory_weights import MemoryWeights
from tests.backends.steps import Piece, make_step, run_text
from tests.goldens.seeded_model import Variant, gguf_metadata, gguf_weights, token_ids

from tektra.backends.base import CompileOptions
from tektra.backends.reference import ReferenceBackend
from tektra.errors import CancelledError, FormatError, MemoryLimitError, UnsupportedModelError
from tektra.formats.ggml_types import GGMLType
from tektra.graph import Graph, RopeLayout, RopeSpec
from tektra.models.base import draw
from tektra.progress import CancelToken, ProgressEvent

MODEL = Variant(name="reference", architecture="llama", hidden=128, ffn=256, vocab=512)
OPTIONS = CompileOptions(max_rows=128, max_outputs=16, num_kv_blocks=8)


def model() -> tuple[Graph, MemoryWeights]:
    weights = MemoryWeights.of(gguf_weights(MODEL))
    return draw(gguf_metadata(MODEL), weights.tensors).graph, weights


def test_hidden_is_what_logits_are_made_of() -> None:
    graph, weights = model()
    executable = ReferenceBackend().compile(graph, weights, OPTIONS)
    ids, rows = token_ids(MODEL).tolist(), [3, 20, 47]
    hidden = run_text(executable, ids, rows, output="hidden")
    logits = run_text(executable, ids, rows)
    expected = hidden @ weights.floats("output.weight").T
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def test_hidden_steps_fill_the_cache() -> None:
    """A step asked for no logits still leaves its keys and values behind."""
    graph, weights = model()
    executable = ReferenceBackend().compile(graph, weights, OPTIONS)
    ids = token_ids(MODEL).tolist()
    whole = run_text(executable, ids, [47])
    fresh = ReferenceBackend().compile(graph, weights, OPTIONS)
    fresh.run(make_step([Piece(ids[:40], [1, 0])]), "hidden")
    rest = fresh.run(make_step([Piece(ids[40:], [1, 0], 40, [7])]))
    np.testing.assert_allclose(rest, whole, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize("chunk", [1, 7, 31])
def test_chunks_agree_to_rounding(chunk: int) -> None:
    graph, weights = model()
    executable = ReferenceBackend().compile(graph, weights, OPTIONS)
    ids, rows = token_ids(MODEL).tolist(), [0, 30, 31, 32, 47]
    whole = run_text(executable, ids, rows)
    parts = run_text(executable, ids, rows, chunk=chunk)
    # Not to the bit, see the head of the module: a sum in another order may also tip the
    # rounding of a key or value to float16.
    np.testing.assert_allclose(parts, whole, atol=1e-3 * np.abs(whole).max())


def test_progress_counts_bytes_of_the_file() -> None:
    graph, weights = model()
    events: list[ProgressEvent] = []
    ReferenceBackend().compile(graph, weights, OPTIONS, progress=events.append)
    total = sum(info.nbytes for info in weights.tensors.values())
    assert {(e.stage, e.unit, e.total) for e in events} == {("pack", "bytes", total)}
    done = [e.done for e in events]
    assert done[0] == 0
    assert done == sorted(done)
    assert done[-1] == total
    assert {e.item for e in events} == {*weights.tensors, ""}


def test_cancel_while_packing() -> None:
    graph, weights = model()
    cancel = CancelToken()
    seen: list[str] = []

    def progress(event: ProgressEvent) -> None:
        seen.append(event.item)
        cancel.cancel()

    with pytest.raises(CancelledError):
        ReferenceBackend().compile(graph, weights, OPTIONS, progress=progress, cancel=cancel)
    assert len(seen) == 1


def test_plan_is_a_ceiling() -> None:
    """What loading and the largest steps take stays under what `plan` says."""
    graph, weights = model()
    planned = ReferenceBackend().plan(graph, weights.tensors, OPTIONS)
    tracemalloc.start()
    try:
        executable = ReferenceBackend().compile(graph, weights, OPTIONS)
        loaded, _ = tracemalloc.get_traced_memory()
        assert loaded <= planned.parts["weights"] + planned.parts["kv_cache"] + 2**18
        ids = [1] * 120
        tracemalloc.reset_peak()
        executable.run(make_step([Piece(ids, [0, 1, 2, 3], 0, range(16))]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert executable.memory == planned
    assert peak <= planned.total
    assert peak - loaded > 0.01 * planned.parts["activations"]


def test_planned_weights_are_float32_and_shared_ones_counted_once() -> None:
    variant = Variant(name="tied", architecture="llama", tied=True)
    weights = MemoryWeights.of(gguf_weights(variant))
    graph = draw(gguf_metadata(variant), weights.tensors).graph
    expected = sum(info.nbytes for info in weights.tensors.values())
    assert ReferenceBackend().plan(graph, weights.tensors, OPTIONS).parts["weights"] == expected


def test_kv_dtype_shows_in_plan() -> None:
    graph, weights = model()
    half, full = (
        ReferenceBackend(kv_dtype=dtype).plan(graph, weights.tensors, OPTIONS).parts["kv_cache"]
        for dtype in ("float16", "float32")
    )
    assert full == 2 * half == 2 * 4 * 8 * 32 * 2 * 32 * 2


def test_cache_beyond_all_memory() -> None:
    graph, weights = model()
    options = CompileOptions(num_kv_blocks=2**40)
    with pytest.raises(MemoryLimitError, match="memory"):
        ReferenceBackend().compile(graph, weights, options)


def test_type_that_cannot_be_decoded() -> None:
    weights = MemoryWeights.of({"x": np.zeros((1, 256), np.float32)})
    weights._put("w.weight", (4, 256), GGMLType.Q8_K, np.zeros(4 * 292, np.uint8))
    graph = weights.graph()
    graph.output("hidden", graph.select_outputs(graph.linear(graph.embed("x"), "w")))
    with pytest.raises(UnsupportedModelError, match=r"w\.weight.*Q8_K"):
        ReferenceBackend().compile(graph, weights, OPTIONS)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_frequency_factors_that_are_not_positive(bad: float) -> None:
    factors = np.ones(4, np.float32)
    factors[2] = bad
    weights = MemoryWeights.of({"x": np.zeros((1, 8), np.float32), "f": factors})
    graph = weights.graph()
    spec = RopeSpec(8, 8, 10000.0, RopeLayout.HALF, freq_factors="f")
    graph.output("hidden", graph.select_outputs(graph.rope(graph.embed("x"), spec)))
    with pytest.raises(FormatError, match="'f'"):
        ReferenceBackend().compile(graph, weights, OPTIONS)
