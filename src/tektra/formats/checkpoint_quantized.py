"""Finds out how a checkpoint is quantized, and joins the tensors that make one matrix.

What `quantization_config` says is held against the tensors that are there. The arithmetic is in
`checkpoint_fp8` and `checkpoint_int4`. It does not know what a matrix is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.checkpoint import CONFIG, Checkpoint
from tektra.formats.checkpoint_fp8 import decode_fp8, fp8_type
from tektra.formats.checkpoint_int4 import unpack_awq, unpack_gptq
from tektra.formats.ggml_types import GGMLType
from tektra.formats.hf_config import HfConfig

__all__ = ["FP8_DTYPES", "Joined", "joined_tensors"]

FP8_DTYPES = ("F8_E4M3", "F8_E5M2")

Joined = tuple[str, tuple[int, ...], GGMLType, Callable[[], NDArray[np.uint8]]]
"""Name, shape and type of a matrix, and what gives its bytes."""

_METHODS = ("gptq", "awq", "fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "mxfp4")
_SCALES = (".weight_scale", ".weight_scale_inv")
# What is for quantizing activations and the cache while computing; weights are what they are.
_NOT_WEIGHTS = re.compile(r".*\.(?:input_scale|[qkv]_scale|kv_scale|output_scale)")
_FLOATS: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_MAX_GROUP = 1 << 22


def joined_tensors(checkpoint: Checkpoint) -> tuple[list[Joined], set[str]]:
    """The matrices that are quantized, and the names of all tensors that were used for them.

    Raises:
        FormatError: a part of a matrix is missing, or of the wrong shape or type.
        UnsupportedModelError: the quantization is not one of those that are read.
    """
    method, c = _method(checkpoint)
    found: list[Joined] = []
    used: set[str] = set()
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype in FP8_DTYPES:
            found.append(_fp8(checkpoint, name, c, used))
        elif name.endswith(".qweight") and method in ("gptq", "awq"):
            found.append(_integers(checkpoint, name.removesuffix(".qweight"), method, c, used))
        elif name.endswith("_blocks") and method == "mxfp4":
            found.append(_mxfp4(checkpoint, name, used))
        elif c is not None and _NOT_WEIGHTS.fullmatch(name):
            used.add(name)
    return found, used


def _method(checkpoint: Checkpoint) -> tuple[str | None, HfConfig | None]:
    whole = HfConfig(checkpoint.config, name=CONFIG)
    c = whole.sub("quantization_config") or whole.sub("compression_config")
    if c is None:
        return None, None
    method = c.str("quant_method", default="fp8" if c.has("fmt") else "")
    if method not in _METHODS:
        raise UnsupportedModelError(
            f"{checkpoint.folder.name} is quantized by {method[:64]!r} (quantization_config in "
            f"{CONFIG}), which is not supported",
            remedy=f"supported are {', '.join(_METHODS)}; or use the model's GGUF file",
        )
    if method == "compressed-tensors":
        c.only("format", "float-quantized", "naive-quantized", "dense")
    return method, c


# 8-bit floats


def _fp8(checkpoint: Checkpoint, name: str, c: HfConfig | None, used: set[str]) -> Joined:
    tensor = checkpoint.tensors[name]
    stem = name.removesuffix(".weight")
    names = [stem + ending for ending in _SCALES if stem + ending in checkpoint.tensors]
    if len(names) > 1:
        raise FormatError(f"tensor {name!r} has two scales: {names[0]!r} and {names[1]!r}")
    if not names and c is not None and name.endswith(".weight"):
        raise FormatError(
            f"tensor {name!r} is {tensor.dtype}, but has no scale {stem}.weight_scale"
        )
    scales = _floats(checkpoint, names[0]) if names else None
    used.update([name, *names])
    block: tuple[int, int] | None = None
    if c is not None and c.has("weight_block_size"):
        down, across = c.int_list("weight_block_size", length=2, minimum=1, maximum=_MAX_GROUP)
        block = down, across
    if scales is not None and scales.ndim == 2 and scales.shape[1] > 1 and block is None:
        raise FormatError(
            f"{names[0]!r} has the shape {scales.shape}, but quantization_config in {CONFIG} says "
            "no 'weight_block_size'"
        )
    if block is not None and len(tensor.shape) != 2:
        raise FormatError(f"tensor {name!r} of shape {tensor.shape} cannot have scales by block")
    by_block = block if scales is not None and scales.ndim == 2 else None

    def read() -> NDArray[np.uint8]:
        data = checkpoint.tensor_bytes(name)
        return decode_fp8(data, tensor.dtype, tensor.shape, scales, by_block, name=name)

    return name, tensor.shape, fp8_type(tensor.dtype, scales), read


# Integers with a scale and a zero point


def _integers(
    checkpoint: Checkpoint, stem: str, method: str, c: HfConfig | None, used: set[str]
) -> Joined:
    assert c is not None  # who has a method has the config
    bits = c.int("bits", default=4, minimum=1, maximum=32)
    group_size = c.int("group_size", default=128, minimum=-1, maximum=_MAX_GROUP)
    used.update(f"{stem}.{part}" for part in ("qweight", "qzeros", "scales"))
    qweight = _words(checkpoint, f"{stem}.qweight")
    qzeros = _words(checkpoint, f"{stem}.qzeros")
    scales = _floats(checkpoint, f"{stem}.scales")
    if scales.ndim != 2 or not np.isfinite(scales).all():
        raise FormatError(f"'{stem}.scales' is not a matrix of finite numbers")
    if method == "awq":
        c.only("version", "gemm", "GEMM")
        c.only("zero_point", True)
        c.only("bits", 4)
        grouped = unpack_awq(stem, qweight, qzeros, scales, group_size=group_size)
    else:
        c.only("bits", 4, 8)
        c.only("checkpoint_format", "gptq", "gptq_v2")
        g_idx = None
        if f"{stem}.g_idx" in checkpoint.tensors:
            used.add(f"{stem}.g_idx")
            g_idx = _words(checkpoint, f"{stem}.g_idx", ndim=1)
        grouped = unpack_gptq(
            stem,
            bits,
            qweight,
            qzeros,
            scales,
            g_idx,
            group_size=group_size,
            first_version=c.str("checkpoint_format", default="gptq") == "gptq",
        )
    return f"{stem}.weight", grouped.shape, grouped.type, grouped.encoded


# Blocks of 4-bit floats


def _mxfp4(checkpoint: Checkpoint, name: str, used: set[str]) -> Joined:
    """Blocks of 32 numbers of 4 bits with one exponent: GGUF's MXFP4, with other neighbours."""
    tensor = checkpoint.tensors[name]
    scale_name = name.removesuffix("_blocks") + "_scales"
    scales = checkpoint.tensors.get(scale_name)
    if scales is None:
        raise FormatError(f"tensor {name!r} has no {scale_name!r}")
    if (
        len(tensor.shape) < 3
        or tensor.shape[-1] != 16
        or tensor.dtype != "U8"
        or (scales.dtype, scales.shape) != ("U8", tensor.shape[:-1])
    ):
        raise FormatError(
            f"tensor {name!r} is {tensor.dtype} of shape {tensor.shape} and its scales are "
            f"{scales.dtype} of shape {scales.shape}, which are no blocks of MXFP4"
        )
    used.update([name, scale_name])
    shape = (*tensor.shape[:-2], tensor.shape[-2] * 32)

    def read() -> NDArray[np.uint8]:
        pairs = checkpoint.tensor_bytes(name).reshape(-1, 16)
        out = np.empty((len(pairs), 17), np.uint8)
        out[:, 0] = checkpoint.tensor_bytes(scale_name)
        # A byte there has elements 2 j and 2 j + 1; in GGUF j and j + 16.
        first, second = pairs[:, :8], pairs[:, 8:]
        out[:, 1::2] = (first & 15) | ((second & 15) << 4)
        out[:, 2::2] = (first >> 4) | (second & 0xF0)
        return out.reshape(-1)

    return name, shape, GGMLType.MXFP4, read


