"""The metadata that a GGUF file keeps a tokenizer in, from the files of a model directory.

It writes what `gguf_bpe` and `gguf_spm` read, and llama.cpp too. Whether a kind of tokenizer can be
told in that form is decided here; a pre-tokenizer is recognised by its rules, never by a name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tektra.errors import TokenizerError
from tektra.formats.checkpoint_extras import tokenizer_config
from tektra.formats.gguf_values import Typed
from tektra.formats.json_file import read_bounded
from tektra.tokenizer.gguf_vocab import TokenType
from tektra.tokenizer.pretokenizers import PRE_TOKENIZERS, build_pre_tokenizer

__all__ = ["recognise_pre_tokenizer", "tokenizer_metadata"]

_KEY: Final = "tokenizer.ggml."
_REMEDY: Final = "convert the model with its own tools, then quantize the GGUF file"
# Names to prefer where several have the same rules: the ones that llama.cpp's converter writes.
_PREFERRED: Final = ("gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "tekken", "dbrx", "olmo")
_ENDS: Final = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "pad": "padding_token_id",
    "sep": "seperator_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}


def tokenizer_metadata(folder: Path, *, vocab_size: int | None = None) -> dict[str, Any]:
    """The keys ``tokenizer.ggml.*`` and ``tokenizer.chat_template`` for a model directory.

    Args:
        folder: with tokenizer.json or tokenizer.model, and tokenizer_config.json where there is
            one. Of pieces with scores tokenizer.model says more, so it goes before where both are.
        vocab_size: rows of the embeddings; tokens are filled up to so many. None for no more than
            there are.

    Raises:
        TokenizerError: there is neither file, or its kind or its rules have no GGUF form that
            is known.
        FormatError: a file is malformed.
    """
    path, pieces = folder / "tokenizer.json", (folder / "tokenizer.model").exists()
    if not path.exists():
        if pieces:
            return _from_pieces(folder, vocab_size)
        raise TokenizerError(
            f"{folder} has neither tokenizer.json nor tokenizer.model",
            remedy="get the one that the model has",
        )
    try:
        content = json.loads(read_bounded(path))
        model = content["model"]
        kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
        added = {int(token["id"]): token for token in content.get("added_tokens", [])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(f"tokenizer.json is malformed: {error}") from None
    config = tokenizer_config(folder)
    if kind == "BPE" and _is_byte_level(content):
        metadata = _byte_level(content, model, added, vocab_size)
    elif pieces and (kind == "Unigram" or (kind == "BPE" and model.get("byte_fallback"))):
        return _from_pieces(folder, vocab_size)
    elif kind == "BPE" and model.get("byte_fallback"):
        metadata = _spm_from_bpe(content, model, added, vocab_size)
    elif kind == "WordPiece":
        metadata = _word_piece(model, added, vocab_size)
    else:
        raise TokenizerError(
            f"tokenizer.json: a tokenizer of the kind {kind} has no GGUF form that is known here",
            remedy=_REMEDY,
        )
    tokens = {text: i for i, text in enumerate(metadata[f"{_KEY}tokens"].value)}
    for name, key in _ENDS.items():
        text = config.get(f"{name}_token")
        text = text.get("content") if isinstance(text, Mapping) else text
        if isinstance(text, str) and text in tokens:
            metadata[_KEY + key] = Typed(tokens[text], "u32")
    metadata.update(_frame(content, config, tokens, metadata))
    return metadata


def recognise_pre_tokenizer(content: Mapping[str, Any]) -> str:
    """The name in `PRE_TOKENIZERS` of the rules in a tokenizer.json.

    Rules are compared as the tokenizers library writes them out, so that the same rules in another
    spelling are the same; where they differ, by what they do to a text that tells common rules
    apart.

    Raises:
        TokenizerError: they are those of none.
    """
    wanted = _cut_by_file(content)
    nfc = "NFC" in json.dumps(content.get("normalizer"))
    ignore = bool(content["model"].get("ignore_merges", False))
    fitting = [
        name
        for name, spec in PRE_TOKENIZERS.items()
        if spec.ignore_merges == ignore and _cut(build_pre_tokenizer(spec)) == wanted
    ]
    best = [name for name in fitting if PRE_TOKENIZERS[name].nfc == nfc] or fitting
    for name in _PREFERRED:
        if name in best:
            return name
    if best:
        return best[0]
    raise TokenizerError(
        "tokenizer.json: its pre-tokenizer is none of those that GGUF has a name for",
        remedy=_REMEDY,
    )


# Contractions, cases, digits, spaces, line ends, punctuation, scripts: what the rules differ in.
_PROBE: Final = (
    "It's it'tisn they'LL WE'VE camelCase HTTPServer don't x1 12 1234567 3.14 a1b2 "
    "\u00bd\u0663\u0664 "
    "  two  42   7             three\n\nfour \r\n\r\n five\t\tsix \n  seven   \n"
    "(foo)!!?...  --==$%^&* /path/to\\n end.\n\nNext; "
    "#tag @me [x](y) {z} <a> \u00e9t\u00e9 e\u0301\u0301 \u0141\u00f3d\u017a na\u00efve "
    "\u4e2d\u6587\u5b57\u7b26 \u3072\u3089\u304c\u306a \u30ab\u30bf \ud55c\uad6d\uc5b4 "
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926"
    " \u0627\u0644\u0639 \U0001f600\U0001f468\u200d\U0001f469 \u2019s \u2026\u3002\uff0c\uff01 "
    "\u00a0nb \u2003em IMGIMGABCZ <sentinel:1> 100000000 end  "
)


def _cut(pre_tokenizer: Any) -> tuple[str, ...]:
    return tuple(piece for piece, _ in pre_tokenizer.pre_tokenize_str(_PROBE))


def _cut_by_file(content: Mapping[str, Any]) -> tuple[str, ...]:
    import tokenizers

    text = json.dumps({**content, "added_tokens": [], "post_processor": None})
    try:
        library = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"tokenizer.json: {error}") from None
    if library.pre_tokenizer is None:
        raise TokenizerError("tokenizer.json has no pre-tokenizer", remedy=_REMEDY)
    return _cut(library.pre_tokenizer)


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps(content.get("pre_tokenizer"))


def _byte_level(
    content: Mapping[str, Any],
    model: Mapping[str, Any],
    added: Mapping[int, Mapping[str, Any]],
    vocab_size: int | None,
) -> dict[str, Any]:
    tokens, types = _tokens(model["vocab"], added, vocab_size)
    return {
        f"{_KEY}model": "gpt2",
        f"{_KEY}pre": recognise_pre_tokenizer(content),
        f"{_KEY}tokens": Typed(tokens, "str"),
        f"{_KEY}token_type": Typed(types, "i32"),
        f"{_KEY}merges": Typed(_merges(model), "str"),
    }


def _spm_from_bpe(
    content: Mapping[str, Any],
    model: Mapping[str, Any],
    added: Mapping[int, Mapping[str, Any]],
    vocab_size: int | None,
) -> dict[str, Any]:
    """SentencePiece BPE: pieces with scores. A piece is made the earlier the higher its score, and
    pieces of such models are numbered in the order of their merges: so minus the number."""
    tokens, types = _tokens(model["vocab"], added, vocab_size)
    first = next((i for i, kind in enumerate(types) if kind == TokenType.BYTE), 0)
    scores = [
        0.0 if kind != TokenType.NORMAL else -float(max(0, i - first - 256))
        for i, kind in enumerate(types)
    ]
    normalizer = json.dumps(content.get("normalizer")) + json.dumps(content.get("pre_tokenizer"))
    prefix = (
        '"Prepend"' in normalizer
        or '"prepend_scheme": "first"' in normalizer
        or ('"prepend_scheme": "always"' in normalizer)
    )
    return {
        f"{_KEY}model": "llama",
        f"{_KEY}pre": "default",
        f"{_KEY}tokens": Typed(tokens, "str"),
        f"{_KEY}scores": Typed(scores, "f32"),
        f"{_KEY}token_type": Typed(types, "i32"),
        f"{_KEY}add_space_prefix": prefix,
    }


def _word_piece(
    model: Mapping[str, Any], added: Mapping[int, Mapping[str, Any]], vocab_size: int | None
) -> dict[str, Any]:
    """GGUF has the beginnings of words marked, where tokenizer.json marks what goes on."""
    tokens, types = _tokens(model["vocab"], added, vocab_size)
    mark = model.get("continuing_subword_prefix", "##")
    texts = [
        text
        if types[i] != TokenType.NORMAL or (text.startswith("[") and text.endswith("]"))
        else text.removeprefix(mark)
        if text.startswith(mark)
        else "\u2581" + text
        for i, text in enumerate(tokens)
    ]
    return {
        f"{_KEY}model": "bert",
        f"{_KEY}pre": "default",
        f"{_KEY}tokens": Typed(texts, "str"),
        f"{_KEY}token_type": Typed(types, "i32"),
        f"{_KEY}token_type_count": Typed(2, "u32"),
    }


def _tokens(
    vocab: Mapping[str, int], added: Mapping[int, Mapping[str, Any]], vocab_size: int | None
) -> tuple[list[str], list[int]]:
    """Texts and types of all tokens, with fillers where a number has none."""
    texts = {int(i): text for text, i in vocab.items()}
    texts |= {i: str(token["content"]) for i, token in added.items()}
    count = max(texts, default=-1) + 1
    if vocab_size is not None:
        if count > vocab_size:
            raise TokenizerError(
                f"tokenizer.json has {count} tokens, but the model has embeddings for {vocab_size}",
                remedy="the files are of different models: get them anew",
            )
        count = vocab_size
    tokens, types = [], []
    for i in range(count):
        text = texts.get(i)
        tokens.append(f"[PAD{i}]" if text is None else text)
        if text is None:
            types.append(TokenType.UNUSED)
        elif i in added:
            special = bool(added[i].get("special"))
            types.append(TokenType.CONTROL if special else TokenType.USER_DEFINED)
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            types.append(TokenType.BYTE)
        else:
            types.append(TokenType.NORMAL)
    return tokens, [int(kind) for kind in types]


def _merges(model: Mapping[str, Any]) -> list[str]:
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", [])]
    if any(merge.count(" ") != 1 for merge in merges):
        raise TokenizerError(
            "tokenizer.json: it merges tokens with spaces in them, which GGUF cannot tell",
            remedy=_REMEDY,
        )
    return merges


def _frame(
    content: Mapping[str, Any],
    config: Mapping[str, Any],
    tokens: Mapping[str, int],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """Whether beginning and end are put round a text: as configured, else as the file does it.

    Said in any case, since readers of GGUF have a mind of their own where it is not.
    """
    found: dict[str, Any] = {}
    processor = content.get("post_processor")
    before, after = _placed(processor) if isinstance(processor, Mapping) else ([], [])
    for key, placed in (("bos", before), ("eos", after)):
        id_key, asked = f"{_KEY}{key}_token_id", config.get(f"add_{key}_token")
        ids = [tokens[text] for text in placed if text in tokens]
        if id_key not in metadata and len(ids) == 1:
            found[id_key] = Typed(ids[0], "u32")
        known = metadata.get(id_key, found.get(id_key))
        does = known is not None and known.value in ids
        found[f"{_KEY}add_{key}_token"] = asked if isinstance(asked, bool) else does
    return found


def _placed(processor: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Texts of the special tokens that a post-processor puts before and after a single text."""
    before: list[str] = []
    after: list[str] = []
    if processor.get("type") == "Sequence":
        for part in processor.get("processors", []):
            outer, inner = _placed(part)
            before, after = outer + before, after + inner
    elif processor.get("type") == "TemplateProcessing":
        here = before
        for piece in processor.get("single", []):
            if isinstance(piece, dict) and "SpecialToken" in piece:
                here.append(str(piece["SpecialToken"]["id"]))
            else:
                here = after
    else:
        for key, texts in (("cls", before), ("sep", after)):
            if isinstance(processor.get(key), list):
                texts.append(str(processor[key][0]))
    return before, after


