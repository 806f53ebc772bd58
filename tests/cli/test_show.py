"""`tektra show`: what it tells, against what the `gguf` package reads from the same file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from tests.cli.conftest import Invoke
from tests.fixtures.tiny_model import CHAT_TEMPLATE, CONTEXT, VOCAB, write_tiny_model

from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_values import Typed
from tektra.formats.gguf_writer import write_gguf


@pytest.fixture
def shown(invoke: Invoke, tiny_path: Path) -> dict[str, Any]:
    result = invoke("show", tiny_path, "--json", "--tensors", "--device", "reference")
    assert result.exit_code == 0, result.stderr
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def test_tensors_and_types_are_those_of_the_file(shown: dict[str, Any], tiny_path: Path) -> None:
    tensors = GGUFReader(tiny_path).tensors
    assert [tensor["name"] for tensor in shown["tensors"]] == [tensor.name for tensor in tensors]
    assert [tensor["shape"] for tensor in shown["tensors"]] == [
        tensor.shape.tolist()[::-1] for tensor in tensors
    ]
    assert [tensor["offset"] for tensor in shown["tensors"]] == [t.data_offset for t in tensors]
    assert shown["parameters"] == sum(int(tensor.n_elements) for tensor in tensors)
    counts = Counter(tensor.tensor_type.name for tensor in tensors)
    assert {part["type"]: part["tensors"] for part in shown["types"]} == counts
    assert sum(part["share"] for part in shown["types"]) == pytest.approx(1.0)
    assert shown["bits_per_weight"] == pytest.approx(32.0)


def test_metadata_tokenizer_and_template(shown: dict[str, Any]) -> None:
    assert shown["architecture"] == "llama"
    assert shown["unsupported"] is None
    assert shown["metadata"]["llama.block_count"] == 2
    tokens = shown["metadata"]["tokenizer.ggml.tokens"]
    assert (tokens["type"], tokens["length"], len(tokens["first"])) == ("string", VOCAB, 8)
    assert shown["tokenizer"]["tokens"] == VOCAB
    assert shown["tokenizer"]["eos"] == "2 '<|im_end|>'"
    (template,) = shown["templates"]
    assert (template["name"], template["characters"]) == ("default", len(CHAT_TEMPLATE))


def test_recommended_sampling(invoke: Invoke, tmp_path: Path, shown: dict[str, Any]) -> None:
    assert shown["sampling"] == {"recommended": {}, "not_followed": {}}
    more = {"general.sampling.temp": Typed(0.6, "f32"), "general.sampling.sequence": "topk;temp"}
    path = write_tiny_model(tmp_path / "warm.gguf", more=more)
    text = invoke("show", path, "--device", "reference").stdout
    assert "recommended: temperature 0.6\n" in text
    assert "not followed" in text
    assert "general.sampling.sequence: the order" in text
    bad = write_tiny_model(tmp_path / "bad.gguf", more={"general.sampling.temp": "hot"})
    summary = json.loads(invoke("show", bad, "--json").stdout)
    assert summary["unsupported"].startswith("general.sampling.temp: ")


def test_memory_is_that_of_the_backend(
    invoke: Invoke, shown: dict[str, Any], tiny_path: Path
) -> None:
    memory = shown["memory"]
    assert (memory["device"], memory["context"]) == ("reference", CONTEXT)
    # 2 layers x 2 kv heads x 16 elements x (key and value) x float16
    assert memory["parts"]["kv_cache"] == CONTEXT * 2 * 2 * 16 * 2 * 2
    assert memory["total"] == sum(memory["parts"].values())
    result = invoke(
        "show", tiny_path, "--json", "--device", "reference", "--context", str(CONTEXT // 2)
    )
    assert json.loads(result.stdout)["memory"]["parts"]["kv_cache"] == CONTEXT * 128


def test_text_form(invoke: Invoke, tiny_path: Path) -> None:
    result = invoke("show", tiny_path, "--tensors")
    assert result.exit_code == 0
    for part in ("architecture", "Precision mix", "Memory on", "Metadata", "blk.1.ffn_down.weight"):
        assert part in result.stdout
    assert "blk.1" not in invoke("show", tiny_path).stdout


def test_a_model_that_cannot_be_run_is_described_all_the_same(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "odd.gguf"
    metadata = {
        "general.architecture": "mamba9",
        "general.name": "evil \x1b[2J name",
        "odd.value": Typed(float("nan"), "f32"),
        "tokenizer.ggml.bos_token_id": Typed(2**31, "u32"),
        "tokenizer.ggml.tokens": ["a"],
        "tokenizer.chat_template": "{{ tools }}",
        "tokenizer.chat_template.tool_use": "x",
    }
    data = np.zeros(64, np.float32).view(np.uint8)
    write_gguf(path, metadata, [("t", (8, 8), GGMLType.F32, data)])
    result = invoke("show", path)
    assert result.exit_code == 0
    assert "mamba9" in result.stdout
    assert "cannot be run" in result.stdout
    assert "\x1b" not in result.stdout
    summary = json.loads(invoke("show", path, "--json").stdout)
    assert "mamba9" in summary["unsupported"]
    assert summary["metadata"]["odd.value"] == "nan"
    assert summary["memory"]["total"] is None
    assert [template["name"] for template in summary["templates"]] == ["default", "tool_use"]
    assert summary["templates"][0]["mentions"] == ["tools"]


def test_a_file_without_metadata_or_tensors(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "bare.gguf"
    write_gguf(path, {}, [])
    result = invoke("show", path)
    assert result.exit_code == 0
    assert "not named" in result.stdout


def test_the_real_model(invoke: Invoke, smollm2_path: Path) -> None:
    summary = json.loads(invoke("show", "smollm2:135m", "--json").stdout)
    assert summary["files"] == [str(smollm2_path)]
    assert summary["parameters"] == 134_515_008
    assert summary["tokenizer"]["tokens"] == 49_152
    assert {part["type"] for part in summary["types"]} == {"Q4_1", "Q8_0", "F32"}
