"""Fixtures of the adapter tests: ``backend`` is each backend that is present, in turn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:  # the tests share helpers as tests.backends.*
    sys.path.insert(0, str(ROOT))

from tests.backends.present import all_backends  # noqa: E402

from tektra.backends.base import Backend  # noqa: E402


@pytest.fixture(params=sorted(all_backends()))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that is present."""
    return all_backends()[request.param]()
