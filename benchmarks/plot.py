"""Bar charts as SVG, with colours for light and dark pages. It knows nothing of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "Row", "bar_chart"]

WIDTH, LABELS, RIGHT = 760, 190, 110
BAR, GAP, ROW_GAP, TOP, BOTTOM = 13, 3, 12, 74, 34

_STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
.page { fill: #ffffff; }
.quiet, .title { paint-order: stroke; stroke: #ffffff; stroke-width: 3px; }
.title { font-size: 15px; font-weight: 600; }
.quiet { fill: #59636e; font-size: 11px; }
.grid { stroke: #d1d9e0; stroke-width: 1; }
.mark { stroke: #59636e; stroke-width: 1; stroke-dasharray: 3 3; }
.s0 { fill: #1a7f64; } .s1 { fill: #8c959f; } .s2 { fill: #c58a2b; } .s3 { fill: #4a6fb5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .page { fill: #0d1117; }
  .quiet, .title { stroke: #0d1117; }
  .quiet { fill: #9198a1; }
  .grid { stroke: #30363d; }
  .mark { stroke: #9198a1; }
  .s0 { fill: #3fb992; } .s1 { fill: #6e7681; } .s2 { fill: #d9a441; } .s3 { fill: #7296dd; }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a series (its number in the legend), as long as ``value``, with a text behind it."""

    series: int
    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """Bars below each other, with a label on the left; one without bars is a heading."""

    label: str
    bars: Sequence[Bar] = ()


def bar_chart(
    title: str,
    subtitle: str,
    series: Sequence[str],
    rows: Sequence[Row],
    *,
    unit: str,
    mark: float | None = None,
) -> str:
    """An SVG document.

    Args:
        title, subtitle: above the chart.
        series: names for the legend.
        rows: from the top down.
        unit: behind the numbers of the axis.
        mark: where a dashed line goes down.
    """
    largest = max((bar.value for row in rows for bar in row.bars), default=1.0)
    step = _step(largest)
    end = max(step, -(-largest // step) * step)
    scale = (WIDTH - LABELS - RIGHT) / end
    parts = [
        '<rect class="page" width="100%" height="100%" rx="6"/>',
        f'<text class="title" x="16" y="24">{escape(title)}</text>',
        f'<text class="quiet" x="16" y="42">{escape(subtitle)}</text>',
        *_legend(series),
    ]
    bars: list[str] = []
    y = float(TOP)
    for row in rows:
        height = max(1, len(row.bars)) * (BAR + GAP) - GAP
        weight = "" if row.bars else ' font-weight="600"'
        x, anchor = (LABELS - 10, "end") if row.bars else (16, "start")
        bars.append(
            f'<text x="{x}" y="{y + height / 2 + 4:.1f}" text-anchor="{anchor}"{weight}>'
            f"{escape(row.label)}</text>"
        )
        for i, bar in enumerate(row.bars):
            top = y + i * (BAR + GAP)
            width = max(1.0, bar.value * scale)
            bars.append(
                f'<rect class="s{bar.series}" x="{LABELS}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{BAR}" rx="2"/>'
                f'<text class="quiet" x="{LABELS + width + 6:.1f}" y="{top + BAR - 2:.1f}">'
                f"{escape(bar.text)}</text>"
            )
        y += height + ROW_GAP
    bottom = y - ROW_GAP / 2
    count = round(end / step)
    for i in range(count + 1):
        x_line = LABELS + i * step * scale
        parts.append(
            f'<line class="grid" x1="{x_line:.1f}" y1="{TOP - 8}" x2="{x_line:.1f}" '
            f'y2="{bottom:.1f}"/>'
            f'<text class="quiet" x="{x_line:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">'
            f"{i * step:g}{escape(unit)}</text>"
        )
    if mark is not None:
        at = LABELS + mark * scale
        parts.append(
            f'<line class="mark" x1="{at:.1f}" y1="{TOP - 8}" x2="{at:.1f}" y2="{bottom:.1f}"/>'
        )
    parts += bars
    height = round(bottom + BOTTOM)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(title)}">\n<style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _legend(series: Sequence[str]) -> list[str]:
    parts = []
    x = LABELS
    for i, name in enumerate(series):
        parts.append(
            f'<rect class="s{i}" x="{x}" y="50" width="10" height="10" rx="2"/>'
            f'<text class="quiet" x="{x + 15}" y="59">{escape(name)}</text>'
        )
        x += 32 + 7 * len(name)
    return parts


def _step(largest: float) -> float:
    """A round distance between lines, so that there are at most eight."""
    power = 10.0**-6
    while True:
        for digit in (1, 2, 5):
            if largest / (digit * power) <= 8:
                return digit * power
        power *= 10
