"""Metadata and tensors that are wrong: each ends in an error that names the key or the tensor."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any

import pytest
from tests.goldens.seeded_model import VARIANTS, Variant, gguf_metadata, gguf_weights
from tests.models.bad_values import BAD, headers

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.tensor_info import TensorInfo
from tektra.graph import RopeLayout, RopeScaling
from tektra.graph.ops import Gated
from tektra.models import ARCHITECTURES, architecture, llama
from tektra.models.base import DrawnModel, draw

LLAMA, QWEN2 = VARIANTS["llama-yarn-tuned"], VARIANTS["qwen2-yarn"]


def full_metadata(variant: Variant) -> dict[str, Any]:
    """Every key that the architecture reads."""
    a = variant.architecture
    return {
        f"{a}.vocab_size": variant.vocab,
        f"{a}.expert_count": 0,
        f"{a}.attention.key_length": variant.width_of_head,
        f"{a}.attention.value_length": variant.width_of_head,
        f"{a}.attention.scale": 0.125,
        f"{a}.attention.sliding_window": 128,
        f"{a}.attention.causal": True,
        f"{a}.rope.dimension_count": variant.width_of_head,
        f"{a}.rope.scale_linear": 1.0,
        f"{a}.rope.scaling.attn_factor": 1.0,
        f"{a}.rope.scaling.yarn_attn_factor": 1.1,
        f"{a}.rope.scaling.yarn_ext_factor": 1.0,
        f"{a}.rope.scaling.yarn_log_multiplier": 0.0,
        f"{a}.rope.scaling.yarn_beta_fast": 32.0,
        f"{a}.rope.scaling.yarn_beta_slow": 1.0,
        **gguf_metadata(variant),
    }


def tensors_of(variant: Variant) -> dict[str, TensorInfo]:
    return headers(gguf_weights(variant))


TENSORS: Mapping[str, dict[str, TensorInfo]] = {v.name: tensors_of(v) for v in (LLAMA, QWEN2)}

ALLOWED = {
    # Zero says "none" in these.
    "zero": {
        "attention.scale",
        "attention.sliding_window",
        "expert_count",
        "rope.scale_linear",
        "rope.scaling.factor",
        "rope.scaling.yarn_log_multiplier",
    },
    "max-int32": {"rope.freq_base"},
    "missing": {
        "attention.causal",
        "attention.key_length",
        "attention.scale",
        "attention.sliding_window",
        "attention.value_length",
        "expert_count",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.attn_factor",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.type",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_log_multiplier",
        "vocab_size",
    },
    "bool": {"attention.causal"},
    "string": set[str](),
}
"""Keys that may be so, without the architecture: what is left is refused."""


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("variant", "key"),
    [(v, key) for v in (LLAMA, QWEN2) for key in full_metadata(v)],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_value_in_turn(variant: Variant, key: str, bad: str) -> None:
    metadata = full_metadata(variant)
    if bad == "missing":
        del metadata[key]
    else:
        metadata[key] = BAD[bad]
    tensors = TENSORS[variant.name]
    start = time.perf_counter()
    if key.partition(".")[2] in ALLOWED.get(bad, ()):
        draw(metadata, tensors)
    else:
        # Without its kv heads a model is of the kind that has as many as heads: its tensors are
        # then too narrow, which is said with all the keys that make their width.
        with pytest.raises((FormatError, UnsupportedModelError), match=re.escape(key)):
            draw(metadata, tensors)
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.attention.head_count", 3, "key_length"),
        ("llama.attention.head_count_kv", 4, "does not divide"),
        ("llama.rope.dimension_count", 7, "must be even"),
        ("llama.rope.dimension_count", 64, "dimension_count"),
        ("llama.block_count", 1, "tensors of 2 layers"),
        ("llama.block_count", 3, "tensors of 2 layers"),
        ("llama.vocab_size", 260, "has 259 rows"),
        ("llama.embedding_length", 64, r"token_embd\.weight"),
        ("llama.feed_forward_length", [160, 128], "differs from layer to layer"),
        ("llama.attention.head_count", [2, 1], "differs from layer to layer"),
        ("llama.feed_forward_length", 128, r"ffn_gate\.weight"),
        ("llama.expert_count", 8, "expert_used_count"),
        ("llama.attention.causal", False, "not causal"),
        ("llama.rope.scaling.type", "longrope", "scaling.type.*rope_factors_long.weight"),
        ("llama.rope.scaling.type", "ntk", "'ntk'.*none, linear, yarn, longrope"),
        ("llama.embedding_scale", 12.0, "embedding_scale.*not supported"),
        ("llama.attn_logit_softcapping", 50.0, "attn_logit_softcapping.*not supported"),
        ("llama.attention.temperature_scale", 0.1, "temperature_scale.*not supported"),
        ("llama.rope.scaling.yarn_ext_factor", 0.5, "yarn_ext_factor"),
        ("general.architecture", "lama", "nearest is 'llama'"),
        ("general.architecture", "mamba", "supported are: .*llama, .*qwen2"),
    ],
)
def test_contradictions(key: str, value: Any, message: str) -> None:
    metadata = full_metadata(LLAMA)
    metadata[key] = value
    with pytest.raises((FormatError, UnsupportedModelError), match=message):
        draw(metadata, TENSORS[LLAMA.name])


def _without(name: str) -> dict[str, TensorInfo]:
    return {n: info for n, info in TENSORS[LLAMA.name].items() if n != name}


@pytest.mark.parametrize("name", [n for n in TENSORS[LLAMA.name] if n != "output.weight"])
def test_each_tensor_missing(name: str) -> None:
    with pytest.raises(FormatError, match=re.escape(name)):
        draw(full_metadata(LLAMA), _without(name))


@pytest.mark.parametrize("name", TENSORS[QWEN2.name])
@pytest.mark.parametrize("change", ["wider", "taller", "flat", "deep", "empty"])
def test_each_tensor_misshapen(name: str, change: str) -> None:
    tensors = dict(TENSORS[QWEN2.name])
    shape = tensors[name].shape
    shapes = {
        "wider": (*shape[:-1], shape[-1] + 32),
        "taller": (shape[0] + 32, *shape[1:]),
        "flat": (math.prod(shape) + len(shape),),
        "deep": (1, *shape) if len(shape) == 2 else (1, 1, *shape),
        "empty": (0, *shape[1:]),
    }
    info = tensors[name]
    tensors[name] = TensorInfo(
        name=name, shape=shapes[change], type=info.type, file=0, offset=0, nbytes=info.nbytes
    )
    # A weight and its bias contradict each other: either may be named.
    with pytest.raises(FormatError, match=re.escape(name.rpartition(".")[0])):
        draw(full_metadata(QWEN2), tensors)


@pytest.mark.parametrize("name", ["attn_q.bias", "attn_k.bias", "attn_v.bias"])
def test_qwen2_needs_its_biases(name: str) -> None:
    tensors = {n: i for n, i in TENSORS[QWEN2.name].items() if n != f"blk.1.{name}"}
    with pytest.raises(FormatError, match=rf"blk\.1\.{name}"):
        draw(full_metadata(QWEN2), tensors)


def test_tensors_that_nothing_uses_are_refused() -> None:
    extra = TensorInfo(
        name="blk.0.attn_q_norm.weight",
        shape=(48,),
        type=GGMLType.F32,
        file=0,
        offset=0,
        nbytes=192,
    )
    tensors = {**TENSORS[LLAMA.name], extra.name: extra}
    with pytest.raises(UnsupportedModelError, match=r"blk\.0\.attn_q_norm\.weight"):
        draw(full_metadata(LLAMA), tensors)


def drawn(variant: Variant, **changes: Any) -> DrawnModel:
    metadata = gguf_metadata(variant)
    metadata.update({f"{variant.architecture}.{key}": value for key, value in changes.items()})
    return draw(metadata, TENSORS[variant.name])


def test_configuration_is_read() -> None:
    config = drawn(LLAMA).config
    assert isinstance(config, llama.Config)
    assert (config.architecture, config.num_layers, config.vocab_size) == ("llama", 2, 259)
    assert (config.embedding_width, config.context_length) == (96, 256)
    assert (config.attention.num_heads, config.attention.num_kv_heads) == (2, 1)
    assert config.attention.head_dim == config.rope.dim == 48
    assert config.rope.layout is RopeLayout.INTERLEAVED
    assert config.rope.scaling is RopeScaling.YARN
    assert (config.rope.factor, config.rope.original_context) == (4.0, 128)
    assert (config.rope.beta_fast, config.rope.beta_slow) == (4.0, 0.5)
    assert config.rope.magnitude == pytest.approx(0.7)
    assert config.output_tensor == "output"


def test_qwen2_differs_in_layout_and_ties() -> None:
    config = drawn(QWEN2).config
    assert isinstance(config, llama.Config)
    assert config.rope.layout is RopeLayout.HALF
    assert config.output_tensor == "token_embd"
    assert config.rope.magnitude == pytest.approx(0.1 * math.log(8.0) + 1.0)


def test_attn_factor_multiplies_what_yarn_prescribes() -> None:
    config = drawn(QWEN2, **{"rope.scaling.attn_factor": 0.5}).config
    assert isinstance(config, llama.Config)
    assert config.rope.magnitude == pytest.approx(0.5 * (0.1 * math.log(8.0) + 1.0))


def test_old_name_of_linear_scaling() -> None:
    variant = VARIANTS["llama-linear"]
    metadata = gguf_metadata(variant)
    factor = metadata.pop("llama.rope.scaling.factor")
    del metadata["llama.rope.scaling.type"]
    metadata["llama.rope.scale_linear"] = factor
    config = draw(metadata, tensors_of(variant)).config
    assert isinstance(config, llama.Config)
    assert config.rope.scaling is RopeScaling.LINEAR
    assert config.rope.factor == factor


def test_scaling_of_type_none_has_no_factor() -> None:
    variant = VARIANTS["llama-linear"]
    metadata = {**gguf_metadata(variant), "llama.rope.scaling.type": "none"}
    config = draw(metadata, tensors_of(variant)).config
    assert isinstance(config, llama.Config)
    assert config.rope.scaling is RopeScaling.NONE
    assert config.rope.factor == 1.0


def test_last_feed_forward_is_spared_for_rows_that_nobody_wants() -> None:
    graph = drawn(LLAMA).graph
    wide = [op.out.rows.value for op in graph.ops if isinstance(op, Gated)]
    assert wide == ["tokens", "outputs"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_module_is_there(name: str) -> None:
    module = architecture(name)
    assert module.Config.__doc__
    assert module.build.__doc__
