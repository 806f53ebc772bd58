"""Chooses the sizes that are fixed at load: context, cache blocks, rows and outputs of a step.

It asks the backend what they would take and compares that with the memory there is. It does not
load anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tektra.backends.base import Backend, CompileOptions
from tektra.engine.kv_blocks import num_blocks_for
from tektra.engine.resources import available_memory
from tektra.errors import InvalidParameterError, MemoryLimitError
from tektra.formats.tensor_info import TensorInfo
from tektra.graph import Graph, RopeScaling
from tektra.graph.ops import Rope
from tektra.models.base import DrawnModel
from tektra.models.encoder import EncoderConfig

__all__ = ["DEFAULT_CONTEXT", "Sizes", "choose_sizes", "context_limit"]

DEFAULT_CONTEXT = 4096
MIN_DEFAULT_CONTEXT = 512
MIN_OUTPUTS = 32
CACHE_SHARE = 4
"""One sequence of full context always fits; for more the cache takes at most this part (1/n) of
the memory that the weights leave."""


MAX_ENCODER_TEXTS = 64
"""Texts in a step of an encoder that may leave a block of the cache half empty."""

CACHE_CONTEXTS = 4
"""The cache holds so many sequences of full context at most. More of them can run at once, since
few are that long, and what the requests leave free keeps the beginnings of earlier prompts."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What was chosen.

    Attributes:
        context: most tokens of one sequence.
        options: for the backend.
    """

    context: int
    options: CompileOptions


def context_limit(drawn: DrawnModel) -> int:
    """The longest context that a model was made for, its scaling of positions included."""
    scaled = [
        int(op.spec.factor * op.spec.original_context)
        for op in drawn.graph.ops
        if isinstance(op, Rope) and op.spec.scaling is not RopeScaling.NONE
    ]
    return max([drawn.config.context_length, *scaled])


def choose_sizes(
    drawn: DrawnModel,
    backend: Backend,
    tensors: Mapping[str, TensorInfo],
    *,
    context: int | None,
    max_batch: int,
    options: CompileOptions,
    memory: int | None = None,
    longest: int | None = None,
) -> Sizes:
    """The sizes with which a model is to be loaded.

    Args:
        drawn: the model.
        backend: what will run it.
        tensors: of its file.
        context: what the caller asked for; None to choose.
        max_batch: sequences that run at once.
        options: threads and rows; outputs and cache blocks are filled in here.
        memory: bytes that may be taken; None for what the machine has.
        longest: the longest text that an encoder is meant for; None where it does not say.

    Raises:
        InvalidParameterError: the context asked for is longer than the model's.
        MemoryLimitError: the model does not fit into the memory there is.
    """
    limit = context_limit(drawn)
    if context is not None and context > limit:
        raise InvalidParameterError(
            "context",
            f"{context} tokens are asked for, but the model was made for at most {limit}",
            remedy=f"ask for {limit} or fewer",
        )
    encoder = isinstance(drawn.config, EncoderConfig)
    if encoder:
        return _encoder_sizes(
            drawn,
            backend,
            tensors,
            context or min(limit, longest or DEFAULT_CONTEXT),
            options,
            memory,
        )
    options = replace(options, max_outputs=min(options.max_rows, max(MIN_OUTPUTS, max_batch)))
    available = available_memory() if memory is None else memory
    fixed, per_block = _costs(drawn.graph, backend, tensors, options)
    chosen = min(limit, DEFAULT_CONTEXT) if context is None else context
    if available is not None:
        while context is None and chosen > MIN_DEFAULT_CONTEXT:
            if fixed + num_blocks_for(chosen) * per_block <= available:
                break
            chosen //= 2
        needed = fixed + num_blocks_for(chosen) * per_block
        if needed > available:
            raise MemoryLimitError(
                f"the model needs {_mib(needed)} MiB with a context of {chosen} tokens, "
                f"and {_mib(available)} MiB are available",
                remedy="use a smaller model or context, or end other programs",
            )
    num_blocks = num_blocks_for(chosen) * min(max_batch, CACHE_CONTEXTS)
    if available is not None:
        affordable = (available - fixed) // CACHE_SHARE // max(1, per_block)
        num_blocks = max(num_blocks_for(chosen), min(num_blocks, affordable))
    return Sizes(chosen, replace(options, num_kv_blocks=num_blocks))


def _encoder_sizes(
    drawn: DrawnModel,
    backend: Backend,
    tensors: Mapping[str, TensorInfo],
    context: int,
    options: CompileOptions,
    memory: int | None,
) -> Sizes:
    """A step holds the longest text, and the cache one step, in which any row may begin a text."""
    rows = max(options.max_rows, context)
    options = replace(
        options,
        max_rows=rows,
        max_outputs=rows,
        kv_type="f32",
        num_kv_blocks=num_blocks_for(rows) + min(options.max_rows, MAX_ENCODER_TEXTS),
    )
    needed = backend.plan(drawn.graph, tensors, options).total
    available = available_memory() if memory is None else memory
    if available is not None and needed > available:
        raise MemoryLimitError(
            f"the model needs {_mib(needed)} MiB for texts of {context} tokens, and "
            f"{_mib(available)} MiB are available",
            remedy="use a smaller model or context, or end other programs",
        )
    return Sizes(context, options)


def _costs(
    graph: Graph, backend: Backend, tensors: Mapping[str, TensorInfo], options: CompileOptions
) -> tuple[int, int]:
    """Bytes without any cache block, and bytes of one."""
    one = backend.plan(graph, tensors, replace(options, num_kv_blocks=1)).total
    two = backend.plan(graph, tensors, replace(options, num_kv_blocks=2)).total
    return one - (two - one), two - one


def _mib(num_bytes: int) -> int:
    return -(-num_bytes // 2**20)
