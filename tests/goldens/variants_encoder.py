"""The small encoders that are compared with transformers: which there are, how they differ.

`encoder_model.py` makes their weights from a seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["ENCODERS", "Encoder"]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One small encoder.

    Attributes:
        family: ``model_type`` of transformers.
        labels: outputs of a classification head; 0 for none.
        segments: rows of the table of token types.
        second: from which token on the text belongs to the second segment.
        pad: the padding token, which says where the positions of the roberta family begin.
        more: further keys of config.json.
        rows: which positions are kept in the golden.
    """

    name: str
    family: str
    hidden: int = 64
    ffn: int = 96
    heads: int = 4
    layers: int = 2
    vocab: int = 131
    context: int = 80
    eps: float = 1e-12
    act: str = "gelu"
    labels: int = 0
    segments: int = 2
    second: int | None = None
    pad: int = 0
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    more: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    num_tokens: int = 70
    rows: tuple[int, ...] = (0, 1, 33, 69)

    @property
    def architecture(self) -> str:
        """``general.architecture`` of its GGUF file."""
        return {"nomic_bert": "nomic-bert", "modernbert": "modern-bert"}.get(self.family, "bert")

    @property
    def is_roberta(self) -> bool:
        return self.family in ("roberta", "xlm-roberta")


_MODERN: Mapping[str, Any] = MappingProxyType(
    {"local_attention": 16, "global_attn_every_n_layers": 2}
)
_LONG: Mapping[str, Any] = MappingProxyType({"context": 400, "num_tokens": 390})

ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {
        v.name: v
        for v in (
            Encoder(name="bert-plain", family="bert"),
            Encoder(name="bert-odd", family="bert", hidden=72, heads=3, ffn=100, eps=1e-3),
            Encoder(name="bert-tanh", family="bert", act="gelu_new"),
            Encoder(name="bert-relu", family="bert", act="relu"),
            Encoder(name="bert-long", family="bert", rows=(0, 255, 256, 389), **_LONG),
            Encoder(name="bert-rank", family="bert", labels=1, second=30),
            Encoder(name="bert-labels", family="bert", labels=3, second=11),
            Encoder(name="roberta-plain", family="roberta", segments=1, pad=1, eps=1e-5),
            Encoder(name="roberta-rank", family="roberta", segments=1, pad=1, labels=1),
            Encoder(name="xlm-roberta-plain", family="xlm-roberta", segments=1, pad=1),
            Encoder(name="xlm-roberta-rank", family="xlm-roberta", segments=1, pad=1, labels=1),
            Encoder(name="nomic-plain", family="nomic_bert", act="silu"),
            Encoder(
                name="nomic-theta",
                family="nomic_bert",
                act="silu",
                eps=1e-5,
                second=20,
                more=MappingProxyType({"rope_theta": 777.0}),
            ),
            Encoder(name="modern-plain", family="modernbert", layers=5, eps=1e-5, more=_MODERN),
            Encoder(
                name="modern-biased",
                family="modernbert",
                layers=4,
                eps=1e-4,
                norm_bias=True,
                attention_bias=True,
                mlp_bias=True,
                act="silu",
                more=MappingProxyType(
                    {
                        "local_attention": 20,
                        "global_attn_every_n_layers": 3,
                        "global_rope_theta": 5000.0,
                        "local_rope_theta": 300.0,
                    }
                ),
            ),
            Encoder(
                name="modern-long",
                family="modernbert",
                layers=4,
                more=MappingProxyType({"local_attention": 128, "global_attn_every_n_layers": 3}),
                rows=(0, 64, 256, 389),
                **_LONG,
            ),
            Encoder(name="modern-rank", family="modernbert", layers=3, labels=1, more=_MODERN),
        )
    }
)
