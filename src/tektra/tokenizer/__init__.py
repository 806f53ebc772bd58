"""Text to token ids and back: tokenizers from model files, streaming text, chat templates."""

from __future__ import annotations

from tektra.tokenizer.base import SpecialTokens, Tokenizer
from tektra.tokenizer.chat_encoding import encode_chat
from tektra.tokenizer.chat_template import ChatTemplate, default_template, find_templates
from tektra.tokenizer.detokenizer import StreamDetokenizer
from tektra.tokenizer.hf_json import load_from_json
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
