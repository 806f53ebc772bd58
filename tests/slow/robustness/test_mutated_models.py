"""A1, A2, A3, A5: every damage of the first 4 KiB, and every cut, from opening to the answer.

The small models by each byte of their whole header; the real one by a sample of its first 4 KiB.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fixtures.tiny_model import write_tiny_model
from tests.robustness.model_files import write_full_model
from tests.robustness.test_mutated_models import Record, check
from tests.robustness.trials import (
    LOADED,
    Damage,
    byte_variants,
    edges,
    header_bytes,
    run_trials,
)

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="watched by POSIX means"),
    pytest.mark.timeout(1800),
]

FIRST = 4096
WORKERS = 2
REAL_SAMPLE = 1600


def flips(path: Path, places: range) -> list[Damage]:
    with path.open("rb") as file:
        return list(byte_variants(file.read(places.stop), places))


@pytest.mark.parametrize("write", [write_tiny_model, write_full_model])
def test_every_byte_of_the_header(
    write: Callable[[Path], Path], tmp_path: Path, record_property: Record
) -> None:
    path = write(tmp_path / "sound.gguf")
    header = header_bytes(path)
    assert header > FIRST
    outcomes = run_trials(path, flips(path, range(header)), tmp_path, workers=WORKERS)
    check(path, outcomes, record_property)
    assert outcomes.counts.total() > 9 * header
    wanted = {LOADED, "FormatError", "TokenizerError", "TemplateError", "UnsupportedModelError"}
    assert wanted <= outcomes.counts.keys()


def test_every_cut(tmp_path: Path, record_property: Record) -> None:
    path = write_tiny_model(tmp_path / "sound.gguf")
    cuts = [(at, -1) for at in (*range(header_bytes(path)), *edges(path))]
    outcomes = run_trials(path, cuts, tmp_path, workers=WORKERS)
    check(path, outcomes, record_property)
    assert outcomes.counts == {"FormatError": len(cuts) - 1, LOADED: 1}


def test_the_real_model(smollm2_path: Path, tmp_path: Path, record_property: Record) -> None:
    damages = flips(smollm2_path, range(FIRST))
    sample = random.Random(11).sample(damages, REAL_SAMPLE)
    outcomes = run_trials(smollm2_path, sample, tmp_path, workers=WORKERS)
    check(smollm2_path, outcomes, record_property)
    assert outcomes.counts.total() == REAL_SAMPLE
    assert {LOADED, "FormatError", "TokenizerError"} <= outcomes.counts.keys()


def test_cuts_of_the_real_model(
    smollm2_path: Path, tmp_path: Path, record_property: Record
) -> None:
    at_edges = edges(smollm2_path)
    sizes = [*random.Random(12).sample(range(header_bytes(smollm2_path)), 100), *at_edges[-40:]]
    outcomes = run_trials(smollm2_path, [(at, -1) for at in sizes], tmp_path)
    check(smollm2_path, outcomes, record_property)
    assert outcomes.counts == {"FormatError": len(sizes) - 1, LOADED: 1}
