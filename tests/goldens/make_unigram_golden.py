"""Makes tests/goldens/tokenizer/unigram.npz: what sentencepiece makes of texts, and the metadata.

Trains a small unigram model with the normalization of XLM-RoBERTa (nmt_nfkc), and puts its pieces
as llama.cpp's converter does: four special tokens of fairseq first, and a mask last. Run it in an
environment with sentencepiece and NumPy; it needs nothing of Tektra:

    python tests/goldens/make_unigram_golden.py
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece

OUT = Path(__file__).parent / "tokenizer" / "unigram.npz"
SENTENCES = [
    "Größe und Straße im Café, naïve façade.",
    "Съешь ещё этих мягких французских булок.",
    "日本語の文章をいくつか書きます。",
    "ﬁne ½ ＡＢＣ ｶﾀｶﾅ",
    "This is a sentence transformers model: it maps sentences to a vector space.",
    "Hello world, this is a test of words and of pieces of words.",
    "Texts are cut into the pieces that are likeliest together.",
]
TEXTS = [
    "Hello world, this is a test.",
    "Größe und Straße",
    "  spaced   out  ",
    "Съешь ещё",
    "日本語の文章",
    "ﬁne ½ ＡＢＣ",
    "a\tb\nc",
    "zzzqqq 🙂 ok",
    "",
    "naïve façade",
]


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: what is needed of them."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            size = varint() if key & 7 == 2 else 4
            yield key >> 3, data[at : at + size]
            at += size


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        corpus.write_text("\n".join(SENTENCES * 8), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=f"{folder}/m",
            vocab_size=110,
            model_type="unigram",
            normalization_rule_name="nmt_nfkc",
            minloglevel=2,
        )
        p = sentencepiece.SentencePieceProcessor(f"{folder}/m.model")
        normalizer = dict(fields(Path(f"{folder}/m.model").read_bytes()))[3]
    assert isinstance(normalizer, bytes)
    charsmap = dict(fields(normalizer))[2]
    assert isinstance(charsmap, bytes)
    size = p.vocab_size()
    pieces = [p.id_to_piece(i) for i in range(3, size)]
    metadata = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": ["<s>", "<pad>", "</s>", "<unk>", *pieces, "<mask>"],
        "tokenizer.ggml.scores": [0.0] * 4 + [p.get_score(i) for i in range(3, size)] + [0.0],
        "tokenizer.ggml.token_type": [3, 3, 3, 2] + [1] * (size - 3) + [3],
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
    }
    ids = [[0, *(3 if i == 0 else i + 1 for i in p.encode(text)), 2] for text in TEXTS]
    content = json.dumps({"metadata": metadata, "texts": TEXTS, "ids": ids})
    np.savez_compressed(
        OUT,
        allow_pickle=False,
        content=np.frombuffer(content.encode(), np.uint8),
        charsmap=np.frombuffer(charsmap, np.uint8),
    )
    print(OUT, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
