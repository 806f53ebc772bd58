"""The vocabulary in the metadata of a GGUF file: tokens, types, scores, special ids.

Checks every value and names the key that is wrong. It does not know how text is cut into
tokens; the kinds of tokenizers do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tektra.errors import TokenizerError
from tektra.tokenizer.base import SpecialTokens
from tektra.tokenizer.eog import END_OF_GENERATION, end_of_generation_ids

__all__ = [
    "GGUFVocab",
    "TokenType",
    "finite_scores",
    "optional_bool",
    "optional_list",
    "optional_str",
]

_PREFIX: Final = "tokenizer.ggml."
_END_KEYS: Final = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
# The longest tokens in published vocabularies are runs of some hundred spaces.
_MAX_TOKEN_CHARS: Final = 1 << 14
# Special tokens are looked for in every text, by an automaton that takes 1 us a character to build.
_MAX_ADDED_CHARS: Final = 1 << 20
_TOKEN_TYPES: Final = frozenset(range(7))
_REMEDY: Final = "the file is damaged or was converted wrongly: get it again"


class TokenType(IntEnum):
    """Types of tokens, as `tokenizer.ggml.token_type` numbers them."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class GGUFVocab:
    """The tokens of a GGUF file and what it says of them.

    Attributes:
        texts: text of each token as the file writes it, [vocab_size].
        ids: id of each text; tokens with an empty text are not in it.
        special: ids with a meaning, and what is put round a text.
        user_defined: texts that are always taken whole, by id.
        byte_ids: ids of tokens that stand for single bytes.
        unused_ids: ids that never come out of encoding by themselves.
        has_types: whether the file says which tokens are special.
    """

    texts: Sequence[str]
    ids: dict[str, int]
    special: SpecialTokens
    user_defined: dict[str, int] = field(default_factory=dict)
    byte_ids: frozenset[int] = frozenset()
    unused_ids: frozenset[int] = frozenset()
    has_types: bool = True

    @classmethod
    def read(
        cls,
        metadata: Mapping[str, Any],
        *,
        default_ids: Mapping[str, int],
        default_add_bos: bool,
        known: tuple[Sequence[str], Callable[[str], int]] | None = None,
    ) -> GGUFVocab:
        """Reads the vocabulary.

        Args:
            metadata: the file's metadata.
            default_ids: special ids where the file is silent, by name (`"bos"`...); one that is
                not in the vocabulary counts for nothing.
            default_add_bos: whether a text begins with a beginning of sequence where the file
                is silent.
            known: the texts of the tokens, where they were read already and found to be right, and
                what gives the id of a text, -1 where there is none. `ids` is then empty.

        Raises:
            TokenizerError: a value is missing, of the wrong type or out of range.
        """
        texts: Sequence[str]
        ids: dict[str, int] = {}
        if known is None:
            texts, ids = _texts_and_ids(metadata)
            listed = {ids[text] for text in END_OF_GENERATION & ids.keys()}
        else:
            texts, id_of = known
            listed = {id_of(text) for text in END_OF_GENERATION} - {-1}
        by_type = _ids_by_type(metadata, len(texts))
        control = by_type.get(TokenType.CONTROL, set())
        user_defined = by_type.get(TokenType.USER_DEFINED, set())
        unknown = by_type.get(TokenType.UNKNOWN, set())

        # Older conversions marked the ends of turns as text; left so, a user could type them.
        control |= listed & user_defined if by_type else listed
        user_defined -= control

        added = sum(len(texts[i]) for i in control | user_defined | unknown)
        if added > _MAX_ADDED_CHARS:
            raise TokenizerError(
                f"{_PREFIX}token_type: the special and user-defined tokens have {added} characters "
                f"together; at most {_MAX_ADDED_CHARS} are allowed",
                remedy=_REMEDY,
            )

        named = _special_ids(metadata, len(texts), default_ids)
        ends = end_of_generation_ids({texts[i]: i for i in control})
        ends |= {named[name] for name in _END_KEYS if name in named}
        bos, eos = named.get("bos"), named.get("eos")
        special = SpecialTokens(
            bos_id=bos,
            eos_id=eos,
            pad_id=named.get("pad"),
            unk_id=named.get("unk"),
            eos_ids=frozenset(ends),
            special_ids=frozenset(control | unknown),
            prefix_ids=_framing(metadata, "bos", bos, default=default_add_bos),
            suffix_ids=_framing(metadata, "eos", eos, default=False),
        )
        return cls(
            texts=texts,
            ids=ids,
            special=special,
            user_defined={texts[i]: i for i in sorted(user_defined) if texts[i]},
            byte_ids=frozenset(by_type.get(TokenType.BYTE, ())),
            unused_ids=frozenset(by_type.get(TokenType.UNUSED, ())),
            has_types=bool(by_type),
        )


