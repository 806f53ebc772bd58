"""Granite: llama with factors on embeddings, scores, residuals and logits.

Source: the model cards of Granite 3, https://huggingface.co/ibm-granite. States only what differs
from llama.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Self

from tektra.formats.gguf_metadata import Metadata
from tektra.formats.hf_config import HfConfig
from tektra.graph import Graph, RopeSpec
from tektra.models import llama
from tektra.models.base import Shapes
from tektra.models.checkpoint_config import common_metadata
from tektra.models.checkpoint_format import CheckpointFormat

__all__ = ["CHECKPOINT", "Config", "build"]

_SMALLEST, _LARGEST = 1e-4, 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a granite model.

    Attributes:
        embedding_scale: factor on the embeddings, as they are in the graph.
        logit_scale: factor on the logits.
        has_rope: whether there are rotary positions.

    The graph has all hidden states divided by the factor on residuals r, so that what is added to
    them needs none: x + r * f(x) becomes x / r + f(x). A norm does not notice, but for its epsilon,
    which is divided by the square of r.
    """

    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    has_rope: bool = True

    @classmethod
    def from_metadata(cls, m: Metadata, shapes: Shapes) -> Self:
        key = m.str("general.architecture")
        c = llama.read(cls, m, shapes)
        residual = _read_factor(m, f"{key}.residual_scale", optional=True)
        return replace(
            c,
            norm_eps=c.norm_eps / residual**2,
            embedding_scale=_read_factor(m, f"{key}.embedding_scale", optional=True) / residual,
            logit_scale=1.0 / _read_factor(m, f"{key}.logit_scale", optional=False),
            has_rope=m.bool(f"{key}.rope.scaling.finetuned", default=True),
        )

    def rope_of(self, layer: int) -> RopeSpec | None:
        return self.rope if self.has_rope else None


def _read_factor(m: Metadata, key: str, *, optional: bool) -> float:
    """A factor; where it may be missing, 0 says that there is none."""
    if optional and m.float(key, default=0.0, minimum=0.0, maximum=_LARGEST) == 0.0:
        return 1.0
    return m.float(key, minimum=_SMALLEST, maximum=_LARGEST)


def build(g: Graph, c: Config) -> None:
    """Draws the model."""
    x = g.scale(g.embed("token_embd.weight"), c.embedding_scale)
    llama.head(g, c, llama.layers(g, c, x), scale=c.logit_scale)


def _checkpoint_metadata(c: HfConfig) -> dict[str, Any]:
    c.only("hidden_act", "silu", "swish")
    metadata = common_metadata(c)
    for theirs, ours in (
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
    ):
        metadata[ours] = c.float(theirs, default=1.0, minimum=_SMALLEST, maximum=_LARGEST)
    return metadata


CHECKPOINT: Final = CheckpointFormat(
    architecture="granite",
    metadata=_checkpoint_metadata,
    tensors=llama.CHECKPOINT.tensors,
    made=llama.CHECKPOINT.made,
)
