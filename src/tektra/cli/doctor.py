"""`tektra doctor`: what was found on this machine, what is missing, and how to get it.

It looks and reports; it loads no model and changes nothing.
"""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

from tektra._version import __version__
from tektra.cli.options import JsonOption
from tektra.cli.render import human_bytes, print_json, safe_text

__all__ = ["doctor"]

_LIBRARIES = (
    "numpy",
    "tokenizers",
    "jinja2",
    "typer",
    "rich",
    "httpx",
    "safetensors",
    "pillow",
    "prompt_toolkit",
)
_NOT_YET = ("cuda", "metal")


@dataclass(frozen=True, slots=True)
class _Native:
    """What there is to say of the native core; ``problem`` is None where it works."""

    isa: str | None
    compiled_isas: list[str]
    cpu_features: list[str]
    problem: str | None


def doctor(json: JsonOption = False) -> None:
    """Show what was found on this machine, and what is missing."""
    report = _report()
    if json:
        print_json(report)
    else:
        _print_report(report)


def _report() -> dict[str, Any]:
    from tektra.cli.machine import describe_machine
    from tektra.config import Settings
    from tektra.engine.packed_copy import default_store
    from tektra.errors import TektraError
    from tektra.hub import load_catalog

    native = _native_core()
    missing: list[dict[str, str]] = []
    if native.problem is not None:
        missing.append(
            {
                "what": f"native core: {native.problem}",
                "remedy": "install a C++20 compiler and then Tektra again; until then models run "
                "on NumPy, many times slower",
            }
        )
    libraries = {name: _version(name) for name in _LIBRARIES}
    missing += [
        {"what": f"library {name}", "remedy": f"{sys.executable} -m pip install {name}"}
        for name, version in libraries.items()
        if version is None
    ]
    try:
        settings = {
            name: str(value) if value is not None else None
            for name, value in _fields(Settings.from_environment())
        }
        store = default_store(0)
        copies = store.copies()
        packed = {
            "folder": str(store.folder),
            "copies": len(copies),
            "bytes": sum(copy.num_bytes for copy in copies),
        }
    except TektraError as error:
        settings, packed = {}, None
        missing.append({"what": error.message, "remedy": error.remedy or ""})
    models = []
    for entry in load_catalog().entries:
        path = entry.installed_path()
        models.append(
            {
                "alias": entry.alias,
                "description": entry.description,
                "licence": entry.licence,
                "path": None if path is None else str(path),
                "install": entry.install_command,
            }
        )
    return {
        "version": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "executable": sys.executable,
        "machine": describe_machine().to_dict(),
        "isa": native.isa,
        "compiled_isas": native.compiled_isas,
        "cpu_features": native.cpu_features,
        "devices": _devices(native),
        "libraries": libraries,
        "settings": settings,
        "packed": packed,
        "models": models,
        "missing": missing,
    }


def _fields(settings: Any) -> list[tuple[str, Any]]:
    import dataclasses

    return [(field.name, getattr(settings, field.name)) for field in dataclasses.fields(settings)]


def _native_core() -> _Native:
    try:
        module = importlib.import_module("tektra._native")
    except ImportError as error:
        reason = "not built" if isinstance(error, ModuleNotFoundError) else str(error)
        return _Native(None, [], [], reason)
    try:
        isa = _called(module, "isa")
        compiled = _called(module, "compiled_isas") or []
        features = _called(module, "cpu_features") or ()  # pairs of name and presence
    except (RuntimeError, ValueError) as error:  # TEKTRA_ISA names one that is not there
        return _Native(None, [], [], str(error))
    present = [name for name, there in dict(features).items() if there]
    return _Native(isa, list(compiled), present, None)


def _called(module: Any, name: str) -> Any:
    function = getattr(module, name, None)
    return function() if callable(function) else None


def _devices(native: _Native) -> list[dict[str, Any]]:
    """Every device that can be asked for, and why those that are not there are not."""
    cpu_works = native.problem is None
    devices = [
        {
            "device": "cpu",
            "available": cpu_works,
            "note": f"native core, {native.isa or 'instruction set not known'}"
            if cpu_works
            else f"native core: {native.problem}",
        },
        {
            "device": "reference",
            "available": True,
            "note": "NumPy, slow" + ("" if cpu_works else "; what auto takes here"),
        },
    ]
    return devices + [
        {"device": name, "available": False, "note": "not in this version"} for name in _NOT_YET
    ]


def _version(distribution: str) -> str | None:
    # Here, because it is a tenth of the time that every other command takes to start.
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _print_report(report: dict[str, Any]) -> None:
    machine = report["machine"]
    _section("Program")
    _row("tektra", report["version"])
    _row("python", f"{report['python']} ({report['executable']})")
    _row("libraries", ", ".join(f"{n} {v or 'missing'}" for n, v in report["libraries"].items()))
    _section("Machine")
    _row("system", machine["system"])
    _row("processor", machine["processor"])
    cores = (("logical", "logical"), ("physical", "physical"), ("usable", "usable"))
    shown = [f"{machine['cores_' + key]} {name}" for key, name in cores if machine["cores_" + key]]
    if machine["cores_quota"] is not None:
        shown.append(f"quota {machine['cores_quota']:g}")
    _row("cores", ", ".join(shown))
    sizes = (("total", "total"), ("available", "available"), ("limit", "limit of control group"))
    shown = [
        f"{human_bytes(machine['memory_' + key])} {name}"
        for key, name in sizes
        if machine["memory_" + key] is not None
    ]
    _row("memory", ", ".join(shown))
    _section("Devices")
    for device in report["devices"]:
        mark = "yes" if device["available"] else "no"
        _row(device["device"], f"{mark:<3}  {device['note']}")
    if report["compiled_isas"]:
        _row("compiled", ", ".join(report["compiled_isas"]))
    if report["cpu_features"]:
        _row("cpu has", ", ".join(report["cpu_features"]))
    _section("Settings")
    for name, value in report["settings"].items():
        _row(name, value if value is not None else "(chosen at load)")
    if packed := report["packed"]:
        size = human_bytes(packed["bytes"])
        _row("packed", f"{packed['copies']} copies, {size} in {packed['folder']}")
    _section("Models of the catalog")
    for model in report["models"]:
        _row(model["alias"], model["path"] or f"not installed: {model['install']}")
    _section("Missing")
    for item in report["missing"]:
        _row("-", item["what"])
        _row("", item["remedy"])
    if not report["missing"]:
        _row("nothing", "")


def _section(title: str) -> None:
    print(title)


def _row(name: str, value: Any) -> None:
    width = min(shutil.get_terminal_size().columns, 100)
    text = safe_text(str(value if value is not None else "not known"))
    lines = textwrap.wrap(
        text, max(20, width - 16), break_on_hyphens=False, break_long_words=False
    ) or [""]
    print(f"  {name:<12}  {lines[0]}".rstrip())
    for line in lines[1:]:
        print(" " * 16 + line)
