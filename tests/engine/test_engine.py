"""The engine over a fake model: answers, ends, failures, cancellation, many threads."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.fixtures.fake_executable import FakeExecutable, fake_row, greedy
from tests.fixtures.waiting import wait_for

from tektra.engine.delivery import complete, compute_rows, iter_chunks
from tektra.engine.engine import Engine
from tektra.engine.jobs import Event, Failure
from tektra.engine.outputs import Chunk, Completion
from tektra.engine.request import GenerateRequest, RowsRequest
from tektra.engine.sampling_params import SamplingParams
from tektra.errors import (
    BackendError,
    ContextLengthError,
    InvalidParameterError,
    QueueFullError,
    RequestError,
)
from tektra.tokenizer import Tokenizer

MakeEngine = Callable[..., tuple[Engine, FakeExecutable]]
PROMPT = list(range(100, 150))


def request(
    prompt: Any = PROMPT, index: int = 0, stream: bool = False, **params: Any
) -> GenerateRequest:
    return GenerateRequest(
        prompt=prompt,
        params=SamplingParams.greedy(**{"max_tokens": 8, "ignore_eos": True, **params}),
        stream=stream,
        index=index,
    )


def answer(engine: Engine, asked: GenerateRequest) -> Completion:
    return complete(engine, [asked], raise_errors=True)[0]


def expected(tokenizer: Tokenizer, count: int, prompt: list[int] = PROMPT) -> list[int]:
    return greedy(prompt, count, tokenizer.vocab_size)


def test_greedy_answer(make_engine: MakeEngine, tokenizer: Tokenizer) -> None:
    engine, _ = make_engine()
    result = answer(engine, request())
    assert result.token_ids == expected(tokenizer, 8)
    assert result.text == tokenizer.decode(result.token_ids, skip_special=True)
    assert (result.finish_reason, result.stop_reason) == ("length", None)
    assert (result.prompt_tokens, result.completion_tokens, result.cached_tokens) == (50, 8, 0)
    timings = result.timings
    assert timings.total_s >= timings.prefill_s + timings.decode_s > 0
    assert timings.time_to_first_token_s == pytest.approx(timings.queue_s + timings.prefill_s)
    assert timings.decode_tokens_per_second == pytest.approx(7 / timings.decode_s)
    assert engine.stats().kv_blocks_used == 0


def test_chunks_joined_are_the_completion(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    chunks = list(iter_chunks(engine, [request(stream=True, max_tokens=60, logprobs=2)]))
    last = chunks[-1].completion
    assert last is not None
    assert "".join(chunk.text for chunk in chunks) == last.text
    assert [token for chunk in chunks for token in chunk.token_ids] == last.token_ids
    assert [r for chunk in chunks for r in chunk.logprobs or ()] == last.logprobs
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == "length"
    assert len(chunks) > 10


def test_logprobs(make_engine: MakeEngine, tokenizer: Tokenizer) -> None:
    engine, _ = make_engine()
    result = answer(engine, request(logprobs=3, max_tokens=2))
    logits = fake_row(PROMPT, tokenizer.vocab_size).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum())
    assert result.logprobs is not None
    record = result.logprobs[0]
    assert record.token_id == int(logits.argmax())
    assert record.logprob == pytest.approx(logprobs.max(), abs=1e-5)
    assert [top.token_id for top in record.top] == np.argsort(-logits)[:3].tolist()
    assert record.bytes == tokenizer.token_bytes(record.token_id)
    assert len(result.to_dict()["logprobs"]) == 2


def test_end_token_stops_and_is_not_text(make_engine: MakeEngine, tokenizer: Tokenizer) -> None:
    engine, _ = make_engine()
    free = expected(tokenizer, 8)
    result = answer(engine, request(stop_token_ids=(free[4],)))
    assert result.token_ids == free[: free.index(free[4]) + 1]
    assert (result.finish_reason, result.stop_reason) == ("stop", free[4])
    assert result.text == tokenizer.decode(result.token_ids[:-1], skip_special=True)


def test_the_models_own_end_tokens(make_engine: MakeEngine, tokenizer: Tokenizer) -> None:
    (end,) = {2} & tokenizer.eos_ids
    engine, _ = make_engine()
    bias = {end: 100.0}
    stopped = answer(engine, request(ignore_eos=False, logit_bias=bias))
    assert (stopped.token_ids, stopped.stop_reason, stopped.text) == ([end], end, "")
    ignored = answer(engine, request(logit_bias=bias, max_tokens=3))
    assert (ignored.token_ids, ignored.finish_reason) == ([end] * 3, "length")
    later = answer(engine, request(ignore_eos=False, logit_bias=bias, min_tokens=5))
    assert len(later.token_ids) == 6
    assert end not in later.token_ids[:5]
    assert later.stop_reason == end


def test_stop_string(make_engine: MakeEngine, tokenizer: Tokenizer) -> None:
    engine, _ = make_engine()
    text = answer(engine, request(max_tokens=40)).text
    at = next(i for i in range(5, len(text)) if text[i : i + 2].isascii())
    stop = text[at : at + 2]
    chunks = list(iter_chunks(engine, [request(max_tokens=40, stop=(stop,), stream=True)]))
    result = chunks[-1].completion
    assert result is not None
    assert result.text == "".join(chunk.text for chunk in chunks) == text[: text.index(stop)]
    assert (result.finish_reason, result.stop_reason) == ("stop", stop)


def test_full_context_ends_with_length(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(context=64)
    result = answer(engine, request(max_tokens=None))
    # The last token needs no place: 64 are read, 50 of them the prompt, one more is given out.
    assert (result.completion_tokens, result.finish_reason) == (15, "length")
    exact = answer(engine, request(list(range(64)), max_tokens=None))
    assert (exact.completion_tokens, exact.finish_reason) == (1, "length")


def test_refused_prompts(make_engine: MakeEngine, tokenizer: Tokenizer) -> None:
    engine, executable = make_engine(context=64)
    with pytest.raises(ContextLengthError, match="has 65 tokens and the context holds 64"):
        answer(engine, request(list(range(65))))
    for prompt in ([], [-1], [tokenizer.vocab_size], [1.5], [[1]], [2**40]):
        with pytest.raises(InvalidParameterError):
            answer(engine, request(prompt))
    with pytest.raises(InvalidParameterError, match="logit_bias"):
        answer(engine, request(logit_bias={tokenizer.vocab_size: 1.0}))
    assert executable.steps == []
    assert not engine.busy


def test_context_beyond_the_cache_is_refused(make_engine: MakeEngine) -> None:
    with pytest.raises(InvalidParameterError, match="do not fit into a cache of 64"):
        make_engine(context=65, num_kv_blocks=2)


def test_batch_gives_what_each_gives_alone(make_engine: MakeEngine, tokenizer: Tokenizer) -> None:
    # Few blocks and many sequences: chunks, prefix hits and preemptions all happen.
    engine, _ = make_engine(max_rows=24, num_kv_blocks=16, context=256, max_sequences=6)
    prompts = [[*range(40 + n % 3), *range(n)] for n in range(20)]
    asked = [request(p, index=n, max_tokens=40 + n) for n, p in enumerate(prompts)]
    results = complete(engine, asked, raise_errors=True)
    for number, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        assert result.token_ids == expected(tokenizer, 40 + number, prompt)
    stats = engine.stats()
    assert stats.preemptions > 0
    assert stats.cached_tokens > 0
    assert (stats.requests_finished, stats.kv_blocks_used) == (20, 0)
    assert stats.generated_tokens == sum(40 + n for n in range(20))


def test_seeds(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    loose: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 20}
    one = answer(engine, request(**loose))
    again = answer(engine, request(**loose, seed=one.seed))
    other = answer(engine, request(**loose))
    assert again.token_ids == one.token_ids
    assert other.seed != one.seed
    assert other.token_ids != one.token_ids


def test_engine_seed_determines_requests_in_order(make_engine: MakeEngine) -> None:
    seeds = [
        [answer(engine, request()).seed for _ in range(3)]
        for engine, _ in (make_engine(seed=7), make_engine(seed=7), make_engine(seed=8))
    ]
    assert seeds[0] == seeds[1] != seeds[2]
    assert len(set(seeds[0])) == 3


def test_failed_step_fails_its_requests_only(make_engine: MakeEngine, tokenizer: Tokenizer) -> None:
    engine, executable = make_engine()
    executable.errors.append(BackendError("the device is lost"))
    with pytest.raises(BackendError, match="the device is lost"):
        answer(engine, request())
    executable.errors.append(ZeroDivisionError("a bug"))
    (failed,) = complete(engine, [request()], raise_errors=False)
    assert failed.finish_reason == "error"
    assert isinstance(failed.error, BackendError)
    assert "a bug" in failed.to_dict()["error"]
    assert engine.last_error is not None
    assert engine.alive
    assert answer(engine, request()).token_ids == expected(tokenizer, 8)
    stats = engine.stats()
    assert (stats.requests_failed, stats.requests_finished, stats.kv_blocks_used) == (2, 1, 0)


def test_sampler_error_fails_that_request_alone(
    make_engine: MakeEngine, tokenizer: Tokenizer
) -> None:
    engine, _ = make_engine()
    nothing_left = dict.fromkeys(range(tokenizer.vocab_size), -100.0)
    results = complete(
        engine, [request(logit_bias=nothing_left), request(index=1)], raise_errors=False
    )
    assert isinstance(results[0].error, RequestError)
    assert results[1].token_ids == expected(tokenizer, 8)


def test_fault_in_the_engine_itself(
    make_engine: MakeEngine, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = make_engine()
    with monkeypatch.context() as patch:
        patch.setattr(engine._scheduler, "schedule", lambda: 1 / 0)
        with pytest.raises(BackendError, match="ZeroDivisionError"):
            answer(engine, request())
    assert answer(engine, request()).token_ids == expected(tokenizer, 8)


@pytest.mark.parametrize("generated", [0, 1, 5])
def test_cancelling_frees_blocks_within_a_step(make_engine: MakeEngine, generated: int) -> None:
    engine, executable = make_engine(prefix_cache=False)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    executable.gate = threading.Event()
    handle = engine.submit(request(stream=True, max_tokens=200), events.put)
    if generated:
        executable.gate.set()
        wait_for(lambda: len(executable.steps) >= generated)
        executable.gate.clear()
    wait_for(lambda: engine.stats().requests_running == 1)
    handle.cancel()
    handle.cancel()
    num_steps = len(executable.steps)
    executable.gate.set()
    while True:
        event = events.get(timeout=10)
        assert isinstance(event, Chunk)
        if event.completion is not None:
            break
    assert event.finish_reason == "cancelled"
    assert handle.done
    # At most the step in progress, and one that had begun when the gate was closed.
    assert len(executable.steps) <= num_steps + 2
    stats = engine.stats()
    assert (stats.kv_blocks_used, stats.requests_cancelled, engine.busy) == (0, 1, False)


def test_closing_an_iterator_cancels(make_engine: MakeEngine) -> None:
    engine, executable = make_engine()
    executable.seconds = 0.002
    chunks = iter_chunks(engine, [request(stream=True, max_tokens=400)])
    next(chunks)
    chunks.close()
    wait_for(lambda: not engine.busy)
    assert engine.stats().requests_cancelled == 1


def test_iterator_that_is_never_read_asks_for_nothing(make_engine: MakeEngine) -> None:
    engine, executable = make_engine()
    iter_chunks(engine, [request(stream=True)])
    assert executable.steps == []


def test_listener_that_raises_is_cancelled(make_engine: MakeEngine, tokenizer: Tokenizer) -> None:
    engine, _ = make_engine()

    def listener(event: Event) -> None:
        raise RuntimeError("gone")

    engine.submit(request(stream=True, max_tokens=400), listener)
    wait_for(lambda: not engine.busy)
    assert engine.stats().requests_cancelled == 1
    assert answer(engine, request()).token_ids == expected(tokenizer, 8)


def test_a_neighbour_that_is_cancelled_changes_nothing(
    make_engine: MakeEngine, tokenizer: Tokenizer
) -> None:
    engine, executable = make_engine()
    executable.seconds = 0.001
    neighbour = engine.submit(request(list(range(90)), max_tokens=300), lambda event: None)
    timer = threading.Timer(0.03, neighbour.cancel)
    timer.start()
    assert answer(engine, request(max_tokens=60)).token_ids == expected(tokenizer, 60)
    timer.join()


def test_many_threads(make_engine: MakeEngine, tokenizer: Tokenizer) -> None:
    engine, _ = make_engine(max_sequences=4)
    results: dict[int, Completion] = {}

    def work(number: int) -> None:
        results[number] = answer(engine, request([number + 1] * (number + 1), max_tokens=20))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(12):
        prompt = [number + 1] * (number + 1)
        assert results[number].token_ids == expected(tokenizer, 20, prompt)


def test_full_queue(make_engine: MakeEngine) -> None:
    engine, executable = make_engine(max_sequences=1, max_waiting=2)
    executable.gate = threading.Event()
    handles = [engine.submit(request(), lambda event: None) for _ in range(3)]
    with pytest.raises(QueueFullError, match="2 requests are waiting"):
        engine.submit(request(), lambda event: None)
    executable.gate.set()
    wait_for(lambda: all(handle.done for handle in handles))
    # A list longer than the queue is fed in as there is room.
    asked = [request(index=n) for n in range(9)]
    assert len(complete(engine, asked, raise_errors=True)) == 9


def test_rows_of_a_text(make_engine: MakeEngine, tokenizer: Tokenizer) -> None:
    engine, _ = make_engine(max_rows=16, max_outputs=4)
    rows: dict[int, np.ndarray] = {}

    def sink(first: int, part: np.ndarray) -> None:
        assert len(part) <= 4
        rows.update(enumerate(part.copy(), start=first))

    compute_rows(engine, [RowsRequest(tokens=PROMPT, output="hidden", sink=sink)])
    assert sorted(rows) == list(range(50))
    for number, row in rows.items():
        np.testing.assert_array_equal(row, fake_row(PROMPT[: number + 1], 8, "hidden"))


def test_sink_that_raises_fails_its_request(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()

    def sink(first: int, part: np.ndarray) -> None:
        raise MemoryError

    with pytest.raises(BackendError, match="MemoryError"):
        compute_rows(engine, [RowsRequest(tokens=PROMPT, output="logits", sink=sink)])


def test_close_cancels_and_frees(make_engine: MakeEngine) -> None:
    engine, executable = make_engine(max_sequences=1)
    executable.seconds = 0.002
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    for number in range(3):
        engine.submit(request(max_tokens=400, index=number), events.put)
    sink = RowsRequest(tokens=PROMPT, output="logits", sink=lambda first, rows: None)
    engine.submit(sink, events.put)
    wait_for(lambda: len(executable.steps) > 1)
    engine.close()
    engine.close()
    assert executable.closed
    assert not engine.alive
    ended = [events.get(timeout=1) for _ in range(4)]
    chunks = [event for event in ended if isinstance(event, Chunk)]
    assert sorted(chunk.index for chunk in chunks) == [0, 1, 2]
    assert {chunk.finish_reason for chunk in chunks} == {"cancelled"}
    assert sum(isinstance(event, Failure) for event in ended) == 1
    with pytest.raises(RequestError, match="was closed"):
        answer(engine, request())


def test_idle_engine_burns_no_time(make_engine: MakeEngine) -> None:
    engine, executable = make_engine()
    answer(engine, request())
    num_steps = len(executable.steps)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05
    assert len(executable.steps) == num_steps


def test_latencies_are_counted(make_engine: MakeEngine) -> None:
    engine, executable = make_engine()
    executable.seconds = 0.01
    answer(engine, request(max_tokens=11))
    stats = engine.stats()
    assert (stats.time_to_first_token.count, stats.inter_token.count) == (1, 10)
    assert stats.inter_token.p50 is not None
    assert stats.inter_token.p50 >= 0.01
    assert stats.prompt_tokens == 50
    assert stats.memory == {"weights": 1, "kv_cache": 2}
    assert stats.generated_tokens_per_second is not None
    assert stats.generated_tokens_per_second < 100
    assert stats.to_dict()["inter_token"]["count"] == 10
