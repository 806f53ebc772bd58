"""The engine: takes requests from any thread and runs the steps of all of them on one.

It joins scheduler, executable and jobs. It knows neither architectures nor how a backend computes,
and it outlives whatever goes wrong in a request or a step.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from types import ModuleType

from tektra.backends.base import KV_BLOCK_SIZE, Executable
from tektra.engine.adapters import Adapters
from tektra.engine.calls import Calls
from tektra.engine.intake import Intake
from tektra.engine.jobs import Job, Listener
from tektra.engine.options import EngineOptions
from tektra.engine.request import Request
from tektra.engine.scheduler import ScheduledRows, Scheduler
from tektra.engine.stats import EngineStats, StatsRecorder
from tektra.engine.step import build_step
from tektra.errors import (
    BackendError,
    InvalidParameterError,
    QueueFullError,
    RequestError,
    TektraError,
)
from tektra.tokenizer.base import Tokenizer

__all__ = ["Engine", "RequestHandle"]


class RequestHandle:
    """A request that was handed in."""

    __slots__ = ("_engine", "_job")

    def __init__(self, engine: Engine, job: Job) -> None:
        self._engine = engine
        self._job = job

    @property
    def done(self) -> bool:
        """Whether the listener was told the last event."""
        return self._job.done

    def cancel(self) -> None:
        """Ends the request after the step in progress at the latest, and frees its blocks.

        The listener is told what there is by then. Safe from any thread, any number of times.
        """
        self._engine._cancel(self._job)


class Engine:
    """Runs requests on an executable, batched, on a thread of its own.

    Args:
        executable: compiled model; closed by the engine.
        tokenizer: the model's.
        options: bounds on requests.
        vocab_size: tokens that the model can read.
        native: the extension module with the native sampler; None for the NumPy one.
    """

    def __init__(
        self,
        executable: Executable,
        tokenizer: Tokenizer,
        options: EngineOptions,
        *,
        vocab_size: int,
        native: ModuleType | None = None,
    ) -> None:
        capacity = executable.options.num_kv_blocks * KV_BLOCK_SIZE
        if options.context > capacity:
            raise InvalidParameterError(
                "context", f"{options.context} tokens do not fit into a cache of {capacity}"
            )
        self.options = options
        self._executable = executable
        self._intake = Intake(
            tokenizer,
            context=options.context,
            vocab_size=vocab_size,
            seed=options.seed,
            native=native,
            shares_blocks=options.prefix_cache and not options.whole,
            sliding=options.sliding,
        )
        self._scheduler = self._new_scheduler()
        self._jobs: dict[int, Job] = {}
        self.adapters = Adapters(executable, self._between_steps)
        self._calls = Calls()
        self._recorder = StatsRecorder()
        self._last_error: str | None = None
        self._memory = dict(executable.memory.parts)
        # Guards what follows it; the rest belongs to the engine's thread.
        self._wake = threading.Condition()
        self._inbox: list[Job] = []
        self._to_cancel: list[Job] = []
        self._next_id = 0
        self._closing = False
        self._process = os.getpid()
        # A daemon, so that a model nobody closed does not keep the interpreter from ending; it is
        # then stopped by atexit, before the interpreter is torn down under it.
        self._thread = threading.Thread(target=self._loop, name="tektra-engine", daemon=True)
        atexit.register(self.close)
        try:
            self._thread.start()
        except RuntimeError as error:
            atexit.unregister(self.close)
            raise BackendError(
                f"the engine's thread cannot be started: {error}",
                remedy="end other programs, or raise the limit on threads",
            ) from error

    # For callers, on any thread

    def submit(self, request: Request, listener: Listener) -> RequestHandle:
        """Hands in a request; the listener is called on the engine's thread.

        Raises:
            InvalidParameterError: a token is not in the vocabulary, or there is none.
            ContextLengthError: the tokens do not fit into the context.
            QueueFullError: too many requests wait.
            RequestError: the engine was closed, or belongs to the parent of this process.
        """
        adapters = self.adapters.acquire(request.adapters)
        try:
            job = self._intake.new_job(request, listener, adapters)
            with self._wake:
                self._check_open()
                limit = self.options.max_waiting
                if limit is not None and len(self._jobs) + len(self._inbox) >= (
                    limit + self.options.max_sequences
                ):
                    raise QueueFullError(
                        f"{limit} requests are waiting already", remedy="try again later"
                    )
                job.sequence.id = self._next_id
                self._next_id += 1
                self._inbox.append(job)
                self._wake.notify()
        except BaseException:
            self.adapters.release(adapters)
            raise
        return RequestHandle(self, job)

    def _between_steps(self, function: Callable[[], None]) -> None:
        """Calls a function on the engine's thread, and raises what it raises."""
        wait = function
        if threading.current_thread() is not self._thread:
            with self._wake:
                self._check_open()
                wait = self._calls.put(function)
                self._wake.notify()
        wait()

    @property
    def alive(self) -> bool:
        """Whether the thread that runs steps is there."""
        return self._thread.is_alive() and os.getpid() == self._process

    @property
    def closed(self) -> bool:
        return self._closing

    @property
    def last_error(self) -> str | None:
        """Message of the latest failure of a request or a step."""
        return self._last_error

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return bool(self._jobs or self._inbox)

    def stats(self) -> EngineStats:
        """What was done so far; a snapshot."""
        recorder, scheduler = self._recorder, self._scheduler
        prompt_rate, generated_rate = recorder.rates()
        return EngineStats(
            requests_running=len(scheduler.running),
            requests_waiting=len(scheduler.waiting) + len(self._inbox),
            requests_finished=recorder.outcomes["finished"],
            requests_failed=recorder.outcomes["failed"],
            requests_cancelled=recorder.outcomes["cancelled"],
            prompt_tokens=recorder.prompt_tokens,
            cached_tokens=recorder.cached_tokens,
            generated_tokens=recorder.generated_tokens,
            steps=recorder.steps,
            preemptions=scheduler.num_preemptions,
            time_to_first_token=recorder.time_to_first_token.latency(),
            inter_token=recorder.inter_token.latency(),
            prompt_tokens_per_second=prompt_rate,
            generated_tokens_per_second=generated_rate,
            memory={**self._memory, **self.adapters.memory},
            kv_blocks_used=scheduler.pool.num_held,
            kv_blocks_cached=scheduler.pool.num_idle,
            kv_blocks_total=scheduler.pool.num_blocks,
            uptime_s=time.perf_counter() - recorder.started,
        )

    def stop(self) -> None:
        """Asks the thread to end; it cancels what is left and closes the executable."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def close(self) -> None:
        """Cancels what is left, ends the thread, frees everything. Safe to call twice."""
        self.stop()
        if os.getpid() == self._process and threading.current_thread() is not self._thread:
            self._thread.join()

    def _cancel(self, job: Job) -> None:
        with self._wake:
            if not job.done:
                self._to_cancel.append(job)
                self._wake.notify()

    def _check_open(self) -> None:
        if os.getpid() != self._process:
            raise RequestError(
                "this model was loaded before the process was forked; its threads are not here",
                remedy="load the model in the child, or start children by spawn",
            )
        if self._closing:
            raise RequestError("the model was closed", remedy="load it again")

    # The engine's thread

    def _loop(self) -> None:
        try:
            while self._take_in():
                try:
                    self._cancel_asked()
                    self._calls.run()
                    self._step()
                except Exception as error:  # a fault in here must not end the service
                    self._recover(error)
        finally:  # whatever it was that ended the loop, nobody is left waiting
            self._shut_down()

    def _shut_down(self) -> None:
        with self._wake:
            self._closing = True
            left = [*self._jobs.values(), *self._inbox]
            self._inbox = []
        for job in left:
            try:
                job.cancel()
            except Exception as error:
                job.give_up(_as_tektra_error(error))
            self._end(job)
        self._calls.close()
        self._executable.close()
        atexit.unregister(self.close)

    def _take_in(self) -> bool:
        """Waits for work and takes new requests. False when it is time to end."""
        with self._wake:
            while not (self._inbox or self._to_cancel or self._calls or self._closing):
                if self._scheduler.has_work:
                    break
                self._wake.wait()
            if self._closing:
                return False
            for job in self._inbox:
                self._jobs[job.sequence.id] = job
                self._scheduler.add(job.sequence)
            self._inbox.clear()
        return True

    def _cancel_asked(self) -> None:
        with self._wake:
            cancelled, self._to_cancel = self._to_cancel, []
        for job in cancelled:
            if not job.done:
                try:
                    job.cancel()
                except Exception as error:
                    self._fail(job, _as_tektra_error(error))
                else:
                    self._end(job)

    def _step(self) -> None:
        output, batch = self._scheduler.schedule()
        if not batch:
            if self._scheduler.has_work:
                raise BackendError("the scheduler found no step for the requests there are")
            return
        start = time.perf_counter()
        try:
            rows = self._executable.run(build_step(batch), output)
        except Exception as error:
            failure = _as_tektra_error(error)
            for item in batch:
                self._fail(self._jobs[item.sequence.id], failure)
            return
        self._count(batch, start, time.perf_counter())
        self._scheduler.commit(batch)
        first = 0
        for item in batch:
            if item.num_outputs:
                end = first + item.num_outputs
                job = self._jobs[item.sequence.id]
                try:
                    job.consume(rows[first:end], self._recorder)
                except Exception as error:
                    self._fail(job, _as_tektra_error(error))
                else:
                    if job.outcome is not None:
                        self._end(job)
                    elif job.must_restart:
                        job.must_restart = False
                        self._scheduler.restart(job.sequence)
                first = end

    def _count(self, batch: list[ScheduledRows], start: float, end: float) -> None:
        num_rows = num_generated = 0
        for item in batch:
            job = self._jobs[item.sequence.id]
            if job.started is None:
                job.started = start
            num_rows += item.num_rows
            num_generated += job.has_generated and item.num_rows == 1
        self._recorder.count_step(num_rows - num_generated, num_generated, end - start)

    def _fail(self, job: Job, error: TektraError) -> None:
        self._last_error = str(error)
        try:
            job.fail(error)
        except Exception:  # in what it makes of its text so far
            job.give_up(error)
        self._end(job)

    def _end(self, job: Job) -> None:
        """Frees what a job holds, then tells its listener."""
        try:
            self._scheduler.remove(job.sequence)
        finally:  # whoever waits hears of it in any case
            self._jobs.pop(job.sequence.id, None)
            self.adapters.release(job.sequence.adapters)
            job.done = True
            self._recorder.count_outcome(job.outcome)
            job.deliver()

    def _recover(self, error: Exception) -> None:
        """Fails all that is there and starts with an empty cache: its state cannot be trusted."""
        failure = _as_tektra_error(error)
        jobs = list(self._jobs.values())
        self._scheduler = self._new_scheduler()
        for job in jobs:
            job.sequence.running = False
            self._fail(job, failure)

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(
            self._executable.options,
            self.options.max_sequences,
            prefix_cache=self.options.prefix_cache and not self.options.whole,
            whole=self.options.whole,
            step_rows=self.options.step_rows,
        )


def _as_tektra_error(error: Exception) -> TektraError:
    if isinstance(error, TektraError):
        return error
    failure = BackendError(f"an unexpected failure: {error!r}", remedy="please report it")
    failure.__cause__ = error
    return failure
