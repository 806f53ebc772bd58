"""Mixtures of experts as GGUF files describe them: how experts are chosen, and the feed forward.

What the architectures with experts have in common (Shazeer et al., https://arxiv.org/abs/1701.06538;
Jiang et al., https://arxiv.org/abs/2401.04088). It does not know which model it is.
"""

from __future__ import annotations

from typing import Any, Final

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.gguf_metadata import Metadata
from tektra.formats.hf_config import HfConfig
from tektra.graph import Activation, ClampedGate, Graph, LayerWeights, MoeSpec, Scoring, Value
from tektra.models.base import MAX_WIDTH, Shapes
from tektra.models.checkpoint_format import Part, Target, To

__all__ = [
    "MAX_EXPERTS",
    "STACKED_EXPERTS",
    "expert_metadata",
    "is_dense",
    "mixture",
    "read_experts",
]

MAX_EXPERTS: Final = 1 << 12
STACKED_EXPERTS: Final[dict[str, Target]] = {
    "model.layers.{i}.mlp.gate": "blk.{i}.ffn_gate_inp",
    "model.layers.{i}.mlp.experts.gate_up_proj": (
        To("blk.{i}.ffn_gate_exps.weight", Part(0, 2)),
        To("blk.{i}.ffn_up_exps.weight", Part(1, 2)),
    ),
    "model.layers.{i}.mlp.experts.down_proj": "blk.{i}.ffn_down_exps.weight",
}
"""Names of router and experts as newer versions of transformers hold them, whatever the model."""

_MAX_SCALE = 1e6
# ``expert_gating_func``; 0 is what the architecture has by itself, 3 a softmax of the chosen.
_SOFTMAX, _SIGMOID, _SOFTMAX_OF_CHOSEN = 1, 2, 3


def read_experts(
    m: Metadata,
    shapes: Shapes,
    architecture: str,
    *,
    normalize: bool,
    function: Activation | ClampedGate = Activation.SILU,
) -> MoeSpec | None:
    """How a model's experts are chosen; None for a model without experts.

    Keys below ``{architecture}``: ``expert_count``, ``expert_used_count``,
    ``expert_weights_scale``, ``expert_weights_norm``, ``expert_gating_func``,
    ``expert_feed_forward_length``, ``expert_shared_count`` and
    ``expert_shared_feed_forward_length``.

    Args:
        normalize: whether the weights of a row are divided by their sum, where no key says.
        function: what an expert does to its gate.

    Raises:
        FormatError: a value is missing, out of range, or disagrees with the tensors.
        UnsupportedModelError: experts are chosen in a way that is not supported.
    """
    key = f"{architecture}.expert"
    count = m.int(f"{key}_count", default=0, minimum=0, maximum=MAX_EXPERTS)
    used = m.int(f"{key}_used_count", default=0, minimum=0, maximum=max(count, 1))
    if count == 0:
        return None
    if used == 0:
        raise FormatError(
            f"the model has {count} experts, and the metadata key {key}_used_count does not say "
            "how many a token is sent to"
        )
    gating = m.int(f"{key}_gating_func", default=0, minimum=0, maximum=_SOFTMAX_OF_CHOSEN)
    for refused in ("group_count", "group_used_count"):
        if m.int(f"{key}_{refused}", default=1, minimum=0, maximum=MAX_EXPERTS) > 1:
            raise UnsupportedModelError(
                f"the model chooses among groups of experts ({key}_{refused}), which is not "
                "supported yet"
            )
    scale = m.float(f"{key}_weights_scale", default=1.0, minimum=0.0, maximum=_MAX_SCALE)
    normalized = m.bool(f"{key}_weights_norm", default=normalize)
    for width_key, tensor in (
        (f"{key}_feed_forward_length", "ffn_gate_exps.weight"),
        (f"{key}_shared_feed_forward_length", "ffn_gate_shexp.weight"),
    ):
        _check_width(m, shapes, width_key, tensor)
    m.int(f"{key}_shared_count", default=0, minimum=0, maximum=MAX_EXPERTS)
    return MoeSpec(
        num_experts=count,
        top_k=used,
        scoring=Scoring.SIGMOID if gating == _SIGMOID else Scoring.SOFTMAX,
        normalize=normalized or gating == _SOFTMAX_OF_CHOSEN,
        scale=scale or 1.0,  # zero is how some writers say that there is none
        function=function,
    )


def is_dense(g: Graph, w: LayerWeights) -> bool:
    """Whether a layer of a model with experts has an ordinary feed forward."""
    return g.has(w["ffn_gate.weight"])


def mixture(g: Graph, h: Value, w: LayerWeights, spec: MoeSpec) -> Value:
    """The router, the experts that it chooses, and the shared experts that every row visits."""
    logits = g.linear(h, w["ffn_gate_inp"])
    choice = w["exp_probs_b.bias"]
    out = g.moe(
        h,
        logits,
        w["ffn_gate_exps"],
        w["ffn_up_exps"],
        w["ffn_down_exps"],
        spec=spec,
        choice_bias=choice if g.has(choice) else None,
    )
    if not g.has(w["ffn_gate_shexp.weight"]):
        return out
    gate, up = g.linear(h, w["ffn_gate_shexp"], w["ffn_up_shexp"])
    shared = g.linear(g.gated(gate, up, Activation.SILU), w["ffn_down_shexp"])
    if g.has(w["ffn_gate_inp_shexp.weight"]):
        share = g.activate(g.linear(h, w["ffn_gate_inp_shexp"]), Activation.SIGMOID)
        shared = g.mul(shared, share)
    return g.add(out, shared)


def expert_metadata(
    c: HfConfig,
    *,
    count: str = "num_experts",
    normalize: bool | None = None,
    width: str | None = "moe_intermediate_size",
) -> dict[str, Any]:
    """The keys of `read_experts` from a config.json.

    Args:
        c: the config.
        count: key of the number of experts.
        normalize: whether weights are normalized; None for what ``norm_topk_prob`` says.
        width: key of the width between the matrices of an expert; None where it is the only width.
    """
    if normalize is None:
        normalize = c.bool("norm_topk_prob", default=False)
    metadata: dict[str, Any] = {
        "expert_count": c.int(count, minimum=1, maximum=MAX_EXPERTS),
        "expert_used_count": c.int("num_experts_per_tok", minimum=1, maximum=MAX_EXPERTS),
        "expert_weights_norm": normalize,
    }
    if width is not None:
        metadata["expert_feed_forward_length"] = c.int(width, minimum=1, maximum=MAX_WIDTH)
    return metadata


def _check_width(m: Metadata, shapes: Shapes, key: str, tensor: str) -> None:
    """Raises `FormatError` where the metadata has another width than the experts."""
    if not m.has(key):
        return
    width = m.int(key, minimum=1, maximum=MAX_WIDTH)
    for name, shape in shapes.items():
        if name.endswith(f".{tensor}"):
            if len(shape) < 2 or shape[-2] != width:
                raise FormatError(
                    f"the metadata key {key!r} is {width}, but {name!r} has the shape {shape}"
                )
            return
