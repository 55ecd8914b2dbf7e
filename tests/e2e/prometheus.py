"""A real Prometheus (Debian's) as a peer of tests: started as the Compose file says, asked by its API.

Owns the process and its folder. It judges nothing.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.conftest import PATIENCE_S, free_port, wait_until

_EVERY = "1s"
"""Scrapes and evaluations, in place of the file's own interval: tests have less time than people."""


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`."""
    path = shutil.which(name)
    assert path, f"{name} is missing (Debian: apt-get install prometheus)"
    return path


class Prometheus:
    """Use it as a context manager.

    command: the arguments in the Compose file. configuration: the folder that it mounts. target: who is scraped instead
    of the cache. folder: an empty one of ours.
    """

    def __init__(self, command: Sequence[str], configuration: Path, target: str, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "log"
        ours = folder / "configuration"
        shutil.copytree(configuration, ours)
        file = ours / "prometheus.yml"
        text = file.read_text()
        assert text.count("cache:9121") == 1
        assert text.count("_interval: 5s") == 2
        file.write_text(text.replace("cache:9121", target).replace("_interval: 5s", f"_interval: {_EVERY}"))
        places = {"/etc/prometheus": str(ours), "/prometheus": str(folder / "data")}
        arguments = [_moved(argument, places) for argument in command]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program("prometheus"), *arguments, f"--web.listen-address=127.0.0.1:{port}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        try:
            wait_until(self._is_ready, "Prometheus is ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()

    def ask(self, path: str, **query: str) -> Any:
        """What its API answers under `data`. Raises AssertionError with its words if it refuses."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{query}: {error.read().decode()}") from None

    def figures(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The present values, with their labels; what is not a number is left out."""
        found = self.ask("query", query=expression)["result"]
        values = [(dict(one["metric"]), float(one["value"][1])) for one in found]
        return [(labels, value) for labels, value in values if math.isfinite(value)]

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, f"Prometheus ended:\n{self._log.read_text()}"
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=PATIENCE_S) as response:
                return bool(response.status == 200)
        except OSError:
            return False


def _moved(argument: str, places: dict[str, str]) -> str:
    name, equals, value = argument.partition("=")
    for container, here in places.items():
        if value == container or value.startswith(f"{container}/"):
            return f"{name}{equals}{here}{value.removeprefix(container)}"
    return argument
