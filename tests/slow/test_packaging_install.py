"""A wheel is built, as an application's build would, with and without a working compiler.

It needs what build.lock installs and no network; it knows nothing of what the core contains.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = ("src", "native", "cmake", "CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "the sources"
    folder.mkdir()
    for part in (*PARTS, "THIRD_PARTY.md"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    return folder


def build(sources: Path, out: Path, **env: str) -> subprocess.CompletedProcess[str]:
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TEKTRA_")}
    return subprocess.run(
        [*pip, "--wheel-dir", str(out), str(sources)],
        env=clean | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def contents(out: Path) -> tuple[str, list[str]]:
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return wheel.name, archive.namelist()


def native(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith((".so", ".pyd"))]


@pytest.mark.timeout(900)
def test_wheel_has_the_package_the_core_and_the_licences(sources: Path, tmp_path: Path) -> None:
    done = build(sources, tmp_path / "out", TEKTRA_REQUIRE_NATIVE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    wheel, names = contents(tmp_path / "out")
    assert "none-any" not in wheel
    assert len(native(names)) == 1
    for path in (ROOT / "src").rglob("*"):
        if path.is_file() and path.suffix in {".py", ".typed", ".toml"}:
            assert str(path.relative_to(ROOT / "src").as_posix()) in names
    assert {"LICENSE", "THIRD_PARTY.md"} <= {n.split("/")[-1] for n in names if "/licenses/" in n}
    assert not [name for name in names if name.startswith(("tests", "native", "benchmarks"))]


@pytest.mark.skipif(os.name == "nt", reason="needs /bin/false")
def test_wheel_without_a_compiler_is_the_package_without_the_core(
    sources: Path, tmp_path: Path
) -> None:
    done = build(sources, tmp_path / "out", CXX="/bin/false")
    assert done.returncode == 0, done.stdout + done.stderr
    _, names = contents(tmp_path / "out")
    assert "tektra/__init__.py" in names
    assert native(names) == []


def test_wheel_of_a_core_that_does_not_compile_is_pure_python(
    sources: Path, tmp_path: Path
) -> None:
    (sources / "native" / "core" / "broken.cpp").write_text("int broken(\n", encoding="utf-8")
    done = build(sources, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    wheel, names = contents(tmp_path / "out")
    assert wheel.endswith("-py3-none-any.whl")
    assert native(names) == []


@pytest.mark.parametrize("variable", ["TEKTRA_REQUIRE_NATIVE", "TEKTRA_NO_RETRY"])
def test_a_core_that_does_not_compile_is_an_error_where_asked(
    sources: Path, tmp_path: Path, variable: str
) -> None:
    (sources / "native" / "core" / "broken.cpp").write_text("int broken(\n", encoding="utf-8")
    done = build(sources, tmp_path / "out", **{variable: "1"})
    assert done.returncode != 0
    assert "broken.cpp" in done.stdout + done.stderr
