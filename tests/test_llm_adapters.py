"""Adapters through `LLM`: loaded, chosen by requests, batched, unloaded, on each backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.adapters.written import write_gguf_parts
from tests.fixtures.tiny_model import FFN, HEADS, KV_HEADS, LAYERS, WIDTH, write_tiny_model

from tektra import (
    LLM,
    FormatError,
    InvalidParameterError,
    ModelNotFoundError,
    RequestError,
    SamplingParams,
)
from tektra.backends.cpu import native_core
from tektra.engine.request import GenerateRequest

DEVICES = ["reference", *(["cpu"] if native_core() else [])]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
LONG = "hello world, " * 12


def write_adapter(path: Path, seed: int, rank: int = 4, more: dict[str, str] | None = None) -> Path:
    """An adapter of the tiny model that changes what it says."""
    rng = np.random.default_rng(seed)
    kv = WIDTH // HEADS * KV_HEADS
    shapes = {"attn_q": (WIDTH, WIDTH), "attn_v": (kv, WIDTH), "ffn_down": (WIDTH, FFN)}
    tensors = {}
    for layer in range(LAYERS):
        for name, (rows, width) in shapes.items():
            stem = f"blk.{layer}.{name}.weight"
            tensors[f"{stem}.lora_a"] = rng.normal(size=(rank, width)).astype(np.float32) * 0.3
            tensors[f"{stem}.lora_b"] = rng.normal(size=(rows, rank)).astype(np.float32) * 0.3
    about = {
        "general.type": "adapter",
        "general.architecture": "llama",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    return write_gguf_parts(path, about | (more or {}), tensors)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    write_tiny_model(folder / "tiny.gguf")
    for name, seed, rank in (("one", 1, 4), ("two", 2, 7)):
        write_adapter(folder / f"{name}.gguf", seed, rank)
    return folder


@pytest.fixture(params=DEVICES)
def llm(request: pytest.FixtureRequest, folder: Path) -> Iterator[LLM]:
    adapters = {"one": folder / "one.gguf", "two": folder / "two.gguf"}
    with LLM(folder / "tiny.gguf", device=request.param, threads=2, adapters=adapters) as loaded:
        yield loaded


def test_each_answers_otherwise_and_alike_in_a_batch(llm: LLM) -> None:
    choices: list[Any] = [None, "one", "two", {"one": 0.5, "two": 1.5}, ["two", "one"]]
    scores = [llm.score(LONG, adapter=choice) for choice in choices]
    for i, one in enumerate(scores):
        assert all(np.abs(one - other).max() > 1e-3 for other in scores[:i])
    alone = [llm.generate(LONG, adapter=choice, **GREEDY).token_ids for choice in choices]
    streams = [
        llm.generate(LONG, adapter=choice, stream=True, **GREEDY)
        for choice in choices  # all at once: each stream is begun before the others are read
    ]
    begun = [next(stream) for stream in streams]
    for first, stream, expected in zip(begun, streams, alone, strict=True):
        ids = [*first.token_ids, *(token for chunk in stream for token in chunk.token_ids)]
        assert ids == expected


def test_scale_of_a_request_multiplies(llm: LLM) -> None:
    one = llm.score("hello world", adapter={"one": 0.5})
    np.testing.assert_array_equal(llm.score("hello world", adapter="one", adapter_scale=0.5), one)
    assert np.abs(llm.score("hello world", adapter="one") - one).max() > 1e-3
    zero = llm.score("hello world", adapter="one", adapter_scale=0.0)
    np.testing.assert_allclose(zero, llm.score("hello world"), atol=1e-6)


def test_prefix_cache_is_of_the_adapter(llm: LLM) -> None:
    """The same prompt: its beginning is reused only with the same adapter and scale."""
    for choice in (None, "one", {"one": 0.5}, "two", ["one", "two"], ["two", "one"]):
        first = llm.generate(LONG, adapter=choice, **GREEDY)
        again = llm.generate(LONG, adapter=choice, **GREEDY)
        assert first.cached_tokens == 0, choice
        assert again.cached_tokens > 0, choice
        assert first.token_ids == again.token_ids


def test_a_name_that_comes_back_finds_nothing_of_the_old(llm: LLM, folder: Path) -> None:
    before = llm.generate(LONG, adapter="one", **GREEDY)
    llm.unload_adapter("one")
    llm.load_adapter(folder / "two.gguf", name="one")
    after = llm.generate(LONG, adapter="one", **GREEDY)
    assert after.cached_tokens == 0
    assert after.token_ids == llm.generate(LONG, adapter="two", **GREEDY).token_ids
    assert after.token_ids != before.token_ids


def test_embeddings_and_chat_take_adapters(llm: LLM) -> None:
    assert np.abs(llm.embed("hello", adapter="one") - llm.embed("hello")).max() > 1e-3
    messages = [{"role": "user", "content": "hello"}]
    plain, adapted = (llm.chat(messages, adapter=a, **GREEDY) for a in (None, "two"))
    assert plain.token_ids != adapted.token_ids


def test_what_is_loaded(llm: LLM, folder: Path) -> None:
    infos = llm.adapters
    assert list(infos) == ["one", "two"]
    assert (infos["two"].rank, infos["two"].num_matrices, infos["two"].requests) == (7, 6, 0)
    memory = llm.stats().memory["adapters"]
    assert memory >= 4 * sum(info.num_parameters for info in infos.values())
    info = llm.load_adapter(folder / "one.gguf", name="three")
    assert info.name == "three"
    assert llm.stats().memory["adapters"] > memory
    llm.unload_adapter("three")
    assert list(llm.adapters) == ["one", "two"]
    assert llm.stats().memory["adapters"] <= memory


def test_in_use_is_not_unloaded(llm: LLM) -> None:
    """A listener is called while its request runs."""
    engine = llm._runtime.ready().engine
    seen: list[tuple[int, str]] = []
    done = threading.Event()

    def listener(event: object) -> None:
        if getattr(event, "finish_reason", None) is not None:
            done.set()
        elif not seen:
            try:
                llm.unload_adapter("one")
            except RequestError as error:
                seen.append((llm.adapters["one"].requests, str(error)))

    request = GenerateRequest(
        prompt=llm.tokenize(LONG),
        params=SamplingParams(**GREEDY),
        stream=True,
        adapters=(("one", 1.0),),
    )
    engine.submit(request, listener)
    assert done.wait(60)
    ((requests, message),) = seen
    assert requests == 1
    assert "'one' is in use by 1" in message
    llm.unload_adapter("one")
    assert list(llm.adapters) == ["two"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("three", "no adapter 'three'.*'one', 'two'"),
        (["one", "one"], "named twice"),
        ({"one": float("nan")}, "finite"),
        ({"one": "big"}, "finite"),
        (7, "must be a name"),
        ([1], "not the name"),
        ([str(i) for i in range(17)], "17 adapters"),
    ],
)
def test_choices_that_are_refused(llm: LLM, choice: Any, message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        llm.generate("hello", adapter=choice, **GREEDY)
    assert all(info.requests == 0 for info in llm.adapters.values())


def test_scale_without_an_adapter(llm: LLM) -> None:
    with pytest.raises(InvalidParameterError, match="without an adapter"):
        llm.generate("hello", adapter_scale=2.0, **GREEDY)


def test_names_that_are_refused(llm: LLM, folder: Path) -> None:
    for name, message in (("one", "loaded already"), ("", "cannot be"), ("a\n", "cannot be")):
        with pytest.raises(InvalidParameterError, match=message):
            llm.load_adapter(folder / "one.gguf", name=name)
    with pytest.raises(InvalidParameterError, match="no adapter 'five'"):
        llm.unload_adapter("five")


def test_files_that_are_refused(llm: LLM, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not an adapter"):
        llm.load_adapter(folder / "tiny.gguf", name="x")
    with pytest.raises(ModelNotFoundError):
        llm.load_adapter(tmp_path / "none.gguf")
    with pytest.raises(ModelNotFoundError, match="adapter_config"):
        llm.load_adapter(tmp_path)
    other = write_adapter(tmp_path / "qwen.gguf", 3, 4, {"general.architecture": "qwen2"})
    with pytest.raises(FormatError, match="for 'qwen2' models"):
        llm.load_adapter(other)
    assert list(llm.adapters) == ["one", "two"]


def test_a_wrong_adapter_ends_the_load(folder: Path) -> None:
    with pytest.raises(FormatError, match="not an adapter"):
        LLM(folder / "tiny.gguf", device="reference", adapters={"x": folder / "tiny.gguf"})
