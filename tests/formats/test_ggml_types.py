"""Type ids and block sizes, held against the gguf package."""

from __future__ import annotations

import gguf
import pytest

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.ggml_types import REMOVED_TYPES, GGMLType, ggml_type_from_id

# The package still has Q8_1 with float32 scales; ggml has stored them as float16 for years, and
# in either form the type only lives in memory.
DIFFERENT_IN_PACKAGE = {GGMLType.Q8_1}


@pytest.mark.parametrize("theirs", list(gguf.GGMLQuantizationType), ids=lambda t: t.name)
def test_every_type_of_the_package_is_known(theirs: gguf.GGMLQuantizationType) -> None:
    ours = GGMLType(theirs.value)
    assert ours.name == theirs.name
    if ours not in DIFFERENT_IN_PACKAGE:
        assert (ours.block_size, ours.block_bytes) == gguf.GGML_QUANT_SIZES[theirs]


def test_every_type_has_a_size() -> None:
    for ggml_type in GGMLType:
        assert ggml_type.block_size > 0
        assert 1 <= ggml_type.bits_per_weight <= 64
        assert ggml_type.row_bytes(2 * ggml_type.block_size) == 2 * ggml_type.block_bytes


def test_ids_up_to_the_newest_are_known_or_removed() -> None:
    assert set(range(max(GGMLType) + 1)) == {int(t) for t in GGMLType} | set(REMOVED_TYPES)


@pytest.mark.parametrize("width", [-32, 1, 31, 33, 63])
def test_width_must_be_a_multiple_of_the_block(width: int) -> None:
    with pytest.raises(FormatError, match=rf"{width} weights.*Q4_0.*multiple of 32"):
        GGMLType.Q4_0.row_bytes(width)


@pytest.mark.parametrize(("type_id", "name"), sorted(REMOVED_TYPES.items()))
def test_removed_type_is_named(type_id: int, name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"'w'.*{name} \(id {type_id}\).*withdrawn"):
        ggml_type_from_id(type_id, tensor="w")


@pytest.mark.parametrize("type_id", [43, 99, 2**32 - 1])
def test_unknown_type_names_tensor_and_id(type_id: int) -> None:
    with pytest.raises(FormatError, match=rf"'blk.0.w'.*{type_id}"):
        ggml_type_from_id(type_id, tensor="blk.0.w")
