"""Typed access to a config.json: a value of the right type and in range, or an error.

The same reader as that of GGUF metadata, with what JSON needs besides. It does not know which keys
a model has.
"""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from tektra.errors import FormatError, UnsupportedModelError
from tektra.formats.gguf_metadata import Metadata

__all__ = ["HfConfig"]


class HfConfig(Metadata):
    """A config.json that is asked for values of a type.

    ``null`` counts as missing, as it does in transformers. See `Metadata` for the methods::

        c = HfConfig({"hidden_size": 64, "head_dim": None}, name="config.json")
        c.int("hidden_size", minimum=1, maximum=MAX_WIDTH)      # 64
        c.int("head_dim", default=16, minimum=1)                # 16
        c.only("hidden_act", "silu", "swish")                   # raises for any other that is there
    """

    __slots__ = ("_nulls",)

    _KIND: ClassVar[builtins.str] = "key"

    def __init__(self, values: Mapping[builtins.str, Any], *, name: builtins.str = "") -> None:
        """Args:
        values: the parsed object.
        name: the file it comes from, for errors.
        """
        super().__init__({k: v for k, v in values.items() if v is not None}, name=name)
        self._nulls = frozenset(k for k, v in values.items() if v is None)

    def is_null(self, key: builtins.str) -> builtins.bool:
        """Whether the key is there and null: where that differs from a missing key."""
        return key in self._nulls

    def keys(self) -> Collection[builtins.str]:
        """The keys that are there with a value."""
        return self._values.keys()

    def sub(self, key: builtins.str) -> HfConfig | None:
        """The object under a key; None where the key is missing.

        Raises:
            FormatError: the value is not an object.
        """
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._bad(key, value, "an object")
        return HfConfig(value, name=f"{self._name}, {key}" if self._name else key)

    def merged(self, more: Mapping[builtins.str, Any]) -> HfConfig:
        """The same with other values, which go before those that are there."""
        return HfConfig({**dict.fromkeys(self._nulls), **self._values, **more}, name=self._name)

    def defaulting(self, defaults: Mapping[builtins.str, Any]) -> HfConfig:
        """The same with values for keys that are not there, also not as null."""
        missing = {k: v for k, v in defaults.items() if not self.has(k) and not self.is_null(k)}
        return self.merged(missing)

    def as_dict(self) -> dict[builtins.str, Any]:
        """The keys that are there with a value, and their values."""
        return dict(self._values)

    def only(self, key: builtins.str, *allowed: Any) -> None:
        """Refuses a model that has another value than these under a key, if it has the key.

        Raises:
            UnsupportedModelError: the value is another one, or of another type.
        """
        if key not in self._values:
            return
        value = self._values[key]
        # True == 1 in Python, which is not what a config means.
        if not any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed
        ):
            shown = ", ".join(map(str, allowed))
            raise UnsupportedModelError(
                f"{self._name + ': ' if self._name else ''}the key {key!r} is "
                f"{str(value)[:60]!r}, which is not supported",
                remedy=f"supported are: {shown}",
            )

    def class_name(self) -> builtins.str:
        """Name of the transformers class of the model, the first of ``architectures``.

        Raises:
            FormatError: there is none.
        """
        names = self.str_list("architectures", default=())
        if not names:
            raise FormatError(
                f"{self._name or 'the config'}: the key 'architectures' is missing or empty; the "
                "name of the model's class is needed",
                remedy='add it, for instance: "architectures": ["LlamaForCausalLM"]',
            )
        return names[0]
