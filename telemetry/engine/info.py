"""INFO's text, taken apart.

Owns the forms in which INFO tells its figures: plain fields (`used_memory:1024`) and records of several parts
(`cmdstat_get:calls=2,usec=7`). Never knows what a figure means, and never fails: what it cannot read is not there.

    info = Info.parse("used_memory:1024\\r\\ncmdstat_get:calls=2,usec=7\\r\\n")
    info.fields["used_memory"]                  # "1024"
    info.records["cmdstat_*"]["get"]["calls"]   # "2"
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

# Names of records: what comes before the part that differs.
_RECORD = re.compile(r"(cmdstat_|errorstat_|latency_percentiles_usec_|db(?=\d+:)|slave(?=\d+:))([^:]+):(.+)", re.DOTALL)
_WORDS = {"ok": 1, "true": 1, "up": 1, "err": 0, "fail": 0, "false": 0, "down": 0}
# The engine's figures have 64 bits; an integer of hundreds of digits fits nowhere.
_LONGEST = 40


class Cell(NamedTuple):
    """One figure: `source` is the field, or the record and its part (`cmdstat_*.calls`); `key` says which record."""

    source: str
    key: str
    value: str
    parts: Mapping[str, str]


class Info(NamedTuple):
    """Fields by name, and records by kind, key and part. All of it is text as the engine wrote it."""

    fields: dict[str, str]
    records: dict[str, dict[str, dict[str, str]]]

    @classmethod
    def parse(cls, text: str) -> Info:
        """Take INFO's answer apart, whichever sections it holds."""
        info = cls({}, {})
        for line in text.split("\n"):
            line = line.rstrip("\r")
            if line.startswith("#"):
                continue
            if record := _RECORD.fullmatch(line):
                parts = dict(part.split("=", 1) for part in record[3].split(",") if "=" in part)
                info.records.setdefault(f"{record[1]}*", {})[record[2]] = parts
                continue
            name, colon, value = line.partition(":")
            if colon:
                info.fields[name] = value
        info._derive()
        return info

    def _derive(self) -> None:
        """Figures that INFO tells in two places."""
        commands = self.records.get("cmdstat_*", {})
        for command, percentiles in self.records.get("latency_percentiles_usec_*", {}).items():
            for part in ("calls", "usec"):
                if part in commands.get(command, {}):
                    percentiles[part] = commands[command][part]
        now_us, uptime_s = (
            number(self.fields.get("server_time_usec", "")),
            number(self.fields.get("uptime_in_seconds", "")),
        )
        if now_us is not None and uptime_s is not None:
            self.fields["start_time"] = str(int(now_us // 1_000_000 - uptime_s))

    def cells(self) -> Iterator[Cell]:
        """Every figure, fields first."""
        nothing: dict[str, str] = {}
        for name, value in self.fields.items():
            yield Cell(name, "", value, nothing)
        for kind, records in self.records.items():
            for key, parts in records.items():
                for part, value in parts.items():
                    yield Cell(f"{kind}.{part}", key, value, parts)


def number(text: str) -> float | None:
    """A figure; `ok`, `up` and their opposites are 1 and 0. None for what is none."""
    if text in _WORDS:
        return _WORDS[text]
    # int() and float() also take blanks, underscores and digits of other scripts.
    if not text.isascii() or "_" in text or text != text.strip() or len(text) > _LONGEST:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
