"""Encoders against transformers: hidden states and scores of every variant, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.steps import Piece, make_step, num_blocks
from tests.fixtures.checkpoint_files import write_checkpoint
from tests.goldens.encoder_model import (
    checkpoint_weights,
    config_json,
    fingerprint,
    gguf_metadata,
    gguf_weights,
    segments,
    token_ids,
)
from tests.goldens.variants_encoder import ENCODERS, Encoder
from tests.models.page import Measured
from tests.models.small_models import write_floats

from tektra.backends.base import Backend, CompileOptions
from tektra.backends.reference import ReferenceBackend
from tektra.engine.model_files import open_model
from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.gguf import GGUFFile
from tektra.models.base import draw

GOLDENS = Path(__file__).parents[1] / "goldens" / "models" / "encoder.npz"
OPTIONS = CompileOptions(max_rows=400, max_outputs=8, num_kv_blocks=16, kv_type="f32")
FLOAT32_TOLERANCE = 1e-5
"""Of the largest element, where nothing is rounded to less than float32."""


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as arrays:
        return dict(arrays)


def write(variant: Encoder, folder: Path, metadata: dict[str, Any] | None = None) -> Path:
    """Writes the variant as GGUF."""
    return write_floats(
        folder / "model.gguf", metadata or gguf_metadata(variant), gguf_weights(variant)
    )


def write_directory(variant: Encoder, folder: Path) -> Path:
    """Writes the variant as transformers would."""
    return write_checkpoint(folder / "model", config_json(variant), checkpoint_weights(variant))


WRITERS = {"GGUF": write, "safetensors": write_directory}


def outputs_of(variant: Encoder, backend: Backend, path: Path) -> dict[str, NDArray[np.float32]]:
    """Runs the variant's text through the model in a file."""
    with open_model(path) as file:
        model = draw(file.metadata, file.tensors)
        executable = backend.compile(model.graph, file, OPTIONS)
    try:
        ids = token_ids(variant).tolist()
        step = make_step([Piece(ids, range(num_blocks(len(ids))), 0, variant.rows)])
        step = replace(step, segments=segments(variant))
        hidden = executable.run(step, "hidden").copy()
        if not variant.labels:
            return {"hidden": hidden}
        return {"hidden": hidden, "scores": executable.run(step, "scores")[0].copy()}
    finally:
        executable.close()


def error_of(
    variant: Encoder, out: dict[str, NDArray[np.float32]], goldens: dict[str, NDArray[Any]]
) -> float:
    """Largest difference as a share of the largest element, of hidden states and of scores."""
    names = [f"{variant.name} {kind}" for kind in out]
    assert sorted(names) == sorted(
        n for n in goldens if n.startswith(f"{variant.name} ") and not n.endswith("fingerprint")
    )
    return max(
        float(np.abs(value - goldens[name]).max() / max(1.0, np.abs(goldens[name]).max()))
        for name, value in zip(names, out.values(), strict=True)
    )


@pytest.mark.parametrize("name", ENCODERS)
def test_seed_makes_the_same_model(name: str, goldens: dict[str, NDArray[Any]]) -> None:
    assert fingerprint(ENCODERS[name]) == goldens[f"{name} fingerprint"], (
        "the random generator changed: run tests/goldens/make_encoder_goldens.py again"
    )


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("name", ENCODERS)
def test_reference(
    name: str,
    form: str,
    goldens: dict[str, NDArray[Any]],
    tmp_path: Path,
    record_error: Callable[[Measured], None],
) -> None:
    variant = ENCODERS[name]
    backend = ReferenceBackend(kv_dtype="float32")
    error = error_of(
        variant, outputs_of(variant, backend, WRITERS[form](variant, tmp_path)), goldens
    )
    record_error(measured(variant, form, "reference, f32", error))
    assert error < FLOAT32_TOLERANCE


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("name", ENCODERS)
def test_each_backend(
    name: str,
    form: str,
    other_backend: Backend,
    goldens: dict[str, NDArray[Any]],
    tmp_path: Path,
    record_error: Callable[[Measured], None],
) -> None:
    variant = ENCODERS[name]
    out = outputs_of(variant, other_backend, WRITERS[form](variant, tmp_path))
    error = error_of(variant, out, goldens)
    record_error(measured(variant, form, f"{other_backend.name}, f32", error))
    assert error < FLOAT32_TOLERANCE


