"""How an architecture's Hugging Face checkpoints become what its GGUF files would be.

An architecture file describes the way once, as data: which config.json keys make which metadata,
and where each tensor goes. `checkpoint_view` follows the description; nothing here reads files.

The whole of a description, for a model with one expert layer::

    CHECKPOINT = CheckpointFormat(
        architecture="tiny",
        metadata=lambda c: {**common_metadata(c), "expert_count": c.int("num_experts", minimum=1)},
        tensors={
            "model.embed_tokens": "token_embd",          # .weight and .bias go along
            "model.layers.{i}.q_proj": To("blk.{i}.attn_q", Heads("attention.head_count")),
            "model.layers.{i}.input_layernorm": To("blk.{i}.attn_norm", AddOne()),
            "model.layers.{i}.experts.{e}.up_proj": "blk.{i}.ffn_up_exps",      # stacked
            "model.layers.{i}.gate_up": (To("blk.{i}.ffn_gate", Part(0, 2)),
                                         To("blk.{i}.ffn_up", Part(1, 2))),
            "model.layers.{i}.sinks": "blk.{i}.attn_sinks.weight",              # whole names
            "lm_head": "output",
        },
        dropped=("model.layers.{i}.attn.rotary_emb.inv_freq",),
        made=lambda c: rope_tensors(c),
    )

and a line for each of its transformers classes in `tektra.models.CLASSES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tektra.formats.hf_config import HfConfig

__all__ = [
    "AddOne",
    "CheckpointFormat",
    "FromRow",
    "Heads",
    "Part",
    "Reshape",
    "Step",
    "Target",
    "To",
    "Transpose",
    "match",
]


@dataclass(frozen=True, slots=True)
class Heads:
    """Reorders the rows of each head: those of the two halves become neighbours.

    That is how GGUF has query and key of models whose rotary layout is INTERLEAVED, while
    transformers rotates halves. Bytes move by whole rows, so any element type will do.

    Attributes:
        count: metadata key with the number of heads, without the architecture:
            ``"attention.head_count"`` or ``"attention.head_count_kv"``.
    """

    count: str


@dataclass(frozen=True, slots=True)
class AddOne:
    """Adds 1 to each element, as norms that multiply by ``1 + w`` need; the result is float32."""


@dataclass(frozen=True, slots=True)
class Transpose:
    """Swaps the last two dimensions; for element types only (F32, F16, BF16)."""


@dataclass(frozen=True, slots=True)
class Part:
    """Takes one of several equal parts of the rows (the last dimension but one; of a vector, its
    elements).

    Attributes:
        index: which part, from 0.
        count: how many there are.
        interleaved: whether part k is every count-th row from row k, not a range of rows.
    """

    index: int
    count: int
    interleaved: bool = False


@dataclass(frozen=True, slots=True)
class Reshape:
    """Gives a tensor another shape with as many rows of the same width; one size may be -1.

    The width may change for element types.
    """

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FromRow:
    """Leaves the first rows of a matrix out.

    Attributes:
        first: the first row that stays.
    """

    first: int


Step = Heads | AddOne | Transpose | Part | Reshape | FromRow
"""One thing that is done to a tensor."""


class To:
    """Where a tensor goes, and what is done to it on the way, in that order.

    Attributes:
        name: GGUF's name.
        steps: what is done.
    """

    __slots__ = ("name", "steps")

    def __init__(self, name: str, *steps: Step) -> None:
        self.name: Final = name
        self.steps: Final = steps

    def __repr__(self) -> str:
        return f"To({', '.join([repr(self.name), *map(repr, self.steps)])})"


Target = str | To | tuple[To, ...]
"""Where a tensor goes: a name, a name with steps, or several of those from one tensor."""


def _nothing(_: HfConfig) -> dict[str, NDArray[np.float32]]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFormat:
    """The Hugging Face form of an architecture.

    In the names of tensors ``{i}`` stands for the number of a layer and ``{e}`` for that of an
    expert: the tensors of all experts are stacked into one, which has ``{e}`` no more. ``{any}``
    stands for anything, in `dropped` only. A name that is not a whole tensor name stands for those
    with ``.weight`` and ``.bias`` behind it, which its target gets too.

    What is neither in `tensors` nor in `dropped` is refused by name.

    Attributes:
        architecture: ``general.architecture`` of the GGUF file.
        metadata: from config.json to the metadata, keys without the architecture in front
            (``"block_count"``); keys with ``general.`` or ``tokenizer.`` are taken as they are.
            It reads every value with its range, and refuses by `HfConfig.only` what is not
            computed. `checkpoint_config` has the parts that most models share.
        tensors: from transformers' names to GGUF's.
        dropped: buffers that are computed anew or not needed for text.
        made: tensors that the GGUF file has and the checkpoint has not, from config.json.
        prefixes: what may stand before all names, and is taken off (``"bert."``).
        tied: the tensor that equals the embeddings where ``tie_word_embeddings`` is true, and the
            embeddings.
        tied_by_default: the value of ``tie_word_embeddings`` where config.json lacks it.
        text_config: key of the part of config.json that describes the text model, for models that
            also see or hear; used where it is there.
    """

    architecture: str
    metadata: Callable[[HfConfig], dict[str, Any]]
    tensors: Mapping[str, Target]
    dropped: tuple[str, ...] = ()
    made: Callable[[HfConfig], Mapping[str, NDArray[np.float32]]] = _nothing
    prefixes: tuple[str, ...] = ()
    tied: tuple[str, str] = ("lm_head.weight", "model.embed_tokens.weight")
    tied_by_default: bool = False
    text_config: str | None = field(default=None)


DROPPED: Final = ("{any}rotary_emb.inv_freq",)
"""Buffers that older checkpoints of many models have, dropped in all formats."""

_PLACEHOLDERS: Final = {"i": "(?P<i>[0-9]{1,6})", "e": "(?P<e>[0-9]{1,6})", "any": ".*"}


def compiled(pattern: str, *, suffix: bool) -> re.Pattern[str]:
    """A regular expression for the whole names that a pattern of `CheckpointFormat` stands for.

    With `suffix`, a group of that name holds what follows the pattern: nothing, ``.weight``, or
    ``.bias``.
    """
    parts = re.split(r"\{(i|e|any)\}", pattern)
    text = "".join(
        _PLACEHOLDERS[part] if at % 2 else re.escape(part) for at, part in enumerate(parts)
    )
    return re.compile(text + (r"(?P<suffix>(?:\.(?:weight|bias))?)" if suffix else ""))


def match(pattern: re.Pattern[str], name: str) -> tuple[dict[str, str], int | None, str] | None:
    """What the placeholders of a compiled pattern stand for in a name.

    Returns:
        The layer under ``"i"`` if there is one, the expert, and the suffix; None where the name is
        another one.
    """
    found = pattern.fullmatch(name)
    if found is None:
        return None
    groups = found.groupdict()
    expert = groups.get("e")
    layer = {"i": str(int(groups["i"]))} if groups.get("i") is not None else {}
    return layer, None if expert is None else int(expert), groups.get("suffix") or ""
