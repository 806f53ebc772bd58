"""A1, A2, A3, A5: a damaged model file loads and answers, or gives a typed error.

A sample, through the whole way from opening to the answer; tests/slow/robustness has all of it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.robustness.trials import (
    LOADED,
    Outcomes,
    byte_variants,
    edges,
    header_bytes,
    headroom_mib,
    run_trials,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="watched by POSIX means")

SAMPLE = 400

Record = Callable[[str, object], None]


def check(path: Path, outcomes: Outcomes, record: Record) -> None:
    record("outcomes", str(outcomes))
    print(outcomes)
    assert not outcomes.faults, "\n".join(outcomes.faults[:10])
    # It would hide what the damage does: nothing here asks for that much.
    assert "MemoryLimitError" not in outcomes.counts
    assert outcomes.growth_mib < headroom_mib(path)


@pytest.mark.parametrize("name", ["tiny", "full"])
def test_flipped_bytes(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, record_property: Record
) -> None:
    path: Path = request.getfixturevalue(name)
    damages = list(byte_variants(path.read_bytes(), range(header_bytes(path))))
    sample = random.Random(name).sample(damages, SAMPLE)
    outcomes = run_trials(path, sample, tmp_path)
    check(path, outcomes, record_property)
    assert outcomes.counts.total() == SAMPLE
    # Were nothing accepted, or nothing refused, the way from there on would not be tried.
    assert {LOADED, "FormatError", "TokenizerError"} <= outcomes.counts.keys()


def test_cut_files(tiny: Path, tmp_path: Path, record_property: Record) -> None:
    cuts = [(at, -1) for at in (*range(0, header_bytes(tiny), 23), *edges(tiny))]
    outcomes = run_trials(tiny, cuts, tmp_path)
    check(tiny, outcomes, record_property)
    # Of the last edges one is the end of the file, where nothing is missing.
    assert outcomes.counts == {"FormatError": len(cuts) - 1, LOADED: 1}


def test_damaged_weights(tiny: Path, tmp_path: Path, record_property: Record) -> None:
    """Weights may be any bits: NaN and infinity come out as an error, or not at all."""
    size, start = tiny.stat().st_size, header_bytes(tiny)
    rng = random.Random(5)
    # The high byte of float32 weights, so that many become huge or not a number.
    places = [rng.randrange(start + 3, size, 4) for _ in range(40)]
    outcomes = run_trials(tiny, list(byte_variants(tiny.read_bytes(), places)), tmp_path)
    check(tiny, outcomes, record_property)
    assert outcomes.counts.keys() <= {LOADED, "BackendError"}
    assert outcomes.counts[LOADED] > SAMPLE // 2
