"""What the rest of the program sees of a tokenizer, whatever file it came from.

It maps text to ids and ids to bytes and knows the special tokens. How text is cut into pieces
is the business of the `TextEncoder` it is given; it does not know of files or of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, final

from tektra.errors import InvalidParameterError
from tektra.tokenizer.literals import LiteralMatcher

__all__ = ["LeadingSpace", "PairFrame", "SpecialTokens", "TextEncoder", "TokenBytes", "Tokenizer"]

LeadingSpace = Literal["keep", "strip one", "strip all"]
"""What happens to the space that a SentencePiece encoder puts before a text, when decoding."""


class TextEncoder(Protocol):
    """Cuts text into token ids. Never adds a beginning or an end of sequence."""

    def encode(self, text: str, *, parse_special: bool, at_start: bool) -> list[int]:
        """Token ids of `text`.

        Args:
            text: valid Unicode (no lone surrogates).
            parse_special: whether the text of a special token becomes that token.
            at_start: whether this is where a text begins; tokenizers that put a space before
                the first word of a text only there need to know.
        """
        ...


@dataclass(frozen=True, slots=True)
class PairFrame:
    """What is put round two texts that a model reads together, and between them.

    Attributes:
        prefix_ids, between_ids, suffix_ids: the tokens.
        second_segment: the segment of the second text and of what follows it; all else has 0.
    """

    prefix_ids: tuple[int, ...]
    between_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    second_segment: int = 0


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids with a meaning, and what is put round a text.

    Attributes:
        bos_id, eos_id, pad_id, unk_id: beginning and end of sequence, padding, unknown.
        eos_ids: every id that ends a generation (end of sequence, of turn, of message...).
        special_ids: ids that are control, not text: hidden from output, and not parsed from
            text that is not trusted.
        prefix_ids, suffix_ids: put round a text where special tokens are wanted.
        strip_left, strip_right: special ids that swallow the whitespace before or after them.
        pair: what is put round two texts; ``None`` where the model reads one at a time.
    """

    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    unk_id: int | None = None
    eos_ids: frozenset[int] = frozenset()
    special_ids: frozenset[int] = frozenset()
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    strip_left: frozenset[int] = frozenset()
    strip_right: frozenset[int] = frozenset()
    pair: PairFrame | None = None


