"""A context that slides: texts go on beyond it as if the middle had never been there."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.tiny_model import write_tiny_model

from tektra import LLM, ContextLengthError, InvalidParameterError
from tektra.backends.cpu import native_core
from tektra.engine.sliding import SlidingContext

DEVICES = ["reference", *(["cpu"] if native_core() else [])]
CONTEXT, FIRST = 48, 5
GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
PROMPT = "hello world, hello there"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("slide") / "tiny.gguf", context=256)


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def open_sliding(model: Path, device: str, **options: Any) -> LLM:
    given = {"context": CONTEXT, "context_policy": f"slide:{FIRST}", "threads": 1, **options}
    return LLM(model, device=device, **given)


def by_hand(llm: LLM, tokens: Sequence[int], count: int) -> tuple[list[int], int]:
    """Token by token, each from a text of its own that is cut as the policy is documented."""
    text, out, dropped = list(tokens), [], 0
    for _ in range(count):
        if len(text) > CONTEXT:
            newest = (CONTEXT - FIRST) // 2
            dropped += len(text) - FIRST - newest
            text = text[:FIRST] + text[-newest:]
        [token] = llm.generate(text, max_tokens=1, **GREEDY).token_ids
        text.append(token)
        out.append(token)
    return out, dropped


def test_it_goes_on_as_a_text_without_the_middle(model: Path, device: str) -> None:
    count = 3 * CONTEXT
    with LLM(model, device=device, context=CONTEXT, threads=1, prefix_cache=False) as plain:
        tokens = plain.tokenize(PROMPT)
        expected, dropped = by_hand(plain, tokens, count)
        stopped = plain.generate(tokens, max_tokens=count, **GREEDY)
    assert len(stopped.token_ids) < count
    assert stopped.finish_reason == "length"
    assert stopped.dropped_tokens == 0
    with open_sliding(model, device) as llm:
        answer = llm.generate(tokens, max_tokens=count, **GREEDY)
    assert answer.token_ids == expected
    assert answer.token_ids[: len(stopped.token_ids)] == stopped.token_ids
    # What the last token made too many has not given way yet: nothing is read after it.
    assert answer.dropped_tokens == dropped > CONTEXT


def test_neighbours_chunks_and_the_prefix_cache_do_not_show(model: Path, device: str) -> None:
    prompts = [PROMPT, "the end of it", PROMPT + " and more of that", "x"]
    with open_sliding(model, device, prefix_cache=False) as llm:
        alone = [llm.generate(p, max_tokens=100, **GREEDY) for p in prompts]
    for options in ({"max_rows": 8, "max_batch": 4}, {"max_batch": 2}):
        with open_sliding(model, device, **options) as llm, ThreadPoolExecutor() as pool:
            together = list(pool.map(lambda p: llm.generate(p, max_tokens=100, **GREEDY), prompts))
            stats = llm.stats()
        if device == "cpu":  # the reference agrees to rounding only, whatever the batch
            assert [a.token_ids for a in together] == [a.token_ids for a in alone]
        assert [a.dropped_tokens for a in together] == [a.dropped_tokens for a in alone]
        assert stats.kv_blocks_used == 0


def test_a_prompt_that_is_too_long_slides_too(model: Path, device: str) -> None:
    with open_sliding(model, device) as llm:
        tokens = llm.tokenize(PROMPT * 9)
        assert len(tokens) > CONTEXT
        answer = llm.generate(tokens, max_tokens=4, **GREEDY)
        newest = (CONTEXT - FIRST) // 2
        short = llm.generate(tokens[:FIRST] + tokens[-newest:], max_tokens=4, **GREEDY)
        assert answer.token_ids == short.token_ids
        assert answer.prompt_tokens == len(tokens)
        assert answer.dropped_tokens == len(tokens) - FIRST - newest
        assert short.dropped_tokens == 0
        # What is asked of every token has no middle to spare.
        with pytest.raises(ContextLengthError):
            llm.score(tokens)
    with LLM(model, device=device, context=CONTEXT) as llm, pytest.raises(ContextLengthError):
        llm.generate(tokens)


def test_streams_tell_of_it(model: Path, device: str) -> None:
    with open_sliding(model, device) as llm:
        chunks = list(llm.generate(PROMPT, max_tokens=120, stream=True, **GREEDY))
        dropped = [chunk.dropped_tokens for chunk in chunks]
        assert dropped == sorted(dropped)
        assert dropped[0] == 0 < dropped[-1]
        assert chunks[-1].completion is not None
        assert chunks[-1].completion.to_dict()["dropped_tokens"] == dropped[-1]
        # One context of text, where nobody says how much.
        assert llm.generate(PROMPT, **GREEDY).completion_tokens == CONTEXT


def test_a_cancelled_one_frees_its_blocks(model: Path, device: str) -> None:
    with open_sliding(model, device) as llm:
        stream = llm.generate(PROMPT, max_tokens=10_000, stream=True, **GREEDY)
        for chunk in stream:
            if chunk.dropped_tokens > CONTEXT:
                break
        stream.close()
        llm.generate("after", max_tokens=1, **GREEDY)
        assert llm.stats().kv_blocks_used == 0


@pytest.mark.parametrize(
    ("policy", "context", "first", "newest"),
    [("slide", 4096, 64, 2016), ("slide", 40, 10, 15), ("slide:0", 3, 0, 1), ("slide:2", 4, 2, 1)],
)
def test_policies(policy: str, context: int, first: int, newest: int) -> None:
    sliding = SlidingContext.from_policy(policy, context)
    assert sliding is not None
    assert (sliding.num_first, sliding.num_newest) == (first, newest)
    tokens = list(range(context + 1))
    assert sliding.shorten(tokens[:context]) == 0
    assert sliding.shorten(tokens) == context + 1 - first - newest
    assert tokens == [*range(first), *range(context + 1 - newest, context + 1)]


@pytest.mark.parametrize(
    "policy", ["", "slid", "slide:", "slide:-1", "slide:x", "slide:25", "STOP"]
)
def test_what_is_no_policy(policy: str, model: Path) -> None:
    with pytest.raises(InvalidParameterError, match="context_policy"):
        LLM(model, context=CONTEXT, context_policy=policy)
    with pytest.raises(InvalidParameterError, match="context_policy"):
        SlidingContext.from_policy(policy, CONTEXT)


def test_the_environment_says_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEKTRA_CONTEXT_POLICY", "slide:4")
    with LLM(model, context=CONTEXT) as llm:
        assert llm.generate(PROMPT, max_tokens=80, **GREEDY).dropped_tokens > 0
    monkeypatch.setenv("TEKTRA_CONTEXT_POLICY", "sometimes")
    with pytest.raises(InvalidParameterError, match="TEKTRA_CONTEXT_POLICY"):
        LLM(model, context=CONTEXT)
