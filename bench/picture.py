"""The throughput of all peers as one SVG picture.

Owns its drawing, by hand: bars need no library. Never measures.
"""

from __future__ import annotations

from html import escape

from bench.load import CELLS
from bench.rounds import Rounds, Spread

_COLOURS = ("#8a8f98", "#5b4bdb", "#b3aaf2", "#2f9e77", "#d9902f")
_CELLS = [cell for cell in CELLS if cell.connections == 50]
_BAR, _GAP, _LABELS, _WIDTH, _TOP = 18, 26, 90, 760, 64


def svg(rounds: Rounds, names: list[str], caption: str) -> str:
    """Horizontal bars for 50 connections: the median of the rounds, with the quartiles as a thin line."""
    spreads = {(cell, name): Spread.of(rounds.of(name, cell).rates) for cell in _CELLS for name in names}
    group = len(names) * _BAR + _GAP
    height = _TOP + len(_CELLS) * group + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}">',
        "<style>text { font: 12px system-ui, sans-serif } .title { font-weight: 600 }</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="10" y="20" class="title">Requests a second, 50 connections</text>',
    ]
    x = 10
    for name, colour in zip(names, _COLOURS, strict=False):
        parts.append(f'<rect x="{x}" y="32" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="41">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    for row, cell in enumerate(_CELLS):
        y = _TOP + row * group
        # Each kind of load has its own scale: P16 would dwarf P1.
        scale = (_WIDTH - _LABELS - 90) / max(spreads[cell, name].high for name in names)
        parts.append(f'<text x="10" y="{y + 13}">{escape(cell.name)}</text>')
        for index, (name, colour) in enumerate(zip(names, _COLOURS, strict=False)):
            spread = spreads[cell, name]
            top = y + index * _BAR
            middle = top + (_BAR - 3) / 2
            width = spread.median * scale
            begin, end = _LABELS + spread.low * scale, _LABELS + spread.high * scale
            parts += [
                f'<rect x="{_LABELS}" y="{top}" width="{width:.1f}" height="{_BAR - 3}" fill="{colour}"/>',
                f'<line x1="{begin:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}" stroke="#222"/>',
                f'<text x="{end + 6:.1f}" y="{top + 12}">{spread.median / 1e3:.0f}k</text>',
            ]
    parts.append(f"<desc>{escape(caption)}</desc></svg>")
    return "\n".join(parts) + "\n"
