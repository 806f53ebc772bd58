"""Mixtures of experts: the forms in which files have them, and what is wrong with others.

Their logits are compared in `test_goldens`.
"""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fixtures.checkpoint_files import write_checkpoint
from tests.goldens.moe_model import checkpoint_weights, gguf_metadata, gguf_weights
from tests.goldens.variants_moe import MOE, MoeVariant
from tests.models.bad_values import BAD, headers
from tests.models.small_models import write_floats

from tektra.engine.model_files import open_model
from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.tensor_info import TensorInfo
from tektra.models.base import draw

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


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("split", "mixtral"),
        ("split", "qwen3moe"),
        ("fused", "mixtral"),
        ("fused", "qwen3moe"),
        ("fused", "gpt-oss"),  # split it would have biases by expert: there are no such files
    ],
)
def test_other_forms_of_experts(form: str, name: str, tmp_path: Path) -> None:
    """The same tensors, to the bit, and nothing else."""
    stacked = gguf_weights(MOE[name])
    other = FORMS_OF_EXPERTS[form](stacked)
    with open_model(write_floats(tmp_path / "m.gguf", gguf_metadata(MOE[name]), other)) as file:
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
    path = write_floats(tmp_path / "m.gguf", gguf_metadata(MOE["mixtral"]), other)
    with pytest.raises(FormatError, match=message), open_model(path):
        pass


# What is wrong ends in an error that names it

ERRORS = ("mixtral", "qwen2moe", "qwen3moe", "olmoe", "gpt-oss")
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
    return headers(gguf_weights(variant))


def says_nothing(name: str, key: str, bad: str) -> bool:
    """A width, and a possible one, of shared experts that the model has not."""
    absent = key == "expert_shared_feed_forward_length" and name != "qwen2moe"
    return absent and bad == "max-int32"


@pytest.mark.parametrize(
    ("name", "key", "bad"),
    [c for c in itertools.product(ERRORS, KEYS, BAD) if not says_nothing(*c)],
)
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
