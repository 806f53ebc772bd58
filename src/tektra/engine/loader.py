"""From a model reference to something that runs: map, verify, pack, warm up.

It joins the parts that know files, architectures, tokenizers and backends; it knows none of them
from the inside, and nothing of requests.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from tektra.backends.base import Backend, CompileOptions, Executable, Step
from tektra.backends.cpu import native_core
from tektra.backends.select import select_backend
from tektra.config import DEFAULT_PACKED_CACHE, KV_TYPES, MAX_CONTEXT, KvType, cache_dir
from tektra.engine.model_files import load_tokenizer, open_model
from tektra.engine.packed_copy import PackedCopy, default_store
from tektra.engine.recommended_sampling import recommended_sampling
from tektra.engine.resources import usable_cores
from tektra.engine.sampling_params import SamplingParams
from tektra.engine.sizing import DEFAULT_CONTEXT, choose_sizes, context_limit
from tektra.engine.sliding import SlidingContext
from tektra.engine.vector_settings import VectorSettings
from tektra.engine.verify import VerifiedFiles, verify_file
from tektra.errors import (
    CancelledError,
    InvalidParameterError,
    MemoryLimitError,
    RequestError,
    TokenizerError,
)
from tektra.graph import OutputName
from tektra.hub import ResolvedModel, resolve
from tektra.models.base import DrawnModel, draw
from tektra.models.encoder import EncoderConfig
from tektra.progress import CancelToken, ProgressCallback, ProgressEvent
from tektra.quantize.at_load import quantized
from tektra.quantize.recipe import Recipe
from tektra.tokenizer import Tokenizer, find_templates

__all__ = ["EitherCancelled", "LoadOptions", "LoadedModel", "load"]

_MAX_THREADS = 1024
_MAX_BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a model is to be loaded.

    Attributes:
        device: name of a device as `select_backend` takes it, or a backend.
        threads: threads that compute; None for the physical cores that this process can use.
        context: most tokens of one sequence; None to choose.
        context_policy: what happens to texts beyond it: ``"stop"``, ``"slide"`` or ``"slide:N"``.
        max_batch: sequences that run at once.
        max_rows: token rows in one step.
        packed_cache: most bytes of all packed copies of models; 0 to use and write none.
        kv_type: what keys and values are kept as, one of `KV_TYPES`.
        quant: what float weights are quantized to, a mix as `tektra quantize` has it; None to
            compute with the weights of the file.
    """

    device: str | Backend = "auto"
    threads: int | None = None
    context: int | None = None
    context_policy: str = "stop"
    max_batch: int = 8
    max_rows: int = 512
    packed_cache: int = DEFAULT_PACKED_CACHE
    kv_type: KvType = "f16"
    quant: str | None = None

    def __post_init__(self) -> None:
        _check_int("threads", self.threads, _MAX_THREADS, optional=True)
        _check_int("context", self.context, 2**31 - 1, optional=True)
        SlidingContext.from_policy(self.context_policy, self.context or MAX_CONTEXT)
        _check_int("max_batch", self.max_batch, _MAX_BATCH)
        _check_int("max_rows", self.max_rows, 2**16)
        if self.kv_type not in KV_TYPES:
            raise InvalidParameterError(
                "kv_type", f"{self.kv_type!r} is not one of {', '.join(KV_TYPES)}"
            )
        if self.quant is not None:
            Recipe.of(self.quant, parameter="quant")
        if self.max_batch > self.max_rows:
            raise InvalidParameterError(
                "max_batch", f"{self.max_batch} is more than max_rows, {self.max_rows}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that is ready to run.

    Attributes:
        resolved: where it came from.
        drawn: configuration and graph.
        tokenizer: the model's own.
        chat_templates: sources of its chat templates by name.
        sampling: what it recommends, with the defaults for the rest.
        executable: compiled and warm; whoever gets this closes it.
        packed: its packed copy, which whoever gets this starts to write, and closes.
        backend: name of what runs it.
        context: most tokens of one sequence.
        model_context: most tokens that the model was made for.
        num_parameters: weights in the file.
        file_bytes: size of its files.
        native: the extension module, None where it is not built.
        vectors: how it wants vectors and scores of texts to be made.
    """

    resolved: ResolvedModel
    drawn: DrawnModel
    tokenizer: Tokenizer
    chat_templates: Mapping[str, str]
    sampling: SamplingParams
    executable: Executable
    packed: PackedCopy
    backend: str
    context: int
    model_context: int
    num_parameters: int
    file_bytes: int
    native: ModuleType | None
    vectors: VectorSettings

    @property
    def is_encoder(self) -> bool:
        """Whether texts go through it whole, and nothing is generated."""
        return isinstance(self.drawn.config, EncoderConfig)

    def require(self, output: OutputName) -> None:
        """Raises `RequestError`, which says what the model is for, where it lacks an output."""
        outputs = self.drawn.graph.outputs
        if output in outputs:
            return
        if output == "scores":
            raise RequestError(
                f"the model {self.resolved.name!r} has no head that scores pairs of texts",
                remedy="use a cross-encoder for rerank, or embed to compare vectors",
            )
        able = "embed" + (" and rerank" if "scores" in outputs else "")
        raise RequestError(
            f"the model {self.resolved.name!r} is an encoder: it does not generate or predict "
            "tokens",
            remedy=f"use {able}, or load a model that generates",
        )


def load(
    reference: str | os.PathLike[str],
    options: LoadOptions,
    *,
    progress: ProgressCallback,
    cancel: CancelToken,
) -> LoadedModel:
    """Loads a model. Reports the stages ``"map"``, ``"verify"``, ``"pack"`` and ``"warm up"``.

    A file with a pinned digest is checked while it is packed; nothing is returned before both are
    done. A file that is written to meanwhile is refused, whether it has a digest or not.

    Raises:
        TektraError: of the kind that fits: the reference, the file, the digest, the device, the
            memory, or `CancelledError`.
    """
    try:
        return _load(reference, options, progress=progress, cancel=cancel)
    except MemoryError as error:
        raise MemoryLimitError(
            f"there is not enough memory to load {os.fspath(reference)!r}",
            remedy="end other programs, or use a smaller model",
        ) from error


def _load(
    reference: str | os.PathLike[str],
    options: LoadOptions,
    *,
    progress: ProgressCallback,
    cancel: CancelToken,
) -> LoadedModel:
    report = _OneAtATime(progress)
    cancel.check()
    resolved = resolve(reference)
    name = resolved.path.name
    report(ProgressEvent("map", name, 0, 1, "items"))
    backend = _backend(options.device)
    threads = usable_cores() if options.threads is None else options.threads
    with open_model(resolved.path) as stored:
        file = quantized(stored, options.quant, threads)
        drawn = draw(
            file.metadata, file.tensors, name=name, context=options.context or DEFAULT_CONTEXT
        )
        tokenizer = load_tokenizer(stored)
        _check_vocabulary(tokenizer, drawn)
        templates = find_templates(file.metadata)
        vectors = VectorSettings.from_metadata(file.metadata)
        sampling = recommended_sampling(file.metadata, resolved.sampling).params
        report(ProgressEvent("map", name, 1, 1, "items"))
        cancel.check()
        sizes = choose_sizes(
            drawn,
            backend,
            file.tensors,
            context=options.context,
            max_batch=options.max_batch,
            longest=vectors.max_tokens,
            options=CompileOptions(
                num_threads=threads, max_rows=options.max_rows, kv_type=options.kv_type
            ),
        )
        known = VerifiedFiles(cache_dir() / "verified.json")
        store = default_store(options.packed_cache) if options.packed_cache else None
        packed = PackedCopy(file, resolved.sha256, store, known)
        with _Verification(resolved, known, report, cancel) as verification:
            executable = backend.compile(
                drawn.graph,
                file,
                sizes.options,
                progress=report,
                cancel=verification.cancel,
                packed=packed,
            )
        try:
            verification.check()
            file.check_unchanged()
            _warm_up(executable, drawn, tokenizer, report)
            cancel.check()
        except BaseException:
            executable.close()
            raise
        return LoadedModel(
            resolved=resolved,
            drawn=drawn,
            tokenizer=tokenizer,
            chat_templates=templates,
            sampling=sampling,
            executable=executable,
            packed=packed,
            backend=backend.name,
            context=sizes.context,
            model_context=context_limit(drawn),
            num_parameters=sum(info.num_elements for info in file.tensors.values()),
            file_bytes=file.file_bytes,
            native=native_core(),
            vectors=vectors,
        )


class _OneAtATime:
    """Lets only one thread at a time into the caller's callback."""

    def __init__(self, progress: ProgressCallback) -> None:
        self._progress = progress
        self._lock = threading.Lock()

    def __call__(self, event: ProgressEvent) -> None:
        with self._lock:
            self._progress(event)


class EitherCancelled(CancelToken):
    """Set by itself, or by the token that the caller has."""

    __slots__ = ("_other",)

    def __init__(self, other: CancelToken) -> None:
        super().__init__()
        self._other = other

    @property
    def cancelled(self) -> bool:
        return super().cancelled or self._other.cancelled

    def check(self) -> None:
        self._other.check()
        super().check()


class _Verification:
    """Checks the digest on a thread of its own while the block below it runs.

    Its ``cancel`` token, for that block, is also set when the digest is wrong.
    """

    def __init__(
        self,
        resolved: ResolvedModel,
        known: VerifiedFiles,
        progress: ProgressCallback,
        cancel: CancelToken,
    ) -> None:
        self.cancel = EitherCancelled(cancel)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if resolved.sha256 is not None:
            self._thread = threading.Thread(
                target=self._run,
                args=(resolved.path, resolved.sha256, known, progress),
                name="tektra-verify",
                daemon=True,
            )

    def __enter__(self) -> _Verification:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._thread is None:
            return
        if error is not None:
            self.cancel.cancel()
        self._thread.join()
        # A wrong digest is why the block was cancelled, and it is what the caller must hear.
        if isinstance(error, CancelledError):
            self.check()

    def check(self) -> None:
        """Raises what was wrong with the file, if anything."""
        if self._error is not None:
            raise self._error

    def _run(
        self, path: Path, sha256: str, known: VerifiedFiles, progress: ProgressCallback
    ) -> None:
        try:
            verify_file(path, sha256, known=known, progress=progress, cancel=self.cancel)
        except BaseException as error:  # handed to the thread that waits
            self._error = error
            self.cancel.cancel()


def _backend(device: str | Backend) -> Backend:
    if isinstance(device, Backend):
        return device
    return select_backend(device)


def _check_vocabulary(tokenizer: Tokenizer, drawn: DrawnModel) -> None:
    if tokenizer.vocab_size > drawn.config.vocab_size:
        raise TokenizerError(
            f"tokenizer.ggml.tokens: {tokenizer.vocab_size} tokens, but the model has embeddings "
            f"for {drawn.config.vocab_size}",
            remedy="the file is damaged: fetch it again",
        )


def _warm_up(
    executable: Executable, drawn: DrawnModel, tokenizer: Tokenizer, report: ProgressCallback
) -> None:
    """Runs one token, so that the first request does not pay for what is done once."""
    report(ProgressEvent("warm up", "", 0, 1, "items"))

    def array(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return np.array(values, dtype=np.int32)

    token = tokenizer.bos_id if tokenizer.bos_id is not None else 0
    step = Step(
        token_ids=array(token),
        positions=array(0),
        row_starts=array(0, 1),
        num_cached=array(0),
        block_tables=array(0).reshape(1, 1),
        output_rows=array(0),
    )
    executable.run(step, "logits" if "logits" in drawn.graph.outputs else "hidden")
    report(ProgressEvent("warm up", "", 1, 1, "items"))


def _check_int(name: str, value: object, maximum: int, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
        raise InvalidParameterError(
            name, f"must be a whole number from 1 to {maximum}, not {str(value)[:60]}"
        )
