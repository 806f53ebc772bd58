"""Adapters that cannot be used: each is refused by a typed error that names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from tests.adapters.written import write_gguf_parts, write_peft_adapter
from tests.backends.memory_weights import MemoryWeights
from tests.goldens.seeded_adapters import ADAPTERS, gguf_adapter
from tests.goldens.seeded_model import VARIANTS, checkpoint_weights, gguf_metadata, gguf_weights

from tektra.engine.adapter_files import read_adapter
from tektra.errors import FormatError, TektraError, UnsupportedModelError
from tektra.models.base import DrawnModel, draw

ADAPTER = ADAPTERS["llama-attention"]
BASE = VARIANTS[ADAPTER.base]
Q = "blk.0.attn_q.weight"
PEFT_Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def drawn() -> DrawnModel:
    return draw(gguf_metadata(BASE), MemoryWeights.of(gguf_weights(BASE)).tensors)


Change = Callable[[dict[str, Any], dict[str, Any]], object]


def parts() -> tuple[dict[str, Any], dict[str, Any]]:
    return gguf_adapter(ADAPTER, BASE, checkpoint_weights(BASE))


GGUF_CHANGES: dict[str, tuple[Change, type[TektraError], str]] = {
    "model": (lambda m, t: m.update({"general.type": "model"}), FormatError, "not an adapter"),
    "no type": (lambda m, t: m.pop("general.type"), FormatError, "not an adapter"),
    "control vector": (
        lambda m, t: m.update({"adapter.type": "control_vector"}),
        UnsupportedModelError,
        "control_vector",
    ),
    "no alpha": (lambda m, t: m.pop("adapter.lora.alpha"), FormatError, "adapter.lora.alpha"),
    "alpha nan": (
        lambda m, t: m.update({"adapter.lora.alpha": float("nan")}),
        FormatError,
        "adapter.lora.alpha",
    ),
    "architecture": (
        lambda m, t: m.update({"general.architecture": "gemma2"}),
        FormatError,
        "for 'gemma2' models",
    ),
    "alora": (
        lambda m, t: m.update({"adapter.alora.invocation_tokens": [1, 2]}),
        UnsupportedModelError,
        "adapter.alora.invocation_tokens",
    ),
    "half": (lambda m, t: t.pop(f"{Q}.lora_b"), FormatError, "lora_b"),
    "no tensors": (lambda m, t: t.clear(), FormatError, "has no tensors"),
    "other tensor": (
        lambda m, t: t.update({"blk.0.attn_norm.weight": np.ones(64, np.float32)}),
        UnsupportedModelError,
        "attn_norm",
    ),
    "unknown target": (
        lambda m, t: t.update({f"blk.7.attn_q.weight.lora_{x}": t[f"{Q}.lora_{x}"] for x in "ab"}),
        FormatError,
        "blk.7.attn_q.weight",
    ),
    "norm": (
        lambda m, t: t.update(
            {f"blk.0.attn_norm.weight.lora_{x}": np.ones((1, 1), np.float32) for x in "ab"}
        ),
        UnsupportedModelError,
        "blk.0.attn_norm.weight",
    ),
    "embeddings": (
        lambda m, t: t.update(
            {f"token_embd.weight.lora_{x}": np.ones((2, 2), np.float32) for x in "ab"}
        ),
        UnsupportedModelError,
        "token embeddings",
    ),
    "ranks": (
        lambda m, t: t.update({f"{Q}.lora_a": t[f"{Q}.lora_a"][:-1]}),
        FormatError,
        "different ranks",
    ),
    "width": (
        lambda m, t: t.update({f"{Q}.lora_a": t[f"{Q}.lora_a"][:, :-1].copy()}),
        FormatError,
        Q,
    ),
    "rows": (
        lambda m, t: t.update({f"{Q}.lora_b": t[f"{Q}.lora_b"][:-1].copy()}),
        FormatError,
        Q,
    ),
    "vector": (
        lambda m, t: t.update({f"{Q}.lora_a": np.ones(64, np.float32)}),
        FormatError,
        "two matrices",
    ),
    "not finite": (
        lambda m, t: t.update({f"{Q}.lora_a": t[f"{Q}.lora_a"] * np.float32(np.inf)}),
        FormatError,
        "not finite",
    ),
}


@pytest.mark.parametrize("name", GGUF_CHANGES)
def test_gguf(name: str, drawn: DrawnModel, tmp_path: Path) -> None:
    change, error, message = GGUF_CHANGES[name]
    metadata, tensors = parts()
    change(metadata, tensors)
    path = write_gguf_parts(tmp_path / "a.gguf", metadata, tensors)
    with pytest.raises(error, match=message):
        read_adapter(path, drawn)


PEFT_CHANGES: dict[str, tuple[Change, type[TektraError], str]] = {
    "type": (lambda c, t: c.update(peft_type="LOHA"), UnsupportedModelError, "LOHA"),
    "dora": (lambda c, t: c.update(use_dora=True), UnsupportedModelError, "use_dora"),
    "modules": (
        lambda c, t: c.update(modules_to_save=["lm_head"]),
        UnsupportedModelError,
        "modules_to_save",
    ),
    "bias": (lambda c, t: c.update(bias="all"), UnsupportedModelError, "bias"),
    "lora bias": (lambda c, t: c.update(lora_bias=True), UnsupportedModelError, "lora_bias"),
    "fan": (lambda c, t: c.update(fan_in_fan_out=True), UnsupportedModelError, "fan_in_fan_out"),
    "replication": (
        lambda c, t: c.update(layer_replication=[[0, 1], [0, 2]]),
        UnsupportedModelError,
        "layer_replication",
    ),
    "unknown": (lambda c, t: c.update(new_thing=3), UnsupportedModelError, "new_thing"),
    "pissa": (
        lambda c, t: c.update(init_lora_weights="pissa_niter_4"),
        UnsupportedModelError,
        "pissa",
    ),
    "no rank": (lambda c, t: c.pop("r"), FormatError, "'r'"),
    "rank": (lambda c, t: c.update(r=4), FormatError, "rank 3.*says 4"),
    "rank text": (lambda c, t: c.update(r="4"), FormatError, "'r'"),
    "rank zero": (lambda c, t: c.update(r=0), FormatError, "'r'"),
    "alpha": (lambda c, t: c.update(lora_alpha=float("inf")), FormatError, "lora_alpha"),
    "rslora": (lambda c, t: c.update(use_rslora=1), FormatError, "use_rslora"),
    "pattern": (lambda c, t: c.update(rank_pattern={"(": 3}), FormatError, "no pattern"),
    "slow pattern": (
        lambda c, t: c.update(rank_pattern={"(a+)+b": 3}),
        UnsupportedModelError,
        "too complex",
    ),
    "half": (lambda c, t: t.pop(f"{PEFT_Q}.lora_A.weight"), FormatError, "lora_A"),
    "embedding": (
        lambda c, t: t.update(
            {"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((2, 2), np.float32)}
        ),
        UnsupportedModelError,
        "token embeddings",
    ),
    "magnitude": (
        lambda c, t: t.update({f"{PEFT_Q}.lora_magnitude_vector.weight": np.ones(2, np.float32)}),
        UnsupportedModelError,
        "DoRA",
    ),
    "module": (
        lambda c, t: t.update(
            {
                f"base_model.model.model.layers.0.q.lora_{x}.weight": np.ones((3, 3), np.float32)
                for x in "AB"
            }
        ),
        FormatError,
        "layers.0.q",
    ),
    "integers": (
        lambda c, t: t.update({f"{PEFT_Q}.lora_A.weight": np.ones((3, 64), np.int8)}),
        UnsupportedModelError,
        "I8",
    ),
    "not finite": (
        lambda c, t: t.update({f"{PEFT_Q}.lora_A.weight": np.full((3, 64), np.nan, np.float32)}),
        FormatError,
        "not finite",
    ),
}


def peft(folder: Path, change: Change | None = None) -> Path:
    path = write_peft_adapter(folder, ADAPTER)
    if change is not None:
        config = json.loads((path / "adapter_config.json").read_text())
        tensors = safetensors.numpy.load_file(path / "adapter_model.safetensors")
        change(config, tensors)
        (path / "adapter_config.json").write_text(json.dumps(config))
        safetensors.numpy.save_file(tensors, path / "adapter_model.safetensors")
    return path


@pytest.mark.parametrize("name", PEFT_CHANGES)
def test_peft(name: str, drawn: DrawnModel, tmp_path: Path) -> None:
    change, error, message = PEFT_CHANGES[name]
    with pytest.raises(error, match=message):
        read_adapter(peft(tmp_path, change), drawn)


def test_pickles_are_never_opened(drawn: DrawnModel, tmp_path: Path) -> None:
    path = peft(tmp_path)
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    for named in (path, path / "adapter_model.bin"):
        with pytest.raises(UnsupportedModelError, match="pickle"):
            read_adapter(named, drawn)


def test_weights_may_be_named(drawn: DrawnModel, tmp_path: Path) -> None:
    path = peft(tmp_path)
    assert read_adapter(path / "adapter_model.safetensors", drawn).keys() == (
        read_adapter(path, drawn).keys()
    )


@pytest.mark.parametrize("file", ["a.gguf", "adapter_config.json", "adapter_model.safetensors"])
def test_damaged_files(file: str, drawn: DrawnModel, tmp_path: Path) -> None:
    """Cut anywhere, or with bits flipped: a typed error, or an adapter of the same shapes."""
    if file == "a.gguf":
        damaged = named = write_gguf_parts(tmp_path / file, *parts())
    else:
        named = peft(tmp_path)
        damaged = named / file
    whole = damaged.read_bytes()
    rng = np.random.default_rng(9)
    refused = 0
    header = min(len(whole), 3000)
    for trial in range(400):
        data = bytearray(whole)
        if trial % 4 == 0:
            data = data[: int(rng.integers(0, len(data)))]
        else:
            for at in rng.integers(0, header, int(rng.integers(1, 4))).tolist():
                data[at] ^= 1 << int(rng.integers(0, 8))
        damaged.write_bytes(data)
        try:
            updates = read_adapter(named, drawn)
        except TektraError:
            refused += 1
            continue
        for name, update in updates.items():
            rows, width = drawn.graph.shape(name)
            assert update.a.shape[1] == width
            assert update.b.shape[0] == rows
            assert np.isfinite(update.a).all()
    assert refused > 150