@final
class Tokenizer:
    """Text to token ids and back.

    Safe to share between threads: nothing in it changes after construction.

    Args:
        kind: how the tokenizer works: ``"bpe"`` (byte-level), ``"spm"`` (SentencePiece) or
            ``"wordpiece"`` (BERT).
        pre: name of the pre-tokenizer, as `tokenizer.ggml.pre` has it; empty where unknown.
        texts: text of each token as the vocabulary writes it, [vocab_size].
        to_bytes: bytes that a token id stands for.
        encoder: cuts text into ids.
        special: the ids with a meaning.
        leading_space: what decoding does to a space at the start of a text.
    """

    def __init__(
        self,
        *,
        kind: str,
        pre: str,
        texts: Sequence[str],
        to_bytes: Callable[[int], bytes],
        encoder: TextEncoder,
        special: SpecialTokens,
        leading_space: LeadingSpace = "keep",
    ) -> None:
        self.kind = kind
        self.pre = pre
        self.special = special
        self.leading_space: LeadingSpace = leading_space
        self._texts = texts
        self._to_bytes = to_bytes
        self._encoder = encoder

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, pre={self.pre!r}, vocab_size={self.vocab_size})"

    # The vocabulary

    @property
    def vocab_size(self) -> int:
        return len(self._texts)

    @property
    def bos_id(self) -> int | None:
        return self.special.bos_id

    @property
    def eos_id(self) -> int | None:
        return self.special.eos_id

    @property
    def pad_id(self) -> int | None:
        return self.special.pad_id

    @property
    def unk_id(self) -> int | None:
        return self.special.unk_id

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every id that ends a generation."""
        return self.special.eos_ids

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are control, not text."""
        return self.special.special_ids

    @property
    def add_bos(self) -> bool:
        """Whether `encode` puts the beginning of sequence before a text."""
        return self.bos_id is not None and self.bos_id in self.special.prefix_ids

    @property
    def add_eos(self) -> bool:
        """Whether `encode` puts the end of sequence after a text."""
        return self.eos_id is not None and self.eos_id in self.special.suffix_ids

    def is_special(self, token_id: int) -> bool:
        return token_id in self.special.special_ids

    def token_text(self, token_id: int) -> str:
        """A token as the vocabulary writes it (``"Ġthe"``, ``"▁the"``, ``"<0x0A>"``)."""
        return self._texts[self._checked(token_id)]

    def token_bytes(self, token_id: int) -> bytes:
        """Exactly the bytes that a token adds to a text; of a special token, its own text.

        Concatenated over the ids of a text these are its UTF-8 bytes, but for a space that
        `leading_space` says is not part of it. One token may hold a part of a character.
        """
        return self._to_bytes(self._checked(token_id))

    @cached_property
    def special_texts(self) -> dict[str, int]:
        """Id of each special token by its text."""
        return {self._texts[i]: i for i in sorted(self.special.special_ids) if self._texts[i]}

    @cached_property
    def special_matcher(self) -> LiteralMatcher:
        """Finds the texts of special tokens in a string."""
        return LiteralMatcher(self.special_texts)

    # Text to ids

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Token ids of a text.

        Args:
            text: any Unicode text; nothing is stripped or normalized unless the model's own
                tokenizer does it.
            add_special: put the beginning and end of sequence round it, where the model's
                tokenizer does that.
            parse_special: read the text of special tokens (``<|im_start|>``) as those tokens.
                False for text of which nobody vouches: it then cannot inject control tokens.

        Raises:
            InvalidParameterError: the text has a lone surrogate, which no file can hold.
        """
        ids = self._encoder.encode(_valid(text), parse_special=parse_special, at_start=True)
        return self._framed(ids) if add_special else ids

    def encode_marked(self, text: str, marker: str, *, add_special: bool = False) -> list[int]:
        """Token ids of a text in which a marker keeps special tokens from being read.

        The text of a special token is read as that token unless a marker stands inside it (or,
        if it is one character long, behind it). The markers themselves are dropped. So text
        that is trusted and text that is not can go through one template and still be told
        apart afterwards.

        Args:
            text: text with markers.
            marker: one character that appears in it for no other purpose.
            add_special: as in `encode`.
        """
        ids: list[int] = []
        start, at_start, special = 0, True, self.special
        text = _valid(text)

        def plain(fragment: str) -> None:
            fragment = fragment.replace(marker, "")
            if fragment:
                ids.extend(self._encoder.encode(fragment, parse_special=False, at_start=at_start))

        for match_start, match_end, token_id in self.special_matcher.find_all(text):
            if match_start < start:  # swallowed as whitespace by the token before
                continue
            if match_end - match_start == 1 and text[match_end : match_end + 1] == marker:
                continue
            end = match_start
            if token_id in special.strip_left:
                end = start + len(text[start:end].rstrip())
            plain(text[start:end])
            ids.append(token_id)
            start, at_start = match_end, False
            if token_id in special.strip_right:
                start = len(text) - len(text[start:].lstrip())
        plain(text[start:])
        return self._framed(ids) if add_special else ids

    # Ids to text

    def decode(
        self, ids: Iterable[int], *, skip_special: bool = False, at_start: bool = True
    ) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: token ids.
            skip_special: leave special tokens out.
            at_start: whether the ids begin a text; if not, a leading space is part of it.

        Raises:
            InvalidParameterError: an id is not in the vocabulary.
        """
        stream = TokenBytes(self, skip_special=skip_special, at_start=at_start)
        return b"".join(map(stream.push, ids)).decode("utf-8", "replace")

    def _framed(self, ids: list[int]) -> list[int]:
        return [*self.special.prefix_ids, *ids, *self.special.suffix_ids]

    def _checked(self, token_id: int) -> int:
        if not 0 <= token_id < len(self._texts):
            raise InvalidParameterError(
                "token id", f"{token_id} is not in the vocabulary of {len(self._texts)} tokens"
            )
        return token_id


@final
class TokenBytes:
    """Bytes of one token after another, with the rule for the space at the start of a text.

    SentencePiece puts a space before a text and takes it off when it decodes; which token
    carries it is known only as the tokens come.
    """

    __slots__ = ("_skip_special", "_strips", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool, at_start: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._strips = at_start and tokenizer.leading_space != "keep"

    def push(self, token_id: int) -> bytes:
        """Bytes that this token adds to the text."""
        data = self._tokenizer.token_bytes(token_id)
        if self._tokenizer.is_special(token_id):
            if self._skip_special:
                return b""
            # An unknown word is text; other special tokens only stand before it.
            self._strips = self._strips and token_id != self._tokenizer.unk_id
            return data
        if not self._strips:
            return data
        if not self._tokenizer.token_text(token_id).startswith(("\u2581", " ")):
            self._strips = not data
            return data
        # Only "strip all" goes on to the next token, and only while nothing has come out.
        self._strips = self._tokenizer.leading_space == "strip all" and len(data) == 1
        return data[1:]


def _valid(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidParameterError(
            "text", f"has a lone surrogate at character {error.start}, which is not valid Unicode"
        ) from None
    return text
