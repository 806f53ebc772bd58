"""The scheduler against a fake model: order, budgets, preemption; nothing leaks or changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.fixtures.fake_executable import FakeExecutable, fake_row, greedy

from tektra.backends.base import CompileOptions
from tektra.engine.kv_blocks import num_blocks_for
from tektra.engine.request import SequenceState
from tektra.engine.scheduler import ScheduledRows, Scheduler
from tektra.engine.step import build_step
from tektra.graph import OutputName

VOCAB = 50
CONTEXT = 256


class Harness:
    """Runs sequences to their end without an engine."""

    def __init__(self, max_sequences: int = 4, **options: Any) -> None:
        sizes = {"max_rows": 48, "max_outputs": 8, "num_kv_blocks": 8, **options}
        prefix_cache = sizes.pop("prefix_cache", True)
        self.options = CompileOptions(**sizes)
        self.executable = FakeExecutable(VOCAB, self.options)
        self.scheduler = Scheduler(self.options, max_sequences, prefix_cache=prefix_cache)
        self.targets: dict[int, int] = {}
        self.prompts: dict[int, list[int]] = {}
        self.rows: dict[int, list[np.ndarray]] = {}
        self.finished: dict[int, list[int]] = {}

    def add(
        self, prompt: list[int], count: int = 1, output: OutputName = "logits", whole: bool = False
    ) -> SequenceState:
        """A sequence that generates ``count`` tokens, or wants all rows of its prompt."""
        sequence = SequenceState(
            id=len(self.targets),
            tokens=list(prompt),
            output=output,
            first_output=0 if whole else len(prompt) - 1,
            blocks=np.full(num_blocks_for(CONTEXT), -1, np.int32),
        )
        self.targets[sequence.id] = 0 if whole else count
        self.prompts[sequence.id] = list(prompt)
        self.rows[sequence.id] = []
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> list[ScheduledRows]:
        output, batch = self.scheduler.schedule()
        if not batch:
            return batch
        assert sum(item.num_rows for item in batch) <= self.options.max_rows
        assert sum(item.num_outputs for item in batch) <= self.options.max_outputs
        assert all(item.sequence.output == output for item in batch)
        rows = self.executable.run(build_step(batch), output)
        self.scheduler.commit(batch)
        first = 0
        for item in batch:
            sequence = item.sequence
            taken = rows[first : first + item.num_outputs]
            first += item.num_outputs
            if not item.num_outputs:
                continue
            self.rows[sequence.id].extend(taken)
            target = self.targets[sequence.id]
            prompt = self.prompts[sequence.id]
            if target == 0:
                sequence.first_output += item.num_outputs
                done = sequence.first_output == len(prompt)
            else:
                sequence.first_output = len(sequence.tokens)
                sequence.tokens.append(int(taken[-1].argmax()))
                done = len(sequence.tokens) - len(prompt) == target
            if done:
                self.finished[sequence.id] = sequence.tokens[len(prompt) :]
                self.scheduler.remove(sequence)
        return batch

    def drain(self, limit: int = 5000) -> None:
        for _ in range(limit):
            if not self.scheduler.has_work:
                return
            assert self.step(), "work, but no step"
        raise AssertionError("the scheduler does not come to an end")

    def check_pool(self) -> None:
        pool = self.scheduler.pool
        held: Counter[int] = Counter()
        for sequence in self.scheduler.running:
            used = sequence.blocks[: sequence.num_blocks].tolist()
            assert len(set(used)) == len(used)
            assert (sequence.blocks[sequence.num_blocks :] == -1).all()
            held.update(used)
        for sequence in self.scheduler.waiting:
            assert sequence.num_blocks == 0
            assert (sequence.blocks == -1).all()
        assert {b: pool.references(b) for b in range(pool.num_blocks)} == {
            b: held[b] for b in range(pool.num_blocks)
        }
        assert pool.num_held == len(held)
        assert len(self.scheduler.running) <= 4

    def check_result(self, number: int) -> None:
        prompt, target = self.prompts[number], self.targets[number]
        if target:
            assert self.finished[number] == greedy(prompt, target, VOCAB)


def prompt_of(length: int, start: int = 0) -> list[int]:
    return [(start + 7 * i) % VOCAB for i in range(length)]


def test_decoding_comes_before_prompts() -> None:
    harness = Harness(max_rows=16)
    old = harness.add(prompt_of(40))
    harness.add(prompt_of(3, 1), count=5)
    harness.step()
    assert harness.scheduler.running == [old]
    while old in harness.scheduler.running:
        harness.step()
    new = harness.add(prompt_of(60, 2), count=2)
    batch = harness.step()
    assert [(item.num_rows, item.num_outputs) for item in batch] == [(1, 1), (15, 0)]
    assert batch[1].sequence is new


def test_a_prompt_is_cut_into_chunks_of_what_is_left() -> None:
    harness = Harness(max_rows=16, num_kv_blocks=16)
    harness.add(prompt_of(40))
    harness.add(prompt_of(5, 3))
    sizes = []
    while harness.scheduler.has_work:
        sizes.append([(item.num_rows, item.num_outputs) for item in harness.step()])
    assert sizes == [[(16, 0)], [(16, 0)], [(8, 1), (5, 1)]]


def test_first_come_first_served() -> None:
    harness = Harness(max_sequences=2, num_kv_blocks=16)
    for number in range(5):
        harness.add(prompt_of(4, number), count=3)
    order = []
    while harness.scheduler.has_work:
        before = set(harness.finished)
        harness.step()
        order += sorted(set(harness.finished) - before)
    assert order == [0, 1, 2, 3, 4]


def test_output_rows_are_bounded_for_whole_texts() -> None:
    harness = Harness(max_rows=32, max_outputs=8)
    harness.add(prompt_of(30), whole=True)
    chunks = []
    while harness.scheduler.has_work:
        chunks += [(item.num_rows, item.num_outputs) for item in harness.step()]
    assert chunks == [(8, 8), (8, 8), (8, 8), (6, 6)]
    expected = [fake_row(prompt_of(30)[: i + 1], VOCAB) for i in range(30)]
    np.testing.assert_array_equal(np.array(harness.rows[0]), np.array(expected))


def test_the_newest_is_preempted_and_ends_with_the_same_tokens() -> None:
    # Each ends with 4 of the 6 blocks, so the two cannot both run to the end.
    harness = Harness(num_kv_blocks=6, prefix_cache=False)
    harness.add(prompt_of(60), count=60)
    harness.add(prompt_of(60, 5), count=60)
    harness.drain()
    assert harness.scheduler.num_preemptions > 0
    harness.check_result(0)
    harness.check_result(1)
    assert list(harness.finished) == [0, 1]
    assert harness.scheduler.pool.num_held == 0


def test_a_whole_text_that_is_preempted_gets_each_row_once() -> None:
    harness = Harness(num_kv_blocks=6, max_rows=2, max_outputs=2, prefix_cache=False)
    harness.add(prompt_of(20), count=120)
    for _ in range(10):
        harness.step()
    harness.add(prompt_of(90, 5), whole=True)
    harness.drain()
    assert harness.scheduler.num_preemptions > 0
    expected = [fake_row(prompt_of(90, 5)[: i + 1], VOCAB) for i in range(90)]
    np.testing.assert_array_equal(np.array(harness.rows[1]), np.array(expected))


def test_a_known_beginning_is_not_computed_again() -> None:
    harness = Harness()
    harness.add(prompt_of(70))
    harness.drain()
    again = harness.add(prompt_of(70))
    batch = harness.step()
    assert [item.num_rows for item in batch] == [70 - 64]
    assert again.num_cached == 64
    harness.check_result(1)


@pytest.mark.parametrize(("length", "cached"), [(64, 32), (65, 64), (32, 0), (33, 32)])
def test_the_last_token_of_a_prompt_is_always_computed(length: int, cached: int) -> None:
    harness = Harness()
    harness.add(prompt_of(length))
    harness.drain()
    again = harness.add(prompt_of(length))
    harness.drain()
    assert again.num_cached == cached
    harness.check_result(1)


def test_generated_tokens_are_reused_by_the_next_turn() -> None:
    harness = Harness()
    harness.add(prompt_of(30), count=50)
    harness.drain()
    history = prompt_of(30) + harness.finished[0]
    turn = harness.add([*history, 1, 2, 3])
    harness.drain()
    # The last generated token was never run, so 79 of the 80 are there: two full blocks.
    assert turn.num_cached == 64
    harness.check_result(1)


def test_whole_texts_do_not_skip_what_is_cached() -> None:
    harness = Harness()
    harness.add(prompt_of(70))
    harness.drain()
    harness.add(prompt_of(70), whole=True)
    harness.drain()
    assert len(harness.rows[1]) == 70


def test_outputs_take_turns() -> None:
    harness = Harness(num_kv_blocks=16)
    harness.add(prompt_of(4), count=6)
    harness.add(prompt_of(40), output="hidden", whole=True)
    kinds = []
    while harness.scheduler.has_work:
        kinds.append(harness.step()[0].sequence.output)
    assert kinds[:6] == ["logits", "hidden"] * 3
    harness.check_result(0)


def test_removing_frees_at_once() -> None:
    harness = Harness(prefix_cache=False)
    running = harness.add(prompt_of(60), count=10)
    harness.step()
    waiting = harness.add(prompt_of(60, 1), count=10)
    harness.scheduler.remove(waiting)
    harness.scheduler.remove(running)
    harness.scheduler.remove(running)
    assert not harness.scheduler.has_work
    assert harness.scheduler.pool.num_held == 0


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come, run, are cancelled in any order; accounts and results stay right."""

    def __init__(self) -> None:
        super().__init__()
        self.harness = Harness(num_kv_blocks=8, max_rows=24, max_outputs=4)
        self.live: list[SequenceState] = []

    @rule(length=st.integers(1, 150), start=st.integers(0, 1), count=st.integers(1, 100))
    def add(self, length: int, start: int, count: int) -> None:
        # Two beginnings only, so that prompts share them; 256 tokens fit into the empty cache.
        self.live.append(self.harness.add(prompt_of(length, start), count=count))

    @rule(length=st.integers(1, 150), output=st.sampled_from(["logits", "hidden"]))
    def add_whole(self, length: int, output: OutputName) -> None:
        self.live.append(self.harness.add(prompt_of(length), output=output, whole=True))

    @rule(count=st.integers(1, 40))
    def steps(self, count: int) -> None:
        for _ in range(count):
            if self.harness.scheduler.has_work:
                assert self.harness.step()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        self.live.remove(sequence)
        self.harness.scheduler.remove(sequence)

    @invariant()
    def accounts_are_right(self) -> None:
        self.harness.check_pool()

    def teardown(self) -> None:
        self.harness.drain()
        self.harness.check_pool()
        assert self.harness.scheduler.pool.num_held == 0
        for sequence in self.live:
            number = sequence.id
            self.harness.check_result(number)
            if self.harness.targets[number] == 0:
                prompt = self.harness.prompts[number]
                assert len(self.harness.rows[number]) == len(prompt)
                last = fake_row(prompt, VOCAB, sequence.output)
                np.testing.assert_array_equal(self.harness.rows[number][-1], last)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
