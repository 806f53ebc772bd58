"""The table of architectures and their errors, as the tests of models measured them.

Tests hand what they compared to the fixture ``record_error``; when a run ends that was started with
``--models-page``, the table in docs/models.md is written anew from all of it (`make models-page`).
It knows neither models nor backends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

__all__ = ["BEGIN", "END", "PAGE", "PROPERTY", "Measured", "from_properties", "table", "update"]

PAGE: Final = Path(__file__).parents[2] / "docs" / "models.md"
PROPERTY: Final = "model_error"
BEGIN: Final = "<!-- begin: measured by the tests -->"
END: Final = "<!-- end: measured by the tests -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One comparison with the reference implementation.

    Attributes:
        architecture: as in `tektra.models.ARCHITECTURES`.
        form: where the model came from, ``"GGUF"`` or ``"safetensors"``.
        backend: what computed it, and what it kept keys and values in, as in ``"cpu, f16"``.
        variant: which small model.
        error: largest difference of a logit as a share of the largest logit.
    """

    architecture: str
    form: str
    backend: str
    variant: str
    error: float

    def as_property(self) -> str:
        return json.dumps(asdict(self))


def from_properties(properties: Iterable[tuple[str, object]]) -> list[Measured]:
    """What a test recorded, out of the properties of its report."""
    return [Measured(**json.loads(str(value))) for name, value in properties if name == PROPERTY]


def table(measured: Iterable[Measured]) -> str:
    """Markdown: one row for each architecture and form, the worst variant on each backend."""
    rows: dict[tuple[str, str], dict[str, list[Measured]]] = {}
    for m in measured:
        rows.setdefault((m.architecture, m.form), {}).setdefault(m.backend, []).append(m)
    backends = sorted({backend for row in rows.values() for backend in row})
    lines = [
        "| architecture | source | variants | " + " | ".join(backends) + " |",
        "|---|---|---|" + "---|" * len(backends),
    ]
    for (architecture, form), row in sorted(rows.items()):
        variants = {m.variant for one in row.values() for m in one}
        cells = [_worst(row.get(backend, [])) for backend in backends]
        lines.append(f"| {architecture} | {form} | {len(variants)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def update(measured: Iterable[Measured], page: Path = PAGE) -> None:
    """Puts the table between the two marks of the page; the rest stays as it is.

    Raises:
        ValueError: the page lacks the marks.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the marks of its table")
    page.write_text(f"{before}{BEGIN}\n{table(measured)}\n{END}{after}", encoding="utf-8")


def _worst(measured: Iterable[Measured]) -> str:
    worst = max(measured, key=lambda m: m.error, default=None)
    return "" if worst is None else f"{worst.error:.1e}"
