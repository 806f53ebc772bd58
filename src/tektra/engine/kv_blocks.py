"""The blocks of the paged cache: which are free, which are held, and by how many.

It deals in block numbers; the memory behind them is the backend's. It does not know what is in a
block: the prefix cache asks it to keep some that nobody holds, and hears when one is taken back.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from tektra.backends.base import KV_BLOCK_SIZE
from tektra.errors import MemoryLimitError

__all__ = ["BlockPool", "num_blocks_for"]


def num_blocks_for(num_tokens: int) -> int:
    """Blocks that hold this many tokens."""
    return -(-num_tokens // KV_BLOCK_SIZE)


def _nobody_listens(block: int) -> None:
    """For pools without a prefix cache."""


class BlockPool:
    """A fixed number of blocks with reference counts.

    A block is free, held (reference count above 0), or idle: held by nobody, but kept because its
    contents may be wanted again. Idle blocks are given out when no free one is left, the one that
    has been idle longest first.

    Args:
        num_blocks: blocks in the backend's cache, numbered from 0.
        on_reclaim: called with the number of an idle block that is about to be reused.
    """

    def __init__(
        self, num_blocks: int, on_reclaim: Callable[[int], None] = _nobody_listens
    ) -> None:
        self.num_blocks = num_blocks
        self._on_reclaim = on_reclaim
        self._free: deque[int] = deque(range(num_blocks))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._references = [0] * num_blocks
        self._kept = [False] * num_blocks

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can give out, idle ones included."""
        return len(self._free) + len(self._idle)

    @property
    def num_held(self) -> int:
        """Blocks that somebody holds."""
        return self.num_blocks - self.num_available

    @property
    def num_idle(self) -> int:
        """Blocks that nobody holds and whose contents are kept."""
        return len(self._idle)

    def references(self, block: int) -> int:
        """How many hold a block."""
        return self._references[block]

    def is_idle(self, block: int) -> bool:
        """Whether nobody holds the block and its contents are kept."""
        return block in self._idle

    def can_allocate(self, count: int) -> bool:
        """Whether ``count`` more blocks can be given out."""
        return count <= self.num_available

    def allocate(self, count: int = 1) -> list[int]:
        """Gives out ``count`` blocks, each held once. All or none.

        Raises:
            MemoryLimitError: there are not so many.
        """
        if not self.can_allocate(count):
            raise MemoryLimitError(
                f"{count} cache blocks are needed and {self.num_available} of "
                f"{self.num_blocks} are left"
            )
        blocks = []
        for _ in range(count):
            if self._free:
                block = self._free.popleft()
            else:
                block, _ = self._idle.popitem(last=False)
                self._kept[block] = False
                self._on_reclaim(block)
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def fork(self, blocks: Iterable[int]) -> None:
        """Holds blocks once more; idle ones become held. They must be full: nobody writes to them.

        Raises:
            ValueError: a block is neither held nor idle.
        """
        for block in blocks:
            if self._references[block] == 0:
                if block not in self._idle:
                    raise ValueError(f"cache block {block} is free and cannot be shared")
                del self._idle[block]
            self._references[block] += 1

    def keep(self, block: int) -> None:
        """Asks that a held block become idle, not free, once nobody holds it.

        Raises:
            ValueError: nobody holds it.
        """
        if self._references[block] == 0:
            raise ValueError(f"cache block {block} is held by nobody and cannot be kept")
        self._kept[block] = True

    def free(self, blocks: Iterable[int]) -> None:
        """Lets go of blocks once each. The first ones given are the first to be reused.

        Free blocks are reused before others that were free for longer, so that a light load stays
        in the memory that it has touched.

        Raises:
            ValueError: nobody holds one of them.
        """
        freed: list[int] = []
        for block in blocks:
            if self._references[block] == 0:
                raise ValueError(f"cache block {block} is freed twice")
            self._references[block] -= 1
            if self._references[block]:
                continue
            if self._kept[block]:
                self._idle[block] = None
            else:
                freed.append(block)
        self._free.extendleft(reversed(freed))
