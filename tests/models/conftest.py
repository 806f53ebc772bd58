"""Fixtures of the model tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.models.page import PROPERTY, Measured


@pytest.fixture
def record_error(record_property: Callable[[str, object], None]) -> Callable[[Measured], None]:
    """Hands a comparison with the reference implementation to the page of models."""
    return lambda measured: record_property(PROPERTY, measured.as_property())
