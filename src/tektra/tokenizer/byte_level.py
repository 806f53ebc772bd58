"""The printable alphabet of byte-level BPE: 256 characters that stand for the 256 bytes.

Knows the mapping and nothing else. The alphabet is the one of GPT-2 (Radford et al. 2019):
printable Latin-1 characters stand for themselves, the other bytes for U+0100 onwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["BYTE_TO_CHAR", "byte_level_bytes"]


def _alphabet() -> tuple[str, ...]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(b if b in printable else next(others)) for b in range(256))


BYTE_TO_CHAR: Final[tuple[str, ...]] = _alphabet()
"""Character that stands for each byte value, [256]."""

# str.translate maps to code points below 256, which Latin-1 then writes as single bytes.
_TO_LATIN1: Final[Mapping[int, int]] = MappingProxyType(
    {ord(char): byte for byte, char in enumerate(BYTE_TO_CHAR)}
    # A Latin-1 character outside the alphabet must not pass for the byte of the same number.
    | {byte: 0x110000 - 1 for byte in range(256) if chr(byte) not in set(BYTE_TO_CHAR)}
)


def byte_level_bytes(text: str) -> bytes:
    """Bytes that a byte-level token stands for.

    Text with a character outside the alphabet is no byte-level token (an added token, say) and
    stands for its own UTF-8 bytes.
    """
    try:
        return text.translate(_TO_LATIN1).encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
