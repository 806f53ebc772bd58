"""What encoders have in common: texts go through them whole, and vectors or scores come out.

Reads the keys that say so in a model file; `bert.py` and its relatives draw the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.gguf_metadata import Metadata
from tektra.graph import Activation, AttentionSpec, Graph, OutputName, Value
from tektra.models.base import MAX_HEADS, MAX_WIDTH, ModelConfig, Shapes, check_width, uniform_int

__all__ = [
    "STEP_CACHE",
    "EncoderConfig",
    "PoolingType",
    "activation_named",
    "name_outputs",
    "read_attention",
    "read_num_labels",
    "read_pooling",
]

PoolingType = Literal["none", "mean", "cls", "last", "rank"]
"""How a model wants the vector of a text to be made; ``"rank"``: it is for scores of pairs."""

STEP_CACHE: Final = 0
"""The cache that all layers of an encoder share: what one keeps is read in its own step only."""

_POOLING: Final[tuple[PoolingType, ...]] = ("none", "mean", "cls", "last", "rank")  # as numbered
_ACTIVATIONS: Final = MappingProxyType(
    {
        "gelu": Activation.GELU,
        "gelu_python": Activation.GELU,
        "gelu_new": Activation.GELU_TANH,
        "gelu_fast": Activation.GELU_TANH,
        "gelu_pytorch_tanh": Activation.GELU_TANH,
        "silu": Activation.SILU,
        "swish": Activation.SILU,
        "relu": Activation.RELU,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """Configuration of an encoder.

    Attributes:
        norm_eps: added to the variance in every norm.
        attention: head counts and sizes; bidirectional.
        num_segments: texts of a sequence that the model tells apart: 2 where the second text of a
            pair has an embedding of its own.
        num_labels: scores that its classification head gives; 0 without one.
    """

    norm_eps: float
    attention: AttentionSpec
    num_segments: int = 1
    num_labels: int = 0

    @property
    def outputs(self) -> Mapping[OutputName, int]:
        scores: dict[OutputName, int] = {"scores": self.num_labels} if self.num_labels else {}
        return {"hidden": self.embedding_width, **scores}


def read_attention(
    m: Metadata, shapes: Shapes, *, architecture: str, num_layers: int, width: int
) -> AttentionSpec:
    """Bidirectional attention of heads that are all alike.

    Raises:
        FormatError: head counts are out of range, or do not divide the width.
        UnsupportedModelError: the attention is causal.
    """
    if m.bool(f"{architecture}.attention.causal", default=False):
        raise UnsupportedModelError(
            f"the model's attention is causal ({architecture}.attention.causal), which "
            f"{architecture!r} models are not"
        )
    key = f"{architecture}.attention.head_count"
    num_heads = uniform_int(m, key, num_layers, maximum=MAX_HEADS)
    num_kv_heads = uniform_int(m, f"{key}_kv", num_layers, default=num_heads, maximum=MAX_HEADS)
    if num_kv_heads != num_heads:
        raise UnsupportedModelError(
            f"the metadata key {f'{key}_kv'!r} is {num_kv_heads} and not {num_heads}, which is "
            f"not supported for {architecture!r} models"
        )
    if width % num_heads:
        raise FormatError(
            f"the metadata key {key!r} is {num_heads}, which does not divide the embedding width "
            f"{width}"
        )
    for name in ("key_length", "value_length"):
        size = m.int(
            f"{architecture}.attention.{name}",
            default=width // num_heads,
            minimum=1,
            maximum=MAX_WIDTH,
        )
        if size != width // num_heads:
            raise UnsupportedModelError(
                f"the metadata key {f'{architecture}.attention.{name}'!r} is {size} and not "
                f"{width // num_heads}, the width over the heads, which is not supported"
            )
    return AttentionSpec(num_heads, num_heads, width // num_heads, causal=False)


def read_pooling(m: Metadata, architecture: str) -> PoolingType | None:
    """How the model wants vectors of texts to be made; None where its file does not say."""
    key = f"{architecture}.pooling_type"
    if not m.has(key):
        return None
    return _POOLING[m.int(key, minimum=0, maximum=len(_POOLING) - 1)]


def read_num_labels(shapes: Shapes, width: int) -> int:
    """How many scores the classification head gives; 0 where the file has none."""
    for name in ("cls.output.weight", "cls.weight"):
        if name in shapes:
            check_width(shapes, name, 1, width, "embedding_length")
            return shapes[name][0]
    return 0


def activation_named(name: str, key: str) -> Activation:
    """The function that a configuration names.

    Raises:
        UnsupportedModelError: there is no such function; the error names the key.
    """
    function = _ACTIVATIONS.get(name)
    if function is None:
        raise UnsupportedModelError(
            f"the activation {name[:64]!r} ({key}) is not supported",
            remedy=f"supported are: {', '.join(_ACTIVATIONS)}",
        )
    return function


def name_outputs(g: Graph, x: Value, *, dense: Activation, norm_eps: float) -> None:
    """Names the final hidden state, and the scores where there is a classification head.

    The head is ``cls`` with an activation, ``cls.norm`` where there is one, and ``cls.output``; or
    one of the two matrices alone. It is meant for the first row of a text.
    """
    g.output("hidden", x)
    if g.has("cls.output.weight"):
        if g.has("cls.weight"):
            x = g.activate(g.linear(x, "cls"), dense)
        if g.has("cls.norm.weight"):
            x = g.layer_norm(x, "cls.norm", norm_eps)
        g.output("scores", g.linear(x, "cls.output"))
    elif g.has("cls.weight"):
        g.output("scores", g.linear(x, "cls"))
