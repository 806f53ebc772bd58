"""Streamed text is the decoded text: whole characters, stop strings across tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tektra.errors import InvalidParameterError
from tektra.tokenizer import StreamDetokenizer, Tokenizer

Tokenizers = dict[str, Tokenizer]

NAMES = st.sampled_from(["bpe_qwen2", "spm_llama", "spm_gemma", "spm_plain"])
IDS = st.lists(st.integers(0, 520), max_size=40)  # the smallest of the vocabularies has 523


def stream(tokenizer: Tokenizer, ids: list[int], **options: object) -> tuple[list[str], str | None]:
    detokenizer = StreamDetokenizer(tokenizer, **options)  # type: ignore[arg-type]
    parts = [detokenizer.push(token_id) for token_id in ids]
    return [*parts, detokenizer.finish()], detokenizer.stopped


@settings(max_examples=300, deadline=None)
@given(name=NAMES, ids=IDS, skip=st.booleans(), at_start=st.booleans())
def test_streamed_text_is_decoded_text(
    tokenizers: Tokenizers, name: str, ids: list[int], skip: bool, at_start: bool
) -> None:
    tokenizer = tokenizers[name]
    parts, stopped = stream(tokenizer, ids, skip_special=skip, at_start=at_start)
    assert "".join(parts) == tokenizer.decode(ids, skip_special=skip, at_start=at_start)
    assert stopped is None


def first_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """What is left of a text, by looking at each prefix of it: slow and plain."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet="ab\u00e9\U0001f600 ", max_size=30),
    stops=st.lists(st.text(alphabet="ab\u00e9 ", min_size=1, max_size=4), max_size=3),
    name=NAMES.filter(lambda name: name != "spm_plain"),
    data=st.data(),
)
def test_stop_strings_do_not_depend_on_how_text_is_cut(
    tokenizers: Tokenizers, text: str, stops: list[str], name: str, data: st.DataObject
) -> None:
    tokenizer = tokenizers[name]
    whole = tokenizer.encode(text, add_special=False)
    # The same text, or cut somewhere and encoded part by part.
    at = data.draw(st.integers(0, len(text)))
    halves = [*tokenizer.encode(text[:at], add_special=False)]
    if name == "bpe_qwen2":
        halves += tokenizer.encode(text[at:], add_special=False)
    else:
        halves = whole
    for ids in (whole, halves):
        decoded = tokenizer.decode(ids, skip_special=True)
        parts, stopped = stream(tokenizer, ids, stop=stops)
        assert ("".join(parts), stopped) == first_stop(decoded, stops)


def test_a_character_comes_out_whole(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["spm_llama"]
    by_byte = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    ids = [by_byte[bytes([byte])] for byte in "\U0001f600".encode()]
    detokenizer = StreamDetokenizer(tokenizer)
    assert [detokenizer.push(i) for i in ids] == ["", "", "", "\U0001f600"]
    # A byte that cannot go on what is there makes it certain to be broken.
    detokenizer = StreamDetokenizer(tokenizer)
    assert [detokenizer.push(i) for i in (ids[0], ids[1], by_byte[b"A"])] == ["", "", "\ufffdA"]
    detokenizer = StreamDetokenizer(tokenizer)
    assert [detokenizer.push(ids[0]), detokenizer.finish()] == ["", "\ufffd"]


def test_text_that_may_begin_a_stop_string_is_held(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["bpe_qwen2"]
    ids = [tokenizer.encode(char, add_special=False)[0] for char in "xEN-END"]
    detokenizer = StreamDetokenizer(tokenizer, stop=["END"])
    assert [detokenizer.push(i) for i in ids] == ["x", "", "", "EN-", "", "", ""]
    assert detokenizer.stopped == "END"
    assert detokenizer.push(ids[0]) == ""
    assert detokenizer.finish() == ""


def test_of_stop_strings_that_end_together_the_longest_counts(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["spm_llama"]
    token = next(i for i in range(523, 0, -1) if tokenizer.token_bytes(i) == b" the")
    for stops in (["e", "he"], ["he", "e"]):
        parts, stopped = stream(tokenizer, [token], stop=stops, at_start=False)
        assert ("".join(parts), stopped) == (" t", "he")
    parts, stopped = stream(tokenizer, [token], stop=["the", "h"], at_start=False)
    assert ("".join(parts), stopped) == (" t", "h")


def test_the_space_before_a_text(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["spm_llama"]
    ids = tokenizer.encode("the dog the", add_special=False)
    assert "".join(stream(tokenizer, ids)[0]) == "the dog the"
    assert "".join(stream(tokenizer, ids, at_start=False)[0]) == " the dog the"
    assert tokenizer.bos_id is not None
    assert "".join(stream(tokenizer, [tokenizer.bos_id, *ids])[0]) == "the dog the"


def test_a_stop_string_may_be_a_special_token(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["bpe_qwen2"]
    ids = tokenizer.encode("Hello<|im_end|>more", add_special=False)
    parts, stopped = stream(tokenizer, ids, stop=["<|im_end|>", "Help"])
    assert ("".join(parts), stopped) == ("Hello", "<|im_end|>")


def test_an_empty_stop_string_is_refused(tokenizers: Tokenizers) -> None:
    with pytest.raises(InvalidParameterError, match=r"stop\[1\]"):
        StreamDetokenizer(tokenizers["bpe_qwen2"], stop=["a", ""])
