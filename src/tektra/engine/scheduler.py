"""Decides what goes into the next step: continuous batching over a paged cache.

First come, first served. Sequences that generate get their row first, prompts are cut into chunks
that fill the rest. It knows counts of tokens and blocks; it neither runs a model nor samples.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from operator import attrgetter

from tektra.backends.base import KV_BLOCK_SIZE, CompileOptions
from tektra.engine.kv_blocks import num_blocks_for
from tektra.engine.prefix_cache import PrefixCache, extend_digests
from tektra.engine.request import SequenceState
from tektra.graph import OutputName

__all__ = ["ScheduledRows", "Scheduler"]


@dataclass(frozen=True, slots=True)
class ScheduledRows:
    """The next ``num_rows`` tokens of a sequence; the last ``num_outputs`` give a result."""

    sequence: SequenceState
    num_rows: int
    num_outputs: int


class Scheduler:
    """Holds the waiting and the running sequences.

    When a sequence finds no block, the newest of those that came after it gives up its own and
    waits again at the head of the queue with all its tokens; they are recomputed later, to the
    same bits. Where none came after it, it skips steps until one is free. A sequence that does not
    fit into the empty cache must not be added.

    Args:
        options: rows and outputs in a step, blocks in the cache.
        max_sequences: most sequences that run at once; at most ``options.max_outputs`` do, so
            that every running sequence can have an output row in every step.
        prefix_cache: whether blocks are reused by later sequences with the same beginning.
        whole: whether a sequence runs in one step as a whole or not at all: in models whose rows
            see those after them. None may be longer than ``options.max_rows``.
        step_rows: rows that are put together where sequences run whole; None: ``options.max_rows``.
    """

    def __init__(
        self,
        options: CompileOptions,
        max_sequences: int,
        *,
        prefix_cache: bool = True,
        whole: bool = False,
        step_rows: int | None = None,
    ) -> None:
        self._max_rows = options.max_rows
        self._whole = whole
        self._step_rows = min(step_rows or options.max_rows, options.max_rows)
        self._max_outputs = options.max_outputs
        self._max_sequences = min(max_sequences, options.max_outputs)
        self._last_output: OutputName = "logits"
        self.cache = PrefixCache(options.num_kv_blocks, enabled=prefix_cache)
        self.pool = self.cache.pool
        self.waiting: deque[SequenceState] = deque()
        self.running: list[SequenceState] = []
        self.num_preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, sequence: SequenceState) -> None:
        """Puts a new sequence at the end of the queue."""
        self.waiting.append(sequence)

    def schedule(self) -> tuple[OutputName, list[ScheduledRows]]:
        """The sequences of the next step, all of which want the same output of the model."""
        output: OutputName = self._last_output
        batch: list[ScheduledRows] = []
        for output in self._outputs_in_turn():
            batch = self._schedule(output)
            if batch:
                break
        self._last_output = output
        return output, batch

    def _schedule(self, output: OutputName) -> list[ScheduledRows]:
        batch: list[ScheduledRows] = []
        rows, outputs = self._max_rows, self._max_outputs
        # Those with one token left come first; each group in order of arrival.
        for sequence in sorted(self.running, key=lambda s: (s.num_remaining > 1, s.id)):
            if sequence.output != output or not sequence.running:
                continue
            item = self._next_rows(sequence, rows, outputs)
            if item.num_rows and self._reserve(item, batch):
                batch.append(item)
                rows, outputs = rows - item.num_rows, outputs - item.num_outputs
        while self.waiting and rows and self.waiting[0].output == output:
            if self._whole and not self._next_rows(self.waiting[0], rows, outputs).num_rows:
                break
            if not self._admit(self.waiting[0]):
                break
            item = self._next_rows(self.running[-1], rows, outputs)
            if not (item.num_rows and self._reserve(item, batch)):
                break
            batch.append(item)
            rows, outputs = rows - item.num_rows, outputs - item.num_outputs
        return batch

    def commit(self, batch: list[ScheduledRows]) -> None:
        """Notes that a step was run: its rows are in the cache, full blocks can be shared."""
        for item in batch:
            sequence = item.sequence
            sequence.num_computed += item.num_rows
            if self._whole:
                continue
            num_full = sequence.num_computed // KV_BLOCK_SIZE
            if sequence.num_registered < num_full:
                extend_digests(sequence.digests, sequence.tokens, sequence.root)
                for index in range(sequence.num_registered, num_full):
                    self.cache.insert(sequence.digests[index], int(sequence.blocks[index]))
                sequence.num_registered = num_full

    def restart(self, sequence: SequenceState) -> None:
        """Computes a running sequence anew, whose tokens are others now; it comes first."""
        self.running.remove(sequence)
        self._release(sequence)
        sequence.digests.clear()
        self.waiting.appendleft(sequence)

    def remove(self, sequence: SequenceState) -> None:
        """Takes out a sequence that is finished, failed or cancelled, and frees its blocks."""
        if sequence.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def _outputs_in_turn(self) -> list[OutputName]:
        """Outputs that are wanted; the one that the last step had comes last.

        The first may turn out to have no step, when all it wants must wait for blocks; the oldest
        running sequence always has one, as all others give way to it.
        """
        wanted = {sequence.output for sequence in self.running}
        if self.waiting and len(self.running) < self._max_sequences:
            wanted.add(self.waiting[0].output)
        return sorted(wanted, key=lambda output: (output == self._last_output, output))

    def _admit(self, sequence: SequenceState) -> bool:
        """Starts the first waiting sequence if there is room for all its tokens."""
        if len(self.running) >= self._max_sequences:
            return False
        known: list[int] = []
        if not self._whole:
            extend_digests(sequence.digests, sequence.tokens, sequence.root)
            # The token whose output is wanted has to be computed, whatever the cache knows.
            known = self.cache.match(sequence.digests[: sequence.first_output // KV_BLOCK_SIZE])
        num_new = num_blocks_for(len(sequence.tokens)) - len(known)
        num_revived = sum(self.pool.is_idle(block) for block in known)
        # A block in hand for each running sequence: else the newcomer would be preempted at once.
        spare = 0 if self._whole else len(self.running)
        if self.running and not self.pool.can_allocate(num_new + num_revived + spare):
            return False
        self.waiting.popleft()
        self.pool.fork(known)
        sequence.blocks[: len(known)] = known
        sequence.num_blocks = sequence.num_registered = len(known)
        sequence.num_computed = len(known) * KV_BLOCK_SIZE
        if not sequence.started:
            sequence.num_cached = sequence.num_computed
        sequence.running = sequence.started = True
        self.running.append(sequence)
        return True

    def _next_rows(self, sequence: SequenceState, rows: int, outputs: int) -> ScheduledRows:
        """What a sequence runs of the rows and outputs that a step still has; of none, nothing."""
        if not self._whole:
            return _chunk(sequence, rows, outputs)
        taken = self._max_rows - rows
        item = ScheduledRows(
            sequence, sequence.num_remaining, _num_outputs(sequence, sequence.num_remaining)
        )
        fits = item.num_outputs <= outputs and (
            taken == 0 or taken + item.num_rows <= self._step_rows
        )
        return item if fits else ScheduledRows(sequence, 0, 0)

    def _reserve(self, item: ScheduledRows, batch: list[ScheduledRows]) -> bool:
        """Gets the blocks that a chunk will write to; False where they cannot be had now."""
        sequence = item.sequence
        needed = num_blocks_for(sequence.num_computed + item.num_rows) - sequence.num_blocks
        if needed <= 0:
            return True
        while not self.pool.can_allocate(needed):
            in_step = {other.sequence.id for other in batch}
            victims = [
                other
                for other in self.running
                if other.id > sequence.id and other.id not in in_step
            ]
            if not victims:
                return False
            self._preempt(max(victims, key=attrgetter("id")))
        last = sequence.num_blocks + needed
        sequence.blocks[sequence.num_blocks : last] = self.pool.allocate(needed)
        sequence.num_blocks = last
        return True

    def _preempt(self, sequence: SequenceState) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1

    def _release(self, sequence: SequenceState) -> None:
        # The end first: what many prompts share, the beginning, is then the last to be reused.
        self.pool.free(sequence.blocks[: sequence.num_blocks][::-1].tolist())
        sequence.blocks[: sequence.num_blocks] = -1
        sequence.num_blocks = sequence.num_registered = sequence.num_computed = 0
        sequence.running = False


def _chunk(sequence: SequenceState, rows: int, outputs: int) -> ScheduledRows:
    """As many of the next tokens of a sequence as the step still has rows and outputs for."""
    num_rows = min(sequence.num_remaining, rows)
    num_outputs = _num_outputs(sequence, num_rows)
    if num_outputs > outputs:
        num_rows -= num_outputs - outputs
        num_outputs = outputs
    return ScheduledRows(sequence, num_rows, num_outputs)


def _num_outputs(sequence: SequenceState, num_rows: int) -> int:
    end = sequence.num_computed + num_rows
    if sequence.end_output is not None:
        end = min(end, sequence.end_output)
    return max(0, end - max(sequence.first_output, sequence.num_computed))
