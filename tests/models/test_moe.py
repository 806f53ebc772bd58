"""Logits of small mixtures of experts against transformers: every variant, form and backend."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.steps import run_text
from tests.backends.tolerances import TOLERANCES
from tests.fixtures.checkpoint_files import write_checkpoint
from tests.goldens.moe_model import (
    MOE,
    MoeVariant,
    checkpoint_weights,
    fingerprint,
    gguf_metadata,
    gguf_weights,
    token_ids,
)
from tests.models.page import Measured

from tektra.backends.base import Backend, CompileOptions
from tektra.backends.reference import ReferenceBackend
from tektra.config import KvType
from tektra.engine.model_files import open_model
from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_writer import write_gguf
from tektra.formats.tensor_info import TensorInfo
from tektra.models.base import draw

GOLDENS = Path(__file__).parents[1] / "goldens" / "models" / "moe.npz"
OPTIONS = CompileOptions(max_rows=256, max_outputs=8, num_kv_blocks=8)
Form = Literal["GGUF", "safetensors"]
FORMS = get_args(Form)
FLOAT32_TOLERANCE = 1e-4
"""Of the largest logit, where keys and values are kept as float32 like in transformers."""
FLOAT16_TOLERANCE = 3e-3
"""The same where they are rounded to float16."""


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as arrays:
        return dict(arrays)


def logits_of(
    variant: MoeVariant,
    backend: Backend,
    form: Form,
    folder: Path,
    metadata: dict[str, Any] | None = None,
    *,
    kv_type: KvType = "f16",
) -> NDArray[np.float32]:
    """Writes the variant in a form, opens it, and runs its text."""
    path = folder / form
    if form == "GGUF":
        write_gguf(
            path,
            metadata or gguf_metadata(variant),
            [(n, a.shape, GGMLType.F32, a) for n, a in gguf_weights(variant).items()],
        )
    else:
        write_checkpoint(path, variant.config, checkpoint_weights(variant), shards=3)
    with open_model(path) as file:
        model = draw(file.metadata, file.tensors)
        executable = backend.compile(model.graph, file, replace(OPTIONS, kv_type=kv_type))
        try:
            return run_text(executable, token_ids(variant).tolist(), variant.rows)
        finally:
            executable.close()


def difference(out: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference as a share of the largest logit."""
    return float(np.abs(out - expected).max() / np.abs(expected).max())


def errors_of(
    variant: MoeVariant, backend: Backend, form: Form, folder: Path, kv_type: KvType = "f16"
) -> float:
    """How far the logits of a variant are from those of transformers."""
    with np.load(GOLDENS) as goldens:
        out = logits_of(variant, backend, form, folder, kv_type=kv_type)
        return difference(out, goldens[variant.name])


def measured(variant: MoeVariant, form: str, backend: str, error: float) -> Measured:
    """For the page of models."""
    return Measured(
        architecture=variant.architecture,
        form=form,
        backend=backend,
        variant=variant.name,
        error=error,
    )


@pytest.mark.parametrize("name", MOE)
def test_seed_makes_the_same_model(name: str, goldens: dict[str, NDArray[Any]]) -> None:
    assert fingerprint(MOE[name]) == goldens[f"{name} fingerprint"], (
        "the random generator changed: run tests/goldens/make_moe_goldens.py again"
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MOE)
def test_float32_cache(
    name: str, form: Form, tmp_path: Path, record_error: Callable[[Measured], None]
) -> None:
    error = errors_of(MOE[name], ReferenceBackend(kv_dtype="float32"), form, tmp_path)
    record_error(measured(MOE[name], form, "reference, f32", error))
    assert error < FLOAT32_TOLERANCE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MOE)
def test_float32_cache_of_other_backends(
    name: str,
    form: Form,
    other_backend: Backend,
    tmp_path: Path,
    record_error: Callable[[Measured], None],
) -> None:
    error = errors_of(MOE[name], other_backend, form, tmp_path, kv_type="f32")
    record_error(measured(MOE[name], form, f"{other_backend.name}, f32", error))
    # where experts are quantized, backends may round rows to int8
    quantized = MOE[name].is_mxfp4 and form == "safetensors"
    assert error < (TOLERANCES["moe-int8"].largest if quantized else FLOAT32_TOLERANCE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MOE)
