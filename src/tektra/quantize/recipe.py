"""What somebody asked for: the mix, and types for single tensors.

It reads names and patterns; which tensor becomes what in the end, `mixes` decides.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tektra.errors import InvalidParameterError
from tektra.formats.ggml_types import GGMLType

__all__ = ["ALIASES", "MIXES", "TARGET_TYPES", "Mix", "Override", "Recipe", "target_type"]


@dataclass(frozen=True, slots=True)
class Mix:
    """A preset.

    Attributes:
        base: what tensors become that nothing else is said of.
        file_type: ``general.file_type`` of the file, as llama.cpp numbers its presets.
    """

    base: GGMLType
    file_type: int


# Source: enum llama_ftype of llama.cpp.
MIXES: Final = MappingProxyType(
    {
        "f32": Mix(GGMLType.F32, 0),
        "f16": Mix(GGMLType.F16, 1),
        "bf16": Mix(GGMLType.BF16, 32),
        "q4_0": Mix(GGMLType.Q4_0, 2),
        "q4_1": Mix(GGMLType.Q4_1, 3),
        "q5_0": Mix(GGMLType.Q5_0, 8),
        "q5_1": Mix(GGMLType.Q5_1, 9),
        "q8_0": Mix(GGMLType.Q8_0, 7),
        "q2_k": Mix(GGMLType.Q2_K, 10),
        "q2_k_s": Mix(GGMLType.Q2_K, 21),
        "q3_k_s": Mix(GGMLType.Q3_K, 11),
        "q3_k_m": Mix(GGMLType.Q3_K, 12),
        "q3_k_l": Mix(GGMLType.Q3_K, 13),
        "q4_k_s": Mix(GGMLType.Q4_K, 14),
        "q4_k_m": Mix(GGMLType.Q4_K, 15),
        "q5_k_s": Mix(GGMLType.Q5_K, 16),
        "q5_k_m": Mix(GGMLType.Q5_K, 17),
        "q6_k": Mix(GGMLType.Q6_K, 18),
        "iq4_nl": Mix(GGMLType.IQ4_NL, 25),
        "iq4_xs": Mix(GGMLType.IQ4_XS, 30),
        "tq1_0": Mix(GGMLType.TQ1_0, 36),
        "tq2_0": Mix(GGMLType.TQ2_0, 37),
        "mxfp4_moe": Mix(GGMLType.MXFP4, 38),
    }
)
"""The presets by name."""

ALIASES: Final = MappingProxyType(
    {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m", "mxfp4": "mxfp4_moe"}
)
"""Other names of presets."""

_LATER: Final = (
    *("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m"),
    *("iq3_xxs", "iq3_xs", "iq3_s", "iq3_m", "q1_0", "q2_0", "nvfp4"),
)

TARGET_TYPES: Final = MappingProxyType(
    {
        type_.name.lower(): type_
        for type_ in (
            *(GGMLType.F32, GGMLType.F16, GGMLType.BF16),
            *(GGMLType.Q4_0, GGMLType.Q4_1, GGMLType.Q5_0, GGMLType.Q5_1, GGMLType.Q8_0),
            *(GGMLType.Q2_K, GGMLType.Q3_K, GGMLType.Q4_K, GGMLType.Q5_K, GGMLType.Q6_K),
            *(GGMLType.IQ4_NL, GGMLType.IQ4_XS, GGMLType.MXFP4, GGMLType.TQ1_0, GGMLType.TQ2_0),
        )
    }
)
"""The types that a tensor can be made by name."""


@dataclass(frozen=True, slots=True)
class Override:
    """A type for the tensors whose names match.

    Attributes:
        pattern: as it was given.
        type: what they become.
    """

    pattern: str
    type: GGMLType

    @classmethod
    def parse(cls, text: str, *, parameter: str = "tensor") -> Override:
        """From ``PATTERN=TYPE``.

        A pattern with ``*`` or ``?`` and no other sign of a regular expression is a glob for the
        whole name; any other one is a regular expression that is looked for in the name.

        Raises:
            InvalidParameterError: there is no type, or the pattern is malformed.
        """
        pattern, separator, name = text.rpartition("=")
        if not separator or not pattern:
            raise InvalidParameterError(
                parameter, f"{text!r} is not of the form PATTERN=TYPE", remedy="as in attn_v=q8_0"
            )
        override = cls(pattern, target_type(name, parameter=parameter))
        try:
            override.compiled()
        except re.error as error:
            raise InvalidParameterError(
                parameter, f"{pattern!r} is not a regular expression: {error}"
            ) from None
        return override

    def compiled(self) -> re.Pattern[str]:
        """What to search names for."""
        if re.fullmatch(r"[\w.*?-]+", self.pattern) and re.search(r"(?<!\.)\*|\?", self.pattern):
            return re.compile(r"\A" + fnmatch.translate(self.pattern))
        return re.compile(self.pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is to be quantized.

    Attributes:
        mix: a name in `MIXES`.
        overrides: types for tensors by name; the first that matches counts.
        output_type: what the output matrix becomes, and the embeddings that serve as one.
        embedding_type: what the embeddings become.
        pure: every matrix becomes the mix' base type.
    """

    mix: str
    overrides: tuple[Override, ...] = ()
    output_type: GGMLType | None = None
    embedding_type: GGMLType | None = None
    pure: bool = False

    @classmethod
    def of(
        cls,
        mix: str,
        *,
        overrides: Iterable[str] = (),
        output_type: str | None = None,
        embedding_type: str | None = None,
        pure: bool = False,
        parameter: str = "type",
    ) -> Recipe:
        """From names.

        Raises:
            InvalidParameterError: a name is unknown, or a pattern malformed.
        """
        name = mix.lower().replace("-", "_")
        name = ALIASES.get(name, name)
        if name not in MIXES:
            later = name in _LATER
            raise InvalidParameterError(
                parameter,
                f"{mix!r} {'cannot be written yet' if later else 'is not a mix'}",
                remedy=f"use one of {', '.join(MIXES)}",
            )
        return cls(
            mix=name,
            overrides=tuple(Override.parse(text) for text in overrides),
            output_type=None
            if output_type is None
            else target_type(output_type, parameter="output_type"),
            embedding_type=None
            if embedding_type is None
            else target_type(embedding_type, parameter="embedding_type"),
            pure=pure,
        )

    @property
    def base(self) -> GGMLType:
        """What tensors become that nothing else is said of."""
        return MIXES[self.mix].base

    @property
    def file_type(self) -> int:
        """``general.file_type``."""
        return MIXES[self.mix].file_type

    def describe(self) -> str:
        """The same text for the same recipe, for names of things made by it."""
        parts = [self.mix, *(f"{o.pattern}={o.type.name}" for o in self.overrides)]
        parts += [f"output={self.output_type}", f"embedding={self.embedding_type}"]
        return " ".join([*parts, f"pure={self.pure}"])


def target_type(name: str, *, parameter: str) -> GGMLType:
    """The type of that name, in any case.

    Raises:
        InvalidParameterError: there is none that can be written.
    """
    found = TARGET_TYPES.get(name.strip().lower())
    if found is None:
        later = name.strip().lower() in _LATER
        raise InvalidParameterError(
            parameter,
            f"{name!r} {'cannot be written yet' if later else 'is not a type'}",
            remedy=f"use one of {', '.join(TARGET_TYPES)}",
        )
    return found
