"""Pre-tokenizers of byte-level BPE models by the name that `tokenizer.ggml.pre` gives them.

A pre-tokenizer cuts a text into the stretches that merges may not cross. The rules are data:
this file knows which steps each model family published, not how merging works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tektra.errors import TokenizerError

if TYPE_CHECKING:
    from tokenizers import pre_tokenizers

__all__ = [
    "PRE_TOKENIZERS",
    "PreTokenizerSpec",
    "build_pre_tokenizer",
    "find_pre_tokenizer",
    "native_words",
]


@dataclass(frozen=True, slots=True)
class PreTokenizerSpec:
    """How a family of models cuts text before merging.

    Attributes:
        steps: applied in turn, each to the pieces that the one before left: a regular
            expression whose matches are cut out, or one of the named steps below.
        nfc: whether text is brought into Unicode normal form C first.
        ignore_merges: whether a piece that is a token as a whole is taken without merging.
        add_bos: whether a text begins with a beginning of sequence where the file is silent.
    """

    steps: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


# Named steps. The last step of every list turns bytes into the byte-level alphabet.
_BYTES: Final = "<bytes>"
_WORDS: Final = "<words, bytes>"  # GPT-2's own expression, then bytes
_DIGIT: Final = "<each digit>"
_NUMBER: Final = "<runs of digits>"
_PUNCTUATION: Final = "<runs of punctuation>"

# Building blocks of the published expressions.
_CONTRACTION: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_HAN_KANA: Final = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_CJK: Final = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


def _words(number: str, *, contraction: str = _CONTRACTION, letters: str = r"\p{L}+") -> str:
    """The expression of cl100k and its kin, by how it takes numbers."""
    head = f"{contraction}|" if contraction else ""
    rest = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
    return rf"{head}[^\r\n\p{{L}}\p{{N}}]?{letters}|{number}|{rest}|{_SPACES}"


def _cased(number: str, *, contraction: str = f"{_CONTRACTION}?", but: str = "") -> str:
    """The expression of o200k and its kin: words are cut where lower case turns upper."""
    upper, lower = (f"[{kind[1:-1]}{but}]" for kind in (_UPPER, _LOWER))
    first = r"[^\r\n\p{L}\p{N}]?"
    rest = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
    return (
        f"{first}{upper}*{lower}+{contraction}|{first}{upper}+{lower}*{contraction}"
        f"|{number}|{rest}|{_SPACES}"
    )


_DEEPSEEK_WORDS: Final = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES
)
_KIMI_WORDS: Final = r"\p{Han}+|" + _cased(r"\p{N}{1,3}", but=r"&&[^\p{Han}]").replace(
    r"[\r\n/]*", r"[\r\n]*"
)
_CASED_LETTERS: Final = (
    "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-"
    "\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-"
    "\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15"
    "\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d"
    "\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183"
    "\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-"
    "\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb"
    "\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]"
)
_JAIS_SPACES: Final = (
    r"\s*[\r\n]+|"
    + "|".join(
        rf"\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2")
    )
    + r"|\s{1}"
)
_THREES_FROM_RIGHT: Final = r"\p{Nd}{1,3}(?=(?:\p{Nd}{3})*(?!\p{Nd}))"
_ASIAN: Final = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
    "\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af"
    "\u1100-\u11ff]+"
)
_SENTENCE_ENDS: Final = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"

_GPT2: Final = PreTokenizerSpec((_WORDS,))
_NEOX: Final = replace(_GPT2, nfc=True)
_DIGITS: Final = PreTokenizerSpec((_DIGIT, _WORDS))
_LLAMA3: Final = PreTokenizerSpec((_words(r"\p{N}{1,3}"), _BYTES), ignore_merges=True, add_bos=True)
_CL100K: Final = PreTokenizerSpec((_words(r"\p{N}{1,3}"), _BYTES))
_QWEN2: Final = PreTokenizerSpec((_words(r"\p{N}"), _BYTES), nfc=True)
_QWEN2_PLAIN: Final = replace(_QWEN2, nfc=False)
_QWEN35: Final = PreTokenizerSpec(
    (
        _words(r"\p{N}", letters=r"[\p{L}\p{M}]+").replace(
            r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{M}\p{N}]+"
        ),
        _BYTES,
    ),
    nfc=True,
)
_DEEPSEEK3: Final = PreTokenizerSpec((r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK_WORDS, _BYTES))
_O200K: Final = PreTokenizerSpec((_cased(r"\p{N}{1,3}"), _BYTES))
_BLOOM: Final = PreTokenizerSpec((_SENTENCE_ENDS, _BYTES))
_BAILING: Final = PreTokenizerSpec(
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        _BYTES,
    )
)
_AYA: Final = PreTokenizerSpec(
    (r"\d{1,3}(?=(?:\d{3})*\b)", _cased(r"\p{N}{1,3}"), _BYTES), nfc=True
)

# As `tektra::Words` of the native core numbers them.
_NATIVE_WORDS: Final[Mapping[tuple[str, ...], int]] = MappingProxyType(
    {_GPT2.steps: 0, _DIGITS.steps: 1, _CL100K.steps: 2, _QWEN2.steps: 3}
)

PRE_TOKENIZERS: Final[Mapping[str, PreTokenizerSpec]] = MappingProxyType(
    {
        # What files without a name, or of unknown origin, were made for.
        "default": PreTokenizerSpec(
            (
                r"[\p{P}\$\+<=>\^~\|]+",
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
                r"\p{N}+",
                "[0-9][0-9][0-9]",
                _BYTES,
            )
        ),
        # GPT-2's expression as it is
        "gpt-2": _GPT2,
        "phi-2": _GPT2,
        "jina-es": _GPT2,
        "jina-de": _GPT2,
        "jina-v2-es": _GPT2,
        "jina-v2-de": _GPT2,
        "jina-v1-en": _GPT2,
        "jina-v2-code": _GPT2,
        "roberta-bpe": _GPT2,
        "gigachat": _GPT2,
        "a.x-4.0": _GPT2,
        "mellum": _GPT2,
        "modern-bert": _NEOX,
        "exaone4": _GPT2,
        "jais": _GPT2,
        "trillion": _GPT2,
        "granite-docling": _GPT2,
        "mpt": _NEOX,
        "olmo": _NEOX,
        # each digit by itself, then GPT-2's
        "smollm": _DIGITS,
        "starcoder": _DIGITS,
        "refact": _DIGITS,
        "codeshell": _DIGITS,
        "exaone": _DIGITS,
        "minerva-7b": _DIGITS,
        "mellum2": _DIGITS,
        "command-r": replace(_DIGITS, nfc=True),
        # Llama 3
        "llama3": _LLAMA3,
        "llama-v3": _LLAMA3,
        "llama-bpe": _LLAMA3,
        "falcon3": _LLAMA3,
        "falcon-h1": _LLAMA3,
        "pixtral": _LLAMA3,
        "midm-2.0": _LLAMA3,
        "lfm2": _LLAMA3,
        "jina-v5-nano": _LLAMA3,
        # cl100k, from which Llama 3's comes
        "dbrx": _CL100K,
        "smaug-bpe": _CL100K,
        "chatglm-bpe": _CL100K,
        "glm4": _CL100K,
        "minicpm5": PreTokenizerSpec(
            (r"\p{N}{1,3}", _words(r"\p{N}+"), _BYTES), ignore_merges=True
        ),
        "jais-2": PreTokenizerSpec((_words(r"\p{N}{1,3}").replace(_SPACES, _JAIS_SPACES), _BYTES)),
        # Qwen 2
        "qwen2": _QWEN2,
        "deepseek-r1-qwen": _QWEN2,
        "kormo": _QWEN2,
        "f2llmv2": _QWEN2,
        "stablelm2": _QWEN2,
        "megrez": _QWEN2,
        "hunyuan": _QWEN2_PLAIN,
        "solar-open": _QWEN2_PLAIN,
        "grok-2": _QWEN2_PLAIN,
        "ufakzeka": PreTokenizerSpec((_words(r"\p{N}", contraction=""), _BYTES)),
        "laguna": PreTokenizerSpec((r"[^\n]+|[\n]+", _words(r"\p{N}"), _BYTES)),
        "qwen35": _QWEN35,
        "seed-coder": PreTokenizerSpec(
            (
                rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}"
                rf"| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",
                _BYTES,
            )
        ),
        "exaone-moe": PreTokenizerSpec(
            (
                rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?"
                r"(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
                _BYTES,
            )
        ),
        "bailingmoe": _BAILING,
        "bailingmoe2": _BAILING,
        "llada-moe": _BAILING,
        # DeepSeek
        "deepseek-llm": PreTokenizerSpec(
            (
                "[\r\n]",
                rf"\s?{_CASED_LETTERS}+",
                "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                r"\s+$",
                _CJK,
                _DIGIT,
                _BYTES,
            )
        ),
        "deepseek-coder": PreTokenizerSpec(
            ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, _DIGIT, _BYTES)
        ),
        "deepseek-v3": _DEEPSEEK3,
        "hunyuan-dense": _DEEPSEEK3,
        "joyai-llm": _DEEPSEEK3,
        "hy_v4": _DEEPSEEK3,
        "spark2_5": PreTokenizerSpec(
            (
                r"\p{N}{1,3}",
                _HAN_KANA,
                _DEEPSEEK_WORDS.replace(r"[\p{P}\p{S}]+[\r\n]*|", r"[\p{P}\p{S}]+|").replace(
                    r"\s*[\r\n]+|", r"[\r\n]|"
                ),
                r"\p{N}",
                _BYTES,
            )
        ),
        "afmoe": PreTokenizerSpec((_THREES_FROM_RIGHT, _ASIAN, _DEEPSEEK_WORDS, _BYTES)),
        # o200k and its kin
        "gpt-4o": _O200K,
        "llama4": _O200K,
        "kanana2": _O200K,
        "talkie": _O200K,
        "minimax-m2": _O200K,
        "granite-embed-multi-97m": replace(_O200K, ignore_merges=True),
        "tekken": PreTokenizerSpec(
            (_cased(r"\p{N}", contraction=""), _BYTES), ignore_merges=True, add_bos=True
        ),
        "youtu": PreTokenizerSpec(
            (
                "[\uac00-\ud7a3\u3131-\u318e]+"
                "|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f"
                "\ufe30-\ufe4f]+|[\u3105-\u312f]+|" + _HAN_KANA,
                _cased(r"\p{N}"),
                _BYTES,
            ),
            ignore_merges=True,
        ),
        "tiny_aya": _AYA,
        "cohere2moe": _AYA,
        "kimi-k2": PreTokenizerSpec((_KIMI_WORDS, _BYTES)),
        # others
        "falcon": PreTokenizerSpec((_PUNCTUATION, _WORDS, _NUMBER, "[0-9][0-9][0-9]")),
        "bloom": _BLOOM,
        "poro-chat": _BLOOM,
        "gpt3-finnish": _BLOOM,
        "viking": PreTokenizerSpec((_SENTENCE_ENDS, _DIGIT, _BYTES)),
        "superbpe": PreTokenizerSpec((r"\p{N}+", r"(?=(\d{3})+(?!\d))", _BYTES)),
        "chameleon": PreTokenizerSpec(
            (
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                "([\\t\\n]|    |  )",
                _DIGIT,
                r"[\p{P}!-/:-@\[-`{-~]",
                _WORDS,
            ),
            add_bos=True,
        ),
    }
)
"""Pre-tokenizers by name. Names and families as llama.cpp has them (`llama-vocab.cpp`); the
expressions as the models' own `tokenizer.json` or tokenizer code has them."""


