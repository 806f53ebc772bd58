"""Makes the golden files of the tokenizer tests, with transformers and sentencepiece as oracles.

Small tokenizers are trained on the spot with the expressions that the model families published,
and their oracle's token ids recorded for a corpus of awkward texts. Needs transformers,
sentencepiece and gguf, which the test suite does not. Run from anywhere:

    python tests/goldens/make_tokenizer_goldens.py [path of SmolLM2-135M-Instruct GGUF]
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "tokenizer"

CORPUS = [
    "",
    " ",
    "Hello, world!",
    "  two leading spaces and two trailing  ",
    "The quick brown fox jumps over the lazy dog. The dog does not mind the fox at all.",
    "I'm sure you've seen it, we'll go, they'd say it's John's. I'M SHOUTING, WE'LL SEE, IT'S SO.",
    "tabs\tand\t\ttwo tabs\nnewline\n\ntwo newlines\n\n\n   indented\r\nCRLF\r\n\r\nend\n",
    "runs of spaces:  2   3    4     5      6        8                16",
    "trailing newline and spaces \n  \n",
    "0 1 12 123 1234 12345 123456 1234567 3.14159 1,000,000 0x1F 1e-10 \u00b2 \u00bd "
    "\u0661\u0662\u0663",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # comment\n\nclass A(B):\n\tpass\n",
    "if (a >= b && c != d) { x <<= 2; y ^= ~z; printf(\"%d\\n\", *p++); } /* done */ // 100%",
    "<html><body class=\"a b\">&nbsp;&#169;</body></html>",
    "emoji: \U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 "
    "\U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea \u2764\ufe0f \U0001f3f3\ufe0f\u200d\U0001f308!",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u662f2024\u5e741\u670815\u65e5\u3002"
    "\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u73a9\u3002",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3068\u30ab\u30bf\u30ab\u30ca\u3001"
    "\u305d\u3057\u3066ABC\u3002 \ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8\ub3c4 \uc788\ub2e4.",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c "
    "\u0643\u064a\u0641 \u062d\u0627\u0644\u0643\u061f \u05e9\u05dc\u05d5\u05dd",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0413\u0440\u0430\u0434 "
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0e2a\u0e27\u0e31"
    "\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "combining: e\u0301 a\u0308 o\u0302\u0323 n\u0303 \u212b \ufb01 decomposed caf\u0065\u0301 "
    "composed caf\u00e9 na\u00efve Stra\u00dfe \u01c4",
    "control: \x00\x01\x07\x1b[0m\x7f\x85\u00a0\u2028\u2029\u200b\ufeff\u3000 end",
    "mixedCASEWords CamelCaseHTTPServer snake_case_name SCREAMING_SNAKE kebab-case iPhone15Pro",
    "!!! ??? ... \u2014 \u201cquoted\u201d \u2018single\u2019 \u00abguillemets\u00bb \u2026 $100 "
    "\u20ac50 50% a+b=c #tag @name ~/path/to/file.txt C:\\dir",
    "https://example.org/a/b?q=1&r=two#frag user.name+tag@example.co.uk",
    "supercalifragilisticexpialidocious antidisestablishmentarianism aaaaaaaaaaaaaaaaaaaaaaaaa",
    "\u2581lower one eighth block \u2581\u2581 and <0x41> and \u0120 letters \u010a of byte level",
    "a'b 'tis o'clock rock'n'roll 'S 's 'T \u2019s \u2019t don\u2019t d'accord l'\u00e9t\u00e9",
    "\n", "\n\n", "\t", "\r\n", " \n", "\n ", "a", " a", "a ", "1", " 1", "'", "\u00e9",
    "\U0001f600",
]  # fmt: skip

SPECIAL_CORPUS = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "text<|im_end|><|im_end|> <|im_end|>\n<|im_start|>",
    "not special: <|im_start <|im_end| <|im_ start|>",
    '<tool>{"a": 1}</tool> and <tool> </tool>',
]

TRAINING = [
    "The history of the world is the history of a few people who had faith in themselves. "
    "There are many things that we would throw away if we were not afraid that others might "
    "pick them up. It was the best of times, it was the worst of times, it was the age of wisdom.",
    "In the year 1984 there were 1000 and 2024 people, 100 of them 12 years old, 3,000 others.",
    "for i in range(100):\n        print(i)\n        if i % 15 == 0:\n            return None\n",
    "Der schnelle braune Fuchs springt \u00fcber den faulen Hund. Le renard brun saute.",
    "\u4eca\u5929\u7684\u5929\u6c14\u5f88\u597d\u3002\u6211\u4eec\u53bb\u516c\u56ed\u3002"
    "\u4f60\u597d\u4e16\u754c\u3002\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3002",
]

ALL_TEXTS = [*CORPUS, *SPECIAL_CORPUS, *TRAINING]

GPT_4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN_35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HAN_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def byte_level(use_regex: bool = False) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


# Name in tokenizer.ggml.pre: steps of the published tokenizer, normalizer, ignore_merges.
FAMILIES: dict[str, tuple[list[pre_tokenizers.PreTokenizer], bool, bool]] = {
    "gpt-2": ([byte_level(use_regex=True)], False, False),
    "smollm": (
        [pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=True)],
        False,
        False,
    ),
    "llama-bpe": ([split(LLAMA_3), byte_level()], False, True),
    "qwen2": ([split(QWEN_2), byte_level()], True, False),
    "qwen35": ([split(QWEN_35), byte_level()], True, False),
    "gpt-4o": ([split(GPT_4O), byte_level()], False, False),
    "tekken": ([split(TEKKEN), byte_level()], False, True),
    "deepseek-v3": (
        [split(r"\p{N}{1,3}"), split(HAN_KANA), split(DEEPSEEK_3), byte_level()],
        False,
        False,
    ),
}


def bpe_goldens() -> None:
    """One tokenizer.json a family, and the ids that transformers gives."""
    for name, (steps, nfc, ignore_merges) in FAMILIES.items():
        tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
        if nfc:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.train_from_iterator(
            [*CORPUS, *TRAINING],
            trainers.BpeTrainer(
                vocab_size=520,
                show_progress=False,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            ),
        )
        tokenizer.add_special_tokens([AddedToken("<|bos|>", normalized=False, special=True)])
        tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<tool>", "</tool>")])
        if name == "llama-bpe":
            bos = tokenizer.token_to_id("<|bos|>")
            tokenizer.post_processor = processors.Sequence(
                [
                    processors.ByteLevel(trim_offsets=False),
                    processors.TemplateProcessing(
                        single="<|bos|> $A", special_tokens=[("<|bos|>", bos)]
                    ),
                ]
            )
        oracle = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
        write(
            f"bpe_{name}",
            {
                "pre": name,
                "tokenizer_json": json.loads(tokenizer.to_str()),
                "ids": [oracle(text, add_special_tokens=False).input_ids for text in ALL_TEXTS],
                "framed": oracle(SPECIAL_CORPUS[0]).input_ids,
                "decoded": differing(
                    oracle.decode(oracle(text, add_special_tokens=False).input_ids)
                    for text in ALL_TEXTS
                ),
            },
        )


# Name: options of the trainer.
SPM_MODELS: dict[str, dict[str, Any]] = {
    "llama": {"byte_fallback": True, "remove_extra_whitespaces": False, "split_digits": True},
    "gemma": {
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "split_digits": True,
        "user_defined_symbols": ["<tool>", "</tool>", "\u2581\u2581", "\n\n", "<tool"],
    },
    "plain": {"byte_fallback": False},
    "across": {
        "byte_fallback": True,
        "split_by_whitespace": False,
        "remove_extra_whitespaces": False,
        "max_sentencepiece_length": 12,
    },
}


def spm_goldens() -> None:
    """Models of SentencePiece as GGUF metadata, and the ids that sentencepiece gives."""
    texts = [line for text in [*CORPUS, *TRAINING] for line in text.split("\n") if line.strip()]
    for name, options in SPM_MODELS.items():
        blob = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([t.replace("\x00", "") for t in texts]),
            model_writer=blob,
            model_type="bpe",
            vocab_size=720,
            character_coverage=0.98,
            normalization_rule_name="identity",
            minloglevel=2,
            num_threads=1,
            **options,
        )
        (FOLDER / f"spm_{name}.model").write_bytes(blob.getvalue())
        oracle = sentencepiece.SentencePieceProcessor(model_proto=blob.getvalue())
        user_defined = set(options.get("user_defined_symbols", ()))
        pieces = [oracle.id_to_piece(i) for i in range(len(oracle))]

        def token_type(i: int, oracle: Any = oracle, user_defined: Any = user_defined) -> int:
            if oracle.is_unknown(i):
                return 2
            if oracle.is_control(i):
                return 3
            if oracle.id_to_piece(i) in user_defined:
                return 4
            if oracle.is_unused(i):
                return 5
            return 6 if oracle.is_byte(i) else 1

        write(
            f"spm_{name}",
            {
                "metadata": {
                    "tokenizer.ggml.model": "llama",
                    "tokenizer.ggml.tokens": pieces,
                    "tokenizer.ggml.scores": [oracle.get_score(i) for i in range(len(oracle))],
                    "tokenizer.ggml.token_type": [token_type(i) for i in range(len(oracle))],
                    "tokenizer.ggml.bos_token_id": oracle.bos_id(),
                    "tokenizer.ggml.eos_token_id": oracle.eos_id(),
                    "tokenizer.ggml.unknown_token_id": oracle.unk_id(),
                    "tokenizer.ggml.add_space_prefix": options.get("add_dummy_prefix", True),
                    "tokenizer.ggml.remove_extra_whitespaces": options.get(
                        "remove_extra_whitespaces", True
                    ),
                },
                "ids": [oracle.encode(text) for text in ALL_TEXTS],
                "decoded": differing(oracle.decode(oracle.encode(text)) for text in ALL_TEXTS),
            },
        )


def llama_json_golden() -> None:
    """A tokenizer.json of Llama's kind (BPE with bytes) by transformers, and its ids."""
    metadata = json.loads((FOLDER / "spm_llama.json").read_text("ascii"))["metadata"]
    pieces = metadata["tokenizer.ggml.tokens"]
    kinds = metadata["tokenizer.ggml.token_type"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:at], piece[at:])
        for piece, kind in zip(pieces, kinds, strict=True)
        for at in range(1, len(piece))
        if kind == 1 and piece[:at] in vocab and piece[at:] in vocab
    ]
    oracle = transformers.LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    with tempfile.TemporaryDirectory() as folder:
        oracle.save_pretrained(folder)
        content = json.loads((Path(folder) / "tokenizer.json").read_text("utf-8"))
        saved = json.loads((Path(folder) / "tokenizer_config.json").read_text("utf-8"))
    write(
        "json_llama",
        {
            "tokenizer_json": content,
            "tokenizer_config": saved,
            "ids": [oracle.encode(text, add_special_tokens=False) for text in ALL_TEXTS],
            "framed": oracle.encode("hello world"),
        },
    )


def smollm_golden(path: Path) -> None:
    """Ids for the real vocabulary of SmolLM2, put into its published tokenizer configuration."""
    import gguf

    fields = gguf.GGUFReader(path).fields
    tokens, types, merges = (
        fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type", "merges")
    )
    tokenizer = Tokenizer(
        models.BPE(
            vocab={text: i for i, text in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in merges],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(FAMILIES["smollm"][0])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, types, strict=True) if kind == 3])
    oracle = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    write("smollm2", {"ids": [oracle(t, add_special_tokens=False).input_ids for t in ALL_TEXTS]})


def differing(decoded: Iterable[str]) -> dict[str, str]:
    """What ids decode to, by the number of the text, where it is not the text itself."""
    pairs = enumerate(zip(ALL_TEXTS, decoded, strict=True))
    return {str(i): after for i, (before, after) in pairs if before != after}


def write(name: str, content: dict[str, Any]) -> None:
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="ascii")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    write("corpus", {"texts": ALL_TEXTS})
    bpe_goldens()
    spm_goldens()
    llama_json_golden()
    if len(sys.argv) > 1:
        smollm_golden(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
