"""The adapters of a loaded model: their names, who uses them, and how a request names them.

It knows the executable's ids and counts of requests; neither files nor how adapters compute.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from tektra.backends.base import Executable
from tektra.engine.request import AdapterUse
from tektra.errors import InvalidParameterError, RequestError
from tektra.formats.low_rank import LowRankUpdate

__all__ = ["MAX_ADAPTERS", "AdapterChoice", "AdapterInfo", "Adapters", "adapter_uses"]

MAX_ADAPTERS = 16
"""Of one request."""

_MAX_NAMED = 8

AdapterChoice: TypeAlias = str | Mapping[str, float] | Sequence[str] | None
"""The adapters of a request: a name, several names, or names with their scales."""


def adapter_uses(adapter: AdapterChoice, scale: float = 1.0) -> tuple[AdapterUse, ...]:
    """The adapters that a caller names, with their scales.

    Args:
        adapter: a name, several names, or names with scales; None for none.
        scale: factor on what all of them add.

    Raises:
        InvalidParameterError: it is none of those, or a scale is no finite number.
    """
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise InvalidParameterError("adapter_scale", f"must be a finite number, not {scale!r:.60}")
    given: object = adapter  # callers are not all checked by a type checker
    if given is None:
        if scale != 1.0:
            raise InvalidParameterError("adapter_scale", "is given without an adapter")
        return ()
    if isinstance(given, str):
        pairs: list[tuple[Any, Any]] = [(given, 1.0)]
    elif isinstance(given, Mapping):
        pairs = list(given.items())
    elif isinstance(given, Sequence) and not isinstance(given, bytes | bytearray):
        pairs = [(name, 1.0) for name in given]
    else:
        raise InvalidParameterError(
            "adapter", f"must be a name, names, or names with scales, not {given!r:.60}"
        )
    uses: list[AdapterUse] = []
    for name, own in pairs:
        if not isinstance(name, str):
            raise InvalidParameterError("adapter", f"{name!r:.60} is not the name of an adapter")
        if isinstance(own, bool) or not isinstance(own, int | float) or not math.isfinite(own):
            raise InvalidParameterError(
                "adapter", f"the scale of {name!r} must be a finite number, not {own!r:.60}"
            )
        if abs(own * scale) > 3e38:
            raise InvalidParameterError("adapter", f"the scale of {name!r} is too large")
        uses.append((name, float(own * scale)))
    if len({name for name, _ in uses}) < len(uses):
        raise InvalidParameterError("adapter", "the same adapter is named twice")
    if len(uses) > MAX_ADAPTERS:
        raise InvalidParameterError(
            "adapter", f"{len(uses)} adapters are named; a request can have {MAX_ADAPTERS}"
        )
    return tuple(uses)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """A loaded adapter.

    Attributes:
        name: what requests call it.
        path: where it came from.
        rank: largest rank of its updates.
        num_matrices: how many matrices of the model it changes.
        num_parameters: numbers in its factors.
        requests: how many requests that run or wait have it.
    """

    name: str
    path: str
    rank: int
    num_matrices: int
    num_parameters: int
    requests: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class _Entry:
    __slots__ = ("id", "info", "requests")

    def __init__(self, id: int, info: AdapterInfo) -> None:
        self.id = id
        self.info = info
        self.requests = 0


class Adapters:
    """Adapters by name. Safe to use from any thread.

    Args:
        executable: what computes with them.
        between_steps: calls a function while no step runs, and raises what it raises.

    Attributes:
        memory: bytes that they take, by part; replaced as a whole.
    """

    def __init__(
        self, executable: Executable, between_steps: Callable[[Callable[[], None]], None]
    ) -> None:
        self.memory: Mapping[str, int] = {}
        self._executable = executable
        self._between_steps = between_steps
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def add(self, info: AdapterInfo, updates: Mapping[str, LowRankUpdate]) -> None:
        """Takes an adapter, which requests name by ``info.name`` from then on.

        Raises:
            InvalidParameterError: the name is taken.
            RequestError: the engine was closed.
            TektraError: what `Executable.add_adapter` raises.
        """

        def add() -> None:
            self.check_free(info.name)
            entry = _Entry(self._executable.add_adapter(updates), info)
            with self._lock:
                self._entries[info.name] = entry
            self._count()

        self._between_steps(add)

    def remove(self, name: str) -> None:
        """Frees an adapter.

        Raises:
            InvalidParameterError: there is no adapter of that name.
            RequestError: requests use it, or the engine was closed.
        """

        def remove() -> None:
            self._executable.remove_adapter(self._take(name))
            self._count()

        self._between_steps(remove)

    def check_free(self, name: str) -> None:
        """Raises `InvalidParameterError` where a name is taken, or is none."""
        if not isinstance(name, str) or not name or not name.isprintable():
            raise InvalidParameterError("name", f"{name!r:.60} cannot be the name of an adapter")
        with self._lock:
            self._check_free(name)

    def acquire(self, uses: Sequence[AdapterUse]) -> tuple[tuple[int, float], ...]:
        """Ids and scales of the adapters of a new request, which `release` must be told the end of.

        Raises:
            InvalidParameterError: there is no adapter of that name.
        """
        if not uses:
            return ()
        with self._lock:
            for name, _ in uses:
                if name not in self._entries:
                    raise self._unknown(name)
            entries = [self._entries[name] for name, _ in uses]
            for entry in entries:
                entry.requests += 1
            return tuple((entry.id, use[1]) for entry, use in zip(entries, uses, strict=True))

    def release(self, adapters: Sequence[tuple[int, float]]) -> None:
        """Notes that a request is over; takes what `acquire` returned."""
        if not adapters:
            return
        ids = {id for id, _ in adapters}
        with self._lock:
            for entry in self._entries.values():
                entry.requests -= entry.id in ids

    def _take(self, name: str) -> int:
        """Forgets an adapter that nobody uses, and returns its id."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                raise self._unknown(name)
            if entry.requests:
                raise RequestError(
                    f"the adapter {name!r} is in use by {entry.requests} requests",
                    remedy="unload it when they are done, or cancel them",
                )
            del self._entries[name]
            return entry.id

    def infos(self) -> dict[str, AdapterInfo]:
        """What is loaded, by name, in the order of loading; a snapshot."""
        with self._lock:
            return {
                name: replace(entry.info, requests=entry.requests)
                for name, entry in self._entries.items()
            }

    def _count(self) -> None:
        self.memory = {"adapters": self._executable.memory.parts.get("adapters", 0)}

    def _check_free(self, name: str) -> None:
        if name in self._entries:
            raise InvalidParameterError(
                "name", f"an adapter {name!r} is loaded already", remedy="unload it first"
            )

    def _unknown(self, name: str) -> InvalidParameterError:
        known = ", ".join(map(repr, list(self._entries)[:_MAX_NAMED])) or "none"
        return InvalidParameterError(
            "adapter",
            f"there is no adapter {name[:64]!r}",
            remedy=f"loaded are: {known}; load_adapter loads one",
        )
