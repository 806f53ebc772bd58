"""The random models for timing: right shapes and types, the same bytes from the same seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from benchmarks.make_model import MIXES, SHAPES, main, matrix_type

from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf import GGUFFile
from tektra.models.base import draw


def test_layers_that_get_more_bits() -> None:
    """As llama.cpp has it: the first and last eighth, and every third layer between."""
    shape, mix = SHAPES["llama-8b"], MIXES["q4_k_m"]
    better = [
        i for i in range(32) if matrix_type(mix, "ffn_down", 14_336, i, shape) is GGMLType.Q6_K
    ]
    assert better == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert matrix_type(mix, "attn_q", 4096, 0, shape) is GGMLType.Q4_K
    assert matrix_type(mix, "output", 4096, 0, shape) is GGMLType.Q6_K
    assert matrix_type(mix, "token_embd", 4096, 0, shape) is GGMLType.Q4_K


def test_widths_that_no_block_of_256_divides() -> None:
    shape, mix = SHAPES["smollm2-135m"], MIXES["q4_k_m"]
    assert matrix_type(mix, "token_embd", 576, 0, shape) is GGMLType.Q8_0
    assert matrix_type(mix, "attn_q", 576, 0, shape) is GGMLType.Q5_0
    assert matrix_type(mix, "attn_v", 576, 0, shape) is GGMLType.Q8_0
    assert matrix_type(mix, "ffn_down", 1536, 10, shape) is GGMLType.Q4_K


def test_tiny_model(tmp_path: Path, smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digests = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        path = tmp_path / f"{name}.gguf"
        arguments = ["--shape", "tiny", "--type", "q4_k_m", "--seed", seed]
        assert main([str(path), *arguments, "--tokenizer", str(smollm2_path)]) == 0
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]
    with GGUFFile.open(tmp_path / "a.gguf") as file:
        config = draw(file.metadata, file.tensors).config
        assert (config.num_layers, config.vocab_size) == (2, 49_152)
        assert file.tensors["token_embd.weight"].type is GGMLType.Q6_K
        weights = file.dequantize("blk.0.attn_q.weight")
        assert abs(float(weights.std()) * 16 - 1) < 0.05
    assert "MiB" in capsys.readouterr().out
