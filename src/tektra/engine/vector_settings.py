"""What a model says of how vectors and scores of texts are to be made.

Read from metadata; it does not make any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tektra.engine.scoring import Pooling
from tektra.errors import FormatError, InvalidParameterError
from tektra.formats.gguf_metadata import Metadata
from tektra.models.encoder import read_pooling

__all__ = ["ScoreFunction", "VectorSettings"]

ScoreFunction = Literal["none", "sigmoid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSettings:
    """How a model wants vectors and scores of texts to be made.

    Attributes:
        pooling: from the vectors of tokens to that of the text.
        normalize: whether vectors have length 1.
        prompts: what may be put before a text, by name.
        default_prompt: name of the prompt that is used where none is asked for.
        max_tokens: longest text that it is meant for; None where it does not say.
        lower_case: whether texts become lower case before they are tokenized.
        scores: what is made of the output of a classification head.
    """

    pooling: Pooling = "mean"
    normalize: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_tokens: int | None = None
    lower_case: bool = False
    scores: ScoreFunction = "sigmoid"

    @classmethod
    def from_metadata(cls, values: Mapping[str, Any]) -> VectorSettings:
        """Reads ``{architecture}.pooling_type`` and the keys below ``tektra.embedding``.

        Raises:
            FormatError: a value is of the wrong type or out of range, or the default prompt is
                not among the prompts.
        """
        m = Metadata(values)
        pooling = read_pooling(m, m.str("general.architecture"))
        names = m.str_list("tektra.embedding.prompt_names", default=())
        texts = m.str_list("tektra.embedding.prompts", default=(), length=None)
        if len(names) != len(texts):
            raise FormatError(f"{len(texts)} prompts have {len(names)} names")
        default = m.str("tektra.embedding.default_prompt", default=None)
        if default is not None and default not in names:
            raise FormatError(f"the default prompt {default[:64]!r} is not among the prompts")
        scores: Any = m.str("tektra.rerank.activation", default="sigmoid")
        if scores not in get_args(ScoreFunction):
            raise FormatError(f"the key 'tektra.rerank.activation' is {scores[:64]!r}")
        return cls(
            pooling=pooling if pooling in ("mean", "cls", "last") else "mean",
            normalize=m.bool("tektra.embedding.normalize", default=True),
            prompts=dict(zip(names, texts, strict=True)),
            default_prompt=default,
            max_tokens=m.int("tektra.embedding.max_tokens", default=None, minimum=1),
            lower_case=m.bool("tektra.embedding.lower_case", default=False),
            scores=scores,
        )

    def prompt(self, name: str | None, text: str | None) -> str:
        """What goes before each text.

        Raises:
            InvalidParameterError: both are given, or there is no prompt of that name.
        """
        if text is not None:
            if name is not None:
                raise InvalidParameterError("prompt", "is given together with prompt_name")
            return text
        if name is None:
            return "" if self.default_prompt is None else self.prompts[self.default_prompt]
        if name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise InvalidParameterError(
                "prompt_name", f"the model has no prompt {name[:64]!r}", remedy=f"it has: {known}"
            )
        return self.prompts[name]