def _texts_and_ids(metadata: Mapping[str, Any]) -> tuple[list[str], dict[str, int]]:
    texts = optional_list(metadata, f"{_PREFIX}tokens", str, "strings")
    if not texts:
        raise TokenizerError(f"{_PREFIX}tokens: the vocabulary is missing", remedy=_REMEDY)
    _refuse_long(texts)
    ids = dict(zip(texts, range(len(texts)), strict=True))
    if len(ids) != len(texts):
        _refuse_duplicates(texts)
    ids.pop("", None)
    return texts, ids


def optional_list(
    metadata: Mapping[str, Any], key: str, item_type: type, of: str
) -> list[Any] | None:
    """A list from the metadata, or `None` where there is none; lazy sequences are read whole.

    Raises:
        TokenizerError: the value is no list, or an item is not of the type, or not UTF-8.
    """
    value = metadata.get(key)
    if value is None:
        return None
    to_list: Callable[[], list[Any]] | None = getattr(value, "tolist", None)
    if to_list is not None:
        value = to_list()
    elif not isinstance(value, list):
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise TokenizerError(f"{key}: expected a list of {of}, got {_shown(value)}")
        value = list(value)
    # One pass in C: the set of types of a list of one type has one member.
    types = set(map(type, value))
    if types <= {item_type}:
        items: list[Any] = value
        if item_type is str:
            _refuse_bytes(items, key)
        return items
    wrong = next(i for i, item in enumerate(value) if type(item) is not item_type)
    raise TokenizerError(f"{key}[{wrong}]: expected {of}, got {_shown(value[wrong])}")


