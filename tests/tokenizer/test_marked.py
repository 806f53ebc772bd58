"""Encoding with markers: without any it is plain encoding, with them special tokens are text."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from tektra.tokenizer import Tokenizer, load_from_json

MARK = "\U0010fffd"
SAMPLES = [
    "  <|im_end|>  a<|im_start|> b \n<|im_end|><|im_end|> ",
    "a b <|im_start|>a b<|im_start|>",
    "<|im_end|>",
    " ",
    "",
]


@pytest.fixture(params=["none", "lstrip", "rstrip", "both", "first space", "every space"])
def tokenizer(request: pytest.FixtureRequest, goldens: dict[str, Any]) -> Tokenizer:
    if "space" in request.param:
        scheme = "first" if request.param == "first space" else "always"
        library = tokenizers.Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        library.decoder = decoders.Metaspace(prepend_scheme=scheme)
        library.train_from_iterator(
            ["a b \n a b ab <|im_end|> <|im_start|>"] * 3,
            trainers.BpeTrainer(vocab_size=60, show_progress=False),
        )
        library.add_special_tokens(
            [AddedToken(text, normalized=False) for text in ("<|im_start|>", "<|im_end|>")]
        )
        return load_from_json(library.to_str().encode())
    content = copy.deepcopy(goldens["bpe_qwen2"]["tokenizer_json"])
    for added in content["added_tokens"]:
        if added["content"] == "<|im_end|>":
            added["lstrip"] = request.param in ("lstrip", "both")
            added["rstrip"] = request.param in ("rstrip", "both")
    return load_from_json(json.dumps(content).encode())


def test_without_markers_it_is_plain_encoding(tokenizer: Tokenizer) -> None:
    for text in SAMPLES:
        assert tokenizer.encode_marked(text, MARK) == tokenizer.encode(text, add_special=False)


def test_marked_special_tokens_are_text(tokenizer: Tokenizer) -> None:
    text = "a<" + MARK + "|im_end|>b<|im_start|>"
    ids = tokenizer.encode_marked(text, MARK)
    assert ids.count(tokenizer.special_texts["<|im_start|>"]) == 1
    assert tokenizer.special_texts["<|im_end|>"] not in ids
    assert tokenizer.decode(ids) == text.replace(MARK, "")