@pytest.mark.parametrize("name", ["bert-long", "modern-long", "nomic-plain"])
def test_the_same_alone_and_among_others(name: str, other_backend: Backend, tmp_path: Path) -> None:
    """To the bit, in any blocks, with any number of threads."""
    variant = ENCODERS[name]
    ids = token_ids(variant).tolist()
    texts = [ids[:7], ids[:45], ids, ids[3:70]][: 4 if len(ids) > 80 else 3]
    results = []
    with open_model(write(variant, tmp_path)) as file:
        model = draw(file.metadata, file.tensors)
        for threads in (1, 2):
            options = replace(OPTIONS, num_threads=threads, max_rows=600, num_kv_blocks=40)
            executable = other_backend.compile(model.graph, file, replace(options, max_outputs=600))
            free = np.random.default_rng(threads).permutation(40).tolist()
            pieces = [
                Piece(text, [free.pop() for _ in range(num_blocks(len(text)))], 0, range(len(text)))
                for text in texts
            ]
            together = executable.run(make_step(pieces), "hidden").copy()
            ends = np.cumsum([len(text) for text in texts])
            for piece, part in zip(pieces, np.split(together, ends[:-1]), strict=True):
                alone = executable.run(make_step([piece]), "hidden")
                np.testing.assert_array_equal(alone.view(np.uint32), part.view(np.uint32))
            results.append(together)
            executable.close()
    np.testing.assert_array_equal(results[0].view(np.uint32), results[1].view(np.uint32))


def measured(variant: Encoder, form: str, backend: str, error: float) -> Measured:
    """For the page of models."""
    return Measured(
        architecture=variant.architecture,
        form=form,
        backend=backend,
        variant=variant.name,
        error=error,
    )


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("bert-odd", "bert.attention.layer_norm_epsilon", 1e-4),
        ("bert-tanh", "bert.hidden_act", "gelu"),
        ("nomic-theta", "nomic-bert.rope.freq_base", 800.0),
        ("modern-plain", "modern-bert.attention.sliding_window", 18),
        ("modern-plain", "modern-bert.attention.sliding_window_pattern", 3),
        ("modern-plain", "modern-bert.rope.freq_base_swa", 11000.0),
        ("modern-plain", "modern-bert.rope.freq_base", 150000.0),
        ("modern-biased", "modern-bert.hidden_act", "gelu"),
    ],
)
def test_comparison_can_fail(
    name: str, key: str, value: float | str, goldens: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    """Each of these keys matters: a slightly wrong value is far outside the tolerance."""
    variant = ENCODERS[name]
    metadata = gguf_metadata(variant)
    assert metadata[key] != value
    path = write(variant, tmp_path, metadata | {key: value})
    out = outputs_of(variant, ReferenceBackend(kv_dtype="float32"), path)
    assert error_of(variant, out, goldens) > 3 * FLOAT32_TOLERANCE


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("bert-plain", ["tokenizer.ggml.token_type_count"]),
        ("modern-plain", ["modern-bert.hidden_act", "modern-bert.rope.scaling.type"]),
        ("modern-plain", ["modern-bert.rope.freq_base_swa", "modern-bert.vocab_size"]),
        ("modern-long", ["modern-bert.attention.sliding_window_pattern"]),
    ],
)
def test_what_may_be_absent(
    name: str, keys: list[str], goldens: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    """Older files lack keys that newer ones have: the answer is the same."""
    variant = ENCODERS[name]
    metadata = {k: v for k, v in gguf_metadata(variant).items() if k not in keys}
    out = outputs_of(
        variant, ReferenceBackend(kv_dtype="float32"), write(variant, tmp_path, metadata)
    )
    assert error_of(variant, out, goldens) < FLOAT32_TOLERANCE


@pytest.mark.parametrize(
    ("name", "key", "value", "error"),
    [
        ("bert-plain", "bert.attention.causal", True, UnsupportedModelError),
        ("bert-plain", "bert.hidden_act", "mish", UnsupportedModelError),
        ("bert-plain", "bert.attention.head_count", 5, FormatError),
        ("bert-plain", "bert.attention.head_count_kv", 2, UnsupportedModelError),
        ("bert-plain", "bert.attention.key_length", 8, UnsupportedModelError),
        ("bert-plain", "bert.context_length", 81, FormatError),
        ("bert-plain", "bert.feed_forward_length", 95, FormatError),
        ("bert-plain", "tokenizer.ggml.token_type_count", 3, FormatError),
        ("modern-plain", "modern-bert.feed_forward_length", 95, FormatError),
        ("modern-plain", "modern-bert.attention.sliding_window", -1, FormatError),
        ("modern-plain", "modern-bert.attention.sliding_window_pattern", [True], FormatError),
    ],
)
def test_bad_values_are_named(
    name: str, key: str, value: Any, error: type[Exception], tmp_path: Path
) -> None:
    metadata = gguf_metadata(ENCODERS[name]) | {key: value}
    with (
        GGUFFile.open(write(ENCODERS[name], tmp_path, metadata)) as file,
        pytest.raises(error, match=key),
    ):
        draw(file.metadata, file.tensors)
