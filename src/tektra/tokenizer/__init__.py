"""Text to token ids and back: tokenizers from model files, streaming text, chat templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tektra.tokenizer.base import SpecialTokens, Tokenizer
from tektra.tokenizer.chat_encoding import encode_chat
from tektra.tokenizer.chat_template import ChatTemplate, default_template, find_templates
from tektra.tokenizer.detokenizer import StreamDetokenizer
from tektra.tokenizer.load import load_from_gguf

__all__ = [
    "ChatTemplate",
    "SpecialTokens",
    "StreamDetokenizer",
    "Tokenizer",
    "default_template",
    "encode_chat",
    "find_templates",
    "load_from_gguf",
    "load_from_json",
]

if TYPE_CHECKING:
    from tektra.tokenizer.hf_json import load_from_json


def __getattr__(name: str) -> Any:
    # On demand, because the tokenizers library takes longer to import than GGUF models to tokenize.
    if name != "load_from_json":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tektra.tokenizer.hf_json import load_from_json

    return load_from_json
