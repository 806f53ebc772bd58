"""What a model reference says: a path, an alias of the catalog, or a place on the network.

Only the text is looked at: no file, no catalog and no network. Names that could reach outside of
the place where a file is to be stored are refused here, before anything uses them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tektra.errors import ModelReferenceError

__all__ = [
    "REFERENCE_FORMS",
    "AliasReference",
    "HttpReference",
    "HubReference",
    "OllamaReference",
    "PathReference",
    "Reference",
    "parse_reference",
]

REFERENCE_FORMS = (
    "a path (./model.gguf), an alias (smollm2:135m), hf:OWNER/REPO[@REVISION][/FILE], "
    "https://HOST/FILE or ollama:NAME[:TAG]"
)


@dataclass(frozen=True, slots=True)
class PathReference:
    """A file or a directory on this machine; ``~`` is already expanded."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class AliasReference:
    """A name in the catalog. ``tag`` is None where none was given."""

    name: str
    tag: str | None

    def __str__(self) -> str:
        return self.name if self.tag is None else f"{self.name}:{self.tag}"


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository of the Hugging Face Hub, a revision of it, and a file in it.

    Attributes:
        revision: branch, tag or commit; None: the default branch.
        file: path inside the repository with ``/``; None: to be chosen.
    """

    owner: str
    repo: str
    revision: str | None
    file: str | None

    def __str__(self) -> str:
        revision = f"@{self.revision.replace('/', '%2F')}" if self.revision else ""
        file = f"/{self.file}" if self.file else ""
        return f"hf:{self.owner}/{self.repo}{revision}{file}"


@dataclass(frozen=True, slots=True)
class HttpReference:
    """A file on a web server.

    Attributes:
        url: without the fragment.
        file: name of the file: the last part of the URL's path, decoded.
        sha256: digest that the file must have, from a fragment ``#sha256=...``.
    """

    url: str
    file: str
    sha256: str | None

    def __str__(self) -> str:
        return self.url if self.sha256 is None else f"{self.url}#sha256={self.sha256}"


@dataclass(frozen=True, slots=True)
class OllamaReference:
    """A model of an Ollama registry.

    Attributes:
        host: server with its port; None: the public registry.
        namespace: ``library`` for the models that have none.
    """

    host: str | None
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        parts = [self.host] if self.host else []
        if parts or self.namespace != "library":
            parts.append(self.namespace)
        return "ollama:" + "/".join([*parts, self.model]) + f":{self.tag}"


Reference = PathReference | AliasReference | HubReference | HttpReference | OllamaReference

_MAX_LENGTH = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_HUB_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}")
_OLLAMA_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?(?::[0-9]{1,5})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Names that Windows gives to devices, whatever follows the dot.
_DEVICE_NAME = re.compile(r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def parse_reference(text: str) -> Reference:
    """Reads a model reference.

    Text that begins with ``hf:``, ``https:``, ``http:`` or ``ollama:`` names a place on the
    network. Otherwise it is a path where it contains a separator, ends in ``.gguf`` or is ``.``,
    ``..`` or ``~``; everything else is an alias. So a file ``smollm2`` in the current directory is
    meant by ``./smollm2`` only, and a file in a directory ``hf:`` by ``./hf:/...``.

    Raises:
        ModelReferenceError: the text is none of these, or holds a name that is not safe.
    """
    shown = _shown(text)
    if not text.strip():
        raise ModelReferenceError("the model reference is empty", remedy=f"give {REFERENCE_FORMS}")
    if len(text) > _MAX_LENGTH:
        raise ModelReferenceError(
            f"the model reference {shown} has {len(text)} characters; {_MAX_LENGTH} are allowed"
        )
    if _CONTROL.search(text):
        raise ModelReferenceError(f"the model reference {shown} holds control characters")
    scheme = _SCHEME.match(text)
    if scheme is not None and scheme[1].lower() in _SCHEMES:
        return _SCHEMES[scheme[1].lower()](text, text[scheme.end() :])
    if scheme is not None and text.startswith("//", scheme.end()):
        remedy = f"give {REFERENCE_FORMS}"
        if scheme[1].lower() == "file":
            remedy = "give the path itself, without file://"
        raise ModelReferenceError(f"{shown}: unknown scheme {scheme[1]!r}", remedy=remedy)
    if _is_path(text):
        return PathReference(_expanded(text))
    return _parse_alias(text)


def _is_path(text: str) -> bool:
    separators = {"/", os.sep, os.altsep or "/"}
    return (
        any(separator in text for separator in separators)
        or _DRIVE.match(text) is not None
        or text.lower().endswith(".gguf")
        or text in {".", "..", "~"}
    )


def _expanded(text: str) -> Path:
    if not text.startswith("~"):
        return Path(text)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ModelReferenceError(
            f"{_shown(text)}: there is no such home directory", remedy="give the full path"
        ) from None


def _parse_alias(text: str) -> AliasReference:
    name, colon, tag = text.lower().partition(":")
    if not _ALIAS.fullmatch(name) or (colon and not _ALIAS.fullmatch(tag)):
        raise ModelReferenceError(
            f"{_shown(text)} is not a model reference", remedy=f"give {REFERENCE_FORMS}"
        )
    return AliasReference(name, tag or None)


def _parse_hub(text: str, rest: str) -> HubReference:
    remedy = "write hf:OWNER/REPO[@REVISION][/FILE]; a / in a revision is written %2F"
    owner, _, tail = rest.removeprefix("//").partition("/")
    repo, _, file = tail.partition("/")
    repo, at, revision = repo.partition("@")
    if at:
        revision = unquote(revision, errors="strict") if _is_utf8(revision) else ""
    for what, name in (("an owner", owner), ("a repository", repo)):
        if not _HUB_NAME.fullmatch(name) or "--" in name or ".." in name:
            raise ModelReferenceError(
                f"{_shown(text)}: {_shown(name)} is not the name of {what}"
                if name
                else f"{_shown(text)}: the name of {what} is missing",
                remedy=remedy,
            )
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision):
        raise ModelReferenceError(
            f"{_shown(text)}: {_shown(revision)} is not a revision", remedy=remedy
        )
    if tail.endswith("/"):
        raise ModelReferenceError(f"{_shown(text)}: the file is missing", remedy=remedy)
    for part in file.split("/") if file else ():
        _check_file_name(text, part)
    return HubReference(owner, repo, revision or None, file or None)


def _parse_http(text: str, _: str) -> HttpReference:
    if " " in text or "\\" in text:
        raise ModelReferenceError(f"{_shown(text)} is not a URL", remedy="write a space as %20")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ModelReferenceError(f"{_shown(text)} is not a URL: {error}") from None
    if not host or port == 0:
        raise ModelReferenceError(f"{_shown(text)}: the URL has no server")
    if parts.username is not None or parts.password is not None:
        # Not shown: it would put the password into logs.
        raise ModelReferenceError(
            f"the URL of {host} holds a user name or a password",
            remedy="leave them out: references are shown and stored",
        )
    if parts.scheme.lower() == "http" and host not in _LOOPBACK:
        raise ModelReferenceError(
            f"{_shown(text)}: models are not fetched without encryption", remedy="use https://"
        )
    sha256 = None
    if parts.fragment:
        key, _, sha256 = parts.fragment.partition("=")
        sha256 = sha256.lower()
        if key != "sha256" or not _SHA256.fullmatch(sha256):
            raise ModelReferenceError(
                f"{_shown(text)}: the fragment is not a digest",
                remedy="write #sha256= and 64 hexadecimal digits, or no fragment",
            )
    name = parts.path.rpartition("/")[2]
    if not name or not _is_utf8(name):
        raise ModelReferenceError(f"{_shown(text)}: the URL does not end in the name of a file")
    file = unquote(name, errors="strict")
    _check_file_name(text, file)
    return HttpReference(parts._replace(fragment="").geturl(), file, sha256)


def _parse_ollama(text: str, rest: str) -> OllamaReference:
    parts = rest.removeprefix("//").split("/")
    model, colon, tag = parts[-1].partition(":")
    tag = tag if colon else "latest"
    namespace = parts[-2] if len(parts) > 1 else "library"
    host = parts[-3] if len(parts) > 2 else None
    named = all(
        _OLLAMA_NAME.fullmatch(name) and ".." not in name for name in (namespace, model, tag)
    )
    if (
        not named
        or len(parts) > 3
        or (host is not None and (not _HOST.fullmatch(host) or ".." in host))
    ):
        raise ModelReferenceError(
            f"{_shown(text)} is not a model of an Ollama registry",
            remedy="write ollama:NAME[:TAG], ollama:NAMESPACE/NAME[:TAG] or "
            "ollama:HOST/NAMESPACE/NAME[:TAG]",
        )
    return OllamaReference(host, namespace, model, tag)


_SCHEMES: dict[str, Callable[[str, str], Reference]] = {
    "hf": _parse_hub,
    "http": _parse_http,
    "https": _parse_http,
    "ollama": _parse_ollama,
}


def _check_file_name(text: str, name: str) -> None:
    """Refuses names that are not one plain file on every system."""
    reason = None
    if not name or name in {".", ".."}:
        reason = "is not a file name"
    elif re.search(r'[/\\:*?"<>|]', name) or _CONTROL.search(name):
        reason = "holds characters that are not safe in a file name"
    elif name[0] in " ~-" or name[-1] in " .":
        reason = "begins or ends in a way that is not safe in a file name"
    elif _DEVICE_NAME.fullmatch(name):
        reason = "is the name of a device on Windows"
    elif len(name.encode()) > 255:
        reason = "is too long for a file name"
    if reason is not None:
        raise ModelReferenceError(f"{_shown(text)}: {_shown(name)} {reason}")


def _is_utf8(text: str) -> bool:
    try:
        unquote(text, errors="strict")
    except UnicodeDecodeError:
        return False
    return True


def _shown(text: str) -> str:
    """The text as it goes into a message: quoted, on one line, without control characters."""
    shown = text if len(text) <= 120 else text[:117] + "..."
    return ascii(shown) if _CONTROL.search(shown) else f"'{shown}'"
