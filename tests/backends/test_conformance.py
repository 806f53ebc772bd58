"""Every op, on every backend: the reference against the formulas, the others against the reference.

Each case is named backend-op-dtype-shape.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.backends.cases import MAX_ROWS, Case, Prepared, row_cases
from tests.backends.cases_attention import NUM_BLOCKS, attention_cases
from tests.backends.cases_moe import moe_cases
from tests.backends.cases_tables import table_cases
from tests.backends.present import other_backends, other_instruction_sets
from tests.backends.tolerances import Tolerance, assert_close

from tektra.backends.base import Backend, CacheType, CompileOptions
from tektra.backends.reference import ReferenceBackend

CASES = [*row_cases(), *table_cases(), *moe_cases(), *attention_cases()]
OTHERS = {**other_backends(), **other_instruction_sets()}
OPTIONS = CompileOptions(
    num_threads=2, max_rows=MAX_ROWS, max_outputs=MAX_ROWS, num_kv_blocks=NUM_BLOCKS
)
REFERENCE = Tolerance(largest=2e-6, rms=1e-6)
"""The reference rounds each op to float32, and nothing else, whatever the weights are."""


def outcome(backend: Backend, case: Prepared, kv_type: CacheType) -> NDArray[np.float32]:
    """The output of the last step, after those that fill the cache."""
    executable = backend.compile(case.graph, case.weights, replace(OPTIONS, kv_type=kv_type))
    try:
        for step in case.steps[:-1]:
            executable.run(step, "hidden")
        return executable.run(case.steps[-1], "hidden").copy()
    finally:
        executable.close()


def test_names_are_different() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"reference-{case.name}")
def test_reference(case: Case) -> None:
    prepared = case.prepare()
    out = outcome(ReferenceBackend(), prepared, case.kv_type)
    assert_close(out, prepared.expected(), REFERENCE, case.name)


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(b, c, id=f"{b}-{c.name}") for b in OTHERS for c in CASES],
)
def test_backend(name: str, case: Case) -> None:
    prepared = case.prepare()
    expected = outcome(ReferenceBackend(), prepared, case.kv_type)
    out = outcome(OTHERS[name](), prepared, case.kv_type)
    assert_close(out, expected, case.tolerance, f"{name}-{case.name}")
