"""Fixtures of the model tests: ``backend`` is each backend that is present, in turn."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:  # the tests share helpers as tests.backends.*
    sys.path.insert(0, str(ROOT))

from tests.backends.present import all_backends, other_backends  # noqa: E402
from tests.models.page import PROPERTY, Measured  # noqa: E402

from tektra.backends.base import Backend  # noqa: E402


@pytest.fixture(params=sorted(all_backends()))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that is present."""
    return all_backends()[request.param]()


@pytest.fixture(params=sorted(other_backends()))
def other_backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend but the reference."""
    return other_backends()[request.param]()


@pytest.fixture
def record_error(record_property: Callable[[str, object], None]) -> Callable[[Measured], None]:
    """Hands a comparison with the reference implementation to the page of models."""
    return lambda measured: record_property(PROPERTY, measured.as_property())
