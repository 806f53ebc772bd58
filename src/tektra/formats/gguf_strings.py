"""Finds where the strings of a GGUF string array lie, without reading them one by one.

Such an array is a chain: a 64-bit length, that many bytes, the next length. Its end, and so the
next key of the file, is known only when the chain has been followed. Knows nothing of files, keys
or text encodings.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

__all__ = ["StringArrayOverrunError", "string_starts", "strings_end"]

_LENGTH = struct.Struct("<Q")
_LENGTH_BYTES = 8
# Bytes looked at in one go. What is computed for them stays in the second-level cache, and every
# temporary under the 128 KiB from which on malloc asks the system for fresh pages: twice as fast.
_WINDOW = 1 << 16
# Fewer strings than this are followed one at a time.
_FEW = 64


class StringArrayOverrunError(ValueError):
    """A string of the array runs past the end of the buffer.

    Attributes:
        index: which string.
        offset: where its length field is, or should have been.
    """

    def __init__(self, index: int, offset: int) -> None:
        super().__init__(f"string {index} at byte {offset} runs past the end")
        self.index = index
        self.offset = offset


def string_starts(raw: NDArray[np.uint8], start: int, count: int) -> tuple[NDArray[np.int64], int]:
    """Offsets of the length fields of `count` strings in `raw`, the first of them at `start`.

    Args:
        raw: uint8 [bytes], the whole file.
        start: byte offset of the first length field.
        count: number of strings. The caller has checked that 8 bytes each fit into `raw`.

    Returns:
        int64 [count], and the offset of the first byte after the last string.

    Raises:
        StringArrayOverrunError: the chain leaves `raw`.
    """
    parts: list[NDArray[np.int64]] = []
    end = _follow(raw, start, count, parts)
    if not parts:
        return np.empty(0, np.int64), end
    return np.concatenate(parts), end


def strings_end(raw: NDArray[np.uint8], start: int, count: int) -> int:
    """As `string_starts`, but only the offset after the last string, with no memory per string."""
    return _follow(raw, start, count, None)


def _follow(
    raw: NDArray[np.uint8], start: int, count: int, parts: list[NDArray[np.int64]] | None
) -> int:
    pos, left = start, count
    while left > _FEW:
        pos, left = _follow_window(raw, pos, left, count, parts)
    if left:
        lone: list[int] = []
        view = raw.data
        while left:
            lone.append(pos)
            pos = _after(view, pos, count - left)
            left -= 1
        if parts is not None:
            parts.append(np.array(lone, np.int64))
    return pos


def _after(view: memoryview, pos: int, index: int) -> int:
    """Offset after the string whose length field is at `pos`."""
    room = len(view) - pos - _LENGTH_BYTES
    if room < 0:
        raise StringArrayOverrunError(index, pos)
    length: int = _LENGTH.unpack_from(view, pos)[0]
    if length > room:
        raise StringArrayOverrunError(index, pos)
    return pos + _LENGTH_BYTES + length


def _follow_window(
    raw: NDArray[np.uint8],
    base: int,
    left: int,
    count: int,
    parts: list[NDArray[np.int64]] | None,
) -> tuple[int, int]:
    """Follows the chain through one window; returns the new position and how many are left.

    Nearly all strings are shorter than 256 bytes: a length field is then one byte and seven zeros.
    All places in the window that look so are found at once; one of them links to the next if it
    lies exactly where its own length ends. From a place that is known to be a length field (the
    start is one), a run of links is the chain itself, whatever the bytes mean: nothing is guessed.
    Where a run breaks (a long string, zeros inside a string) single steps lead on to the next run.
    """
    # A window is never much longer than what is left needs, and always one length field long.
    window = raw[base : base + min(_WINDOW, 32 * left)]
    if window.size < _LENGTH_BYTES:
        raise StringArrayOverrunError(count - left, base)
    zero = window == 0
    zeros2 = zero[:-1] & zero[1:]
    zeros4 = zeros2[:-2] & zeros2[2:]
    short = zeros4[1:-3] & zeros4[4:]  # short[p]: bytes p + 1 .. p + 7 are zero
    places = np.flatnonzero(short)
    nexts = places + window[places] + _LENGTH_BYTES
    breaks = np.flatnonzero(nexts[:-1] != places[1:])
    breaks = np.append(breaks, places.size - 1)

    view = raw.data
    pos, last = 0, window.size - _LENGTH_BYTES
    lone: list[int] = []
    while left and pos <= last:
        if not short[pos]:
            lone.append(base + pos)
            pos = _after(view, base + pos, count - left) - base
            left -= 1
            continue
        first = int(np.searchsorted(places, pos))
        run = min(left, int(breaks[np.searchsorted(breaks, first)]) - first + 1)
        if parts is not None:
            if lone:
                parts.append(np.array(lone, np.int64))
                lone.clear()
            parts.append(places[first : first + run] + base)
        pos = int(nexts[first + run - 1])
        left -= run
        if base + pos > raw.size:
            raise StringArrayOverrunError(count - left - 1, base + int(places[first + run - 1]))
    if lone and parts is not None:
        parts.append(np.array(lone, np.int64))
    return base + pos, left
