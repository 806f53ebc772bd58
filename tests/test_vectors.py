"""`LLM.embed` and `LLM.rerank` on small encoders: what the model says, what the caller says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.checkpoint_files import write_checkpoint
from tests.goldens.encoder_model import checkpoint_weights, config_json
from tests.goldens.variants_encoder import Encoder
from tests.tokenizer.test_encoder_tokenizers import wordpiece_json

from tektra import LLM
from tektra.errors import (
    ContextLengthError,
    FormatError,
    InvalidParameterError,
    RequestError,
    UnsupportedModelError,
)

VOCAB = 24
PLAIN = Encoder(name="api-plain", family="bert", vocab=VOCAB, context=40)
RANK = Encoder(name="api-rank", family="bert", vocab=VOCAB, context=40, labels=1)
TEXTS = ["hello world", "", "the unaffable cafe!", "a b a b x", "hello"]
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
NORMALIZE = {"idx": 2, "name": "2", "path": "2", "type": "sentence_transformers.models.Normalize"}


def directory(
    folder: Path,
    variant: Encoder = PLAIN,
    *,
    modules: list[dict[str, Any]] | None = None,
    pooling: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """A model directory, of sentence-transformers where ``modules`` are given."""
    files: dict[str, Any] = {"tokenizer.json": wordpiece_json().decode()}
    if modules is not None:
        files["modules.json"] = json.dumps(modules)
        files["sentence_bert_config.json"] = {"max_seq_length": 16, "do_lower_case": False}
        files["config_sentence_transformers.json"] = settings or {}
        (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
        text = json.dumps(pooling or {"pooling_mode_mean_tokens": True})
        (folder / "1_Pooling" / "config.json").write_text(text)
    return write_checkpoint(
        folder, config_json(variant) | (config or {}), checkpoint_weights(variant), files=files
    )


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """Mean pooling, length 1, prompts, texts of 16 tokens at most."""
    prompts = {"prompts": {"query": "hello ", "none": ""}, "default_prompt_name": None}
    path = directory(
        tmp_path_factory.mktemp("plain") / "m", modules=[*MODULES, NORMALIZE], settings=prompts
    )
    with LLM(path, threads=2, packed_cache=False) as llm:
        yield llm


def test_what_the_model_says(llm: LLM) -> None:
    vectors = llm.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), PLAIN.hidden)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    assert llm.capabilities.context == 16
    assert not llm.capabilities.generation
    assert llm.capabilities.prompts == ("query", "none")


def test_alone_and_together(llm: LLM) -> None:
    together = llm.embed(TEXTS * 40)
    for at, text in enumerate(TEXTS):
        np.testing.assert_array_equal(llm.embed(text)[0], together[at])
        np.testing.assert_array_equal(together[at], together[at + 39 * len(TEXTS)])


def test_poolings_by_their_definition(llm: LLM) -> None:
    mean = llm.embed(TEXTS, normalize=False)
    first = llm.embed(TEXTS, pooling="cls", normalize=False)
    last = llm.embed(TEXTS, pooling="last", normalize=False)
    # a text of nothing has the two special tokens
    np.testing.assert_allclose(mean[1], (first[1] + last[1]) / 2, rtol=1e-5, atol=1e-6)
    assert np.abs(first - last).max() > 0.1


def test_prompts_and_dimensions(llm: LLM) -> None:
    np.testing.assert_array_equal(
        llm.embed("world", prompt_name="query"), llm.embed("hello world", prompt_name="none")
    )
    np.testing.assert_array_equal(llm.embed("world", prompt="hello "), llm.embed("hello world"))
    whole, cut = llm.embed("hello")[0], llm.embed("hello", dimensions=8)[0]
    np.testing.assert_allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), rtol=1e-6)


@pytest.mark.parametrize(
    ("parameter", "options"),
    [
        ("pooling", {"pooling": "max"}),
        ("prompt_name", {"prompt_name": "passage"}),
        ("prompt", {"prompt": "a", "prompt_name": "query"}),
        ("dimensions", {"dimensions": 0}),
        ("dimensions", {"dimensions": PLAIN.hidden + 1}),
        ("dimensions", {"dimensions": True}),
    ],
)
def test_bad_parameters_are_named(llm: LLM, parameter: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameterError, match=parameter):
        llm.embed("hello", **options)


def test_nothing_is_cut_silently(llm: LLM) -> None:
    long = "hello " * 30
    with pytest.raises(ContextLengthError, match=r"32 tokens.*16.*truncate=True"):
        llm.embed([*TEXTS, long])
    np.testing.assert_array_equal(
        llm.embed(long, truncate=True), llm.embed("hello " * 14)
    )  # the end of text stays


def test_an_encoder_does_not_generate(llm: LLM) -> None:
    for call in (
        lambda: llm.generate("hello"),
        lambda: llm.chat([{"role": "user", "content": "hello"}]),
        lambda: llm.score("hello"),
        lambda: llm.perplexity("hello world"),
    ):
        with pytest.raises(RequestError, match=r"encoder.*use embed"):
            call()
    with pytest.raises(RequestError, match=r"no head.*cross-encoder"):
        llm.rerank("hello", ["world"])


def test_rerank(tmp_path: Path) -> None:
    documents = ["world", "the unaffable cafe!", "a b", "world", ""]
    with LLM(directory(tmp_path / "m", RANK), threads=2, packed_cache=False) as llm:
        ranked = llm.rerank("hello", documents)
        scores = [r.score for r in ranked]
        assert scores == sorted(scores, reverse=True)
        assert sorted(r.index for r in ranked) == list(range(len(documents)))
        assert all(0.0 < score < 1.0 for score in scores)
        assert llm.rerank("hello", documents, top_n=2) == ranked[:2]
        raw = llm.rerank("hello", documents, raw_scores=True)
        for r, w in zip(ranked, raw, strict=True):
            assert r.index == w.index
            assert r.score == pytest.approx(1 / (1 + np.exp(-w.score)), rel=1e-6)
        by_index = {r.index: r.score for r in ranked}
        assert by_index[0] == by_index[3]
        assert llm.rerank("hello", []) == []
        with pytest.raises(ContextLengthError, match="truncate=True"):
            llm.rerank("hello", ["a " * 60])
        assert len(llm.rerank("hello", ["a " * 60], truncate=True)) == 1
        with pytest.raises(InvalidParameterError, match="documents"):
            llm.rerank("hello", "world")


def test_scores_as_the_config_says(tmp_path: Path) -> None:
    identity = {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}
    path = directory(tmp_path / "m", RANK, config=identity)
    with LLM(path, packed_cache=False) as llm:
        assert llm.rerank("hello", TEXTS) == llm.rerank("hello", TEXTS, raw_scores=True)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pooling": {"pooling_mode_max_tokens": True}}, UnsupportedModelError, "pooling max"),
        ({"pooling": {"pooling_mode": "weightedmean"}}, UnsupportedModelError, "weightedmean"),
        (
            {"pooling": {"pooling_mode_mean_tokens": True, "include_prompt": False}},
            UnsupportedModelError,
            "include_prompt",
        ),
        ({"modules": [*MODULES, {"path": "2", "type": "x.Dense"}]}, UnsupportedModelError, "Dense"),
        (
            {"modules": [{"path": "../..", "type": "x.Pooling"}]},
            FormatError,
            "out of the directory",
        ),
        ({"modules": [3]}, FormatError, "modules.json"),
        ({"settings": {"prompts": {"query": 3}}}, FormatError, "query"),
        ({"settings": {"default_prompt_name": "query"}}, FormatError, "default prompt"),
        ({"config": {"is_decoder": True}}, UnsupportedModelError, "is_decoder"),
        (
            {"config": {"position_embedding_type": "relative_key"}},
            UnsupportedModelError,
            "position_embedding_type",
        ),
    ],
)
def test_what_is_not_computed_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = directory(tmp_path / "m", **{"modules": MODULES, **changes})
    with pytest.raises(error, match=message):
        LLM(path, packed_cache=False)
