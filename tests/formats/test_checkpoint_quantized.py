"""FP8, GPTQ, AWQ and MXFP4 checkpoints against decoders written here from the formats' description.

One number after the other, so that no vectorized mistake is in both; the packing is done here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fixtures.checkpoint_files import Tensor, as_bf16, write_checkpoint

from tektra.errors import FormatError, TektraError, UnsupportedModelError
from tektra.formats.checkpoint import Checkpoint
from tektra.formats.checkpoint_tensors import LogicalTensor, logical_tensors
from tektra.formats.ggml_types import GGMLType
from tektra.formats.quants import dequantize

F32 = NDArray[np.float32]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
INPUTS, OUTPUTS = 128, 24


def opened(
    folder: Path, quantization: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]
) -> dict[str, LogicalTensor]:
    config = {} if quantization is None else {"quantization_config": dict(quantization)}
    return dict(logical_tensors(Checkpoint.open(write_checkpoint(folder, config, tensors))))


def decoded(tensor: LogicalTensor) -> F32:
    return dequantize(tensor.read(), tensor.type, tensor.shape)


def packed(values: NDArray[Any], bits: int, order: tuple[int, ...] | None = None) -> NDArray[Any]:
    """[rows, columns] -> int32 [rows, columns * bits / 32]."""
    per_word = 32 // bits
    words = np.zeros((len(values), values.shape[1] // per_word), np.uint32)
    for row in range(len(values)):
        for word in range(words.shape[1]):
            for field in range(per_word):
                column = word * per_word + (field if order is None else order[field])
                words[row, word] |= np.uint32(int(values[row, column]) << (bits * field))
    return words.view(np.int32)


class Quantized:
    """Random integers, zeros and scales of a matrix, and what they mean."""

    def __init__(self, *, bits: int = 4, group: int = 32, zero: int | None = None, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.bits, self.size = bits, INPUTS if group == -1 else group
        count = INPUTS // self.size
        self.q = rng.integers(0, 1 << bits, (INPUTS, OUTPUTS))
        self.zeros = rng.integers(0, 1 << bits, (count, OUTPUTS))
        if zero is not None:
            self.zeros[:] = zero
        self.scales = (rng.random((count, OUTPUTS)) * 0.02 + 0.001).astype(np.float16)
        self.groups = np.arange(INPUTS) // self.size

    def weights(self) -> F32:
        out = np.empty((OUTPUTS, INPUTS), np.float32)
        for i in range(INPUTS):
            for o in range(OUTPUTS):
                g = self.groups[i]
                out[o, i] = float(self.scales[g, o]) * (int(self.q[i, o]) - int(self.zeros[g, o]))
        return out

    def gptq(self, *, first_version: bool = True, g_idx: bool = True) -> dict[str, Tensor]:
        stored = (self.zeros - 1) % (1 << self.bits) if first_version else self.zeros
        tensors: dict[str, Tensor] = {
            "m.qweight": np.ascontiguousarray(packed(self.q.T, self.bits).T),
            "m.qzeros": packed(stored, self.bits),
            "m.scales": self.scales,
        }
        if g_idx:
            tensors["m.g_idx"] = self.groups.astype(np.int32)
        return tensors

    def awq(self) -> dict[str, Tensor]:
        return {
            "m.qweight": packed(self.q, 4, AWQ_ORDER),
            "m.qzeros": packed(self.zeros, 4, AWQ_ORDER),
            "m.scales": self.scales,
        }


def gptq_config(group: int, bits: int = 4, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, **more}


@pytest.mark.parametrize("first_version", [True, False])
@pytest.mark.parametrize("group", [32, 64, 128, -1])
@pytest.mark.parametrize("zero", [8, None])
def test_gptq(group: int, zero: int | None, first_version: bool, tmp_path: Path) -> None:
    q = Quantized(group=group, zero=zero)
    config = (
        gptq_config(group) if first_version else gptq_config(group, checkpoint_format="gptq_v2")
    )
    tensors = opened(tmp_path, config, q.gptq(first_version=first_version))
    assert list(tensors) == ["m.weight"]
    assert tensors["m.weight"].type is (GGMLType.Q4_0 if zero == 8 else GGMLType.Q5_0)
    assert (decoded(tensors["m.weight"]) == q.weights()).all()


def test_gptq_of_eight_bits(tmp_path: Path) -> None:
    for name, zero, type_ in (("a", 128, GGMLType.Q8_0), ("b", None, GGMLType.F32)):
        q = Quantized(bits=8, group=64, zero=zero)
        (tensor,) = opened(tmp_path / name, gptq_config(64, 8), q.gptq()).values()
        assert tensor.type is type_
        assert (decoded(tensor) == q.weights()).all()


def test_gptq_with_groups_in_no_order(tmp_path: Path) -> None:
    q = Quantized(group=32)
    q.groups = np.random.default_rng(3).permutation(q.groups)
    (tensor,) = opened(tmp_path, gptq_config(32, desc_act=True), q.gptq()).values()
    assert tensor.type is GGMLType.F32
    assert (decoded(tensor) == q.weights()).all()


def test_gptq_without_g_idx(tmp_path: Path) -> None:
    q = Quantized(group=64)
    (tensor,) = opened(tmp_path, gptq_config(64), q.gptq(g_idx=False)).values()
    assert (decoded(tensor) == q.weights()).all()


@pytest.mark.parametrize("group", [32, 64, 128, -1])
def test_awq(group: int, tmp_path: Path) -> None:
    q = Quantized(group=group)
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}
    other = np.ones((2, 2), np.float32)
    tensors = opened(tmp_path, config, {**q.awq(), "lm_head.weight": other})
    assert set(tensors) == {"m.weight", "lm_head.weight"}
    assert tensors["m.weight"].type is GGMLType.Q5_0
    assert (decoded(tensors["m.weight"]) == q.weights()).all()


def test_scales_that_are_no_halves(tmp_path: Path) -> None:
    q = Quantized(group=64)
    scales = (q.scales.astype(np.float32) * np.float32(1.0001)).astype(np.float32)
    tensors = opened(tmp_path, gptq_config(64), {**q.gptq(), "m.scales": scales})
    assert tensors["m.weight"].type is GGMLType.F32
    exact = (q.q - q.zeros[q.groups]).T * scales[q.groups].T
    assert (decoded(tensors["m.weight"]) == exact.astype(np.float32)).all()


def fp8(code: int, dtype: str) -> float:
    """One number of 8 bits, by the definition of the format."""
    sign = -1.0 if code & 0x80 else 1.0
    bits, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    exponent, mantissa = (code & 0x7F) >> bits, code & ((1 << bits) - 1)
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - bits)
    return sign * (1 + mantissa / (1 << bits)) * 2.0 ** (exponent - bias)


def finite_codes(dtype: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    most = 0x7E if dtype == "F8_E4M3" else 0x7B
    rng = np.random.default_rng(5)
    codes = rng.integers(0, most + 1, shape) | (rng.integers(0, 2, shape) << 7)
    return codes.astype(np.uint8)


def fp8_weights(codes: NDArray[np.uint8], dtype: str) -> F32:
    values = np.array([fp8(code, dtype) for code in range(256)], np.float32)
    return values[codes]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize(
    ("scale", "type_"),
    [
        (None, GGMLType.F16),
        (0.25, GGMLType.F16),
        (2.0**-20, GGMLType.BF16),
        (0.0123, GGMLType.F16),
        (3e4, GGMLType.F32),
    ],
)
def test_fp8_with_one_scale(
    dtype: str, scale: float | None, type_: GGMLType, tmp_path: Path
) -> None:
    codes = finite_codes(dtype, (40, 24))
    tensors: dict[str, Tensor] = {"m.weight": (dtype, codes)}
    if scale is not None:
        tensors["m.weight_scale"] = np.array([scale], np.float32)
        tensors["m.input_scale"] = np.ones(1, np.float32)
    config = None if scale is None else {"quant_method": "fp8"}
    (tensor,) = opened(tmp_path, config, tensors).values()
    assert tensor.type is type_
    exact = fp8_weights(codes, dtype) * np.float32(scale or 1.0)
    if type_ is GGMLType.F16 and scale == 0.0123:
        exact = exact.astype(np.float16).astype(np.float32)
    assert (decoded(tensor) == exact).all()


def test_fp8_with_a_scale_for_each_row(tmp_path: Path) -> None:
    codes = finite_codes("F8_E4M3", (40, 24))
    scales = np.exp2(np.arange(40) % 5 - 6).astype(np.float32).reshape(40, 1)
    config = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    tensors = {"m.weight": ("F8_E4M3", codes), "m.weight_scale": as_bf16(scales)}
    (tensor,) = opened(tmp_path, config, tensors).values()
    assert (decoded(tensor) == fp8_weights(codes, "F8_E4M3") * scales).all()


def test_fp8_in_blocks(tmp_path: Path) -> None:
    """The last block of a row and of a column may be cut off."""
    codes = finite_codes("F8_E4M3", (20, 50))
    scales = np.random.default_rng(2).random((2, 4)).astype(np.float32)
    config = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    tensors: dict[str, Tensor] = {"m.weight": ("F8_E4M3", codes), "m.weight_scale_inv": scales}
    (tensor,) = opened(tmp_path, config, tensors).values()
    exact = np.empty((20, 50), np.float32)
    for row in range(20):
        for column in range(50):
            exact[row, column] = (
                np.float32(fp8(int(codes[row, column]), "F8_E4M3"))
                * (scales[row // 16, column // 16])
            )
    assert (decoded(tensor) == exact.astype(np.float16)).all()
    wrong = {**tensors, "m.weight_scale_inv": scales[:1]}
    with pytest.raises(FormatError, match=r"m\.weight.*\(2, 4\)"):
        opened(tmp_path / "b", config, wrong)["m.weight"].read()


def test_mxfp4(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    blocks = rng.integers(0, 256, (3, 2, 2, 16)).astype(np.uint8)
    scales = rng.integers(120, 134, (3, 2, 2)).astype(np.uint8)
    config = {"quant_method": "mxfp4"}
    (tensor,) = opened(tmp_path, config, {"w_blocks": blocks, "w_scales": scales}).values()
    assert (tensor.name, tensor.shape, tensor.type) == ("w_blocks", (3, 2, 64), GGMLType.MXFP4)
    # GGUF's block: the exponent, then elements 0 to 15 in low halves of bytes, 16 to 31 in high.
    out = tensor.read().reshape(12, 17)
    for block in range(12):
        codes = [
            (int(byte) >> shift) & 15 for byte in blocks.reshape(12, 16)[block] for shift in (0, 4)
        ]
        assert out[block, 0] == scales.reshape(12)[block]
        assert [int(byte) & 15 for byte in out[block, 1:]] == codes[:16]
        assert [int(byte) >> 4 for byte in out[block, 1:]] == codes[16:]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"quant_method": "hqq"}, "hqq"),
        ({}, "quantized by ''"),
        (gptq_config(32, 3), "bits"),
        (gptq_config(32, checkpoint_format="marlin"), "checkpoint_format"),
        ({"quant_method": "awq", "version": "gemv"}, "version"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "format"),
    ],
)
def test_other_quantizations(config: dict[str, Any], names: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=names):
        opened(tmp_path, config, Quantized().gptq())


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    sound = Quantized(group=32).gptq()
    far = np.full(INPUTS, 4, np.int32)
    cases: dict[str, dict[str, Tensor]] = {
        "no qzeros": {k: v for k, v in sound.items() if k != "m.qzeros"},
        "no scales": {k: v for k, v in sound.items() if k != "m.scales"},
        "short g_idx": {**sound, "m.g_idx": np.zeros(5, np.int32)},
        "far g_idx": {**sound, "m.g_idx": far},
        "negative g_idx": {**sound, "m.g_idx": -far},
        "NaN": {**sound, "m.scales": np.full((4, OUTPUTS), np.nan, np.float16)},
        "integers as scales": {**sound, "m.scales": np.ones((4, OUTPUTS), np.int32)},
        "other groups": {**sound, "m.scales": np.ones((3, OUTPUTS), np.float16)},
        "floats as words": {**sound, "m.qweight": np.ones((16, OUTPUTS), np.float32)},
        "no rows": {**sound, "m.qweight": np.ones((0, OUTPUTS), np.int32)},
    }
    for number, tensors in enumerate(cases.values()):
        with pytest.raises(FormatError):
            opened(tmp_path / str(number), gptq_config(32), tensors)


@pytest.mark.parametrize("key", ["bits", "group_size", "quant_method", "checkpoint_format"])
@pytest.mark.parametrize("value", [0, -1, -2, 1, 2**31 - 1, float("nan"), "x", [], True, None, 3.5])
def test_values_of_the_quantization(key: str, value: Any, tmp_path: Path) -> None:
    q = Quantized(group=32)
    config = gptq_config(32) | {key: value}
    try:
        tensors = opened(tmp_path, config, q.gptq())
    except TektraError:
        return
    assert value is None  # which is the default
    assert (decoded(tensors["m.weight"]) == q.weights()).all()
