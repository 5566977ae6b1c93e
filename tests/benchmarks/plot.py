"""A bar chart with quartile whiskers, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, LABELS, NUMBERS, LINE = 760, 270, 70, 24
OURS, OTHERS, INK = "#2563eb", "#9ca3af", "#1f2937"


class Panel(NamedTuple):
    """A title, and for each bar its label, lower quartile, median and upper quartile."""

    title: str
    bars: Sequence[tuple[str, float, float, float]]
    ours: str


def draw(panels: Sequence[Panel]) -> str:
    """The panels, one below the other."""
    parts: list[str] = []
    y = 0
    for panel in panels:
        y += LINE
        parts.append(f'<text x="12" y="{y}" font-weight="bold">{escape(panel.title)}</text>')
        scale = (WIDTH - LABELS - NUMBERS) / max([high for *_, high in panel.bars], default=1)
        for label, low, middle, high in panel.bars:
            y += LINE
            colour = OURS if label.startswith(panel.ours) else OTHERS
            left, right, end = (LABELS + value * scale for value in (low, high, middle))
            parts += [
                f'<text x="{LABELS - 8}" y="{y}" text-anchor="end">{escape(label)}</text>',
                f'<rect x="{LABELS}" y="{y - 13}" width="{end - LABELS:.1f}" height="16" '
                f'fill="{colour}"/>',
                f'<path d="M{left:.1f} {y - 5}H{right:.1f}M{left:.1f} {y - 9}v8M{right:.1f} '
                f'{y - 9}v8" stroke="{INK}"/>',
                f'<text x="{right + 6:.1f}" y="{y}">{middle:,.0f}</text>',
            ]
        y += LINE // 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 12}" '
        f'viewBox="0 0 {WIDTH} {y + 12}" font-family="sans-serif" font-size="13" fill="{INK}">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
