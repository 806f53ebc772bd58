"""The life of a loaded model: loading, ready, closed, failed; here or on a thread of its own.

It joins the loader and the engine, and knows neither prompts nor results. Whoever holds it must
call `close` or `abandon`: nothing here is done by a destructor.
"""

from __future__ import annotations

import atexit
import os
import threading
import traceback
from collections.abc import Mapping
from typing import Literal

from tektra.engine.chat import ChatEncoder
from tektra.engine.engine import Engine
from tektra.engine.loader import EitherCancelled, LoadedModel, LoadOptions, load
from tektra.engine.model_adapters import load_adapter_into
from tektra.engine.options import EngineOptions
from tektra.engine.sliding import SlidingContext
from tektra.engine.stats import EngineStats, Health
from tektra.errors import CancelledError, RequestError
from tektra.progress import CancelToken, ProgressCallback

__all__ = ["Ready", "Runtime", "Status"]

Status = Literal["loading", "ready", "busy", "closed", "failed"]
"""What a model is doing. ``busy``: ready, and requests run or wait."""


class Ready:
    """What there is once a model is loaded."""

    __slots__ = ("chat", "engine", "model")

    def __init__(self, model: LoadedModel, engine: Engine) -> None:
        self.model = model
        self.engine = engine
        self.chat = ChatEncoder(model.tokenizer, model.chat_templates)


class Runtime:
    """Loads a model and owns it.

    Args:
        reference: which model.
        options: how to load it.
        max_waiting, prefix_cache, seed: see `EngineOptions`.
        adapters: paths of adapters to load, by the names that requests call them by.
        progress: told how far loading is, on the thread that loads.
        cancel: ends loading when it is set.
    """

    def __init__(
        self,
        reference: str | os.PathLike[str],
        options: LoadOptions,
        *,
        max_waiting: int | None,
        prefix_cache: bool,
        seed: int | None,
        adapters: Mapping[str, str | os.PathLike[str]],
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> None:
        self._reference = reference
        self._options = options
        self._max_waiting = max_waiting
        self._prefix_cache = prefix_cache
        self._seed = seed
        self._adapters = adapters
        self._progress = progress
        self._cancel = EitherCancelled(cancel)
        self._lock = threading.Lock()
        self._loaded = threading.Event()
        self._ready: Ready | None = None
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def load(self) -> None:
        """Loads on the calling thread; raises what `tektra.engine.loader.load` raises.

        The error is not kept: its traceback holds this object, and with it the mapped file.
        """
        model = load(self._reference, self._options, progress=self._progress, cancel=self._cancel)
        with self._lock:
            if self._closed:
                model.executable.close()
                model.packed.close()
                raise CancelledError("the model was closed while it was loading")
            ready = Ready(model, self._new_engine(model))
            try:
                for name, path in self._adapters.items():
                    self._cancel.check()
                    load_adapter_into(ready, path, name)
            except BaseException:
                ready.engine.close()
                model.packed.close()
                raise
            self._ready = ready
        self._loaded.set()
        engine = self._ready.engine
        model.packed.start(lambda: engine.busy)

    def load_in_background(self) -> None:
        """Loads on a new thread; `ready` waits for it."""
        # A daemon, ended by atexit: an unfinished load must not keep the interpreter alive.
        self._thread = threading.Thread(target=self._load_quietly, name="tektra-load", daemon=True)
        atexit.register(self.close)
        self._thread.start()

    def ready(self, timeout: float | None = None) -> Ready:
        """The loaded model, once it is there.

        Raises:
            TektraError: what loading failed with.
            RequestError: it was closed.
            TimeoutError: it takes longer than ``timeout`` seconds.
        """
        if self._closed:
            raise RequestError("the model was closed", remedy="load it again")
        if not self._loaded.wait(timeout):
            raise TimeoutError(f"the model is still loading after {timeout} s")
        if self._error is not None:
            raise self._error
        if self._ready is None or self._closed:
            raise RequestError("the model was closed", remedy="load it again")
        return self._ready

    @property
    def status(self) -> Status:
        if self._closed:
            return "closed"
        if not self._loaded.is_set():
            return "loading"
        if self._ready is None or not self._ready.engine.alive:
            return "failed"
        return "busy" if self._ready.engine.busy else "ready"

    def stats(self) -> EngineStats:
        """Counts and latencies; all zero before the model is ready."""
        return EngineStats() if self._ready is None else self._ready.engine.stats()

    def health(self) -> Health:
        """Whether a request sent now would be served."""
        status, ready = self.status, self._ready
        last_error = None if self._error is None else str(self._error)
        return Health(
            ok=status in ("ready", "busy"),
            status=status,
            engine_alive=ready is not None and ready.engine.alive,
            last_error=last_error if ready is None else ready.engine.last_error,
        )

    def abandon(self) -> None:
        """Asks all threads to end and does not wait. For finalizers, which must not block."""
        self._closed = True
        self._cancel.cancel()
        if self._ready is not None:
            self._ready.model.packed.cancel()
            self._ready.engine.stop()
        if self._thread is not None and not self._thread.is_alive():
            atexit.unregister(self.close)

    def close(self) -> None:
        """Ends loading and requests, and frees everything. Safe to call twice, from any thread."""
        self.abandon()
        with self._lock:
            ready = self._ready
        if ready is not None:
            ready.engine.close()
            ready.model.packed.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            # It may have become ready between the two.
            if self._ready is not None:
                self._ready.engine.close()
                self._ready.model.packed.close()
        atexit.unregister(self.close)

    def _load_quietly(self) -> None:
        try:
            self.load()
        except BaseException as error:
            # Kept for those who call `ready`, without what its frames hold: the mapped file.
            _clear_frames(error)
            self._error = error
        finally:
            self._loaded.set()
            if self._closed:
                atexit.unregister(self.close)

    def _new_engine(self, model: LoadedModel) -> Engine:
        return Engine(
            model.executable,
            model.tokenizer,
            EngineOptions(
                context=model.context,
                max_sequences=model.executable.options.max_rows
                if model.is_encoder
                else self._options.max_batch,
                max_waiting=self._max_waiting,
                prefix_cache=self._prefix_cache,
                seed=self._seed,
                whole=model.is_encoder,
                step_rows=self._options.max_rows,
                sliding=SlidingContext.from_policy(self._options.context_policy, model.context),
            ),
            vocab_size=model.drawn.config.vocab_size,
            native=model.native,
        )


def _clear_frames(error: BaseException | None) -> None:
    """Drops the local variables of what an error went through, and of those before it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
