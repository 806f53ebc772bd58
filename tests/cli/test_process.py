"""The program as a process: signals, pipes, and what it does when its streams go away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.conftest import FAKE_PROGRAM

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and pipes")


@contextmanager
def started(environment: dict[str, str], *args: str) -> Iterator[subprocess.Popen[str]]:
    """The program with the fake model, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, FAKE_PROGRAM, *args],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()


def test_ctrl_c_stops_a_running_answer(environment: dict[str, str]) -> None:
    environment |= {"TEKTRA_TEST_DELAY": "0.05"}
    with started(environment, "run", "m.gguf", "a b " * 500) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == "A B"
        os.killpg(process.pid, signal.SIGINT)
        start = time.monotonic()
        _, err = process.communicate(timeout=10)
        assert process.returncode == 130
        assert time.monotonic() - start < 3
        assert "Traceback" not in err
        assert "[cancelled]" in err, "the request was cancelled, not abandoned"


def test_ctrl_c_leaves_no_half_json(environment: dict[str, str], tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    environment |= {"TEKTRA_TEST_DELAY": "0.05", "TEKTRA_TEST_STARTED": str(begun)}
    with started(environment, "run", "m.gguf", "a b " * 500, "--json") as process:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out) == (130, "")
        assert "Traceback" not in err


def test_a_reader_that_leaves_is_no_traceback(environment: dict[str, str]) -> None:
    environment |= {"TEKTRA_TEST_DELAY": "0.01"}
    with started(environment, "run", "m.gguf", "word " * 5000) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(4)
        process.stdout.close()
        assert process.wait(timeout=10) == 1
        err = process.stderr.read()
        assert "Traceback" not in err
        assert "BrokenPipe" not in err


def test_a_full_disk_is_an_error(environment: dict[str, str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    for args in (["run", "m.gguf", "x"], ["run", "m.gguf", "x", "--json"], ["doctor"]):
        with open("/dev/full", "w") as full:
            result = subprocess.run(
                [sys.executable, FAKE_PROGRAM, *args],
                env=environment, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE,
                text=True, timeout=30, check=False,
            )  # fmt: skip
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        assert "No space left" in result.stderr


def test_the_prompt_from_a_pipe(environment: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, FAKE_PROGRAM, "run", "m.gguf", "--json"],
        env=environment, input="from a pipe\n", capture_output=True, text=True, timeout=30,
        check=True,
    )  # fmt: skip
    assert json.loads(result.stdout)["text"] == "FROM A PIPE"
    assert result.stderr == ""


def test_without_home_and_with_an_ascii_terminal(environment: dict[str, str]) -> None:
    environment = {k: v for k, v in environment.items() if k not in ("HOME", "TEKTRA_STATE_DIR")}
    environment |= {"PYTHONIOENCODING": "ascii", "TEKTRA_TEST_SCRIPT": "caf\u00e9"}
    result = subprocess.run(
        [sys.executable, FAKE_PROGRAM, "run", "m.gguf", "x"],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
        check=True,
    )  # fmt: skip
    assert result.stdout == "caf?\n"
    result = subprocess.run(
        [sys.executable, FAKE_PROGRAM, "run", "m.gguf", "x", "--json"],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
        check=True,
    )  # fmt: skip
    assert json.loads(result.stdout)["text"] == "caf\u00e9", "JSON loses nothing"


def test_closed_standard_input(environment: dict[str, str]) -> None:
    result = subprocess.run(
        ["sh", "-c", 'exec "$0" "$1" run m.gguf <&-', sys.executable, FAKE_PROGRAM],
        env=environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("args", [("--help",), ("run", "--help"), ("--version",), ("doctor",)])
def test_a_full_disk_is_an_error_of_every_command(
    environment: dict[str, str], args: tuple[str, ...]
) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, FAKE_PROGRAM, *args],
            env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: input or output: No space left on device\n"


@pytest.mark.parametrize("closed", [1, 2])
def test_closed_output(environment: dict[str, str], closed: int) -> None:
    command = '"$0" "$1" run m.gguf "one two" ' + f"{closed}>&-"
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, FAKE_PROGRAM],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    if closed == 1:
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: standard output is closed\n")
    else:
        assert (done.returncode, done.stdout) == (0, "ONE TWO\n")


def test_a_prompt_in_utf8_under_a_locale_without_it(environment: dict[str, str]) -> None:
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with started(environment, "run", "m.gguf", "écris", "--json") as process:
        out, err = process.communicate(timeout=30)
    assert json.loads(out)["text"] == "ÉCRIS", err
