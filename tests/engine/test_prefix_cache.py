"""Finding the blocks that hold the beginning of a prompt."""

from __future__ import annotations

import struct
from hashlib import blake2b

from tektra.engine.prefix_cache import PrefixCache, extend_digests


def digests_of(tokens: list[int]) -> list[bytes]:
    digests: list[bytes] = []
    extend_digests(digests, tokens)
    return digests


def test_digest_is_the_blake2b_of_parent_and_tokens() -> None:
    tokens = list(range(1000, 1070))
    first = blake2b(bytes(16) + struct.pack("<32i", *tokens[:32]), digest_size=16).digest()
    second = blake2b(first + struct.pack("<32i", *tokens[32:64]), digest_size=16).digest()
    assert digests_of(tokens) == [first, second]


def test_digests_are_extended_not_made_anew() -> None:
    tokens = list(range(100))
    digests = digests_of(tokens[:40])
    before = digests[0]
    extend_digests(digests, tokens)
    assert digests[0] is before
    assert digests == digests_of(tokens)


def test_a_token_changes_all_digests_behind_it() -> None:
    tokens = list(range(128))
    changed = tokens.copy()
    changed[40] += 1
    one, other = digests_of(tokens), digests_of(changed)
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, False, False, False]


def test_longest_known_beginning_is_found() -> None:
    cache = PrefixCache(4)
    digests = digests_of(list(range(128)))
    blocks = cache.pool.allocate(4)
    for digest, block in zip(digests[:3], blocks, strict=False):
        cache.insert(digest, block)
    assert cache.match(digests) == blocks[:3]
    assert cache.match(digests[1:]) == blocks[1:3]
    assert cache.match(digests_of([7] * 64)) == []


def test_a_reclaimed_block_is_forgotten() -> None:
    cache = PrefixCache(2)
    digests = digests_of(list(range(64)))
    blocks = cache.pool.allocate(2)
    for digest, block in zip(digests, blocks, strict=True):
        cache.insert(digest, block)
    cache.pool.free(blocks[::-1])
    assert cache.match(digests) == blocks
    # The end of the chain was let go first, so it is reused first.
    assert cache.pool.allocate() == [blocks[1]]
    assert cache.match(digests) == [blocks[0]]
    assert len(cache) == 1


def test_the_first_block_with_some_contents_stays_the_known_one() -> None:
    cache = PrefixCache(2)
    (digest,) = digests_of(list(range(32)))
    first, second = cache.pool.allocate(2)
    cache.insert(digest, first)
    cache.insert(digest, second)
    assert cache.match([digest]) == [first]
    cache.pool.free([second])
    assert not cache.pool.is_idle(second)


def test_a_disabled_cache_remembers_nothing() -> None:
    cache = PrefixCache(1, enabled=False)
    (digest,) = digests_of(list(range(32)))
    cache.insert(digest, cache.pool.allocate()[0])
    assert cache.match([digest]) == []
