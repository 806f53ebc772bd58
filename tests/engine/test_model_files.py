"""Model directories from end to end: opened, loaded, tokenized and run like the GGUF file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.checkpoint_files import write_checkpoint
from tests.goldens.seeded_model import VARIANTS, checkpoint_config, checkpoint_weights

from tektra.backends.cpu import native_core
from tektra.cli.model_summary import summarize
from tektra.engine.model_files import open_model
from tektra.llm import LLM

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tokenizer" / "bpe_smollm.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    golden: dict[str, Any] = json.loads(TOKENIZER.read_text("ascii"))
    ids = [t["id"] for t in golden["tokenizer_json"]["added_tokens"]]
    vocab = 1 + max(*ids, *golden["tokenizer_json"]["model"]["vocab"].values())
    variant = replace(VARIANTS["llama-gqa2"], vocab=vocab)
    files = {
        "tokenizer.json": golden["tokenizer_json"],
        "tokenizer_config.json": {"chat_template": "{{ messages[0]['content'] }}"},
        "generation_config.json": {"eos_token_id": [3, 5], "temperature": 0.5, "top_k": 7},
    }
    return write_checkpoint(
        tmp_path / "dir", checkpoint_config(variant), checkpoint_weights(variant), files=files
    )


def test_a_directory_runs(folder: Path) -> None:
    with LLM(folder) as llm:
        assert llm.default_sampling.temperature == 0.5
        assert llm.default_sampling.top_k == 7
        assert llm.generate("hello", max_tokens=3).text is not None


def test_show(folder: Path) -> None:
    summary = summarize(str(folder), device="reference", context=None, with_tensors=True)
    assert (summary["format"], summary["architecture"]) == ("safetensors", "llama")
    assert summary["unsupported"] is None
    assert summary["memory"]["problem"] is None
    assert summary["sampling"]["recommended"] == {"temperature": 0.5, "top_k": 7}
    assert summary["tokenizer"]["tokens"] == summary["metadata"]["llama.vocab_size"]
    assert [template["name"] for template in summary["templates"]] == ["default"]
    weights = checkpoint_weights(VARIANTS["llama-gqa2"])
    assert len(summary["tensors"]) == len(weights)


def test_the_packed_copy_knows_the_config(folder: Path) -> None:
    """The rows of heads move by what config.json says, so the weights are not all that counts."""
    with open_model(folder) as file:
        before = file.variant
    config = json.loads((folder / "config.json").read_text())
    config["num_attention_heads"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with open_model(folder) as file:
        assert file.variant != before


@pytest.mark.skipif(native_core() is None, reason="packed copies are the native core's")
def test_the_second_start_uses_the_packed_copy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEKTRA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TEKTRA_PACKED_CACHE", raising=False)
    monkeypatch.setattr("tektra.engine.packed_copy.MIN_BYTES", 0)
    monkeypatch.setattr("tektra.engine.packed_store._RESERVE_BYTES", 0)
    with LLM(folder, device="cpu") as llm:
        assert llm.wait_packed_copy(60) == "written"
        first = llm.score("hello world")
    with LLM(folder, device="cpu") as llm:
        assert llm.packed_copy == "used"
        assert (llm.score("hello world") == first).all()
    config = json.loads((folder / "config.json").read_text())
    config["rms_norm_eps"] = 1e-4
    (folder / "config.json").write_text(json.dumps(config))
    with LLM(folder, device="cpu") as llm:
        assert llm.packed_copy != "used"
