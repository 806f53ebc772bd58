"""Typed access to metadata: what is taken, what is refused, and that the error names the key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tektra.errors import FormatError
from tektra.formats.gguf_header import parse_header
from tektra.formats.gguf_metadata import Metadata


def of(value: Any) -> Metadata:
    return Metadata({"a.key": value}, name="model.gguf")


@pytest.mark.parametrize("value", [0, 7, -3, 2**64 - 1, np.uint8(7), np.int64(-3)])
def test_int(value: Any) -> None:
    result = of(value).int("a.key")
    assert result == value
    assert type(result) is int


@pytest.mark.parametrize("value", [1.0, True, np.float32(1), np.bool_(True), "1", None, [1]])
def test_int_refuses_other_types(value: Any) -> None:
    with pytest.raises(FormatError, match=r"model\.gguf: .*'a\.key'.*must be an integer"):
        of(value).int("a.key")


@pytest.mark.parametrize("value", [0, -1, 2**31 - 1])
def test_int_range(value: int) -> None:
    with pytest.raises(FormatError, match=rf"'a\.key' is {value} \(int\).*from 1 to 1000"):
        of(value).int("a.key", minimum=1, maximum=1000)
    with pytest.raises(FormatError, match="from 1 to 1000"):
        of(value).int("a.key", 5, minimum=1, maximum=1000)  # a default hides no bad value


@pytest.mark.parametrize("value", [0.5, 1, -2, np.float32(0.25), 1e-30])
def test_float(value: Any) -> None:
    result = of(value).float("a.key")
    assert result == value
    assert type(result) is float


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), np.float32("nan"), 10**400, True, "0.5"]
)
def test_float_refuses(value: Any) -> None:
    with pytest.raises(FormatError, match=r"'a\.key'.*must be a finite number"):
        of(value).float("a.key")


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_float_range(value: float) -> None:
    with pytest.raises(FormatError, match=rf"{value}.*from 1e-09 to 1"):
        of(value).float("a.key", minimum=1e-9, maximum=1)


def test_bool_and_str() -> None:
    assert of(True).bool("a.key") is True
    assert of("x").str("a.key") == "x"
    for value in (0, 1, "true"):
        with pytest.raises(FormatError, match=r"'a\.key'.*true or false"):
            of(value).bool("a.key")
    for other in (0, True, b"x", ["x"]):
        with pytest.raises(FormatError, match=r"'a\.key'.*must be a string"):
            of(other).str("a.key")


@pytest.mark.parametrize(
    "read",
    [
        Metadata.int,
        Metadata.float,
        Metadata.bool,
        Metadata.str,
        Metadata.int_list,
        Metadata.float_list,
        Metadata.str_list,
    ],
)
def test_missing(read: Callable[..., Any]) -> None:
    with pytest.raises(FormatError, match=r"'b\.key' is missing"):
        read(of(1), "b.key")
    assert read(of(1), "b.key", None) is None
    assert read(of(1), "b.key", default="unset") == "unset"
    assert not of(1).has("b.key")
    assert of(1).has("a.key")


@pytest.mark.parametrize("value", [[1, 2], (1, 2), np.array([1, 2], np.int16)])
def test_int_list(value: Any) -> None:
    assert of(value).int_list("a.key", length=2) == [1, 2]
    assert of(value).float_list("a.key") == [1.0, 2.0]


@pytest.mark.parametrize("value", [5, "12", [1, 2.0], [True], ["1"], np.ones((2, 2), int), None])
def test_int_list_refuses(value: Any) -> None:
    with pytest.raises(FormatError, match=r"'a\.key'.*must be a list of integers"):
        of(value).int_list("a.key")


def test_lists_name_the_item() -> None:
    with pytest.raises(FormatError, match=r"item 2 of.*'a\.key' is 9 \(int\).*from 0 to 8"):
        of([0, 8, 9]).int_list("a.key", minimum=0, maximum=8)
    with pytest.raises(FormatError, match=r"item 1 of.*'a\.key' is nan"):
        of([0.0, float("nan")]).float_list("a.key")
    with pytest.raises(FormatError, match=r"item 0 of.*'a\.key' is 3"):
        of([3]).str_list("a.key")
    with pytest.raises(FormatError, match=r"'a\.key' has 2 items, but must have 3"):
        of(["a", "b"]).str_list("a.key", length=3)


def test_per_layer() -> None:
    assert of(4).int_per_layer("a.key", 3, minimum=1) == [4, 4, 4]
    assert of([4, 0, 4]).int_per_layer("a.key", 3) == [4, 0, 4]
    assert of(4).int_per_layer("b.key", 3, None) is None
    with pytest.raises(FormatError, match=r"'a\.key' is 0 .*1 or more"):
        of(0).int_per_layer("a.key", 3, minimum=1)
    with pytest.raises(FormatError, match=r"'a\.key' has 2 items, but must have 3"):
        of([1, 2]).int_per_layer("a.key", 3)
    with pytest.raises(FormatError, match=r"'a\.key'.*list of integers"):
        of(4.0).int_per_layer("a.key", 3)


def test_on_arrays_of_a_file(small_model: bytes) -> None:
    header = parse_header(np.frombuffer(small_model, np.uint8), name="small.gguf")
    metadata = Metadata(header.metadata)
    assert metadata.int_list("array.3") == [-32768] * 3
    assert metadata.float_list("array.6") == [0.5] * 3
    assert metadata.str_list("array.8") == ["text \u00e9"] * 3
    assert metadata.str_list("tokenizer.ggml.tokens")[-1] == "\udcff\udcfe"
    assert metadata.int("scalar.10") == 2**64 - 1
    assert metadata.bool("scalar.7") is True
    for key in ("array.6", "array.7", "array.8", "nested"):
        with pytest.raises(FormatError, match=rf"'{key}'.*must be a list of integers"):
            metadata.int_list(key)
    with pytest.raises(FormatError, match=r"'array\.10'.*from 0 to 9|18446744073709551615"):
        metadata.int_list("array.10", minimum=0, maximum=9)


def test_long_values_are_cut_in_errors() -> None:
    with pytest.raises(FormatError) as caught:
        of("x" * 100_000).int("a.key")
    assert len(str(caught.value)) < 250
