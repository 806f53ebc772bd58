"""Turns what callers pass as prompts into token ids.

It tells one prompt from several, and knows when a beginning-of-sequence token is due. It does not
know how texts are cut into tokens or what a chat template says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from tektra.errors import InvalidParameterError
from tektra.tokenizer import Tokenizer

__all__ = ["Message", "Prompt", "PromptList", "encode_prompt", "is_messages", "split_prompts"]

Prompt: TypeAlias = str | Sequence[int] | NDArray[np.integer[Any]]
"""A text, or token ids."""

PromptList: TypeAlias = list[str] | list[list[int]] | tuple[str, ...] | tuple[Sequence[int], ...]
"""Several prompts."""

Message: TypeAlias = Mapping[str, Any]
"""One message of a conversation: ``{"role": "user", "content": "..."}``."""


def split_prompts(prompt: Prompt | PromptList) -> tuple[list[Prompt], bool]:
    """The prompts one by one, and whether there was just one, not in a list.

    Raises:
        InvalidParameterError: it is neither texts nor token ids.
    """
    given: object = prompt  # callers are not all checked by a type checker
    if isinstance(given, str):
        return [given], True
    if isinstance(given, np.ndarray) and given.ndim >= 1:
        given = list(given)
    if not isinstance(given, Sequence) or isinstance(given, bytes | bytearray | memoryview):
        raise InvalidParameterError(
            "prompt", f"must be text, token ids, or a list of those, not {type(given).__name__}"
        )
    if given and all(isinstance(item, int | np.integer) for item in given):
        return [cast("Sequence[int]", given)], True
    return [*given], False


def encode_prompt(
    tokenizer: Tokenizer, prompt: Prompt | Sequence[Message], *, name: str = "prompt"
) -> list[int]:
    """Token ids of one prompt; a text gets the beginning of sequence that its model wants.

    Raises:
        InvalidParameterError: it is neither text nor token ids, or there is nothing in it.
    """
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt)
    else:
        try:
            array = np.asarray(prompt)
        except ValueError:  # lists of different lengths
            array = np.empty((0, 0))
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise InvalidParameterError(name, "must be text or a sequence of token ids")
        ids = array.tolist()
    if not ids:
        raise InvalidParameterError(name, "has no tokens", remedy="give at least one")
    return ids


def is_messages(value: Prompt | Sequence[Message]) -> TypeGuard[Sequence[Message]]:
    """Whether a value is a conversation, not a prompt."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and bool(value)
        and all(isinstance(item, Mapping) for item in value)
    )
