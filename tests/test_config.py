"""Settings: defaults, each environment variable, and the directories of each platform."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from pathlib import Path

import pytest

from tektra.config import (
    VARIABLES,
    Settings,
    cache_dir,
    ensure_private_directory,
    state_dir,
)
from tektra.errors import InvalidParameterError

HOME = {"HOME": "/home/ada"}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the paths are POSIX paths")


@pytest.fixture
def _linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")


def test_every_variable_sets_a_field_of_its_own() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert {variable.field for variable in VARIABLES} == fields
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)


@pytest.mark.usefixtures("_linux")
def test_defaults() -> None:
    assert Settings.from_environment(HOME) == Settings(
        device="auto",
        threads=None,
        context=None,
        isa=None,
        cache_dir=Path("/home/ada/.cache/tektra"),
        state_dir=Path("/home/ada/.local/state/tektra"),
        no_color=False,
    )


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("TEKTRA_DEVICE", "CPU", "device", "cpu"),
        ("TEKTRA_THREADS", "3", "threads", 3),
        ("TEKTRA_CONTEXT", "2048", "context", 2048),
        ("TEKTRA_ISA", "AVX2", "isa", "avx2"),
        ("TEKTRA_CACHE_DIR", "/c", "cache_dir", Path("/c")),
        ("TEKTRA_STATE_DIR", "/s", "state_dir", Path("/s")),
        ("NO_COLOR", "1", "no_color", True),
    ],
)
def test_a_variable_sets_its_field(name: str, text: str, field: str, value: object) -> None:
    assert getattr(Settings.from_environment({**HOME, name: text}), field) == value
    empty = Settings.from_environment({**HOME, name: ""})
    assert empty == Settings.from_environment(HOME), "an empty variable counts as not set"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TEKTRA_DEVICE", "gpu"),
        ("TEKTRA_THREADS", "0"),
        ("TEKTRA_THREADS", "-1"),
        ("TEKTRA_THREADS", "two"),
        ("TEKTRA_THREADS", "1.5"),
        ("TEKTRA_THREADS", "1025"),
        ("TEKTRA_THREADS", "9" * 5000),
        ("TEKTRA_THREADS", "\u0663"),  # a digit to int(), not to a person with a shell
        ("TEKTRA_CONTEXT", "1e3"),
        ("TEKTRA_CONTEXT", str(2**40)),
        ("TEKTRA_ISA", "../x"),
        ("TEKTRA_CACHE_DIR", "~nobody-of-this-name/x"),
    ],
)
def test_a_bad_value_names_the_variable(name: str, text: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        Settings.from_environment({**HOME, name: text})
    assert caught.value.parameter == name
    assert name in str(caught.value)
    assert caught.value.remedy
    assert len(str(caught.value)) < 300


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEKTRA_THREADS", "5")
    monkeypatch.setenv("TEKTRA_CACHE_DIR", "/somewhere")
    assert Settings.from_environment().threads == 5
    assert cache_dir() == Path("/somewhere")


@pytest.mark.usefixtures("_linux")
def test_xdg_directories_on_linux() -> None:
    environ = {**HOME, "XDG_CACHE_HOME": "/x/cache", "XDG_STATE_HOME": "/x/state"}
    assert cache_dir(environ) == Path("/x/cache/tektra")
    assert state_dir(environ) == Path("/x/state/tektra")
    relative = {**HOME, "XDG_CACHE_HOME": "cache"}
    assert cache_dir(relative) == Path("/home/ada/.cache/tektra"), "a relative base is invalid"


def test_macos_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir(HOME) == Path("/home/ada/Library/Caches/tektra")
    assert state_dir(HOME) == Path("/home/ada/Library/Application Support/tektra")


def test_windows_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert cache_dir({"LOCALAPPDATA": "/local"}) == Path("/local/tektra/cache")
    assert state_dir({"USERPROFILE": "/ada"}) == Path("/ada/AppData/Local/tektra")
    assert "tektra-ada" in str(cache_dir({"USERNAME": "ada"}))


def test_without_home_the_user_database_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(sys, "platform", "linux")
    entry = pwd.struct_passwd(("ada", "x", 1, 1, "", str(tmp_path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry)
    assert cache_dir({}) == tmp_path / ".cache" / "tektra"


def test_without_any_home_the_temporary_directory_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(sys, "platform", "linux")

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    expected = Path(tempfile.gettempdir(), f"tektra-{os.getuid()}")
    assert cache_dir({}) == expected / "cache"
    assert state_dir({}) == expected / "state"


def test_a_private_directory_is_made_for_this_user_only(tmp_path: Path) -> None:
    made = ensure_private_directory(tmp_path / "a" / "b")
    assert made.is_dir()
    assert made.stat().st_mode & 0o777 == 0o700
    assert ensure_private_directory(made) == made


def test_a_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ensure_private_directory(tmp_path / "a")
    owner = made.stat().st_uid
    if owner == 0:
        os.chown(made, 4242, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(PermissionError):
        ensure_private_directory(made)
