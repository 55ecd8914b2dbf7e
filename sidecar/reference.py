"""Owns the two texts that tell people about settings, `--help` and docs/settings.md. Both are made from the models;
never add a setting here.

    python -m sidecar.reference > docs/settings.md
"""

from __future__ import annotations

import sys
import textwrap
from typing import Final

from sidecar.listener_settings import LISTENER_DIRECTIVES, ListenerSettings, about, is_immutable, kind_of
from sidecar.password import VARIABLES
from sidecar.settings import SETTINGS

_WIDTH: Final = 100
_INDENT: Final = 6

_USAGE: Final = """\
Usage: valkey-sidecar [/path/to/valkey.conf] [options] [-]
       valkey-sidecar - (read the configuration from standard input)
       valkey-sidecar connection-string ... (what clients are given to reach it; see its --help)
       valkey-sidecar -v or --version
       valkey-sidecar -h or --help

A Valkey server with observability. It takes every option and conf file that valkey-server takes:
       valkey-sidecar --port 7777 --maxmemory 1gb
       valkey-sidecar /etc/valkey.conf --loglevel verbose
       echo 'maxmemory 128mb' | valkey-sidecar -

Its own settings, as an argument, an environment variable or a line in the conf file (without the dashes).
An argument counts before the environment, the environment before the conf file.
"""
_USAGE_PASSWORD: Final = """\
Where neither an argument nor the conf file has `requirepass`, these environment variables stand for it:
"""
_USAGE_END: Final = """\
All other options are valkey-server's, with the same grammar; `--sentinel`, `--test-memory MEGABYTES` and
`--check-system` run the real valkey-server.
"""

_PAGE: Final = """\
# Settings

<!-- Made by `python -m sidecar.reference > docs/settings.md`: change the models, not this page. -->

`valkey-sidecar` takes every argument and conf file that `valkey-server` takes, and these settings of its own.

Each can be given as an argument (`--sidecar-workers 2`), as an environment variable (`SIDECAR_WORKERS=2`) or as a line
in the conf file (`sidecar-workers 2`). An argument counts before the environment, the environment before the conf file.
An environment variable that is empty counts as not set. A value that is not allowed stops the start with one line.

"""
_PAGE_PASSWORD: Final = """
## The password from the environment

Where neither an argument, standard input nor the conf file has `requirepass`, one of these stands for it, as if
`--requirepass` had been given. An empty variable counts as not set; both at once stop the start. The engine and the
workers do not inherit them.

| environment | what it is for |
|---|---|
"""
_PAGE_DIRECTIVES: Final = """
## Directives of Valkey that valkey-sidecar honours itself

Clients connect to `valkey-sidecar`, so it listens, logs and goes to the background in the engine's place. These
directives mean what they mean in Valkey; all others go to the engine as they are. `CONFIG GET` shows them all.

| directive | allowed | default | `CONFIG SET` | what it is for |
|---|---|---|---|---|
"""
_PAGE_END: Final = """
Not available yet, and refused at the start: RDMA (`rdma-*`) and `cluster-enabled yes`.
"""


def help_text() -> str:
    """What `valkey-sidecar --help` prints."""
    parts = [_USAGE]
    for setting in SETTINGS:
        facts = f"{setting.about} Allowed: {setting.allowed}. Default: {setting.default}."
        body = textwrap.fill(facts, _WIDTH, initial_indent=" " * _INDENT, subsequent_indent=" " * _INDENT)
        parts.append(f"  {setting.argument} VALUE  (or {setting.environment})\n{body}\n")
    passwords = "".join(f"  {name}\n      {meaning}\n" for name, meaning in VARIABLES.items())
    return "\n".join([*parts, _USAGE_PASSWORD + passwords, _USAGE_END])


def settings_page() -> str:
    """The text of docs/settings.md."""
    lines = [
        _PAGE.rstrip("\n"),
        "",
        "| setting | environment | allowed | default | what it is for |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{setting.conf_name}` | `{setting.environment}` | {setting.allowed} | {setting.default} | {setting.about} |"
        for setting in SETTINGS
    ]
    defaults = ListenerSettings().config_values()
    rows = [
        f"| `{name}` | {kind_of(name).allowed} | {f'`{defaults[name]}`' if defaults[name] else 'none'} "
        f"| {'no' if is_immutable(name) else 'yes'} | {about(name)} |"
        for name in LISTENER_DIRECTIVES
    ]
    lines.append(_PAGE_PASSWORD.rstrip("\n"))
    lines += [f"| `{name}` | {meaning} |" for name, meaning in VARIABLES.items()]
    return "\n".join([*lines, _PAGE_DIRECTIVES.rstrip("\n"), *rows, _PAGE_END])


if __name__ == "__main__":
    sys.stdout.write(settings_page())
