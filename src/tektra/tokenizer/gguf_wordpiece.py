"""WordPiece tokenizers from GGUF metadata (`tokenizer.ggml.model` = "bert").

Knows the metadata keys, and how GGUF writes the tokens: with a mark of space before what begins a
word, where BERT's own vocabulary marks what continues one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from tektra.errors import TokenizerError
from tektra.tokenizer.base import PairFrame, SpecialTokens, Tokenizer
from tektra.tokenizer.gguf_vocab import GGUFVocab, optional_bool
from tektra.tokenizer.spm_encoder import SPACE
from tektra.tokenizer.wordpiece import CONTINUES, wordpiece_tokenizer

__all__ = ["load_gguf_wordpiece"]

_PREFIX: Final = "tokenizer.ggml."
_MAX_WORD: Final = 100  # characters; longer words are unknown, as in BERT's own tokenizer
_DEFAULT_IDS: Final[Mapping[str, int]] = {"bos": 101, "eos": 102, "unk": 100, "pad": 0}
_NAMES: Final[Mapping[str, str]] = {"bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]", "pad": "[PAD]"}


def load_gguf_wordpiece(metadata: Mapping[str, Any]) -> Tokenizer:
    """A WordPiece tokenizer.

    GGUF does not say whether text becomes lower case and loses its accents. A vocabulary whose
    words have no capitals could not spell them, so it does for those, and for others not.

    Raises:
        TokenizerError: a value is missing or malformed.
    """
    vocab = GGUFVocab.read(metadata, default_ids={}, default_add_bos=False)
    special = _special_tokens(metadata, vocab)
    whole = special.special_ids | set(vocab.user_defined.values())
    texts = [_unmarked(text, token_id in whole) for token_id, text in enumerate(vocab.texts)]
    ids = dict(zip(texts, range(len(texts)), strict=True))
    if len(ids) != len(texts):
        raise TokenizerError(f"{_PREFIX}tokens: two tokens are alike but for how they are marked")
    assert special.unk_id is not None
    library = Library(
        models.WordPiece(ids, unk_token=texts[special.unk_id], max_input_chars_per_word=_MAX_WORD)
    )
    words = (t for i, t in enumerate(texts) if i not in whole and not t.startswith("["))
    cased = any(text != text.lower() for text in words)
    library.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=not cased
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.add_special_tokens(
        [AddedToken(texts[i], special=True, normalized=False) for i in sorted(special.special_ids)]
    )
    library.add_tokens(
        [AddedToken(text, normalized=False) for text in vocab.user_defined if text in ids]
    )
    return wordpiece_tokenizer(library, texts, special)


def _unmarked(text: str, whole: bool) -> str:
    if whole:
        return text
    return text.removeprefix(SPACE) if text.startswith(SPACE) else CONTINUES + text


def _special_tokens(metadata: Mapping[str, Any], vocab: GGUFVocab) -> SpecialTokens:
    """The ids with a meaning; BERT's own where the file is silent."""
    named = {
        "bos": _id(metadata, "cls_token_id", vocab) or vocab.special.bos_id,
        "eos": _id(metadata, "seperator_token_id", vocab),  # spelt so in the format
        "unk": vocab.special.unk_id,
        "pad": vocab.special.pad_id,
    }
    for name, text in _NAMES.items():
        if named[name] is None:
            default = _DEFAULT_IDS[name]
            named[name] = vocab.ids.get(text, default if default < len(vocab.texts) else None)
    if named["unk"] is None:
        raise TokenizerError(
            f"{_PREFIX}unknown_token_id: is missing, and there is no token '[UNK]'"
        )
    cls, sep = named["bos"], named["eos"]
    begin = (
        (cls,)
        if cls is not None and optional_bool(metadata, f"{_PREFIX}add_bos_token", True)
        else ()
    )
    end = (
        (sep,)
        if sep is not None and optional_bool(metadata, f"{_PREFIX}add_sep_token", True)
        else ()
    )
    segments = metadata.get(f"{_PREFIX}token_type_count", 2)
    return replace(
        vocab.special,
        bos_id=cls,
        eos_id=sep,
        pad_id=named["pad"],
        unk_id=named["unk"],
        special_ids=vocab.special.special_ids | {i for i in named.values() if i is not None},
        prefix_ids=begin,
        suffix_ids=end,
        pair=PairFrame(begin, end, end, int(segments != 1)) if end else None,
    )


def _id(metadata: Mapping[str, Any], name: str, vocab: GGUFVocab) -> int | None:
    key = f"{_PREFIX}{name}"
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(vocab.texts):
        raise TokenizerError(f"{key}: {str(value)[:60]} is not in the vocabulary")
    return value
