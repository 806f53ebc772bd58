"""The small decoders of all families, written as files, run, and compared.

A family is a module of `tests/goldens` that makes weights from a seed, and the file of what
transformers computed for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tests.backends.steps import run_text
from tests.fixtures.checkpoint_files import write_checkpoint
from tests.goldens import dense_model, moe_model, seeded_model
from tests.goldens.variants_moe import MOE
from tests.models.page import Measured

from tektra.backends.base import Backend, CompileOptions
from tektra.config import KvType
from tektra.engine.model_files import open_model
from tektra.formats.ggml_types import GGMLType
from tektra.formats.gguf_writer import write_gguf
from tektra.models.base import draw

__all__ = [
    "FLOAT16_TOLERANCE",
    "FLOAT32_TOLERANCE",
    "FORMS",
    "MODELS",
    "Form",
    "SmallModel",
    "difference",
    "write_floats",
]

Form = Literal["GGUF", "safetensors"]
FORMS: Final = get_args(Form)
FLOAT32_TOLERANCE: Final = 1e-4
"""Of the largest logit, where keys and values are kept as float32 like in transformers."""
FLOAT16_TOLERANCE: Final = 3e-3
"""The same where they are rounded to float16: 2^-11 each, times what two layers make of it."""

_F32 = NDArray[np.float32]
_FOLDER: Final = Path(__file__).parents[1] / "goldens" / "models"
_OPTIONS: Final = CompileOptions(max_rows=256, max_outputs=8, num_kv_blocks=8)


@dataclass(frozen=True, slots=True)
class _Family:
    """How the variants of one module become files."""

    goldens: str
    config: Callable[[Any], Mapping[str, Any]]
    weights: Callable[[Any], Mapping[str, NDArray[Any]]]
    gguf_weights: Callable[[Any], Mapping[str, _F32]]
    gguf_metadata: Callable[[Any], dict[str, Any]]
    token_ids: Callable[[Any], NDArray[np.int32]]
    fingerprint: Callable[[Any], int]


@dataclass(frozen=True, slots=True)
class SmallModel:
    """One variant of one family.

    Attributes:
        variant: as its family describes it; has name, architecture and rows.
        family: how it becomes a file.
    """

    variant: Any
    family: _Family

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata as a GGUF converter writes it; the caller's to change."""
        return dict(self.family.gguf_metadata(self.variant))

    def rounds_rows(self, form: Form) -> bool:
        """Whether it has quantized matrices in this form, for which backends may round rows."""
        return form == "safetensors" and getattr(self.variant, "is_mxfp4", False)

    def fingerprints(self) -> tuple[int, int]:
        """The checksum of what the seed makes, and the one that the goldens were made of."""
        return self.family.fingerprint(self.variant), int(self._golden(" fingerprint"))

    def logits(
        self,
        backend: Backend,
        form: Form,
        folder: Path,
        metadata: Mapping[str, Any] | None = None,
        *,
        kv_type: KvType = "f16",
    ) -> _F32:
        """Writes the model in a form, opens it, and runs its text."""
        path, variant = folder / form, self.variant
        if form == "GGUF":
            write_floats(path, metadata or self.metadata, self.family.gguf_weights(variant))
        else:
            assert metadata is None
            config = dict(self.family.config(variant))
            write_checkpoint(path, config, self.family.weights(variant), shards=3)
        with open_model(path) as file:
            model = draw(file.metadata, file.tensors, context=getattr(variant, "context", None))
            executable = backend.compile(model.graph, file, replace(_OPTIONS, kv_type=kv_type))
            try:
                return run_text(
                    executable, self.family.token_ids(variant).tolist(), list(variant.rows)
                )
            finally:
                executable.close()

    def error(
        self,
        backend: Backend,
        form: Form,
        folder: Path,
        metadata: Mapping[str, Any] | None = None,
        *,
        kv_type: KvType = "f16",
    ) -> float:
        """How far its logits are from those of transformers, as a share of the largest."""
        out = self.logits(backend, form, folder, metadata, kv_type=kv_type)
        return difference(out, self._golden(""))

    def measured(self, form: Form, backend: str, error: float) -> Measured:
        """For the page of models."""
        return Measured(
            architecture=self.variant.architecture,
            form=form,
            backend=backend,
            variant=self.variant.name,
            error=error,
        )

    def _golden(self, what: str) -> NDArray[Any]:
        with np.load(_FOLDER / self.family.goldens) as arrays:
            golden: NDArray[Any] = arrays[f"{self.variant.name}{what}"]
            return golden


def write_floats(path: Path, metadata: Mapping[str, Any], weights: Mapping[str, _F32]) -> Path:
    """A GGUF file of float32 tensors."""
    tensors = [(n, a.shape, GGMLType.F32, a) for n, a in weights.items()]
    write_gguf(path, dict(metadata), tensors)
    return path


def difference(out: _F32, expected: NDArray[Any]) -> float:
    """Largest difference as a share of the largest logit."""
    return float(np.abs(out - expected).max() / np.abs(expected).max())


def _models(variants: Mapping[str, Any], family: _Family) -> dict[str, SmallModel]:
    return {name: SmallModel(variant, family) for name, variant in variants.items()}


MODELS: Final[Mapping[str, SmallModel]] = {
    **_models(
        seeded_model.VARIANTS,
        _Family(
            "logits.npz",
            seeded_model.checkpoint_config,
            seeded_model.checkpoint_weights,
            seeded_model.gguf_weights,
            seeded_model.gguf_metadata,
            seeded_model.token_ids,
            seeded_model.fingerprint,
        ),
    ),
    **_models(
        dense_model.DENSE,
        _Family(
            "dense.npz",
            lambda v: v.config,
            dense_model.checkpoint_weights,
            dense_model.gguf_weights,
            lambda v: v.gguf_metadata,
            dense_model.token_ids,
            dense_model.fingerprint,
        ),
    ),
    **_models(
        MOE,
        _Family(
            "moe.npz",
            lambda v: v.config,
            moe_model.checkpoint_weights,
            moe_model.gguf_weights,
            moe_model.gguf_metadata,
            moe_model.token_ids,
            moe_model.fingerprint,
        ),
    ),
}
assert len(MODELS) == len(seeded_model.VARIANTS) + len(dense_model.DENSE) + len(MOE)
