"""Every setting of Tektra, its default and its environment variable, in one place.

It reads no configuration file and knows nothing of models, devices or the command line; a value
given in code or as an option goes before the environment, and the environment before a default.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from tektra.errors import InvalidParameterError

__all__ = [
    "DEFAULT_PACKED_CACHE",
    "DEVICES",
    "KV_TYPES",
    "MAX_CONTEXT",
    "MAX_THREADS",
    "VARIABLES",
    "KvType",
    "Settings",
    "Variable",
    "cache_dir",
    "ensure_private_directory",
    "state_dir",
]

DEVICES = ("auto", "cpu", "reference", "cuda", "metal")
MAX_THREADS = 1024
MAX_CONTEXT = 2**27
DEFAULT_PACKED_CACHE = 8 << 30

KvType = Literal["f16", "int8", "f32"]
"""What keys and values are kept as: float16, int8 with a scale for each head of a token, or
float32, which rounds nothing. The order is that of the native core's ``KvType``."""

KV_TYPES: tuple[KvType, ...] = get_args(KvType)


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable.

    Attributes:
        name: as it is written in the environment.
        field: the field of `Settings` that it sets.
        meaning: one line for a reader.
        parse: turns the text, which is not empty, into the value; raises ValueError with what
            is allowed.
    """

    name: str
    field: str
    meaning: str
    parse: Callable[[str], Any]


def _device(text: str) -> str:
    if text.lower() not in DEVICES:
        raise ValueError(f"one of {', '.join(DEVICES)}")
    return text.lower()


def _kv_type(text: str) -> KvType:
    if text.lower() not in KV_TYPES:
        raise ValueError(f"one of {', '.join(KV_TYPES)}")
    return cast("KvType", text.lower())


def _context_policy(text: str) -> str:
    # What is kept of a context is known to tektra.engine.sliding, which refuses too much.
    if not re.fullmatch(r"stop|slide(:[0-9]{1,9})?", text.lower()):
        raise ValueError("stop, slide, or slide:N, where N first tokens stay")
    return text.lower()


def _whole_number(highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        allowed = f"a whole number from 1 to {highest}"
        if not re.fullmatch(r"[0-9]{1,10}", text):
            raise ValueError(allowed)
        value = int(text)
        if not 1 <= value <= highest:
            raise ValueError(allowed)
        return value

    return parse


def _isa(text: str) -> str:
    # Which names exist depends on the machine and the build; the native core refuses the others.
    if not re.fullmatch(r"[A-Za-z0-9_]{1,32}", text):
        raise ValueError("the name of an instruction set, such as scalar or avx2")
    return text.lower()


def _mix(text: str) -> str:
    # Which names exist is known to tektra.quantize, which refuses the others.
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", text):
        raise ValueError("the name of a mix, such as q8_0 or q4_k_m")
    return text.lower()


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _size(text: str) -> int:
    if text.lower() == "off":
        return 0
    match = re.fullmatch(r"([0-9]{1,12})([KMGT]?)(?:I?B)?", text.upper())
    if not match:
        raise ValueError("off, or a size such as 500M or 8G")
    return int(match[1]) * _UNITS[match[2]]


def _directory(text: str) -> Path:
    path = Path(text)
    if text.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:
            raise ValueError("a directory that does not depend on a home directory") from None
    return Path(os.path.abspath(path))


def _always(_: str) -> bool:
    return True


VARIABLES: tuple[Variable, ...] = (
    Variable("TEKTRA_DEVICE", "device", f"what computes: {', '.join(DEVICES)}", _device),
    Variable("TEKTRA_THREADS", "threads", "threads that compute", _whole_number(MAX_THREADS)),
    Variable("TEKTRA_CONTEXT", "context", "tokens of context", _whole_number(MAX_CONTEXT)),
    Variable(
        "TEKTRA_CONTEXT_POLICY",
        "context_policy",
        "what happens to texts beyond it: stop, slide, slide:N",
        _context_policy,
    ),
    Variable(
        "TEKTRA_KV_TYPE", "kv_type", "what keys and values are kept as: f16, int8, f32", _kv_type
    ),
    Variable("TEKTRA_QUANT", "quant", "what float weights are quantized to at load", _mix),
    Variable("TEKTRA_ISA", "isa", "instruction set of the native core, for tests", _isa),
    Variable(
        "TEKTRA_PACKED_CACHE",
        "packed_cache",
        "most bytes of packed copies of models, such as 8G; off for none",
        _size,
    ),
    Variable("TEKTRA_CACHE_DIR", "cache_dir", "directory for what can be made again", _directory),
    Variable("TEKTRA_STATE_DIR", "state_dir", "directory for the history of chats", _directory),
    Variable("NO_COLOR", "no_color", "set to anything: output without colour", _always),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment asks for.

    Attributes:
        device: one of `DEVICES`; ``"auto"`` takes the fastest that is present.
        threads: threads that compute; None: one for each physical core of this process.
        context: tokens that a sequence can hold; None: chosen from the model and the memory.
        context_policy: what happens to texts beyond it: they end (``"stop"``), or their middle
            gives way to what is new (``"slide"``, ``"slide:N"`` with N first tokens that stay).
        kv_type: one of `KV_TYPES`, what keys and values are kept as.
        quant: a mix that float weights are quantized to when they are loaded; None: they are not.
        isa: instruction set that the native core must use; None: the best there is.
        packed_cache: most bytes of all packed copies of models together; 0: none are kept.
        cache_dir: directory for what can be made again; it need not exist yet.
        state_dir: directory for what a person would miss, such as the history of chats.
        no_color: whether output must be without colour (no-color.org).
    """

    device: str = "auto"
    threads: int | None = None
    context: int | None = None
    context_policy: str = "stop"
    kv_type: KvType = "f16"
    quant: str | None = None
    isa: str | None = None
    packed_cache: int = DEFAULT_PACKED_CACHE
    cache_dir: Path
    state_dir: Path
    no_color: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Reads every variable of `VARIABLES`; an empty one counts as not set.

        Raises:
            InvalidParameterError: a variable has a value that is not allowed; names the variable.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {
            "cache_dir": _default_directory(environ, "cache"),
            "state_dir": _default_directory(environ, "state"),
        }
        for variable in VARIABLES:
            text = environ.get(variable.name, "")
            if text:
                values[variable.field] = _parsed(variable, text)
        return cls(**values)


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """The directory for what can be made again. It need not exist yet.

    ``TEKTRA_CACHE_DIR``, else the platform's place: ``$XDG_CACHE_HOME/tektra`` or
    ``~/.cache/tektra``; ``~/Library/Caches/tektra`` on macOS; ``%LOCALAPPDATA%\\tektra\\cache`` on
    Windows. Without a home directory: a directory of this user under the temporary directory.

    Raises:
        InvalidParameterError: ``TEKTRA_CACHE_DIR`` cannot be a directory's name.
    """
    return _directory_setting(environ, "TEKTRA_CACHE_DIR", "cache")


