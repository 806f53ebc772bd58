"""Finds the file on this machine that a model reference means.

It looks at names and folders, not into files, and fetches nothing: references to the network are
understood and refused until there is a model manager.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tektra.errors import ModelNotFoundError, ModelReferenceError, UnsupportedModelError
from tektra.formats.checkpoint import is_checkpoint
from tektra.hub.catalog import load_catalog
from tektra.hub.references import (
    AliasReference,
    HttpReference,
    HubReference,
    OllamaReference,
    PathReference,
    Reference,
    parse_reference,
)

__all__ = ["ResolvedModel", "resolve"]


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model on this machine: a file, or a directory with a checkpoint.

    Attributes:
        path: absolute path of the file or directory; of a GGUF model in several files any one.
        sha256: digest that the file must have, 64 hexadecimal digits; None where none is pinned.
        name: short name to show: the alias, or the file's name without its ending.
        source: where it was found: ``"path"``, or the package that carries it.
        sampling: settings that the catalog recommends for it, by their names in `SamplingParams`.
    """

    path: Path
    sha256: str | None
    name: str
    source: str
    sampling: Mapping[str, int | float] = field(default_factory=dict, hash=False)


_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})")
_MAX_LISTED = 8
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def resolve(reference: str | os.PathLike[str]) -> ResolvedModel:
    """Finds the file that a reference means; see `parse_reference` for how text is read.

    A path object is always a path. A directory means the one GGUF model in it, or where
    there is none the Hugging Face checkpoint that it is; a weight file of it will do too.

    Raises:
        ModelReferenceError: the reference is not understood or not safe, names a place that
            this version cannot fetch from, or is not a regular file or directory.
        ModelNotFoundError: there is no such file, directory or alias, or the package that
            carries the model is not installed.
        UnsupportedModelError: it is a model in a format that this version does not read.
    """
    if isinstance(reference, str):
        return _resolve(parse_reference(reference), reference)
    path = os.fspath(reference)
    if not isinstance(path, str):
        raise ModelReferenceError(f"the path {path!r} is not text", remedy="give a str or a Path")
    return _resolve_path(PathReference(Path(path)), path)


def _resolve(reference: Reference, text: str) -> ResolvedModel:
    resolver: Callable[[Any, str], ResolvedModel] = _RESOLVERS[type(reference)]
    return resolver(reference, text)


def _resolve_alias(reference: AliasReference, text: str) -> ResolvedModel:
    try:
        entry = load_catalog().find(reference)
    except ModelNotFoundError as error:
        # A file of that name is worth a word: only a separator or .gguf makes a path.
        if not os.path.exists(text):
            raise
        kind = "directory" if os.path.isdir(text) else "file"
        raise ModelNotFoundError(
            error.message, remedy=f"for the {kind} of that name write .{os.sep}{text}"
        ) from None
    path = entry.installed_path()
    if path is None:
        raise ModelNotFoundError(
            f"the weights of {entry.alias} are not installed",
            remedy=f"install them with: {entry.install_command}",
        )
    return ResolvedModel(
        path.absolute(),
        entry.sha256,
        entry.alias,
        f"package {entry.package} {entry.version}",
        entry.sampling,
    )


def _resolve_path(reference: PathReference, text: str) -> ResolvedModel:
    path = Path(os.path.abspath(reference.path))
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(f"there is no file {path}", remedy=_near(path, text)) from None
    except (OSError, ValueError) as error:  # not permitted, a loop of links, a name too long
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelNotFoundError(f"{path} cannot be read: {reason}") from None
    if stat.S_ISDIR(mode):
        path = _model_in(path)
    elif _in_checkpoint(path):
        path = path.parent
    elif not stat.S_ISREG(mode):
        raise ModelReferenceError(f"{path} is neither a file nor a directory")
    else:
        _check_format(path)
    return ResolvedModel(path, None, _model_name(path), "path")


def _model_in(folder: Path) -> Path:
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise ModelNotFoundError(f"{folder} cannot be read: {error.strerror}") from None
    models: dict[str, Path] = {}
    for file in files:
        # A projector is a part of a model for images, not a model.
        if file.suffix.lower() == ".gguf" and not file.name.lower().startswith("mmproj"):
            models.setdefault(_model_name(file), file)
    if len(models) == 1:
        return next(iter(models.values()))
    if models:
        listed = ", ".join(path.name for path in list(models.values())[:_MAX_LISTED])
        more = f" and {len(models) - _MAX_LISTED} more" if len(models) > _MAX_LISTED else ""
        raise ModelReferenceError(
            f"the directory {folder} holds {len(models)} models: {listed}{more}",
            remedy="give the path of the file that is meant",
        )
    if is_checkpoint(folder):
        return folder
    for file in files:
        _check_format(file)
    raise ModelNotFoundError(
        f"the directory {folder} holds no model",
        remedy="give the path of a .gguf file, or of a directory with config.json and safetensors",
    )


def _check_format(path: Path) -> None:
    """Refuses what is known by its name to be another format; the rest is for the reader to say."""
    name = path.name.lower()
    if name.endswith((".safetensors", ".safetensors.index.json")):
        raise ModelNotFoundError(
            f"beside {path} there is no config.json, which says what the weights are",
            remedy="get the whole directory of the model, or use the model's GGUF file",
        )
    if name.endswith(_PICKLED):
        raise UnsupportedModelError(
            f"{path} looks like a pickled checkpoint, which can run code and is never opened",
            remedy="get the model's safetensors files, or its GGUF file",
        )


def _in_checkpoint(path: Path) -> bool:
    """Whether a file is a part of a model directory that names the whole."""
    name = path.name.lower()
    parts = (".safetensors", ".safetensors.index.json", "config.json")
    return name.endswith(parts) and is_checkpoint(path.parent)


def _model_name(path: Path) -> str:
    name = path.name[: -len(".gguf")] if path.name.lower().endswith(".gguf") else path.name
    split = _SPLIT.fullmatch(name)
    return split["stem"] if split else name


def _near(path: Path, text: str) -> str | None:
    """What may have been meant by a path that is not there."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        names = []
    # Without their endings, which are alike among models and would make any two names near.
    stems = {Path(name).stem: name for name in names}
    near = difflib.get_close_matches(path.stem, list(stems), n=1, cutoff=0.7)
    if near:
        return f"did you mean {path.with_name(stems[near[0]])}?"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.startswith("."):
        return f"for a repository of the Hugging Face Hub write hf:{text}"
    if not path.parent.is_dir():
        return f"the directory {path.parent} is not there either"
    return None


def _refuse(reference: HubReference | HttpReference | OllamaReference, _: str) -> ResolvedModel:
    raise ModelReferenceError(
        f"{reference}: downloads are not available in this version",
        remedy="download the GGUF file by other means and give its path",
    )


_RESOLVERS: dict[type[Reference], Callable[[Any, str], ResolvedModel]] = {
    AliasReference: _resolve_alias,
    HttpReference: _refuse,
    HubReference: _refuse,
    OllamaReference: _refuse,
    PathReference: _resolve_path,
}
