"""The Makefile and CMake keep what the documents promise; run in scratch folders, with stand-ins.

It compiles nothing and installs nothing: tests/slow/test_packaging_install.py does that.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = {"x86_64", "arm64"}
INSTALLED = 1_700_000_000  # seconds since the epoch; any moment in the past

pytest_plugins = ["pytester"]

needs_posix = pytest.mark.skipif(os.name == "nt", reason="stand-ins are shell scripts")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler"
)


def instruction_sets() -> list[list[str]]:
    """The lines of the table in CMake: name, architecture, flags, flags of MSVC."""
    text = (ROOT / "cmake" / "instruction_sets.cmake").read_text(encoding="utf-8")
    table = re.search(r"^set\(TEKTRA_INSTRUCTION_SETS\n(.*?)^\)", text, re.MULTILINE | re.DOTALL)
    assert table
    return [
        [field.strip() for field in line.split("|")] for line in re.findall(r'"(.*)"', table[1])
    ]


def test_table_of_instruction_sets_is_well_formed() -> None:
    table = instruction_sets()
    assert table
    assert len({line[0] for line in table}) == len(table)
    for line in table:
        assert len(line) == 4
        name, architecture, gnu_flags, _ = line
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert architecture in ARCHITECTURES
        assert all(flag.startswith("-m") for flag in gnu_flags.split())
        assert "native" not in gnu_flags


def test_every_kernel_folder_is_scalar_or_in_the_table() -> None:
    """Folders with sources, that is: ``shared`` has headers, which each set compiles for itself."""
    folders = {path.parent.name for path in (ROOT / "native" / "kernels").glob("*/*.cpp")}
    assert "scalar" in folders
    assert folders <= {"scalar"} | {line[0] for line in instruction_sets()}


def test_build_never_names_the_building_machine_nor_relaxes_arithmetic() -> None:
    for name in ("CMakeLists.txt", "cmake/instruction_sets.cmake", "pyproject.toml", "Makefile"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for flag in ("-march=native", "-mtune=", "-mcpu=", "-ffast-math", "-Ofast", "/fp:fast"):
            assert flag not in text, (name, flag)


# CMake


def configure(build: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Configures the repository in `build` with the pinned CMake and Ninja."""
    cmake = pytest.importorskip("cmake", reason="CMake is not installed: run `make test`")
    ninja = pytest.importorskip("ninja", reason="Ninja is not installed: run `make test`")
    suffix = ".exe" if os.name == "nt" else ""
    command = [
        str(Path(cmake.CMAKE_BIN_DIR) / f"cmake{suffix}"),
        *("-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={Path(ninja.BIN_DIR) / f'ninja{suffix}'}",
        "-DTEKTRA_PYTHON_MODULE=OFF",
        *options,
    ]
    return subprocess.run(
        command, env=os.environ | env, capture_output=True, text=True, check=False, timeout=100
    )


@needs_posix
def test_configuring_without_a_compiler_succeeds_and_says_what_that_means(tmp_path: Path) -> None:
    done = configure(tmp_path, CXX="/bin/false")
    assert done.returncode == 0, done.stderr
    warning = " ".join(done.stderr.split())
    assert "No C++ compiler was found" in warning
    assert "many times slower" in warning
    assert "Install g++ or clang++" in warning


@needs_posix
def test_configuring_without_a_compiler_fails_where_the_core_is_required(tmp_path: Path) -> None:
    done = configure(tmp_path, "-DTEKTRA_REQUIRE_NATIVE=ON", CXX="/bin/false")
    assert done.returncode != 0
    assert "No C++ compiler was found" in " ".join(done.stderr.split())


@needs_posix
@needs_compiler
def test_each_kernel_is_compiled_with_its_own_flags_only(tmp_path: Path) -> None:
    # The second configuration of a folder that once had no compiler finds the one there is now.
    assert configure(tmp_path, CXX="/bin/false").returncode == 0
    options = ("-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", "-DTEKTRA_REQUIRE_NATIVE=ON")
    done = configure(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    commands = json.loads((tmp_path / "compile_commands.json").read_text(encoding="utf-8"))
    built = re.search(r"kernels for (\w+): (.*)", done.stdout)
    assert built
    expected = {"scalar"}
    kernels = ROOT / "native" / "kernels"
    flags_of = {name: flags.split() for name, _, flags, _ in instruction_sets()}
    for name, architecture, _, _ in instruction_sets():
        if architecture == built[1] and any((kernels / name).glob("*.cpp")):
            expected.add(name)
    assert set(built[2].split(", ")) == expected

    seen = set()
    for command in commands:
        arguments = shlex.split(command["command"])
        assert "-ffp-contract=off" in arguments
        assert "-std=c++20" in arguments
        assert "-fvisibility=hidden" in arguments
        assert "-O3" in arguments
        file = Path(command["file"])
        name = file.parent.name if file.is_relative_to(kernels) else "core"
        seen.add(name)
        machine_flags = [a for a in arguments if re.match(r"-m(?!macos)", a)]
        assert machine_flags == flags_of.get(name, []), command["file"]
        if name == "core":
            for other in expected - {"scalar"}:
                assert f"-DTEKTRA_HAVE_{other.upper()}=1" in arguments
    assert seen == expected | {"core"}


# The Makefile


@pytest.fixture
def make_folder(tmp_path: Path) -> Path:
    """A folder with a space in its name, where everything counts as installed already."""
    if os.name == "nt" or shutil.which("make") is None:
        pytest.skip("no make")
    folder = tmp_path / "a clone"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / "requirements").mkdir()
    (folder / "src" / "tektra").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    locks = [f"requirements/{name}.lock" for name in ("runtime", "build", "dev", "model")]
    # In the order in which make expects them to be made: each group newer than the one before.
    groups = (
        ["pyproject.toml", "CMakeLists.txt", "src/tektra/_version.py", *locks],
        [".venv/.created"],
        [".venv/.runtime"],
        [".venv/.dev", ".venv/.smollm2", ".venv/.tektra-native", ".venv/.tektra-pure"],
    )
    for age, group in enumerate(groups):
        for name in group:
            (folder / name).touch()
            os.utime(folder / name, (INSTALLED + age, INSTALLED + age))
    script(folder / ".venv/bin/tektra", 'printf "%s\\0" "$@" > arguments')
    return folder


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def make(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=clean | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "Are dogs real?",
        "it's \"quoted\" and 'quoted again'",
        "5$ or $HOME or $(HOME) or $$ or ${PATH}",
        "`touch canary` $(touch canary) ; touch canary",
        "$(shell touch canary)",
        "two\nlines\n\nand $(info more)",
        "back\\slash \\n # not a comment = not an assignment := % @ -x --help",
        "Grüße, 你好 👩‍👩‍👧",
        "",
    ],
)
def test_make_run_hands_over_any_prompt_unchanged(make_folder: Path, prompt: str) -> None:
    done = make(make_folder, "run", f"PROMPT={prompt}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
    arguments = (make_folder / "arguments").read_text(encoding="utf-8").split("\0")[:-1]
    assert arguments == ["run", "smollm2:135m", prompt]
    assert not (make_folder / "canary").exists()


def test_make_run_has_a_prompt_of_its_own_and_ignores_the_shells(make_folder: Path) -> None:
    done = make(make_folder, "run", PROMPT="%n@%m %~ ", MODEL="a car", HOME="")
    assert done.returncode == 0, done.stderr
    arguments = (make_folder / "arguments").read_text(encoding="utf-8").split("\0")
    assert arguments[:2] == ["run", "smollm2:135m"]
    assert arguments[2].endswith(".")


def test_make_installs_nothing_that_is_installed(make_folder: Path) -> None:
    script(make_folder / ".venv/bin/python", "echo called >&2; exit 1")
    assert make(make_folder, "run").returncode == 0
    newer = INSTALLED + 100
    os.utime(make_folder / "requirements" / "model.lock", (newer, newer))
    done = make(make_folder, "run")
    assert done.returncode != 0
    assert "called" in done.stderr


@pytest.mark.parametrize("version", [None, "Python 3.9.1"])
def test_make_says_which_python_is_missing(
    make_folder: Path, tmp_path: Path, version: str | None
) -> None:
    shutil.rmtree(make_folder / ".venv")
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "find", "printf"):
        found = shutil.which(tool)
        if found is not None:
            (tools / tool).symlink_to(found)
    if version is not None:
        script(tools / "python3", f'[ "$1" = --version ] && echo {version} && exit 0; exit 1')
    make_program = shutil.which("make")
    assert make_program is not None
    (tools / "make").symlink_to(make_program)
    done = make(make_folder, "install", PATH=str(tools))
    assert done.returncode != 0
    assert "Tektra needs Python 3.11 or newer" in done.stderr
    assert (version or "missing") in done.stderr
    assert "make PYTHON=" in done.stderr


