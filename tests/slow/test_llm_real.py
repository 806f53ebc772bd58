"""`LLM` with SmolLM2-135M-Instruct: sensible answers, the same ones however they are asked for."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tektra import LLM, ProgressEvent
from tektra.backends.cpu import native_core

pytestmark = pytest.mark.skipif(native_core() is None, reason="the native core is not built")

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 24}
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
TEXT = (
    "The lighthouse stood at the end of the pier. Every evening its keeper climbed the stairs, "
    "lit the lamp, and wrote down the weather: wind, waves, and the ships that passed. "
) * 4


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> Iterator[LLM]:
    with LLM(smollm2_path, device="cpu") as loaded:
        yield loaded


def test_a_sensible_answer(llm: LLM) -> None:
    answer = llm.chat(QUESTION, **GREEDY)
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert not answer.text.startswith(("\n", " "))


def test_streams_of_all_kinds_agree(llm: LLM) -> None:
    whole = llm.chat(QUESTION, **GREEDY)
    assert "".join(c.text for c in llm.chat(QUESTION, stream=True, **GREEDY)) == whole.text

    async def read() -> str:
        return "".join([c.text async for c in llm.achat(QUESTION, stream=True, **GREEDY)])

    assert asyncio.run(read()) == whole.text


def test_text_scores_better_than_noise(llm: LLM) -> None:
    tokens = llm.tokenize(TEXT)
    shuffled = np.random.default_rng(0).permutation(tokens).tolist()
    assert llm.perplexity(tokens) * 10 < llm.perplexity(shuffled)


def test_greedy_follows_the_scores(llm: LLM) -> None:
    prompt = llm.tokenize("The capital of France is")
    answer = llm.generate(prompt, **GREEDY)
    scores = llm.score([*prompt, *answer.token_ids])
    assert scores[len(prompt) - 1 : -1].argmax(-1).tolist() == answer.token_ids


def test_nearest_sentence(llm: LLM) -> None:
    vectors = llm.embed(
        ["The cat sat on the mat.", "A cat is sitting on a rug.", "Interest rates rose by 2 %."]
    )
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > far


def test_the_same_bits_however_it_is_run(smollm2_path: Path, llm: LLM) -> None:
    prompt = llm.tokenize(TEXT)[:100]
    expected = llm.generate(prompt, logprobs=0, **GREEDY)
    cases: list[dict[str, Any]] = [
        {"threads": 1, "max_rows": 7, "max_batch": 2},
        {"threads": 2, "max_rows": 64},
    ]
    for options in cases:
        with LLM(smollm2_path, device="cpu", **options) as other:
            for _ in range(2):  # the second time from the prefix cache
                result = other.generate(prompt, logprobs=0, **GREEDY)
                assert result.logprobs == expected.logprobs
            assert result.cached_tokens == 96


def test_a_batch_gives_what_each_gives_alone(llm: LLM) -> None:
    prompts = [TEXT[: 40 * n] for n in range(1, 7)]
    alone = [llm.generate(prompt, **GREEDY).token_ids for prompt in prompts]
    assert [result.token_ids for result in llm.generate(prompts, **GREEDY)] == alone


def test_the_catalog_model_is_verified_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_path: Path
) -> None:
    monkeypatch.setenv("TEKTRA_CACHE_DIR", str(tmp_path))
    counts = []
    for _ in range(2):
        events: list[ProgressEvent] = []
        with LLM("smollm2:135m", progress=events.append) as llm:
            assert llm.capabilities.name == "smollm2:135m"
        counts.append(sum(event.stage == "verify" for event in events))
    assert counts[0] > 10
    assert counts[1] == 1
    assert (
        hashlib.sha256(smollm2_path.read_bytes()).hexdigest()
        in (tmp_path / "verified.json").read_text()
    )
