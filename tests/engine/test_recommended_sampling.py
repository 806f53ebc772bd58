"""The settings that a model recommends: from files that the `gguf` package wrote, to requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tests.fixtures.tiny_model import write_tiny_model

from tektra import LLM, FormatError, InvalidParameterError, SamplingParams
from tektra.engine.recommended_sampling import RecommendedSampling, recommended_sampling
from tektra.formats.gguf import GGUFFile
from tektra.formats.gguf_values import Typed
from tektra.hub import load_catalog

Write = Callable[[gguf.GGUFWriter], object]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., RecommendedSampling]:
    """Reads back what was written by the `gguf` package."""

    def read_back(*writes: Write) -> RecommendedSampling:
        path = tmp_path / "sampling.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for write in writes:
            write(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with GGUFFile.open(path) as file:
            return recommended_sampling(file.metadata)

    return read_back


def test_every_key_that_the_gguf_package_writes(read: Callable[..., RecommendedSampling]) -> None:
    found = read(
        lambda w: w.add_sampling_top_k(20),
        lambda w: w.add_sampling_top_p(0.9),
        lambda w: w.add_sampling_min_p(0.01),
        lambda w: w.add_sampling_xtc_probability(0.3),
        lambda w: w.add_sampling_xtc_threshold(0.2),
        lambda w: w.add_sampling_temp(0.6),
        lambda w: w.add_sampling_penalty_last_n(64),
        lambda w: w.add_sampling_penalty_repeat(1.1),
        lambda w: w.add_sampling_mirostat(2),
        lambda w: w.add_sampling_mirostat_tau(4.0),
        lambda w: w.add_sampling_mirostat_eta(0.2),
    )
    assert found.not_followed == {}
    # 0.9 and its like are not float32 numbers: what was meant is what must come back.
    assert found.params == SamplingParams(
        top_k=20, top_p=0.9, min_p=0.01, xtc_probability=0.3, xtc_threshold=0.2, temperature=0.6,
        penalty_last_n=64, repetition_penalty=1.1, mirostat=2, mirostat_tau=4.0, mirostat_eta=0.2,
    )  # fmt: skip
    named = {key for key in vars(gguf.Keys.General) if key.startswith("SAMPLING_")}
    assert len(found.settings) == len(named - {"SAMPLING_SEQUENCE"})


def test_a_file_without_them_has_the_defaults(read: Callable[..., RecommendedSampling]) -> None:
    assert read() == RecommendedSampling()
    assert read().params == SamplingParams()


def test_what_cannot_be_followed_is_said(read: Callable[..., RecommendedSampling]) -> None:
    found = read(
        lambda w: w.add_sampling_sequence("temperature;top_k"),
        lambda w: w.add_sampling_mirostat(1),
        lambda w: w.add_float32("general.sampling.warmth", 1.0),
        lambda w: w.add_sampling_top_k(-1),
    )
    assert found.not_followed.keys() == {
        "general.sampling.sequence",
        "general.sampling.mirostat",
        "general.sampling.warmth",
    }
    assert found.settings == {"top_k": 0}


@pytest.mark.parametrize(
    ("key", "write"),
    [
        ("general.sampling.temp", lambda w: w.add_sampling_temp(float("nan"))),
        ("general.sampling.temp", lambda w: w.add_sampling_temp(-1.0)),
        ("general.sampling.temp", lambda w: w.add_string("general.sampling.temp", "0.7")),
        ("general.sampling.top_p", lambda w: w.add_sampling_top_p(1.5)),
        ("general.sampling.top_k", lambda w: w.add_bool("general.sampling.top_k", True)),
        ("general.sampling.top_k", lambda w: w.add_uint64("general.sampling.top_k", 2**63)),
        ("general.sampling.min_p", lambda w: w.add_array("general.sampling.min_p", [0.1])),
        ("general.sampling.mirostat", lambda w: w.add_sampling_mirostat(7)),
        ("general.sampling.penalty_repeat", lambda w: w.add_sampling_penalty_repeat(0.0)),
        ("general.sampling.penalty_last_n", lambda w: w.add_sampling_penalty_last_n(-2)),
        ("general.sampling.xtc_threshold", lambda w: w.add_sampling_xtc_threshold(float("inf"))),
    ],
)
def test_a_bad_value_is_refused_by_its_key(
    read: Callable[..., RecommendedSampling], key: str, write: Write
) -> None:
    with pytest.raises(FormatError, match=f"^{key}: "):
        read(write)


def test_the_catalog_goes_before_the_file() -> None:
    metadata = {"general.sampling.temp": 0.9, "general.sampling.top_k": 5}
    found = recommended_sampling(metadata, {"temperature": 0.2})
    assert found.settings == {"temperature": 0.2, "top_k": 5}
    with pytest.raises(InvalidParameterError):
        recommended_sampling({}, {"temperatur": 0.2})


def test_the_catalog_of_this_version_recommends_what_is_allowed() -> None:
    for entry in load_catalog().entries:
        recommended_sampling({}, entry.sampling)
    smollm2 = next(entry for entry in load_catalog().entries if entry.alias == "smollm2:135m")
    assert smollm2.sampling == {"temperature": 0.2, "top_p": 0.9}  # as its model card has it


# In use


HOT: dict[str, Any] = {"temperature": 50.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
LIMITS: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True, "seed": 3}
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def hot_path(tmp_path: Path) -> Path:
    """A model that recommends to draw from all tokens almost alike."""
    more = {
        "general.sampling.temp": Typed(50.0, "f32"),
        "general.sampling.top_k": Typed(0, "i32"),
        "general.sampling.top_p": Typed(1.0, "f32"),
        "general.sampling.min_p": Typed(0.0, "f32"),
    }
    return write_tiny_model(tmp_path / "hot.gguf", more=more)


def test_a_request_without_params_gets_what_the_model_recommends(hot_path: Path) -> None:
    with LLM(hot_path, device="reference") as llm:
        assert llm.default_sampling == SamplingParams(**HOT)
        hot = llm.generate("hello", SamplingParams(**HOT, **LIMITS)).token_ids
        best = llm.generate("hello", SamplingParams.greedy(**LIMITS)).token_ids
        assert hot != best
        assert llm.generate("hello", **LIMITS).token_ids == hot
        assert llm.generate("hello", temperature=0.0, **LIMITS).token_ids == best
        # What a caller gives in full stays as it is: the defaults of SamplingParams are not hot.
        assert llm.generate("hello", SamplingParams(**LIMITS)).token_ids != hot
        chat = llm.chat(MESSAGES, SamplingParams(**HOT, **LIMITS)).token_ids
        assert llm.chat(MESSAGES, **LIMITS).token_ids == chat
        *_, last = llm.chat(MESSAGES, stream=True, **LIMITS)
        assert last.completion is not None
        assert last.completion.token_ids == chat


async def _both(path: Path) -> tuple[list[int], list[int]]:
    # Not waited for: the default is known only once the model is loaded.
    async with LLM(path, device="reference", wait=False) as llm:
        generated = await llm.agenerate("hello", **LIMITS)
        chat = await llm.achat(MESSAGES, **LIMITS)
        return generated.token_ids, chat.token_ids


def test_the_async_twins_do_the_same(hot_path: Path) -> None:
    generated, chat = asyncio.run(_both(hot_path))
    with LLM(hot_path, device="reference") as llm:
        assert llm.generate("hello", SamplingParams(**HOT, **LIMITS)).token_ids == generated
        assert llm.chat(MESSAGES, SamplingParams(**HOT, **LIMITS)).token_ids == chat


def test_a_wrong_override_is_refused_before_the_model_is_there(hot_path: Path) -> None:
    with LLM(hot_path, device="reference", wait=False) as llm:
        with pytest.raises(InvalidParameterError, match="temperatur"):
            _ = llm.agenerate("hello", temperatur=1.0)
        llm.wait_ready(60)


def test_a_bad_value_fails_the_load(tmp_path: Path) -> None:
    more = {"general.sampling.top_p": Typed(-0.5, "f32")}
    path = write_tiny_model(tmp_path / "bad.gguf", more=more)
    with pytest.raises(FormatError, match=r"general\.sampling\.top_p"):
        LLM(path, device="reference")