def test_make_says_what_is_wrong_with_a_named_python(make_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(make_folder / ".venv")
    old = tmp_path / "old python"
    script(old, 'case "$2" in *print*) echo Python 3.9.1;; *) exit 1;; esac')
    done = make(make_folder, "install", f"PYTHON={old}")
    assert done.returncode != 0
    assert f"PYTHON={old} is Python 3.9.1" in done.stderr
    done = make(make_folder, "install", f"PYTHON={tmp_path / 'none'}")
    assert done.returncode != 0
    assert "is not a Python interpreter" in done.stderr


def test_make_says_how_to_get_the_venv_module(make_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(make_folder / ".venv")
    bare = tmp_path / "python"
    script(bare, 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac')
    done = make(make_folder, "install", f"PYTHON={bare}")
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stderr
    assert not (make_folder / ".venv").exists()


def test_make_help_lists_every_target(make_folder: Path) -> None:
    text = (make_folder / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: ([a-z-]+)$", text, re.MULTILINE))
    listed = set(re.findall(r"^  make ([a-z-]+) ", make(make_folder, "help").stdout, re.MULTILINE))
    assert listed == targets


# The slow folder


def test_slow_folder_is_off_unless_asked_for(pytester: pytest.Pytester) -> None:
    pytester.mkdir("tests")
    pytester.mkdir("tests/slow")
    pytester.mkdir("tests/backends")
    for name in ("conftest.py", "backends/present.py"):
        shutil.copy(ROOT / "tests" / name, pytester.path / "tests" / name)
    for name in ("test_fast.py", "slow/test_long.py"):
        (pytester.path / "tests" / name).write_text("def test_it(): pass\n", encoding="utf-8")

    unneeded = ("xdist", "asyncio", "hypothesispytest", "anyio")

    def collected(*arguments: str) -> set[str]:
        options = ("--collect-only", "-q", *(f"-pno:{name}" for name in unneeded))
        lines = pytester.runpytest_subprocess(*options, *arguments, timeout=60).outlines
        return {Path(line.split("::")[0]).stem for line in lines if "::" in line}

    both = {"test_fast", "test_long"}
    assert collected() == {"test_fast"}
    assert collected("--slow") == both
    assert collected("tests/slow/test_long.py::test_it") == {"test_long"}
    assert collected("--slow", "-m", "slow") == {"test_long"}
