"""Quantized files: what becomes of each tensor, how exact it is, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.fixtures.tiny_model import write_tiny_model

import tektra
from tektra.errors import (
    CancelledError,
    FormatError,
    InvalidParameterError,
    StorageError,
    UnsupportedModelError,
)
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_writer import write_gguf
from tektra.formats.tensor_info import TensorInfo
from tektra.quantize.encode import Encoder
from tektra.quantize.imatrix import Activations, ImportanceMatrix
from tektra.quantize.mixes import choose_types
from tektra.quantize.recipe import MIXES, Recipe

# Root mean square error over that of the weights, of normal weights. Beside llama.cpp's quantizers
# on the same ones (benchmarks/quantize.py) these are within 1.5 %.
ERRORS = {
    "Q4_0": 0.086,
    "Q4_1": 0.079,
    "Q5_0": 0.043,
    "Q5_1": 0.038,
    "Q8_0": 0.0055,
    "Q2_K": 0.297,
    "Q3_K": 0.155,
    "Q4_K": 0.072,
    "Q5_K": 0.0365,
    "Q6_K": 0.0179,
    "IQ4_NL": 0.078,
    "IQ4_XS": 0.0785,
    "MXFP4": 0.115,
    "TQ1_0": 0.81,
    "TQ2_0": 0.81,
}


def weights(rows: int = 64, width: int = 512, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def decoded(data: np.ndarray, type_: GGMLType, shape: tuple[int, int]) -> np.ndarray:
    kind = gguf.GGMLQuantizationType(int(type_))
    return gguf.dequantize(data.reshape(shape[0], -1), kind).reshape(shape)


@pytest.mark.parametrize("name", ERRORS)
def test_error_of_normal_weights(name: str) -> None:
    x, type_ = weights(), GGMLType[name]
    data = Encoder().encode(x.view(np.uint8).reshape(-1), GGMLType.F32, x.shape, type_)
    error = np.sqrt(np.mean((decoded(data, type_, x.shape) - x) ** 2) / np.mean(x**2))
    assert error < ERRORS[name]


@pytest.mark.parametrize("name", ERRORS)
def test_same_bytes_on_every_instruction_set_and_any_threads(name: str) -> None:
    from tektra import _native

    x, type_ = weights(9, 768, seed=1), GGMLType[name]
    importance = np.random.default_rng(2).random(768).astype(np.float32) + 0.01
    outs = []
    for isa in _native.compiled_isas():
        for threads in (1, 3):
            if _native.runs_here(isa):
                out = np.zeros(9 * type_.row_bytes(768), np.uint8)
                encoder = _native.Encoder(isa, threads)
                encoder.encode(int(type_), 0, x.view(np.uint8).reshape(-1), 768, importance, out)
                outs.append(out)
    # and a row alone, of a lane of its own
    row = np.zeros(type_.row_bytes(768), np.uint8)
    one = np.ascontiguousarray(x[4]).view(np.uint8)
    _native.Encoder("", 1).encode(int(type_), 0, one, 768, importance, row)
    assert len(outs) > 1
    assert all(np.array_equal(out, outs[0]) for out in outs)
    assert np.array_equal(row, outs[0].reshape(9, -1)[4])


@pytest.mark.parametrize("name", [n for n in ERRORS if n != "Q8_0"])
def test_importance_lowers_the_error_that_it_weighs(name: str) -> None:
    x, type_ = weights(seed=3), GGMLType[name]
    importance = np.exp(2 * np.random.default_rng(4).standard_normal(512)).astype(np.float32)
    errors = []
    for given in (None, importance):
        data = Encoder().encode(
            x.view(np.uint8).reshape(-1), GGMLType.F32, x.shape, type_, importance=given
        )
        errors.append(float((importance * (decoded(data, type_, x.shape) - x) ** 2).sum()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", ERRORS)
def test_zeros_constants_and_tiny_weights(name: str) -> None:
    x = np.zeros((4, 256), np.float32)
    x[1], x[2], x[3] = 0.5, -0.5, 1e-30
    type_ = GGMLType[name]
    data = Encoder().encode(x.view(np.uint8).reshape(-1), GGMLType.F32, x.shape, type_)
    got = decoded(data, type_, x.shape)
    assert np.abs(got - x).max() < 0.02


@pytest.mark.parametrize("bad", [np.inf, np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    x = weights(3, 256)
    x[2, 200] = bad
    with pytest.raises(FormatError, match=r"'w'.*not finite"):
        Encoder().encode(
            x.view(np.uint8).reshape(-1), GGMLType.F32, x.shape, GGMLType.Q4_K, name="w"
        )
    x[2, 200] = 1e30
    with pytest.raises(FormatError, match=r"'w'.*too large"):
        Encoder().encode(
            x.view(np.uint8).reshape(-1), GGMLType.F32, x.shape, GGMLType.Q4_K, name="w"
        )


# Which tensor becomes what


def _model(layers: int, width: int = 256) -> tuple[dict[str, object], dict[str, TensorInfo]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (1000, width),
        "output_norm.weight": (width,),
    }
    for i in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
            shapes[f"blk.{i}.{name}.weight"] = (256, width)
        shapes[f"blk.{i}.attn_norm.weight"] = (width,)
        shapes[f"blk.{i}.attn_v.bias"] = (256,)
        shapes[f"blk.{i}.ffn_gate_inp.weight"] = (8, width)
    tensors = {n: TensorInfo(n, s, GGMLType.F16, 0, 0, 0) for n, s in shapes.items()}
    heads = {"llama.attention.head_count": 8, "llama.attention.head_count_kv": 8}
    return {"general.architecture": "llama", "llama.block_count": layers, **heads}, tensors


def test_q4_k_m_as_in_llama_cpp() -> None:
    metadata, tensors = _model(16)
    types = choose_types(metadata, tensors, Recipe.of("q4_k_m"), importance=False)
    more = [i for i in range(16) if types[f"blk.{i}.ffn_down.weight"] is GGMLType.Q6_K]
    assert more == [0, 1, 4, 7, 10, 13, 14, 15]
    assert [i for i in range(16) if types[f"blk.{i}.attn_v.weight"] is GGMLType.Q6_K] == more
    assert types["blk.3.attn_v.weight"] is GGMLType.Q4_K
    assert types["token_embd.weight"] is GGMLType.Q6_K  # it is the output matrix too
    for name in ("output_norm.weight", "blk.3.attn_v.bias", "blk.3.ffn_gate_inp.weight"):
        assert types[name] is GGMLType.F32


def test_widths_that_blocks_do_not_divide() -> None:
    metadata, tensors = _model(2, width=96)
    types = choose_types(metadata, tensors, Recipe.of("q4_k_s"), importance=False)
    assert types["blk.1.attn_q.weight"] is GGMLType.Q5_0
    assert types["token_embd.weight"] is GGMLType.Q8_0
    _, odd = _model(2, width=100)
    assert (
        choose_types(metadata, odd, Recipe.of("q4_k_s"), importance=False)["blk.1.attn_q.weight"]
        is GGMLType.F16
    )


def test_overrides() -> None:
    metadata, tensors = _model(12)
    recipe = Recipe.of(
        "q4_k_m",
        overrides=[r"blk\.1\d\.attn_v=f16", "attn_v=q8_0", "blk.*.ffn_up.weight=q5_k"],
        output_type="q4_0",
    )
    types = choose_types(metadata, tensors, recipe, importance=False)
    assert types["blk.11.attn_v.weight"] is GGMLType.F16
    assert types["blk.9.attn_v.weight"] is GGMLType.Q8_0
    assert types["blk.9.attn_v.bias"] is GGMLType.F32
    assert types["blk.9.ffn_up.weight"] is GGMLType.Q5_K
    assert types["token_embd.weight"] is GGMLType.Q4_0
    with pytest.raises(InvalidParameterError, match="matches no matrix"):
        choose_types(
            metadata, tensors, Recipe.of("q8_0", overrides=["atn_v=q8_0"]), importance=False
        )
    for bad in ("attn_v", "attn_v=q9", "(=q8_0", "attn_v=iq2_xs"):
        with pytest.raises(InvalidParameterError):
            Recipe.of("q8_0", overrides=[bad])
    with pytest.raises(InvalidParameterError, match="cannot be written yet"):
        Recipe.of("iq2_xs")


# Files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.gguf"
    write_tiny_model(path)
    return path


@pytest.mark.parametrize("mix", MIXES)
def test_gguf_package_reads_what_is_written(source: Path, tmp_path: Path, mix: str) -> None:
    out = tmp_path / "out.gguf"
    result = tektra.quantize_model(source, out, mix, allow_requantize=True)
    reader = gguf.GGUFReader(out)
    assert reader.fields["general.file_type"].contents() == MIXES[mix].file_type
    assert reader.fields["general.quantization_version"].contents() == 2
    with GGUFFile.open(source) as before:
        assert [tensor.name for tensor in reader.tensors] == list(before.tensors)
        tokens: Any = before.metadata["tokenizer.ggml.tokens"]
        assert reader.fields["tokenizer.ggml.tokens"].contents() == list(tokens)
        for tensor in reader.tensors:
            assert tensor.data_offset % 32 == 0
            assert tensor.tensor_type.name == result.tensors[tensor.name].type.name
            expected = before.dequantize(tensor.name)
            got = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(expected.shape)
            bound = 0.9 if mix.startswith("tq") else 0.35
            assert np.abs(got - expected).mean() <= bound * np.abs(expected).mean() + 1e-8


def test_what_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, twice = tmp_path / "out.gguf", tmp_path / "twice.gguf"
    tektra.quantize_model(source, out, "q4_0", allow_requantize=True)
    with pytest.raises(UnsupportedModelError, match=r"Q4_0.*such as.*allow-requantize"):
        tektra.quantize_model(out, twice, "q8_0")
    with pytest.raises(InvalidParameterError, match="there already"):
        tektra.quantize_model(source, out, "q8_0", allow_requantize=True)
    with pytest.raises(InvalidParameterError, match="is the source"):
        tektra.quantize_model(out, out, "q8_0", allow_requantize=True, force=True)
    with pytest.raises(InvalidParameterError, match="is not there"):
        tektra.quantize_model(source, tmp_path / "no" / "x.gguf", "q8_0", allow_requantize=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(StorageError, match="MiB are free"):
        tektra.quantize_model(source, twice, "q8_0", allow_requantize=True)
    assert not twice.exists()


def test_truncated_sources_are_refused(source: Path, tmp_path: Path) -> None:
    data = source.read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (10, 1000, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:size])
        with pytest.raises(FormatError):
            tektra.quantize_model(cut, tmp_path / "out.gguf", "q8_0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.gguf", "source.gguf"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, CancelledError])
def test_what_ends_early_leaves_nothing(
    source: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    seen = []

    def stop(event: tektra.ProgressEvent) -> None:
        seen.append(event)
        if len(seen) == 3:
            raise error("stop")

    with pytest.raises(error):
        tektra.quantize_model(
            source, tmp_path / "out.gguf", "q8_0", allow_requantize=True, progress=stop
        )
    assert [p.name for p in tmp_path.iterdir()] == ["source.gguf"]
    assert seen[0].stage == "quantize"


def test_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    planned = tektra.quantize_model(source, out, "q5_k_m", allow_requantize=True, dry_run=True)
    assert not out.exists()
    done = tektra.quantize_model(source, out, "q5_k_m", allow_requantize=True)
    assert planned.types == done.types
    assert planned.after == done.after


def test_importance_reaches_the_weights(source: Path, tmp_path: Path) -> None:
    with GGUFFile.open(source) as file:
        random = np.random.default_rng(5)
        entries = {
            name: Activations(
                (random.random((1, info.shape[-1])) ** 8 + 1e-4).astype(np.float32),
                np.ones(1, np.float32),
            )
            for name, info in file.tensors.items()
            if name.startswith("blk.0.") and len(info.shape) == 2
        }
        before = {name: file.dequantize(name) for name in file.tensors}
    matrix = ImportanceMatrix(entries=entries, datasets=("text.txt",), num_chunks=7, chunk_size=512)
    plain, out = tmp_path / "plain.gguf", tmp_path / "out.gguf"
    path = tmp_path / "m.gguf"
    matrix.write(path)
    tektra.quantize_model(source, plain, "q4_1", allow_requantize=True)
    result = tektra.quantize_model(source, out, "q4_1", imatrix=path, allow_requantize=True)
    fields = gguf.GGUFReader(out).fields
    assert fields["quantize.imatrix.file"].contents() == "m.gguf"
    assert fields["quantize.imatrix.dataset"].contents() == "text.txt"
    assert fields["quantize.imatrix.entries_count"].contents() == len(entries)
    assert fields["quantize.imatrix.chunks_count"].contents() == 7
    assert any(name.startswith("blk.1.") for name in result.without_importance)
    with GGUFFile.open(plain) as a, GGUFFile.open(out) as b:
        for name, entry in entries.items():
            if a.tensors[name].type is not GGMLType.Q4_1:
                continue
            errors = [
                float((entry.sums * (f.dequantize(name) - before[name]) ** 2).sum()) for f in (a, b)
            ]
            assert errors[1] < errors[0], name
        assert np.array_equal(
            a.tensor_bytes("blk.1.attn_q.weight"), b.tensor_bytes("blk.1.attn_q.weight")
        )
    entries["blk.0.attn_q.weight"] = Activations(
        np.ones((1, 3), np.float32), np.ones(1, np.float32)
    )
    with pytest.raises(FormatError, match="of this model"):
        tektra.quantize_model(
            source, tmp_path / "no.gguf", "q8_0", imatrix=matrix, allow_requantize=True
        )


# At load


def test_quantized_at_load_as_from_a_quantized_file(source: Path, tmp_path: Path) -> None:
    floats, out = tmp_path / "floats.gguf", tmp_path / "out.gguf"
    tektra.quantize_model(source, floats, "f32", allow_requantize=True)
    tektra.quantize_model(floats, out, "q8_0")
    for device in ("cpu", "reference"):
        logits = []
        for path, quant in ((floats, "q8_0"), (out, None)):
            with tektra.LLM(path, device=device, quant=quant, packed_cache=False) as llm:
                logits.append(llm.score("hello world hello"))
        assert np.array_equal(logits[0], logits[1])
    with pytest.raises(InvalidParameterError, match="nothing to quantize"):
        tektra.LLM(out, quant="q8_0")
    with pytest.raises(InvalidParameterError, match="quant"):
        tektra.LLM(floats, quant="q9_9")


def test_splits_and_tensors_of_three_dimensions(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    experts = random.standard_normal((3, 4, 64)).astype(np.float32)
    write_gguf(
        tmp_path / "m.gguf",
        {"general.architecture": "none"},
        [
            ("blk.0.ffn_up_exps.weight", experts.shape, GGMLType.F32, experts),
            ("blk.0.ffn_gate_inp.weight", (3, 64), GGMLType.F32, experts[:, 0].copy()),
        ],
        split_max_bytes=1024,
    )
    first = next(tmp_path.glob("m-00001-*"))
    entry = Activations(random.random((3, 64)).astype(np.float32), np.ones(3, np.float32))
    matrix = ImportanceMatrix(
        entries={"blk.0.ffn_up_exps.weight": entry}, datasets=(), num_chunks=1, chunk_size=8
    )
    out = tmp_path / "out.gguf"
    tektra.quantize_model(first, out, "q4_0", imatrix=matrix)
    with GGUFFile.open(out) as file:
        infos = dict(file.tensors)
        got = file.tensor_bytes("blk.0.ffn_up_exps.weight").reshape(3, -1)
        assert file.tensors["blk.0.ffn_gate_inp.weight"].type is GGMLType.F32
    for expert in range(3):
        alone = Encoder().encode(
            experts[expert].reshape(-1).view(np.uint8),
            GGMLType.F32,
            (4, 64),
            GGMLType.Q4_0,
            importance=matrix.weights(infos)["blk.0.ffn_up_exps.weight"][expert],
        )
        assert np.array_equal(alone, got[expert])