def state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """The directory for what a person would miss, such as the history of chats.

    ``TEKTRA_STATE_DIR``, else ``$XDG_STATE_HOME/tektra`` or ``~/.local/state/tektra``;
    ``~/Library/Application Support/tektra`` on macOS; ``%LOCALAPPDATA%\\tektra`` on Windows.

    Raises:
        InvalidParameterError: ``TEKTRA_STATE_DIR`` cannot be a directory's name.
    """
    return _directory_setting(environ, "TEKTRA_STATE_DIR", "state")


def ensure_private_directory(path: Path) -> Path:
    """Makes a directory that only this user can read, if it is not there, and returns it.

    Raises:
        OSError: it cannot be made, or it belongs to another user.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform != "win32":
        # The fallback lies in a directory that every user can write: somebody may have been first.
        status = path.stat()
        if status.st_uid not in (os.getuid(), 0) or not stat.S_ISDIR(status.st_mode):
            raise PermissionError(f"{path} belongs to another user")
    return path


def _directory_setting(environ: Mapping[str, str] | None, name: str, kind: str) -> Path:
    environ = os.environ if environ is None else environ
    text = environ.get(name, "")
    if text:
        variable = next(variable for variable in VARIABLES if variable.name == name)
        path: Path = _parsed(variable, text)
        return path
    return _default_directory(environ, kind)


def _parsed(variable: Variable, text: str) -> Any:
    try:
        return variable.parse(text)
    except ValueError as error:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise InvalidParameterError(
            variable.name,
            f"the environment variable is {shown!r}",
            remedy=f"set it to {error}, or unset it",
        ) from None


# kind -> platform family -> (variables that name the base directory, base below the home
# directory, directory below the base)
_PLACES: dict[str, dict[str, tuple[str, str, str]]] = {
    "cache": {
        "win32": ("LOCALAPPDATA", "AppData/Local", "tektra/cache"),
        "darwin": ("XDG_CACHE_HOME", "Library/Caches", "tektra"),
        "other": ("XDG_CACHE_HOME", ".cache", "tektra"),
    },
    "state": {
        "win32": ("LOCALAPPDATA", "AppData/Local", "tektra"),
        "darwin": ("XDG_STATE_HOME", "Library/Application Support", "tektra"),
        "other": ("XDG_STATE_HOME", ".local/state", "tektra"),
    },
}


def _default_directory(environ: Mapping[str, str], kind: str) -> Path:
    places = _PLACES[kind]
    variable, below_home, name = places.get(sys.platform, places["other"])
    base = environ.get(variable, "")
    # A relative base is invalid by the XDG specification and is to be ignored.
    if base and os.path.isabs(base):
        return Path(base, name)
    home = _home(environ)
    if home is not None:
        return home / below_home / name
    user = os.getuid() if sys.platform != "win32" else environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir(), f"tektra-{user}", kind)


def _home(environ: Mapping[str, str]) -> Path | None:
    text = environ.get("USERPROFILE" if sys.platform == "win32" else "HOME", "")
    if text and os.path.isabs(text):
        return Path(text)
    if sys.platform != "win32":
        # As a service or in a container HOME may be missing while the user database knows it.
        import pwd

        try:
            text = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
        # Users without a home have one that does not exist, such as /nonexistent.
        if os.path.isabs(text) and text != "/" and os.path.isdir(text):
            return Path(text)
    return None
