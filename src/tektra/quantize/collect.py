"""Measures what goes into the matrices of a model while it reads texts: its importance matrix.

It runs the reference backend, which shows what goes into every matrix and expert as float32.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tektra.backends.base import KV_BLOCK_SIZE, CompileOptions, Step
from tektra.backends.reference import ReferenceBackend
from tektra.engine.model_files import load_tokenizer, open_model
from tektra.engine.resources import available_memory
from tektra.errors import FormatError, InvalidParameterError, MemoryLimitError
from tektra.formats.tensor_info import TensorInfo
from tektra.models.base import draw
from tektra.progress import CancelToken, ProgressCallback, ProgressEvent, ignore_progress
from tektra.quantize.imatrix import Activations, ImportanceMatrix

__all__ = ["Sums", "collect_importance", "observed_step", "sums_of"]


def collect_importance(
    model: str | os.PathLike[str],
    texts: Sequence[tuple[str, str]],
    *,
    window: int = 512,
    max_windows: int | None = None,
    progress: ProgressCallback = ignore_progress,
    cancel: CancelToken | None = None,
) -> ImportanceMatrix:
    """Reads texts in windows and adds up the squares of what goes into each matrix.

    Each window begins with the model's beginning of sequence, where its tokenizer puts one before a
    text. A rest of a text that is shorter than a window is left out. The output matrix is not
    observed.

    Args:
        model: a GGUF file or a directory with safetensors weights.
        texts: (name, text) of each.
        window: tokens that are read at once.
        max_windows: most windows that are read; None for all.
        progress: told after each window; stage "observe".
        cancel: looked at before each window.

    Raises:
        InvalidParameterError: the texts are shorter than a window, or the window is longer than
            the model's context.
        MemoryLimitError: the model does not fit into memory as float32.
        FormatError: the model makes numbers that are not finite.
        TektraError: the model cannot be loaded, as for `tektra.LLM`.
        CancelledError: ``cancel`` was used.
    """
    if window < 2:
        raise InvalidParameterError("window", f"must be 2 or more, not {window}")
    with open_model(Path(model)) as file:
        drawn = draw(file.metadata, file.tensors, name=file.path.name)
        if window > drawn.config.context_length:
            raise InvalidParameterError(
                "window",
                f"{window} tokens are more than the model's {drawn.config.context_length}",
            )
        tokenizer = load_tokenizer(file)
        windows: list[list[int]] = []
        for _, text in texts:
            windows += _windows(tokenizer, text, window)
        windows = windows[:max_windows]
        if not windows:
            raise InvalidParameterError(
                "texts",
                f"all are shorter than a window of {window} tokens",
                remedy="use longer texts or a smaller window",
            )
        options = CompileOptions(
            max_rows=window, max_outputs=window, num_kv_blocks=-(-window // KV_BLOCK_SIZE)
        )
        backend = ReferenceBackend()
        needed = backend.plan(drawn.graph, file.tensors, options).total
        available = available_memory()
        if available is not None and needed > available:
            raise MemoryLimitError(
                f"observing {file.path.name} takes {needed / 2**20:,.0f} MiB, and "
                f"{available / 2**20:,.0f} MiB are available",
                remedy="use a smaller window, or end other programs",
            )
        executable = backend.compile(drawn.graph, file, options, progress=progress, cancel=cancel)
        sums = sums_of(file.tensors)
        executable.observe = sums.add
        try:
            for number, tokens in enumerate(windows, start=1):
                if cancel is not None:
                    cancel.check()
                executable.run(observed_step(tokens), "hidden")
                progress(ProgressEvent("observe", "", number, len(windows), "items"))
        finally:
            executable.close()
        return ImportanceMatrix(
            entries=sums.entries(),
            datasets=tuple(name for name, _ in texts),
            num_chunks=len(windows),
            chunk_size=window,
        )


class Sums:
    """Sums of squares and rows, by matrix and expert, in float64."""

    def __init__(self, experts: dict[str, int]) -> None:
        self._experts = experts
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._counts: dict[str, NDArray[np.float64]] = {}

    def add(self, name: str, expert: int, rows: NDArray[np.float32]) -> None:
        """Adds the squares of rows that go into a matrix, or into one of its experts."""
        if name not in self._sums:
            count = self._experts.get(name, 1)
            self._sums[name] = np.zeros((count, rows.shape[1]))
            self._counts[name] = np.zeros(count)
        squares = np.einsum("rc,rc->c", rows, rows, dtype=np.float64)
        self._sums[name][expert] += squares
        self._counts[name][expert] += len(rows)

    def entries(self) -> dict[str, Activations]:
        """What was added up, by matrix. Raises `FormatError` where it is not finite."""
        found = {}
        for name, sums in self._sums.items():
            if not np.isfinite(sums).all():
                raise FormatError(
                    f"what goes into {name!r} is not finite on this text",
                    remedy="the model's weights are damaged, or do not suit the text",
                )
            counts = self._counts[name].astype(np.float32)
            found[name] = Activations(sums.astype(np.float32), counts)
        return found


def _windows(tokenizer: Any, text: str, window: int) -> list[list[int]]:
    tokens = tokenizer.encode(text, add_special=False, parse_special=False)
    plain = tokenizer.encode("a", add_special=False)
    framed = tokenizer.encode("a", add_special=True)
    first = None if framed[: len(plain)] == plain else framed[0]
    parts = [tokens[at : at + window] for at in range(0, len(tokens) - window + 1, window)]
    return parts if first is None else [[first, *part[1:]] for part in parts]


def sums_of(tensors: Mapping[str, TensorInfo]) -> Sums:
    """Empty sums for the matrices of a model; those of three dimensions have experts."""
    return Sums({n: i.shape[0] for n, i in tensors.items() if len(i.shape) == 3})


def observed_step(tokens: list[int]) -> Step:
    """A step of one text, all of whose rows reach the last matrix."""
    count = len(tokens)
    return Step(
        token_ids=np.array(tokens, np.int32),
        positions=np.arange(count, dtype=np.int32),
        row_starts=np.array([0, count], np.int32),
        num_cached=np.zeros(1, np.int32),
        block_tables=np.arange(-(-count // KV_BLOCK_SIZE), dtype=np.int32).reshape(1, -1),
        # All of them, as the last feed forward sees output rows alone.
        output_rows=np.arange(count, dtype=np.int32),
    )
