"""A run as two SVG pictures: all peers' throughput under the core loads, and ours as a share of others' everywhere.

Owns their drawing, by hand: bars and dots need no library. Never measures.
"""

from __future__ import annotations

import math
from html import escape

from bench import plan
from bench.load import Cell
from bench.peers import BARE, HAPROXY, NUTCRACKER
from bench.result import Result
from bench.rounds import Rounds, Spread, rate
from bench.variants import ALL_SPANS, HOME, OFF, SIDECAR, SOME_SPANS, TWO_WORKERS

_COLOURS = {
    BARE: "#8a8f98",
    SIDECAR: "#5b4bdb",
    HOME: "#8577e6",
    OFF: "#b3aaf2",
    SOME_SPANS: "#c98be0",
    ALL_SPANS: "#e07bb8",
    TWO_WORKERS: "#3f8fd2",
    HAPROXY: "#2f9e77",
    NUTCRACKER: "#d9902f",
}
_PLAIN = (BARE, SIDECAR, HAPROXY, NUTCRACKER)  # all others are variants of ours
_BAR, _GAP, _LABELS, _WIDTH, _TOP = 14, 22, 150, 860, 90
_LEGEND_WIDTH = 210
_ROW, _DOT = 24, 4


def all_of(result: Result) -> dict[str, str]:
    """The pictures by file name; one for which nothing was measured is not there."""
    caption = ", ".join(f"{key} {value}" for key, value in result.machine.items())
    rounds = result.rounds
    pictures = {}
    core = [cell for cell in plan.CORE if any(rounds.has(name, cell) for name in result.names)]
    if core:
        pictures["throughput.svg"] = throughput(rounds, result.names, core, caption)
    shared = [cell for cell in result.measured_cells if not cell.tls and rounds.compared(SIDECAR, BARE, cell)]
    if shared:
        pictures["ratios.svg"] = ratios(rounds, shared, caption)
    return pictures


def _begin(height: float, title: str) -> list[str]:
    style = "text { font: 12px system-ui, sans-serif } .title { font-weight: 600 } .mark { text-anchor: middle }"
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}">',
        f"<style>{style}</style>",
        f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
        f'<text x="10" y="20" class="title">{escape(title)}</text>',
    ]


def _legend(names: list[str]) -> list[str]:
    parts = []
    per_row = (_WIDTH - 10) // _LEGEND_WIDTH
    for place, name in enumerate(names):
        x, y = 10 + place % per_row * _LEGEND_WIDTH, 32 + place // per_row * 16
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{_COLOURS[name]}"/>')
        shown = name if name in _PLAIN else f"{SIDECAR}, {name}"
        parts.append(f'<text x="{x + 14}" y="{y + 9}">{escape(shown)}</text>')
    return parts


def throughput(rounds: Rounds, names: list[str], cells: list[Cell], caption: str) -> str:
    """Horizontal bars: the median of the rounds, with the quartiles as a thin line."""
    drawn = [name for name in names if any(rounds.has(name, cell) for cell in cells)]
    height = _TOP + len(cells) * (len(drawn) * _BAR + _GAP) + 10
    parts = _begin(height, "Requests a second, 50 connections")
    parts += _legend(drawn)
    y = _TOP
    for cell in cells:
        spreads = {name: rounds.of(name, cell).spread(rate) for name in drawn if rounds.has(name, cell)}
        # Each kind of load has its own scale: P16 would dwarf P1.
        scale = (_WIDTH - _LABELS - 90) / max(spread.high for spread in spreads.values())
        parts.append(f'<text x="10" y="{y + 12}">{escape(cell.name)}</text>')
        for place, (name, spread) in enumerate(spreads.items()):
            top = y + place * _BAR
            middle, width = top + (_BAR - 3) / 2, spread.median * scale
            begin, end = _LABELS + spread.low * scale, _LABELS + spread.high * scale
            parts += [
                f'<rect x="{_LABELS}" y="{top}" width="{width:.1f}" height="{_BAR - 3}" fill="{_COLOURS[name]}"/>',
                f'<line x1="{begin:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}" stroke="#222"/>',
                f'<text x="{end + 6:.1f}" y="{top + 10}">{spread.median / 1e3:.0f}k</text>',
            ]
        y += len(drawn) * _BAR + _GAP
    parts.append(f"<desc>{escape(caption)}</desc></svg>")
    return "\n".join(parts) + "\n"


def ratios(rounds: Rounds, cells: list[Cell], caption: str) -> str:
    """A line for each kind of load: our throughput as a share of others', dots with quartiles; 1 is as fast as they."""
    shares: dict[tuple[Cell, str], Spread] = {
        (cell, base): rounds.ratio(SIDECAR, base, cell)
        for cell in cells
        for base in (BARE, HAPROXY, NUTCRACKER)
        if rounds.compared(SIDECAR, base, cell)
    }
    bases = [base for base in (BARE, HAPROXY, NUTCRACKER) if any(of == base for _, of in shares)]
    # A logarithmic scale: twice as fast is as far from 1 as half as fast.
    least = min(0.5, *(spread.low for spread in shares.values()))
    most = max(2.0, *(spread.high for spread in shares.values()))
    scale = (_WIDTH - _LABELS - 40) / math.log(most / least)

    def x(share: float) -> float:
        return _LABELS + math.log(share / least) * scale

    bottom = _TOP + len(cells) * _ROW
    parts = _begin(bottom + 30, "Throughput of valkey-sidecar as a share of the others' in the same round")
    parts += _legend(bases)
    for mark in (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0):
        if least <= mark <= most:
            stroke = "#222" if mark == 1.0 else "#ddd"
            parts.append(f'<line x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{_TOP}" y2="{bottom}" stroke="{stroke}"/>')
            parts.append(f'<text x="{x(mark):.1f}" y="{bottom + 16}" class="mark">{mark:g}</text>')
    for row, cell in enumerate(cells):
        y = _TOP + row * _ROW
        parts.append(f'<text x="10" y="{y + _ROW / 2 + 4}">{escape(cell.name)}</text>')
        for place, base in enumerate(bases):
            if (cell, base) not in shares:
                continue
            spread, middle = shares[cell, base], y + _ROW / 2 + (place - 1) * 6
            begin, end, colour = x(spread.low), x(spread.high), _COLOURS[base]
            parts += [
                f'<line x1="{begin:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}" stroke="{colour}"/>',
                f'<circle cx="{x(spread.median):.1f}" cy="{middle}" r="{_DOT}" fill="{colour}"/>',
            ]
    parts.append(f"<desc>{escape(caption)}</desc></svg>")
    return "\n".join(parts) + "\n"