def find_pre_tokenizer(name: str) -> PreTokenizerSpec:
    """The pre-tokenizer of that name.

    Raises:
        TokenizerError: there is none; names the nearest ones there are.
    """
    spec = PRE_TOKENIZERS.get(name)
    if spec is None:
        import difflib

        near = difflib.get_close_matches(name, PRE_TOKENIZERS, n=3, cutoff=0.4)
        hint = f"; the nearest known: {', '.join(near)}" if near else ""
        raise TokenizerError(
            f"tokenizer.ggml.pre: the pre-tokenizer {name!r} is not known{hint}",
            remedy="use a newer version, or a conversion of the model that names a known one",
        )
    return spec


def native_words(spec: PreTokenizerSpec) -> int | None:
    """The number by which the native core knows how to cut texts; None where it does not."""
    return _NATIVE_WORDS.get(spec.steps)


def build_pre_tokenizer(spec: PreTokenizerSpec) -> pre_tokenizers.PreTokenizer:
    """The steps of a pre-tokenizer as an object of the tokenizers library."""
    from tokenizers import pre_tokenizers  # here, because most loads do without

    return pre_tokenizers.Sequence([_step(step) for step in spec.steps])


def _step(step: str) -> pre_tokenizers.PreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    named: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
        _BYTES: lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        _WORDS: lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        _DIGIT: lambda: pre_tokenizers.Digits(individual_digits=True),
        _NUMBER: lambda: pre_tokenizers.Digits(individual_digits=False),
        _PUNCTUATION: lambda: pre_tokenizers.Punctuation(behavior="contiguous"),
    }
    if step in named:
        return named[step]()
    return pre_tokenizers.Split(Regex(step), behavior="isolated")
