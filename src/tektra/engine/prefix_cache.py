"""Finds cache blocks that already hold the beginning of a prompt.

A full block is known by the digest of its tokens and of all tokens before them, so equal digests
mean equal keys and values. It knows token ids and block numbers, nothing of requests or models.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from tektra.backends.base import KV_BLOCK_SIZE
from tektra.engine.kv_blocks import BlockPool

__all__ = ["DIGEST_BYTES", "PrefixCache", "extend_digests"]

DIGEST_BYTES = 16
"""128 bits: a collision, which would mix up two conversations, is out of reach."""


def extend_digests(digests: list[bytes], tokens: Sequence[int]) -> None:
    """Appends the digests of the full blocks of ``tokens`` that ``digests`` does not have yet.

    Each is the BLAKE2b of the digest before it and of the block's tokens as 32-bit integers.
    """
    for index in range(len(digests), len(tokens) // KV_BLOCK_SIZE):
        start = index * KV_BLOCK_SIZE
        parent = digests[-1] if digests else bytes(DIGEST_BYTES)
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
