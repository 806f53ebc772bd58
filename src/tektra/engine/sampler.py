"""Makes the sampler of a request: the native one where the core is built, else the NumPy one.

Knows the interface that both have, and how to pick; nothing of how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tektra.engine.reference_sampler import ReferenceSampler
from tektra.engine.sampling_params import Sampled, SamplingParams

__all__ = ["Sampler", "make_sampler"]


class Sampler(Protocol):
    """Chooses the tokens of one request; `ReferenceSampler` documents the methods."""

    @property
    def num_generated(self) -> int:
        """How many tokens have been sampled."""
        ...

    def accept(self, tokens: Sequence[int] | NDArray[np.integer]) -> None:
        """Add tokens that were not sampled here, such as the prompt, to the history."""
        ...

    def sample(
        self,
        logits: NDArray[np.float32],
        *,
        mask: NDArray[np.uint32] | None = None,
        suppressed: Sequence[int] = (),
    ) -> Sampled:
        """Choose the next token and add it to the history."""
        ...


def make_sampler(
    params: SamplingParams,
    vocab_size: int,
    seed: int,
    breaker_ids: Sequence[int],
    native: ModuleType | None,
    scratch: object | None = None,
) -> Sampler:
    """The sampler of one request.

    Args:
        params: the settings of the request.
        vocab_size: length of a row of logits.
        seed: 0 to 2^64-1; what `params.seed` says, or what was picked where it says nothing.
        breaker_ids: the tokens of `params.dry_sequence_breakers`.
        native: the extension module, None where it is not built.
        scratch: a `native.SamplerScratch` to share between samplers; each has its own otherwise.
            Samplers that share one wait for each other. The NumPy sampler needs none.

    Raises:
        InvalidParameterError: a token id is not in the vocabulary, or the seed out of range.
    """
    if native is None:
        return ReferenceSampler(params, vocab_size, seed=seed, breaker_ids=breaker_ids)
    return cast(
        "Sampler",
        native.NativeSampler(
            params, vocab_size, seed=seed, breaker_ids=breaker_ids, scratch=scratch
        ),
    )
