"""Directories written as GGUF by `tektra quantize`: llama.cpp has the same tokens and logits."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.checkpoint_files import as_bf16, write_checkpoint
from tests.goldens.seeded_model import VARIANTS, checkpoint_config, checkpoint_weights
from tests.slow.peer import divergence, needs_peer, ours, theirs, tokenized

from tektra import quantize_model
from tektra.backends.cpu import CpuBackend
from tektra.backends.reference import ReferenceBackend
from tektra.engine.model_files import load_tokenizer, open_model

pytestmark = needs_peer

FOLDER = Path(__file__).parents[1] / "goldens" / "tokenizer"
BYTE_LEVEL = [path.stem for path in sorted(FOLDER.glob("bpe_*.json"))]
# llama.cpp ends the process for pieces that have no bytes to fall back to.
SENTENCEPIECE = [p.stem for p in sorted(FOLDER.glob("spm_*.model")) if p.stem != "spm_plain"]
# It does not compose characters first, as these do, takes marks of scripts for no letters, and
# reads U+2581 in a text as a space. What is expected is what the tokenizers library or
# sentencepiece give (tests/tokenizer).
OTHERWISE = {
    "bpe_qwen2": "combining: ",
    "bpe_qwen35": "combining: ",
    "bpe_gpt-4o": "\u0928\u092e\u0938",
    "bpe_tekken": "\u0928\u092e\u0938",
    "spm_gemma": "\u2581lower",
}
TEXTS = [t for t in json.loads((FOLDER / "corpus.json").read_text())["texts"] if "\0" not in t]


def directory(tokenizer: str, folder: Path) -> tuple[Path, int]:
    """A small llama with a trained tokenizer; returns it and the size of its vocabulary."""
    golden: dict[str, Any] = json.loads((FOLDER / f"{tokenizer}.json").read_text())
    model = folder / "model"
    model.mkdir()
    if "tokenizer_json" in golden:
        (model / "tokenizer.json").write_text(json.dumps(golden["tokenizer_json"]))
        vocab = len(golden["tokenizer_json"]["model"]["vocab"]) + 8
    else:
        shutil.copy(FOLDER / f"{tokenizer}.model", model / "tokenizer.model")
        vocab = 2048
    (model / "tokenizer_config.json").write_text("{}")
    variant = replace(VARIANTS["llama-gqa2"], name=tokenizer, hidden=256, ffn=512, vocab=vocab)
    weights = {name: as_bf16(array) for name, array in checkpoint_weights(variant).items()}
    write_checkpoint(model, checkpoint_config(variant), weights, shards=2)
    return model, vocab


@pytest.mark.parametrize("tokenizer", [*BYTE_LEVEL, *SENTENCEPIECE])
def test_tokens(tokenizer: str, tmp_path: Path) -> None:
    model, _ = directory(tokenizer, tmp_path)
    path = tmp_path / "model.gguf"
    quantize_model(model, path, "f16")
    with open_model(model) as file:
        of_directory = load_tokenizer(file)
    with open_model(path) as file:
        of_file = load_tokenizer(file)
    for special in (False, True):
        expected = [of_directory.encode(text, add_special=special) for text in TEXTS]
        assert [of_file.encode(text, add_special=special) for text in TEXTS] == expected
    expected = [of_directory.encode(text, add_special=False) for text in TEXTS]
    got = tokenized(path, TEXTS)
    wrong = {i for i, ids in enumerate(got) if ids != expected[i]}
    assert [TEXTS[i] for i in wrong] == [
        text for text in TEXTS if text.startswith(OTHERWISE.get(tokenizer, "nothing"))
    ]


@pytest.mark.parametrize("mix", ["f32", "bf16", "q8_0", "q4_k_m", "q5_0", "iq4_xs", "q3_k_m"])
def test_logits(mix: str, tmp_path: Path) -> None:
    model, vocab = directory("bpe_qwen2", tmp_path)
    path = tmp_path / "model.gguf"
    quantize_model(model, path, mix)
    tokens = np.random.default_rng(3).integers(0, vocab, 100).tolist()
    exact = ours(path, tokens, ReferenceBackend(kv_dtype="float32"))
    expected = theirs(path, tokens)
    if mix == "f32":
        assert float(np.abs(exact - expected).max() / np.abs(expected).max()) < 1e-4
        return
    mine = divergence(exact, ours(path, tokens, CpuBackend()))
    assert mine < max(1.2 * divergence(exact, expected), 1e-6)