def optional_bool(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    """A flag from the metadata.

    Raises:
        TokenizerError: the value is no flag.
    """
    value = metadata.get(key, default)
    if not isinstance(value, bool):
        raise TokenizerError(f"{key}: expected true or false, got {_shown(value)}")
    return value


def optional_str(metadata: Mapping[str, Any], key: str) -> str | None:
    """A string from the metadata, or `None` where there is none.

    Raises:
        TokenizerError: the value is no string.
    """
    value = metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise TokenizerError(f"{key}: expected a string, got {_shown(value)}")
    return value


def finite_scores(metadata: Mapping[str, Any], count: int) -> list[float]:
    """Scores of the tokens, [count].

    Raises:
        TokenizerError: they are missing, too few, or not numbers.
    """
    key = f"{_PREFIX}scores"
    if metadata.get(key) is None:
        raise TokenizerError(f"{key}: the scores of the tokens are missing", remedy=_REMEDY)
    scores = optional_list(metadata, key, float, "numbers") or []
    if len(scores) != count:
        raise TokenizerError(f"{key}: {len(scores)} scores for {count} tokens", remedy=_REMEDY)
    if any(map(math.isnan, scores)):
        wrong = next(i for i, score in enumerate(scores) if math.isnan(score))
        raise TokenizerError(f"{key}[{wrong}]: not a number", remedy=_REMEDY)
    return scores


def _refuse_long(texts: list[str]) -> None:
    longest = max(map(len, texts))
    if longest > _MAX_TOKEN_CHARS:
        wrong = next(i for i, text in enumerate(texts) if len(text) == longest)
        raise TokenizerError(
            f"{_PREFIX}tokens[{wrong}]: the token has {longest} characters; at most "
            f"{_MAX_TOKEN_CHARS} are allowed",
            remedy=_REMEDY,
        )


def _refuse_bytes(texts: list[str], key: str) -> None:
    """Refuses what the reader of the file could not decode, and kept as lone surrogates."""
    try:
        # All at once: for each of them by itself it takes ten times as long.
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        for i, text in enumerate(texts):
            if any("\ud800" <= char <= "\udfff" for char in text):
                raise TokenizerError(
                    f"{key}[{i}]: {text[:40]!a} is not UTF-8", remedy=_REMEDY
                ) from None


def _ids_by_type(metadata: Mapping[str, Any], count: int) -> dict[int, set[int]]:
    """Ids of the tokens of each type but `NORMAL`; empty where the file gives no types."""
    key = f"{_PREFIX}token_type"
    types = _integers(metadata.get(key))
    if types is None:
        items = optional_list(metadata, key, int, "numbers")
        if items is None:
            return {}
        types = np.array(items, object)  # integers of any size
    if len(types) != count:
        raise TokenizerError(f"{key}: {len(types)} types for {count} tokens", remedy=_REMEDY)
    found: dict[int, set[int]] = {TokenType.NORMAL: set()}
    for token_id in np.flatnonzero(types != TokenType.NORMAL).tolist():
        kind = int(types[token_id])
        if kind not in _TOKEN_TYPES:
            raise TokenizerError(f"{key}[{token_id}]: {kind} is no type of token")
        found.setdefault(kind, set()).add(token_id)
    return found


def _integers(value: Any) -> NDArray[Any] | None:
    """The items of a lazy array of integers, without making objects of them."""
    to_numpy: Callable[[], NDArray[Any]] | None = getattr(value, "numpy", None)
    try:
        items = None if to_numpy is None else to_numpy()
    except TypeError:  # it holds something else
        return None
    return items if items is not None and items.dtype.kind in "iu" else None


def _special_ids(
    metadata: Mapping[str, Any], count: int, default_ids: Mapping[str, int]
) -> dict[str, int]:
    found = {name: value for name, value in default_ids.items() if value < count}
    keys = {
        "bos": "bos_token_id",
        "eos": "eos_token_id",
        "eot": "eot_token_id",
        "eom": "eom_token_id",
        "pad": "padding_token_id",
        "unk": "unknown_token_id",
        "fim_pad": "fim_pad_token_id",
        "fim_rep": "fim_rep_token_id",
        "fim_sep": "fim_sep_token_id",
    }
    for name, short in keys.items():
        value = metadata.get(f"{_PREFIX}{short}")
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TokenizerError(f"{_PREFIX}{short}: expected a token id, got {_shown(value)}")
        if not 0 <= value < count:
            raise TokenizerError(
                f"{_PREFIX}{short}: {value} is not in the vocabulary of {count} tokens",
                remedy=_REMEDY,
            )
        found[name] = value
    return found


def _framing(
    metadata: Mapping[str, Any], name: str, token_id: int | None, *, default: bool
) -> tuple[int, ...]:
    key = f"{_PREFIX}add_{name}_token"
    wanted = optional_bool(metadata, key, default)
    if wanted and token_id is None and key in metadata:
        raise TokenizerError(
            f"{key}: is true, but {_PREFIX}{name}_token_id is not set", remedy=_REMEDY
        )
    return (token_id,) if wanted and token_id is not None else ()


def _refuse_duplicates(texts: list[str]) -> None:
    seen: dict[str, int] = {}
    for i, text in enumerate(texts):
        if text and text in seen:
            raise TokenizerError(
                f"{_PREFIX}tokens[{i}]: the token {text!r} is there twice, as {seen[text]} too",
                remedy=_REMEDY,
            )
        seen[text] = i


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