# Reading the parts


def _stored(checkpoint: Checkpoint, name: str) -> Any:
    tensor = checkpoint.tensors.get(name)
    if tensor is None:
        raise FormatError(
            f"the checkpoint has no tensor {name!r}",
            remedy="the files are incomplete: get them anew",
        )
    return tensor


def _words(checkpoint: Checkpoint, name: str, *, ndim: int = 2) -> NDArray[np.int32]:
    tensor = _stored(checkpoint, name)
    if tensor.dtype not in ("I32", "U32") or len(tensor.shape) != ndim:
        raise FormatError(f"tensor {name!r} is {tensor.dtype} of shape {tensor.shape}")
    return _aligned(checkpoint.tensor_bytes(name), np.dtype("<i4")).reshape(tensor.shape)


def _floats(checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
    tensor = _stored(checkpoint, name)
    data = checkpoint.tensor_bytes(name)
    if tensor.dtype == "BF16":
        wide = _aligned(data, np.dtype("<u2")).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(tensor.shape)
    dtype: np.dtype[Any] | None = _FLOATS.get(tensor.dtype)
    if dtype is None:
        raise FormatError(f"tensor {name!r} is {tensor.dtype}, but scales are floats")
    return _aligned(data, dtype).astype(np.float32).reshape(tensor.shape)


def _aligned(data: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    items = data.view(dtype)
    return items if items.flags.aligned else items.copy()
