"""Cache blocks: reference counts, reuse, and the errors that say a count went wrong."""

from __future__ import annotations

import pytest

from tektra.engine.kv_blocks import BlockPool, num_blocks_for
from tektra.errors import MemoryLimitError


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (32, 1), (33, 2), (64, 2)])
def test_blocks_for_tokens(tokens: int, blocks: int) -> None:
    assert num_blocks_for(tokens) == blocks


def test_all_blocks_are_given_out_once() -> None:
    pool = BlockPool(5)
    assert sorted(pool.allocate(2) + pool.allocate(3)) == [0, 1, 2, 3, 4]
    assert pool.num_held == 5
    assert not pool.can_allocate(1)


def test_allocation_is_all_or_nothing() -> None:
    pool = BlockPool(2)
    with pytest.raises(MemoryLimitError, match="3 cache blocks are needed and 2 of 2"):
        pool.allocate(3)
    assert pool.num_available == 2


def test_freeing_twice_is_an_error() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate()
    pool.free([block])
    with pytest.raises(ValueError, match=f"cache block {block} is freed twice"):
        pool.free([block])


def test_a_shared_block_is_free_when_the_last_holder_lets_go() -> None:
    pool = BlockPool(1)
    (block,) = pool.allocate()
    pool.fork([block])
    pool.free([block])
    assert pool.num_available == 0
    pool.free([block])
    assert pool.num_available == 1


def test_a_free_block_cannot_be_shared_or_kept() -> None:
    pool = BlockPool(1)
    with pytest.raises(ValueError, match="is free and cannot be shared"):
        pool.fork([0])
    with pytest.raises(ValueError, match="held by nobody"):
        pool.keep(0)


def test_kept_blocks_are_reused_last_and_oldest_first() -> None:
    reclaimed: list[int] = []
    pool = BlockPool(3, reclaimed.append)
    first, second, third = pool.allocate(3)
    pool.keep(first)
    pool.keep(second)
    pool.free([second, first, third])
    assert (pool.num_idle, pool.num_available) == (2, 3)
    assert pool.allocate() == [third]
    assert reclaimed == []
    assert pool.allocate() == [second]
    assert reclaimed == [second]
    assert pool.allocate() == [first]
    assert reclaimed == [second, first]


def test_an_idle_block_can_be_revived() -> None:
    pool = BlockPool(1)
    (block,) = pool.allocate()
    pool.keep(block)
    pool.free([block])
    assert pool.is_idle(block)
    pool.fork([block])
    assert (pool.num_idle, pool.references(block)) == (0, 1)
    pool.free([block])
    assert pool.is_idle(block)


def test_a_reclaimed_block_is_no_longer_kept() -> None:
    pool = BlockPool(1)
    (block,) = pool.allocate()
    pool.keep(block)
    pool.free([block])
    pool.free(pool.allocate())
    assert not pool.is_idle(block)


def test_what_was_used_last_is_reused_first() -> None:
    """Memory that was never touched stays so under a light load."""
    pool = BlockPool(100)
    seen: set[int] = set()
    for _ in range(50):
        held = pool.allocate(3)
        seen.update(held)
        pool.free(held)
        assert pool.allocate(3) == held
        pool.free(held)
    assert len(seen) == 3
