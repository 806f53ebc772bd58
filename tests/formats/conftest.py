"""A builder of GGUF bytes, right or wrong, that shares no code with the reader or the writer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest


def string(text: str | bytes, length: int | None = None) -> bytes:
    """A GGUF string; `length` lies about it."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def key(name: str | bytes, type_id: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", type_id) + value


def array(item_type: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", item_type, count) + items


def tensor(name: str | bytes, dims: Sequence[int], type_id: int = 0, offset: int = 0) -> bytes:
    """An entry of the tensor table; `dims` in ggml's order, width first."""
    table = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return string(name) + table + struct.pack("<IQ", type_id, offset)


@dataclass
class Craft:
    """A GGUF file in parts; whatever is set is written, right or wrong."""

    keys: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)
    data: bytes = b""
    version: int = 3
    magic: bytes = b"GGUF"
    alignment: int = 32
    num_keys: int | None = None
    num_tensors: int | None = None

    def header(self) -> bytes:
        num_tensors = len(self.tensors) if self.num_tensors is None else self.num_tensors
        num_keys = len(self.keys) if self.num_keys is None else self.num_keys
        head = self.magic + struct.pack("<IQQ", self.version, num_tensors, num_keys)
        return head + b"".join(self.keys) + b"".join(self.tensors)

    def bytes(self) -> bytes:
        header = self.header()
        return header + bytes(-len(header) % self.alignment) + self.data

    def array(self) -> np.ndarray:
        return np.frombuffer(self.bytes(), np.uint8)


@pytest.fixture(scope="session")
def gguf_bytes() -> SimpleNamespace:
    """The builder and its helpers, as attributes."""
    return SimpleNamespace(Craft=Craft, string=string, key=key, array=array, tensor=tensor)


def make_small_model() -> bytes:
    """A valid model with every type of value, arrays of each, and three tensors."""
    u32 = struct.Struct("<I").pack
    scalars = [
        (0, b"\x07"),
        (1, b"\xf9"),
        (2, struct.pack("<H", 65535)),
        (3, struct.pack("<h", -32768)),
        (4, u32(2**32 - 1)),
        (5, struct.pack("<i", -(2**31))),
        (6, struct.pack("<f", 0.5)),
        (7, b"\x01"),
        (8, string("text \u00e9")),
        (10, struct.pack("<Q", 2**64 - 1)),
        (11, struct.pack("<q", -(2**63))),
        (12, struct.pack("<d", 1e300)),
    ]
    keys = [key("general.architecture", 8, string("llama")), key("general.alignment", 4, u32(64))]
    keys += [key(f"scalar.{type_id}", type_id, raw) for type_id, raw in scalars]
    keys += [key(f"array.{type_id}", 9, array(type_id, 3, raw * 3)) for type_id, raw in scalars]
    tokens = [b"<unk>", b"", b"a", "\u4e2d".encode(), b"\x00" * 9, b"x" * 300, b"\xff\xfe"]
    keys.append(
        key("tokenizer.ggml.tokens", 9, array(8, len(tokens), b"".join(map(string, tokens))))
    )
    nested = array(9, 2, array(5, 2, struct.pack("<ii", 1, 2)) + array(8, 1, string("n")))
    keys.append(key("nested", 9, nested))
    rng = np.random.default_rng(5)
    data = rng.integers(0, 256, 4 * 64 + 64 + 192, np.uint8).tobytes()
    tensors = [
        tensor("token_embd.weight", [32, 2], 0, 0),
        tensor("blk.0.attn_q.weight", [32, 3], 2, 256),
        tensor("output_norm.weight", [32], 30, 320),
    ]
    return Craft(keys, tensors, data, alignment=64).bytes()


@pytest.fixture(scope="session")
def small_model() -> bytes:
    return make_small_model()
