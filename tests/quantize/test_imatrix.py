"""Importance matrices: both forms of files, and what is measured."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.fixtures.tiny_model import write_tiny_model

from tektra.errors import FormatError, InvalidParameterError
from tektra.formats.gguf import GGUFFile
from tektra.quantize.collect import collect_importance
from tektra.quantize.imatrix import ImportanceMatrix


def test_what_goes_into_the_first_layer(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    write_tiny_model(model)
    text = "hello world the hell " * 40
    matrix = collect_importance(model, [("a.txt", text)], window=16, max_windows=3)
    assert (matrix.num_chunks, matrix.chunk_size, matrix.datasets) == (3, 16, ("a.txt",))
    import tektra

    with GGUFFile.open(model) as file, tektra.LLM(model, device="reference") as llm:
        tokens = llm.tokenize(text)[:48]
        x = file.dequantize("token_embd.weight")[tokens].astype(np.float64)
        norm = file.dequantize("blk.0.attn_norm.weight")
        eps = float(file.metadata["llama.attention.layer_norm_rms_epsilon"])  # type: ignore[arg-type]
        expected = ((x / np.sqrt((x**2).mean(1, keepdims=True) + eps) * norm) ** 2).sum(0)
        matrices = {n for n, i in file.tensors.items() if len(i.shape) == 2}
    for name in ("attn_q", "attn_k", "attn_v"):
        entry = matrix.entries[f"blk.0.{name}.weight"]
        np.testing.assert_allclose(entry.sums[0], expected, rtol=1e-4)
        assert entry.counts.tolist() == [48]
    assert matrix.entries["blk.1.ffn_down.weight"].counts.tolist() == [48]
    assert set(matrix.entries) == matrices - {"token_embd.weight", "output.weight"}
    path = tmp_path / "i.gguf"
    matrix.write(path)
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["a.txt"]
    assert reader.fields["imatrix.chunk_count"].contents() == 3
    assert reader.fields["imatrix.chunk_size"].contents() == 16
    stored = {tensor.name: tensor.data for tensor in reader.tensors}
    name = "blk.0.attn_q.weight"
    np.testing.assert_array_equal(stored[f"{name}.in_sum2"][0], matrix.entries[name].sums[0])
    read = ImportanceMatrix.read(path)
    assert set(read.entries) == set(matrix.entries)
    with pytest.raises(InvalidParameterError, match="shorter than a window"):
        collect_importance(model, [("a.txt", "hello")], window=16)


def test_the_older_form(tmp_path: Path) -> None:
    values = np.array([4.0, 1.0], "<f4")
    data = struct.pack("<i", 1) + struct.pack("<i", 5) + b"a.wei" + struct.pack("<ii", 7, 2)
    data += values.tobytes()
    path = tmp_path / "old.dat"
    path.write_bytes(data + struct.pack("<ii", 9, 3) + b"txt")
    matrix = ImportanceMatrix.read(path)
    assert matrix.entries["a.wei"].sums.tolist() == [[4.0, 1.0]]
    assert matrix.entries["a.wei"].counts.tolist() == [7]
    assert (matrix.num_chunks, matrix.datasets) == (9, ("txt",))
    for cut in (0, 3, 6, 10, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(FormatError):
            ImportanceMatrix.read(path)
    path.write_bytes(data.replace(values.tobytes(), np.array([np.nan, 1], "<f4").tobytes()))
    with pytest.raises(FormatError, match="sums of squares"):
        ImportanceMatrix.read(path)
    model = tmp_path / "m.gguf"
    write_tiny_model(model)
    with pytest.raises(FormatError, match="not an importance matrix"):
        ImportanceMatrix.read(model)
    with pytest.raises(FormatError):
        ImportanceMatrix.read(tmp_path / "none")
