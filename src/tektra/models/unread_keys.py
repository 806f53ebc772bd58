"""Metadata that changes what a model computes and that its architecture did not ask for.

Files have many keys that are only descriptions; these are not. An architecture that reads a key
computes by it; one that does not is refused where the key says that something is to be computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from tektra.errors import UnsupportedModelError

__all__ = ["AskedKeys", "refuse_unread"]

_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "attention.causal": (True,),
        "attention.clamp_kqv": (0,),
        "attention.kv_lora_rank": (0,),
        "attention.max_alibi_bias": (0,),
        "attention.output_scale": (0, 1),
        "attention.scale": (0,),
        "attention.shared_kv_layers": (0,),
        "attention.sliding_window": (0,),
        "attention.temperature_scale": (0,),
        "attn_logit_softcapping": (0,),
        "embedding_scale": (0, 1),
        "expert_count": (0,),
        "final_logit_softcapping": (0,),
        "logit_scale": (0, 1),
        "residual_scale": (0, 1),
        "use_parallel_residual": (False,),
    }
)
"""Keys below the architecture's name, and the values that say that nothing is to be done."""


class AskedKeys(Mapping[str, Any]):
    """Metadata that remembers which keys somebody asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def refuse_unread(values: AskedKeys, architecture: str) -> None:
    """Raises for a key that asks for something which the architecture did not look at.

    Raises:
        UnsupportedModelError: names the key.
    """
    for name, neutral in _NEUTRAL.items():
        key = f"{architecture}.{name}"
        if key in values.asked or key not in values:
            continue
        value = values[key]
        if value not in neutral:
            raise UnsupportedModelError(
                f"the metadata key {key!r} is {str(value)[:60]}, which is not supported for this "
                "architecture"
            )