def _from_pieces(folder: Path, vocab_size: int | None) -> dict[str, Any]:
    """What is in tokenizer.model: pieces with the scores that they were trained with."""
    from tektra.tokenizer.sentencepiece_model import sentencepiece_metadata

    plain = sentencepiece_metadata(
        read_bounded(folder / "tokenizer.model"), tokenizer_config(folder)
    )
    tokens = plain[f"{_KEY}tokens"]
    missing = (vocab_size or 0) - len(tokens)
    if vocab_size is not None and missing < 0:
        raise TokenizerError(
            f"tokenizer.model has {len(tokens)} tokens, but the model has embeddings for "
            f"{vocab_size}",
            remedy="the files are of different models: get them anew",
        )
    fillers = [f"[PAD{len(tokens) + i}]" for i in range(max(0, missing))]
    lists = {
        "tokens": Typed([*tokens, *fillers], "str"),
        "scores": Typed([*plain[f"{_KEY}scores"], *(-1e4 for _ in fillers)], "f32"),
        "token_type": Typed(
            [*map(int, plain[f"{_KEY}token_type"]), *(int(TokenType.UNUSED) for _ in fillers)],
            "i32",
        ),
    }
    charsmap = plain.get(f"{_KEY}precompiled_charsmap")
    if charsmap is not None:
        lists["precompiled_charsmap"] = Typed(charsmap, "u8")
    ids = {k: Typed(v, "u32") for k, v in plain.items() if k.endswith("_token_id")}
    named = {f"{_KEY}{key}": value for key, value in lists.items()}
    return {**plain, **ids, **named, f"{_KEY}pre": "default"}
