"""Debian's Chromium without a window, told what to do over a pipe (Chrome DevTools Protocol).

Owns one browser process with one page, its private folder, and its end. Knows nothing of what it looks at.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Final, Self

PROGRAM: Final = "chromium"

_WIDTH, _HEIGHT = 1280, 800
_ANSWER_LIMIT_S: Final = 60.0
_SHOW_LIMIT_S: Final = 30.0
_STOP_LIMIT_S: Final = 15.0
_POLL_S: Final = 0.1
_FIRST_FREE_FD: Final = 10

# The background options are for networks that refuse what a browser asks for by itself; as root it has no sandbox.
_OPTIONS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)

# What a person can read, in web components and in drawings, too.
_TEXT: Final = """
(() => {
    const parts = [];
    const walk = node => {
        if (node.nodeType === Node.TEXT_NODE) { parts.push(node.data); return; }
        if (node.nodeType === Node.ELEMENT_NODE) {
            if (node.matches('script, style, template, noscript')) return;
            if (getComputedStyle(node).display === 'none') return;
            if (node.shadowRoot) node.shadowRoot.childNodes.forEach(walk);
        }
        node.childNodes.forEach(walk);
    };
    walk(document.body);
    return parts.map(p => p.trim()).filter(p => p).join('\\n');
})()
"""


class Browser:
    """A browser with one page, as large as the pictures that it takes. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._numbers = itertools.count(1)
        self._received = bytearray()
        self._session: str | None = None
        its_input, self._output = _pipe()
        self._input, its_output = _pipe()
        # Chromium reads from descriptor 3 and writes to descriptor 4.
        script = f'exec "$0" "$@" 3<&{its_input} 4>&{its_output} {its_input}<&- {its_output}>&-'
        command = ["bash", "-c", script, PROGRAM, *_OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        own = {name: str(folder) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
        with (folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **own},
                pass_fds=(its_input, its_output),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(its_input)
        os.close(its_output)
        try:
            self._open_page()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and every process of its own."""
        with contextlib.suppress(AssertionError, OSError):
            self._session = None
            self._call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_LIMIT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._output)
        os.close(self._input)

    def show(self, url: str, *texts: str) -> str:
        """Go there, and wait until all these texts can be read; everything that can be read then, piece by line."""
        self._call("Page.navigate", url=url)
        return self.wait_for(*texts)

    def wait_for(self, *texts: str) -> str:
        """Everything that can be read on the page, when these texts are among it."""
        deadline = time.monotonic() + _SHOW_LIMIT_S
        while True:
            shown = str(self.evaluate(_TEXT) or "")
            missing = [text for text in texts if text not in shown]
            if not missing:
                return shown
            assert time.monotonic() < deadline, f"the page does not show {missing}, but:\n{shown}"
            time.sleep(_POLL_S)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression; None while the page is on its way to another."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def take_picture(self, path: Path) -> None:
        """What the page looks like now, as PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _open_page(self) -> None:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        size = {"width": _WIDTH, "height": _HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._output, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _ANSWER_LIMIT_S
        while True:
            answer = self._next_message(deadline)
            if answer.get("id") == number:
                assert "error" not in answer or method == "Runtime.evaluate", f"{method}: {answer}"
                return dict(answer.get("result") or {"result": {}})

    def _next_message(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            readable, _, _ = select.select([self._input], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"Chromium did not answer within {_ANSWER_LIMIT_S} s"
            chunk = os.read(self._input, 1 << 20)
            assert chunk, "Chromium has ended"
            self._received += chunk
        message, _, rest = self._received.partition(b"\0")
        self._received = bytearray(rest)
        return dict(json.loads(message))


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are out of the way of the two that Chromium is given."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD))
        os.close(end)
    return ends[0], ends[1]
