"""A5 and A6 of directories: each value of config.json made bad in turn, and code that it names.

What is refused is refused when the model is opened or drawn, by a typed error that names the key;
what is accepted runs.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.backends.steps import run_text
from tests.fixtures.checkpoint_files import write_checkpoint
from tests.goldens.seeded_model import VARIANTS, checkpoint_config, checkpoint_weights

from tektra.backends.base import CompileOptions
from tektra.backends.select import select_backend
from tektra.engine.model_files import open_model
from tektra.errors import TektraError, UnsupportedModelError
from tektra.models.base import draw

MISSING = object()
VALUES: dict[str, Any] = {
    "0": 0,
    "-1": -1,
    "1": 1,
    "3": 3,
    "2^31-1": 2**31 - 1,
    "2^64": 2**64,
    "1e999": 10**999,
    "NaN": math.nan,
    "infinity": math.inf,
    "-1.0": -1.0,
    "1e300": 1e300,
    "1e-40": 1e-40,
    "true": True,
    "text": "seven",
    "list": [1, 2, 3],
    "object": {"a": 1},
    "deep": [[[[[[]]]]]],
    "null": None,
    "missing": MISSING,
}
OPTIONS = CompileOptions(max_rows=16, max_outputs=4, num_kv_blocks=4)
# What says nothing of how the model is computed here.
FREE = {"model_type", "attention_bias", "mlp_bias"}


def changed(config: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(config))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


def paths(config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [(key,) for key in config]
    return found + [("rope_parameters", key) for key in config["rope_parameters"]]


def run(folder: Path) -> None:
    with open_model(folder) as file:
        drawn = draw(file.metadata, file.tensors, name=folder.name)
        executable = select_backend("auto").compile(drawn.graph, file, OPTIONS)
        try:
            run_text(executable, [1, 2, 3], (2,))
        finally:
            executable.close()


@pytest.mark.parametrize("name", ["llama-llama3", "llama-yarn-tuned", "qwen2-linear"])
def test_each_value(name: str, tmp_path: Path) -> None:
    config = checkpoint_config(VARIANTS[name]) | {"quantization_config": None}
    folder = write_checkpoint(tmp_path / "dir", config, checkpoint_weights(VARIANTS[name]))
    accepted: set[str] = set()
    refused: set[str] = set()
    for path in paths(config):
        for value in VALUES.values():
            bad = changed(config, path, value)
            (folder / "config.json").write_text(json.dumps(bad))
            message = ""
            try:
                run(folder)
            except TektraError as error:
                message = str(error)
            (refused if message else accepted).add(path[-1])
            assert message.isprintable()
            assert len(message) < 1000
    assert refused >= {"hidden_size", "num_hidden_layers", "num_attention_heads", "rope_theta"}
    assert refused >= {"architectures", "rms_norm_eps", "vocab_size", "rope_type"}
    assert accepted >= FREE & set(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", "64"),
        ("num_attention_heads", 2**31 - 1),
        ("rms_norm_eps", math.nan),
        ("max_position_embeddings", -1),
        ("hidden_act", "gelu"),
        ("rope_parameters", [1]),
        ("num_hidden_layers", 10**9),
    ],
)
def test_errors_name_the_key(key: str, value: Any, tmp_path: Path) -> None:
    variant = VARIANTS["llama-gqa2"]
    config = checkpoint_config(variant) | {key: value}
    folder = write_checkpoint(tmp_path / "dir", config, checkpoint_weights(variant))
    with pytest.raises(TektraError, match=rf"config\.json.*'{key}'"):
        run(folder)


def test_tensors_without_a_place(tmp_path: Path) -> None:
    variant = VARIANTS["llama-gqa2"]
    weights: dict[str, Any] = checkpoint_weights(variant)
    norm = weights["model.norm.weight"]
    old = {**weights, "model.layers.1.self_attn.rotary_emb.inv_freq": norm}
    run(write_checkpoint(tmp_path / "old", checkpoint_config(variant), old))
    other = {**weights, "model.layers.1.self_attn.q_norm.weight": norm}
    folder = write_checkpoint(tmp_path / "dir", checkpoint_config(variant), other)
    with pytest.raises(
        UnsupportedModelError, match=r"'model\.layers\.1\.self_attn\.q_norm\.weight'"
    ):
        run(folder)


def test_unknown_classes_and_code(tmp_path: Path) -> None:
    """Python files beside a model are never looked at, whatever config.json says of them."""
    variant = VARIANTS["llama-gqa2"]
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w')"
    config = checkpoint_config(variant) | {
        "auto_map": {"AutoModelForCausalLM": "modeling_evil.LlamaForCausalLM"}
    }
    files = {"modeling_evil.py": code, "configuration_evil.py": code, "tokenization_evil.py": code}
    weights = checkpoint_weights(variant)
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "import", "exec"):
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    try:
        run(write_checkpoint(tmp_path / "known", config, weights, files=files))
        config["architectures"] = ["LlamaForCausalLN"]
        folder = write_checkpoint(tmp_path / "unknown", config, weights, files=files)
        with pytest.raises(UnsupportedModelError, match="nearest is 'LlamaForCausalLM'"):
            run(folder)
    finally:
        watching = False
    assert not canary.exists()
    read = [name for name in opened if "evil" in name]
    assert len(read) == 2 * len(files)  # by the test itself, which wrote them
