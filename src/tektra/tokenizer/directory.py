"""Chooses the tokenizer of a model directory among the files that it may be in.

Knows the names of the files; how each is read, its own file knows.
"""

from __future__ import annotations

from pathlib import Path

from tektra.errors import TokenizerError
from tektra.formats.checkpoint_extras import tokenizer_config
from tektra.formats.json_file import read_bounded
from tektra.tokenizer.base import Tokenizer

__all__ = ["load_from_directory"]


def load_from_directory(folder: Path, *, end_ids: frozenset[int] = frozenset()) -> Tokenizer:
    """The tokenizer in a model directory: tokenizer.json, or tokenizer.model where there is none.

    Args:
        folder: the directory.
        end_ids: tokens that end a generation besides those that the tokenizer names.

    Raises:
        TokenizerError: there is none, or it is malformed or of a kind that is not supported.
        FormatError: one of the files beside it is malformed.
    """
    path = folder / "tokenizer.json"
    if path.exists():
        from tektra.tokenizer.hf_json import load_from_json

        return load_from_json(read_bounded(path), tokenizer_config(folder), end_ids=end_ids)
    path = folder / "tokenizer.model"
    if path.exists():
        from tektra.tokenizer.sentencepiece_model import load_from_sentencepiece

        return load_from_sentencepiece(
            read_bounded(path), tokenizer_config(folder), end_ids=end_ids
        )
    raise TokenizerError(
        f"the directory {folder} has neither tokenizer.json nor tokenizer.model",
        remedy="get the one that the model has",
    )
