"""The engine's log lines, taken apart.

Owns the forms in which Valkey writes to its log: the three of `log-format` and raw lines (crash reports, the logo,
fatal configuration errors). It never decides what is logged; it only says what a line means.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from sidecar.journal import Level

_LEVELS: dict[str, Level] = {".": "debug", "-": "verbose", "*": "notice", "#": "warning"}
_ROLES = {"X": "sentinel", "C": "child", "S": "replica", "M": "primary"}
# The words of logfmt and JSON lines, where they are not ours (serverLogRaw).
_LEVEL_WORDS: dict[str, Level] = {"debug": "debug", "info": "verbose", "notice": "notice", "warning": "warning"}
_ROLE_WORDS = {"RDB/AOF": "child"}

# `123:M 23 Nov 2026 09:39:01.099 * message`; log-timestamp-format gives the time one of three forms.
_LEGACY = re.compile(
    r"(?P<pid>\d+):(?P<role>[XCSM]) "
    r"(?:\d\d \w{3} \d{4} [\d:.]+|\d{4}-\d\d-\d\dT\S+|\d{10,}) "
    r"(?P<level>[.\-*#]) (?P<message>.*)",
    re.DOTALL,
)
# `123:signal-handler (1795426876) Received SIGTERM scheduling shutdown...`
_SIGNAL = re.compile(r"(?P<pid>\d+):signal-handler \(\d+\) (?P<message>.*)", re.DOTALL)
# Nothing is escaped: a quote is written as an apostrophe, a line end as a space.
_LOGFMT = re.compile(
    r'pid=(?P<pid>\d+) role=(?P<role>\S+) timestamp="[^"]*" level=(?P<level>\w+) message="(?P<message>.*)"\s*',
    re.DOTALL,
)
_JSON = re.compile(
    r'\{"pid":(?P<pid>\d+),"role":"(?P<role>[^"]+)","timestamp":"[^"]*","level":"(?P<level>\w+)",'
    r'"message":(?P<message>"(?:[^"\\]|\\(?:["\\bfnrt]|u[0-9a-f]{4}))*")\}'
)

# The private engine has no port; people would take this for the server's.
_NO_PORT = re.compile(r"(Running mode=\w+), port=0\.")

# At loglevel debug the engine quotes what a script was refused, arguments and all: that is not for a log.
_SCRIPT_ERROR = "> command returned an error"

# A fatal configuration error quotes the line it stopped at, and any line may hold a secret: misspelt ones too
# (`reqirepwd x`, `requirepass=x`), and those where it is not the first word that says so (`sentinel auth-pass m x`,
# `usr bob on >x`). Only the first word is sure to be none. Hiding a harmless value costs less than showing a password.
_QUOTED_SECRET = re.compile(
    r"^(?P<quote>>>> ')(?=.*(?:pas|pwd|auth|secret|cred|key|user|acl|token|\s[\"']?[<>]))(?P<name>[^\s=:]*)[\s=:].*$",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. `level` is Valkey's word (debug, verbose, notice, warning); a `raw` line has the last one's."""

    message: str
    level: Level
    role: str | None = None
    pid: int | None = None
    raw: bool = False


class LogParser:
    """Remembers the last level, because raw lines belong to the message before them."""

    def __init__(self) -> None:
        self._last_level: Level = "notice"

    def parse(self, line: str) -> LogLine | None:
        """The line's meaning, or None for an empty line."""
        line = line.rstrip("\r\n")
        if not line.strip():
            return None
        if match := _LEGACY.fullmatch(line):
            level, role, message = _LEVELS[match["level"]], _ROLES[match["role"]], match["message"]
        elif match := _LOGFMT.fullmatch(line) or _JSON.fullmatch(line):
            level = _LEVEL_WORDS.get(match["level"], "notice")
            role, message = _ROLE_WORDS.get(match["role"], match["role"]), match["message"]
            if match.re is _JSON:
                message = json.loads(message, strict=False)
        elif match := _SIGNAL.fullmatch(line):
            return LogLine(match["message"], "notice", None, int(match["pid"]))
        else:
            if line.startswith(("=== ", "*** FATAL")):
                self._last_level = "warning"
            return LogLine(_QUOTED_SECRET.sub(r"\g<quote>\g<name> (not shown)'", line), self._last_level, raw=True)
        self._last_level = level
        if message.startswith("<") and _SCRIPT_ERROR in message:
            message = message.partition(_SCRIPT_ERROR)[0] + _SCRIPT_ERROR
        return LogLine(_NO_PORT.sub(r"\1.", message), level, role, int(match["pid"]))
