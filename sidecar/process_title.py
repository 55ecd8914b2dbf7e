"""Owns what `ps` shows of the supervisor where `proc-title-template` says so: it stands in valkey-server's place there.
Never gives a title that nobody asked for: without one, our command line stays, its passwords masked.

The grammar is Valkey's (sds.c, sdstemplate): `{name}` is a variable, `{{` a brace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.listener_settings import ListenerSettings

DEFAULT: Final = "{title} {listen-addr} {server-mode}"
VARIABLES: Final = ("title", "listen-addr", "server-mode", "port", "tls-port", "unixsocket", "config-file")

_NAME: Final = "valkey-sidecar"
_INVALID: Final = "template format is invalid or contains unknown variables"
# Valkey's, and not empty where a template of these variables alone has something to show.
_FOR_A_CHECK: Final = {"listen-addr": "*:0", "port": "0", "tls-port": "0", "config-file": "-"}


def check(template: str) -> None:
    """Raises ValueError, with Valkey's text, for a template that it refuses."""
    if not expand(template, {**dict.fromkeys(VARIABLES, ""), **_FOR_A_CHECK}):
        raise ValueError(_INVALID)


def expand(template: str, values: Mapping[str, str]) -> str:
    """The title. Raises ValueError for an unknown variable, and for a brace that nothing closes.

    >>> expand("{title} on {port} {{x}", {"title": "cache", "port": "6379"})
    'cache on 6379 {x}'
    """
    title = ""
    rest = template
    while rest:
        text, brace, rest = rest.partition("{")
        title += text
        if not brace:
            break
        if rest.startswith("{"):
            title, rest = title + "{", rest[1:]
            continue
        name, end, rest = rest.partition("}")
        if not end or name not in values:
            raise ValueError(_INVALID)
        title += values[name]
    return title.strip(" ")


class Title:
    """The supervisor's title.

    program: how we were started (sys.argv[0]). conf_file: None without one. template: `proc-title-template` as it is at
    the start. wanted: whether somebody gave it. follows: `set-proc-title`; without it, only a new template is shown.
    show: makes a title visible.
    """

    def __init__(
        self,
        program: str,
        conf_file: str | None,
        template: str,
        show: Callable[[str], bool],
        *,
        wanted: bool,
        follows: bool,
    ) -> None:
        # `python -m sidecar` has the path of a file that nobody named.
        self._name = program if Path(program).name == _NAME else _NAME
        self._conf_file = conf_file
        self._template = template
        self._show = show
        self._wanted = wanted
        self._follows = follows
        self._shown = ""

    def follow(self, settings: ListenerSettings) -> None:
        """Show the title that these settings ask for, where they do."""
        is_new = settings.proc_title_template != self._template
        self._template = settings.proc_title_template
        self._wanted = self._wanted or is_new
        if not is_new and not (self._wanted and self._follows):
            return
        title = expand(self._template, self._values(settings))
        if title != self._shown and self._show(title):
            self._shown = title

    def _values(self, settings: ListenerSettings) -> dict[str, str]:
        port, path = settings.port or settings.tls_port, settings.unixsocket or ""
        address = settings.bind[0] if settings.bind else "*"
        return {
            "title": self._name,
            "listen-addr": f"{address}:{port}" if port else f"unixsocket:{path}",
            "server-mode": "",
            "port": str(settings.port),
            "tls-port": str(settings.tls_port),
            "unixsocket": path,
            "config-file": self._conf_file or "-",
        }
