"""Finds cache blocks that already hold the beginning of a prompt.

A full block is known by the digest of its tokens and of all tokens before them, and of the adapters
that they ran with, so equal digests mean equal keys and values. It knows token ids and block
numbers, nothing of requests or models.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from hashlib import blake2b

from tektra.backends.base import KV_BLOCK_SIZE
from tektra.engine.kv_blocks import BlockPool

__all__ = ["DIGEST_BYTES", "NO_ADAPTERS", "PrefixCache", "extend_digests", "root_digest"]

DIGEST_BYTES = 16
"""128 bits: a collision, which would mix up two conversations, is out of reach."""


NO_ADAPTERS = bytes(DIGEST_BYTES)
"""What the digests of sequences without adapters begin with."""


def root_digest(adapters: Sequence[tuple[int, float]]) -> bytes:
    """What the digests of sequences with these adapters, ids and scales in order, begin with."""
    if not adapters:
        return NO_ADAPTERS
    data = b"".join(struct.pack("<qd", adapter, scale) for adapter, scale in adapters)
    return blake2b(data, digest_size=DIGEST_BYTES, person=b"adapters").digest()


def extend_digests(digests: list[bytes], tokens: Sequence[int], root: bytes = NO_ADAPTERS) -> None:
    """Appends the digests of the full blocks of ``tokens`` that ``digests`` does not have yet.

    Each is the BLAKE2b of the digest before it, or of ``root``, and of the block's tokens as 32-bit
    integers.
    """
    for index in range(len(digests), len(tokens) // KV_BLOCK_SIZE):
        start = index * KV_BLOCK_SIZE
        parent = digests[-1] if digests else root
        block = array("i", tokens[start : start + KV_BLOCK_SIZE]).tobytes()
        digests.append(blake2b(parent + block, digest_size=DIGEST_BYTES).digest())


class PrefixCache:
    """Which block holds which beginning; makes the block pool that it watches.

    Args:
        num_blocks: blocks in the backend's cache.
        enabled: whether anything is remembered; without it every prompt is computed anew.
    """

    def __init__(self, num_blocks: int, *, enabled: bool = True) -> None:
        self.pool = BlockPool(num_blocks, self._forget)
        self._enabled = enabled
        self._blocks: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def match(self, digests: Sequence[bytes]) -> list[int]:
        """The blocks that hold the longest known beginning, in order. They are not held yet."""
        found: list[int] = []
        for digest in digests:
            block = self._blocks.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def insert(self, digest: bytes, block: int) -> None:
        """Remembers what a full, held block contains, unless another block is known for it."""
        if self._enabled and digest not in self._blocks and block not in self._digests:
            self._blocks[digest] = block
            self._digests[block] = digest
            self.pool.keep(block)

    def _forget(self, block: int) -> None:
        digest = self._digests.pop(block, None)
        if digest is not None:
            del self._blocks[digest]
