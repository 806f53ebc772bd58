"""Decoding and encoding weights, bit for bit as the gguf package does it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tektra.errors import FormatError, InvalidParameterError, UnsupportedModelError
from tektra.formats.ggml_types import GGMLType
from tektra.formats.quant_blocks import BLOCK_DTYPES, as_blocks
from tektra.formats.quant_codebooks import CODEBOOK_TYPES, codebook
from tektra.formats.quants import (
    DECODABLE_TYPES,
    ENCODABLE_TYPES,
    dequantize,
    quantize,
    random_blocks,
)

DECODABLE = sorted(DECODABLE_TYPES)
ENCODABLE = sorted(ENCODABLE_TYPES)
BLOCK_TYPES = [t for t in DECODABLE if t.block_size > 1]


def by_name(ggml_type: GGMLType) -> str:
    return ggml_type.name


def package_type(ggml_type: GGMLType) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType(ggml_type.value)


def package_decodes(data: np.ndarray, ggml_type: GGMLType) -> np.ndarray:
    if ggml_type in FORMULAS:
        return FORMULAS[ggml_type](data)
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(data, package_type(ggml_type))


def decode_weight_by_weight(
    data: np.ndarray, width: int, level: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """Blocks of a float16 and then the levels of `width` weights."""
    blocks = data.reshape(-1, 18)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    levels = [level(blocks[:, 2:].astype(int), i) for i in range(width)]
    with np.errstate(all="ignore"):
        out = scale * np.array(levels, np.float32).T
    return out.reshape(*data.shape[:-1], -1)


# The package knows the sizes of these but does not decode them: as ggml's C code reads.
FORMULAS: dict[GGMLType, Callable[[np.ndarray], np.ndarray]] = {
    GGMLType.Q1_0: lambda data: decode_weight_by_weight(
        data, 128, lambda q, i: np.where(q[:, i // 8] >> i % 8 & 1, 1, -1)
    ),
    GGMLType.Q2_0: lambda data: decode_weight_by_weight(
        data, 64, lambda q, i: (q[:, i // 4] >> 2 * (i % 4) & 3) - 1
    ),
}


def package_encodes(weights: np.ndarray, ggml_type: GGMLType) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(weights, package_type(ggml_type)).view(np.uint8)


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def test_types_of_the_contract() -> None:
    legacy = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}
    assert {t.name for t in ENCODABLE_TYPES} == legacy
    not_weights = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}
    assert {t.name for t in DECODABLE_TYPES} == {t.name for t in GGMLType} - not_weights


@pytest.mark.parametrize("ggml_type", DECODABLE, ids=by_name)
def test_structs_are_as_long_as_the_blocks(ggml_type: GGMLType) -> None:
    assert BLOCK_DTYPES[ggml_type].itemsize == ggml_type.block_bytes


# Decoding


@pytest.mark.parametrize("ggml_type", DECODABLE, ids=by_name)
def test_any_bytes_decode_alike(ggml_type: GGMLType) -> None:
    """All bit patterns: infinite, NaN, subnormal and negative scales among them."""
    rng = np.random.default_rng(int(ggml_type))
    shape = (3, 701, 768)  # several pieces, the last of them not full
    data = rng.integers(0, 256, (*shape[:-1], ggml_type.row_bytes(768)), np.uint8)
    ours = dequantize(data, ggml_type, shape)
    theirs = package_decodes(data, ggml_type)
    # Which NaN comes of two is up to the machine; that it is one is not.
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    assert_same_bits(np.nan_to_num(ours, nan=0.0), np.nan_to_num(theirs, nan=0.0))


SCALES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF]


@pytest.mark.parametrize("ggml_type", BLOCK_TYPES, ids=by_name)
def test_extreme_scales(ggml_type: GGMLType) -> None:
    """Every pair of zero, subnormal, one and largest, of both signs, with every bit exact."""
    fields = [f for f in ("d", "m", "dmin") if f in (BLOCK_DTYPES[ggml_type].names or ())]
    pairs = [(d, m) for d in SCALES for m in (SCALES if len(fields) == 2 else [0])]
    rng = np.random.default_rng(3)
    width = 4 * ggml_type.block_size
    data = rng.integers(0, 256, (len(pairs), ggml_type.row_bytes(width)), np.uint8)
    blocks = as_blocks(data, ggml_type).reshape(len(pairs), 4)
    for field, values in zip(fields, np.array(pairs, np.uint16).T, strict=False):
        blocks[field] = values.copy().view(np.float16)[:, None]
    if ggml_type is GGMLType.IQ1_M:  # the scale is on top of four fields
        nibbles = np.array(SCALES, np.uint16)[:, None] >> np.array([0, 4, 8, 12], np.uint16) << 12
        blocks["scales"] = (blocks["scales"] & 0xFFF) | nibbles[:, None]
    if ggml_type is GGMLType.MXFP4:  # the largest overflows, here as there
        blocks["e"] = np.array([0, 1, 2, 3, 126, 127, 128, 200, 251, 252], np.uint8)[:, None]
    ours = dequantize(data, ggml_type, (len(pairs), width))
    assert np.isfinite(ours).all()
    assert_same_bits(ours, package_decodes(data, ggml_type))


@given(st.sampled_from(BLOCK_TYPES), st.data())
@settings(max_examples=150, deadline=None)
def test_any_block_decodes_alike(ggml_type: GGMLType, data: st.DataObject) -> None:
    size = ggml_type.block_bytes
    raw = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
    ours = dequantize(raw, ggml_type, (1, ggml_type.block_size))
    theirs = package_decodes(raw[None].copy(), ggml_type)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    assert_same_bits(np.nan_to_num(ours, nan=0.0), np.nan_to_num(theirs, nan=0.0))


@pytest.mark.parametrize("ggml_type", DECODABLE, ids=by_name)
def test_each_weight_comes_from_its_own_block(ggml_type: GGMLType) -> None:
    """A piece at a time or one row at a time, the weights are the same."""
    rng = np.random.default_rng(9)
    data = random_blocks(ggml_type, (300, 512), rng, 1.0)
    whole = dequantize(data, ggml_type, (300, 512))
    for row in (0, 1, 127, 128, 299):
        assert (dequantize(data[row], ggml_type, (512,)) == whole[row]).all()


def test_bytes_need_not_be_aligned_or_contiguous() -> None:
    data = random_blocks(GGMLType.Q6_K, (4, 512), np.random.default_rng(1), 1.0)
    expected = dequantize(data, GGMLType.Q6_K, (4, 512))
    odd = np.empty(data.size + 1, np.uint8)[1:]
    odd[:] = data.reshape(-1)
    assert (dequantize(odd, GGMLType.Q6_K, (4, 512)) == expected).all()
    strided = np.repeat(data, 2, axis=0)[::2]
    assert (dequantize(strided, GGMLType.Q6_K, (4, 512)) == expected).all()
    f32 = np.arange(3, dtype=np.float32)
    shifted = np.frombuffer(b"x" + f32.tobytes(), np.uint8)[1:]
    assert (dequantize(shifted, GGMLType.F32, (3,)) == f32).all()


@pytest.mark.parametrize("ggml_type", sorted(set(GGMLType) - DECODABLE_TYPES), ids=by_name)
def test_other_types_are_refused_by_name(ggml_type: GGMLType) -> None:
    match = rf"'blk\.0\.w' has the type {ggml_type.name}, which cannot be decoded.*Q6_K"
    with pytest.raises(UnsupportedModelError, match=match):
        dequantize(np.zeros(4096, np.uint8), ggml_type, (256,), name="blk.0.w")


def test_wrong_size() -> None:
    with pytest.raises(FormatError, match=r"'w' of type Q8_0 and shape \(2, 64\) takes 136 bytes"):
        dequantize(np.zeros(135, np.uint8), GGMLType.Q8_0, (2, 64), name="w")
    with pytest.raises(FormatError, match="multiple of 32"):
        dequantize(np.zeros(34, np.uint8), GGMLType.Q8_0, (31,))


def test_codebooks_are_those_of_the_package() -> None:
    digest = hashlib.sha256()
    for ggml_type in sorted(CODEBOOK_TYPES):
        ours = codebook(ggml_type)
        digest.update(ours.tobytes())
        package = getattr(gguf.quants, ggml_type.name)
        package.init_grid()
        theirs = package.grid.reshape(package.grid_shape)
        np.testing.assert_array_equal(np.array(package.grid_map, np.float32)[ours], theirs)
    assert digest.hexdigest() == "d4655389e569e288476789590535e4bfa6fac1161ac63d2d2a580b3ac2fafa33"


def test_four_bit_floats_with_every_scale() -> None:
    for ggml_type, field in ((GGMLType.MXFP4, "e"), (GGMLType.NVFP4, "scales")):
        rng = np.random.default_rng(5)
        data = rng.integers(0, 256, (256, ggml_type.row_bytes(64)), np.uint8)
        blocks = as_blocks(data, ggml_type).reshape(256, -1)
        blocks[field] = np.arange(256).reshape(256, *[1] * (blocks[field].ndim - 1))
        ours = dequantize(data, ggml_type, (256, 64))
        assert_same_bits(ours, package_decodes(data, ggml_type))
        assert (ours[1] != 0).any()


# Encoding


@pytest.mark.parametrize("ggml_type", ENCODABLE, ids=by_name)
def test_encodes_alike(ggml_type: GGMLType) -> None:
    rng = np.random.default_rng(int(ggml_type))
    weights = rng.standard_normal((4099, 192), np.float32)
    weights *= np.exp(rng.uniform(-9, 7, (4099, 1))).astype(np.float32)
    ours = quantize(weights, ggml_type)
    assert ours.shape == (4099, ggml_type.row_bytes(192))
    np.testing.assert_array_equal(ours, package_encodes(weights, ggml_type))


@pytest.mark.parametrize("ggml_type", ENCODABLE, ids=by_name)
def test_encodes_ties_and_flat_blocks_alike(ggml_type: GGMLType) -> None:
    rng = np.random.default_rng(4)
    rows = [
        np.zeros(64),
        np.full(64, 3.0),
        np.full(64, -3.0),
        np.tile([1.0, -1.0], 32),
        np.tile([-1.0, 1.0], 32),
        np.arange(-32, 32) / 2,
        np.arange(64) / 4,
        -np.arange(64) / 4,
        np.where(np.arange(64) == 5, 127.0, np.arange(64) - 31.5),
        *(rng.integers(-8, 9, 64) / 2 for _ in range(400)),
        *(
            np.where(np.arange(64) % 32 == 0, 127, rng.integers(-254, 255, 64) / 2)
            for _ in range(400)
        ),
    ]
    weights = np.array(rows, np.float32)
    np.testing.assert_array_equal(quantize(weights, ggml_type), package_encodes(weights, ggml_type))


@given(
    st.sampled_from(ENCODABLE),
    st.lists(st.floats(-60000, 60000, width=32), min_size=32, max_size=32),
    st.sampled_from([1.0, 1e-3, 1e-6]),
)
@settings(max_examples=200, deadline=None)
def test_any_weights_encode_alike(ggml_type: GGMLType, values: list[float], factor: float) -> None:
    weights = (np.array([values]) * factor).astype(np.float32)
    # Where the scale is 0 as float16 the levels do not matter, and the package divides by zero.
    spread = np.abs(weights).max() if ggml_type is not GGMLType.Q4_1 else np.ptp(weights)
    if ggml_type is GGMLType.Q5_1:
        spread = np.ptp(weights)
    if 0 < spread < 1e-30:
        return
    np.testing.assert_array_equal(quantize(weights, ggml_type), package_encodes(weights, ggml_type))


def test_scales_too_small_for_float16_give_zeros() -> None:
    for ggml_type in (GGMLType.Q4_0, GGMLType.Q5_0, GGMLType.Q8_0):
        weights = np.full((1, 32), 1e-42, np.float32)
        decoded = dequantize(quantize(weights, ggml_type), ggml_type, (1, 32))
        assert not decoded.any()


@pytest.mark.parametrize(
    "bits", [0x7F800000, 0xFF800000, 0x7F800001, 0x7FFFFFFF, 0xFFC00000, 0x7F7FFFFF, 0x00008000]
)
def test_bfloat16_of_special_values(bits: int) -> None:
    weights = np.array([[bits]], np.uint32).view(np.float32)
    np.testing.assert_array_equal(
        quantize(weights, GGMLType.BF16), package_encodes(weights, GGMLType.BF16)
    )


@pytest.mark.parametrize("ggml_type", [t for t in ENCODABLE if t.block_size > 1], ids=by_name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(ggml_type: GGMLType, bad: float) -> None:
    weights = np.ones((5, 64), np.float32)
    weights[3, 40] = bad
    with pytest.raises(
        FormatError, match=rf"'w' has a weight that is not finite; {ggml_type.name}"
    ):
        quantize(weights, ggml_type, name="w")


@pytest.mark.parametrize("ggml_type", [t for t in ENCODABLE if t.block_size > 1], ids=by_name)
@pytest.mark.parametrize("value", [3e38, -3e38, 1e8])
def test_weights_that_are_too_large(ggml_type: GGMLType, value: float) -> None:
    weights = np.zeros((5, 64), np.float32)
    weights[3, 40] = value
    weights[3, 41] = -value
    with pytest.raises(FormatError, match=rf"'w' .*too large for {ggml_type.name}"):
        quantize(weights, ggml_type, name="w")


def test_float16_keeps_infinities_but_makes_none() -> None:
    weights = np.array([[np.inf, -np.inf, np.nan, 65504.0]], np.float32)
    decoded = dequantize(quantize(weights, GGMLType.F16), GGMLType.F16, (1, 4))
    np.testing.assert_array_equal(decoded, weights)
    with pytest.raises(FormatError, match="too large for F16"):
        quantize(np.array([[65520.0]], np.float32), GGMLType.F16)


@pytest.mark.parametrize("ggml_type", sorted(set(GGMLType) - ENCODABLE_TYPES), ids=by_name)
def test_types_that_cannot_be_encoded(ggml_type: GGMLType) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"'w' cannot be encoded as {ggml_type.name}"):
        quantize(np.zeros((1, 256), np.float32), ggml_type, name="w")


def test_width_of_encoded_weights() -> None:
    with pytest.raises(FormatError, match="multiple of 32"):
        quantize(np.zeros((1, 33), np.float32), GGMLType.Q4_0)


# Random weights


@pytest.mark.parametrize("ggml_type", DECODABLE, ids=by_name)
@pytest.mark.parametrize("std", [0.02, 1.0, 50.0])
def test_random_weights_have_the_spread(ggml_type: GGMLType, std: float) -> None:
    shape = (2, 512, 1024)
    data = random_blocks(ggml_type, shape, np.random.default_rng(11), std)
    assert data.shape == (2, 512, ggml_type.row_bytes(1024))
    assert data.dtype == np.uint8
    weights = dequantize(data, ggml_type, shape)
    assert np.isfinite(weights).all()
    assert abs(weights.mean(dtype=np.float64)) < 0.02 * std
    assert weights.std(dtype=np.float64) == pytest.approx(std, rel=0.03)
    assert_same_bits(weights, package_decodes(data, ggml_type))


@pytest.mark.parametrize("ggml_type", BLOCK_TYPES, ids=by_name)
def test_random_weights_use_every_bit(ggml_type: GGMLType) -> None:
    """Each bit of the fields but the float16 scales is sometimes 0 and sometimes 1."""
    data = random_blocks(ggml_type, (256, 256), np.random.default_rng(1), 1.0)
    blocks = as_blocks(data, ggml_type)
    for field in blocks.dtype.names or ():
        if blocks[field].dtype.kind == "f":
            assert len(np.unique(blocks[field])) > 100
            continue
        if (ggml_type.name, field) in {("MXFP4", "e"), ("NVFP4", "scales")}:
            assert len(np.unique(blocks[field])) > 1
            continue
        flat = blocks[field].reshape(blocks.size, -1).copy()
        if (ggml_type.name, field) == ("IQ1_M", "scales"):  # a scale is on top
            assert len(np.unique(flat >> 12)) > 8
            flat = (flat & 0xFFF) | (flat << 12)
        flat = flat.view(np.uint8)
        assert (np.bitwise_or.reduce(flat) == 255).all()
        assert (np.bitwise_and.reduce(flat) == 0).all()


def test_random_q8_0_has_no_level_that_a_quantizer_never_writes() -> None:
    data = random_blocks(GGMLType.Q8_0, (256, 256), np.random.default_rng(1), 1.0)
    levels = as_blocks(data, GGMLType.Q8_0)["qs"]
    assert (levels.min(), levels.max()) == (-127, 127)


def test_random_weights_follow_the_seed() -> None:
    def make(seed: int) -> Any:
        return random_blocks(GGMLType.Q4_K, (4, 256), np.random.default_rng(seed), 1.0)

    assert (make(1) == make(1)).all()
    assert (make(1) != make(2)).any()


def test_random_weights_that_cannot_be() -> None:
    rng = np.random.default_rng(0)
    for std in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidParameterError, match="std: must be a positive number"):
            random_blocks(GGMLType.Q4_0, (1, 32), rng, std)
    for std in (1e-9, 1e9):
        with pytest.raises(InvalidParameterError, match="cannot be had with the scales of Q6_K"):
            random_blocks(GGMLType.Q6_K, (1, 256), rng, std)
    with pytest.raises(UnsupportedModelError, match="Q8_K"):
        random_blocks(GGMLType.Q8_K, (1, 256), rng, 1.0)
    for ggml_type in (GGMLType.MXFP4, GGMLType.NVFP4):
        for std in (1e-40, 1e40):
            with pytest.raises(InvalidParameterError, match=f"scales of {ggml_type.name}"):
                random_blocks(ggml_type, (1, 64), rng, std)
    with pytest.raises(FormatError, match="multiple of 256"):
        random_blocks(GGMLType.Q6_K, (1, 128), rng, 1.0)