def test_each_backend(
    name: str,
    form: Form,
    backend: Backend,
    tmp_path: Path,
    record_error: Callable[[Measured], None],
) -> None:
    error = errors_of(MOE[name], backend, form, tmp_path)
    record_error(measured(MOE[name], form, f"{backend.name}, f16", error))
    # where experts are quantized, backends may round rows to int8
    quantized = MOE[name].is_mxfp4 and form == "safetensors"
    assert error < (TOLERANCES["moe-int8"].largest if quantized else FLOAT16_TOLERANCE)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("mixtral", "llama.expert_used_count", 3),
        ("mixtral", "llama.expert_weights_norm", False),
        ("mixtral", "llama.expert_gating_func", 2),
        ("mixtral", "llama.expert_weights_scale", 1.001),
        ("mixtral-window", "llama.attention.sliding_window", 21),
        ("qwen2moe", "qwen2moe.expert_weights_norm", True),
        ("qwen3moe", "qwen3moe.expert_weights_norm", False),
        ("olmoe", "olmoe.expert_used_count", 5),
        ("gpt-oss", "gpt-oss.attention.sliding_window", 25),
        ("gpt-oss", "gpt-oss.rope.scaling.yarn_truncate", True),
        ("gpt-oss-types", "gpt-oss.attention.sliding_window_pattern", [True, False, True]),
    ],
)
def test_comparison_can_fail(
    name: str, key: str, value: Any, goldens: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    """Each of these keys matters: a slightly wrong value is far outside the tolerance."""
    metadata = gguf_metadata(MOE[name])
    assert metadata.get(key) != value
    metadata[key] = value
    backend = ReferenceBackend(kv_dtype="float32")
    out = logits_of(MOE[name], backend, "GGUF", tmp_path, metadata)
    assert difference(out, goldens[name]) > FLOAT32_TOLERANCE


# Files that have their experts otherwise


def split_by_expert(tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """As converters wrote them until the spring of 2024: a tensor for each expert."""
    split: dict[str, NDArray[np.float32]] = {}
    for name, array in tensors.items():
        stem = name.removesuffix("_exps.weight")
        if stem == name:
            split[name] = array
        else:  # not in order
            split |= {f"{stem}.{e}.weight": array[e] for e in reversed(range(len(array)))}
    return split


def gate_and_up_as_one(tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The rows of gate, then those of up, in one tensor for all experts."""
    fused: dict[str, NDArray[np.float32]] = {}
    for name, array in tensors.items():
        if "ffn_gate_exps" in name:
            other = tensors[name.replace("gate", "up")]
            fused[name.replace("gate", "gate_up")] = np.concatenate([array, other], axis=1)
        elif "ffn_up_exps" not in name:
            fused[name] = array
    return fused


FORMS_OF_EXPERTS = {"split": split_by_expert, "fused": gate_and_up_as_one}


@pytest.mark.parametrize("form", FORMS_OF_EXPERTS)
@pytest.mark.parametrize("name", ["mixtral", "qwen3moe", "gpt-oss"])
def test_other_forms_of_experts(form: str, name: str, tmp_path: Path) -> None:
    """The same tensors, to the bit, and nothing else."""
    if (form, name) == ("split", "gpt-oss"):
        pytest.skip("no such files: they would have biases by expert")
    stacked = gguf_weights(MOE[name])
    other = FORMS_OF_EXPERTS[form](stacked)
    tensors = [(n, a.shape, GGMLType.F32, a) for n, a in other.items()]
    write_gguf(tmp_path / "m.gguf", gguf_metadata(MOE[name]), tensors)
    with open_model(tmp_path / "m.gguf") as file:
        assert set(file.tensors) == set(stacked)
        for n, array in stacked.items():
            assert file.tensors[n].shape == array.shape
            np.testing.assert_array_equal(file.dequantize(n), array)
        draw(file.metadata, file.tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("blk.0.ffn_up.1.weight", None), "not that of expert 1"),
        (("blk.0.ffn_up.2.weight", (96, 32)), "of shape"),
        (("blk.0.ffn_up_exps.weight", (5, 96, 64)), "two forms"),
        (("blk.0.ffn_gate_up_exps.weight", (5, 192, 64)), "two forms"),
        (("blk.1.ffn_gate_up_exps.bias", (5, 191)), "two halves"),
    ],
)
def test_experts_that_do_not_fit_together(
    change: tuple[str, tuple[int, ...] | None], message: str, tmp_path: Path
) -> None:
    name, shape = change
    other = split_by_expert(gguf_weights(MOE["mixtral"]))
    other.pop(name, None)
    if shape is not None:
        other[name] = np.zeros(shape, np.float32)
    tensors = [(n, a.shape, GGMLType.F32, a) for n, a in other.items()]
    write_gguf(tmp_path / "m.gguf", gguf_metadata(MOE["mixtral"]), tensors)
    with pytest.raises(FormatError, match=message), open_model(tmp_path / "m.gguf"):
        pass


# What is wrong ends in an error that names it

ERRORS = ("mixtral", "qwen2moe", "qwen3moe", "olmoe", "gpt-oss")
BAD: dict[str, Any] = {
    "zero": 0,
    "minus-one": -1,
    "max-int32": 2**31 - 1,
    "max-uint64": 2**64 - 1,
    "nan": math.nan,
    "inf": math.inf,
    "string": "many",
    "bool": True,
    "list": [1, 2, 3],
    "missing": None,
}
KEYS = (
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "expert_weights_scale",
    "expert_weights_norm",
    "expert_gating_func",
    "expert_group_count",
    "expert_group_used_count",
)
ALLOWED = {
    "zero": {
        "expert_shared_count",
        "expert_weights_scale",
        "expert_gating_func",
        "expert_group_count",
        "expert_group_used_count",
    },
    "bool": {"expert_weights_norm"},
    "missing": set(KEYS) - {"expert_count", "expert_used_count"},
}


def tensors_of(variant: MoeVariant) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(name, a.shape, GGMLType.F32, 0, 0, a.nbytes)
        for name, a in gguf_weights(variant).items()
    }


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ERRORS)
def test_each_value_in_turn(name: str, key: str, bad: str) -> None:
    variant = MOE[name]
    whole = f"{variant.architecture}.{key}"
    metadata = gguf_metadata(variant)
    if bad == "missing":
        metadata.pop(whole, None)
    else:
        metadata[whole] = BAD[bad]
    tensors = tensors_of(variant)
    if key in ALLOWED.get(bad, ()):
        draw(metadata, tensors)
        return
    # Without experts a model of the kind has an ordinary feed forward, which is not there then.
    shared = key == "expert_shared_feed_forward_length" and name != "qwen2moe"
    if shared and bad == "max-int32":
        pytest.skip("a width of experts that are not there")
    count = "expert_used_count|ffn_gate" if key == "expert_count" else re.escape(whole)
    with pytest.raises((FormatError, UnsupportedModelError), match=f"{re.escape(whole)}|{count}"):
        draw(metadata, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("blk.1.ffn_gate_inp.weight", None), "no tensor 'blk.1.ffn_gate_inp.weight'"),
        (("blk.0.ffn_up_exps.weight", None), "no tensor 'blk.0.ffn_up_exps.weight'"),
        (("blk.0.ffn_down_exps.weight", (5, 96, 64)), "'blk.0.ffn_down_exps.weight' has shape"),
        (("blk.0.ffn_gate_exps.weight", (96, 64)), "'blk.0.ffn_gate_exps.weight' has shape"),
        (("blk.0.ffn_gate_exps.weight", (4, 96, 64)), "'blk.0.ffn_gate_exps.weight' has shape"),
        (("blk.0.ffn_gate_inp.weight", (4, 64)), "4 wide, and there are 5 experts"),
        (("blk.0.ffn_gate_exps.bias", (5, 95)), "'blk.0.ffn_gate_exps.bias' has shape"),
        (("blk.0.exp_probs_b.bias", (4,)), "'blk.0.exp_probs_b.bias' has shape"),
    ],
)
def test_tensors_that_do_not_fit(change: tuple[str, tuple[int, ...] | None], message: str) -> None:
    name, shape = change
    tensors = tensors_of(MOE["mixtral"])
    tensors.pop(name, None)
    if shape is not None:
        tensors[name] = TensorInfo(name, shape, GGMLType.F32, 0, 0, 4 * math.prod(shape))
    with pytest.raises((FormatError, UnsupportedModelError), match=message):
        draw(gguf_metadata(MOE["mixtral"]), tensors)


def test_more_experts_used_than_there_are() -> None:
    metadata = gguf_metadata(MOE["mixtral"]) | {"llama.expert_used_count": 6}
    with pytest.raises(FormatError, match=r"expert_used_count.*6"):
        draw(metadata, tensors_of(MOE["mixtral"]))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("mixtral", "num_experts_per_tok", 0),
        ("mixtral", "num_local_experts", 2**31),
        ("mixtral", "hidden_act", "gelu"),
        ("qwen2moe", "norm_topk_prob", "yes"),
        ("qwen3moe", "decoder_sparse_step", -1),
        ("qwen3moe", "use_sliding_window", True),
        ("olmoe", "clip_qkv", 8.0),
        ("gpt-oss", "swiglu_limit", 6.0),
        ("gpt-oss", "layer_types", ["sliding_attention", "chunked_attention"]),
        ("gpt-oss", "layer_types", ["sliding_attention"]),
        ("gpt-oss", "attention_bias", False),
    ],
)
def test_configs_that_are_refused(name: str, key: str, value: Any, tmp_path: Path) -> None:
    variant = MOE[name]
    config = {**variant.config, key: value}
    write_checkpoint(tmp_path / "m", config, checkpoint_weights(variant), shards=1)
    with pytest.raises((FormatError, UnsupportedModelError), match=key), open_model(tmp_path / "m"):
        pass
