"""The certificate that clients are shown, and those that theirs must come from: in use until better ones are there.

Owns the watch over the files that the TLS directives name. Files that changed and are right are used for the
connections that come next, without a restart; wrong ones change nothing, and are told once. Never talks to a worker.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from sidecar.conf import encode
from sidecar.journal import Journal
from sidecar.listener_settings import ListenerSettings

if TYPE_CHECKING:
    from sidecar.tls import CertificateFacts, Material

_LOOK_INTERVAL_S = 1.0
_WARN_DAYS = 14.0
"""Less is left of our certificate: that is worth a warning, once a day."""
_DAY_S = 86400.0

Look = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Candidate:
    """Settings, what their files hold (None: they ask for no TLS), and what the files looked like before that."""

    settings: ListenerSettings
    material: Material | None
    look: Look


class Certificates:
    """`material` is in use; None where nothing speaks TLS. `path` makes a user's path absolute.

    on_change() is called after files that changed were taken over.
    """

    def __init__(self, path: Callable[[str], str], journal: Journal) -> None:
        self.material: Material | None = None
        self.on_change: Callable[[], None] = lambda: None
        self._path = path
        self._journal = journal
        self._settings = ListenerSettings()
        self._seen: Look = ()
        self._refused: Look | None = None
        self._own: CertificateFacts | None = None
        self._authority: CertificateFacts | None = None
        self._warned_at = 0.0

    def checked(self, settings: ListenerSettings) -> Candidate:
        """What these settings lead to, tried out. Raises tls.TlsError."""
        look = self._look(settings)
        material = None
        if settings.tls_port:
            from sidecar import tls

            material = tls.read(settings, self._path)
            tls.make_context(material)
        return Candidate(settings, material, look)

    def adopt(self, candidate: Candidate) -> None:
        """Use it, and watch its files from now on."""
        self._settings = candidate.settings
        self._seen = candidate.look
        self._refused = None
        self.material = candidate.material
        self._own = self._authority = None
        if self.material is not None:
            from sidecar import tls

            self._own = tls.own_facts(self.material)
            self._authority = tls.facts(self.material.authorities) if self.material.authorities else None
        self._warned_at = 0.0
        self._warn()

    def message(self) -> dict[str, Any] | None:
        """The form in which the workers are told what is in use."""
        return None if self.material is None else self.material.message()

    def info(self) -> dict[str, Any]:
        """What INFO tells of them: name to value, those of a number of seconds by the time at which they end."""
        shown: dict[str, Any] = {}
        for name, facts in (("server", self._own), ("ca", self._authority)):
            if facts is not None:
                shown[f"tls_{name}_cert_serial"] = facts.serial
                shown[f"tls_{name}_cert_expires_in_seconds"] = facts.ends
        return shown

    async def watch(self) -> None:
        """Look at the files again and again."""
        looked_at = monotonic()
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            settings = self._settings  # CONFIG SET may have made the interval another one
            waits = monotonic() - looked_at < settings.tls_auto_reload_interval
            if waits or not (settings.tls_port or settings.tls_replication):
                continue
            looked_at = monotonic()
            try:
                self._look_again()
            except Exception as error:  # of ours: the next look may go well
                self._journal.error("tls.watch_failed", f"Looking at the certificates failed: {error!r}.")
            self._warn()

    def _look_again(self) -> None:
        from sidecar.tls import TlsError

        look = self._look(self._settings)
        if look == self._seen:
            self._refused = None
            return
        try:
            candidate = self.checked(self._settings)
        except TlsError as error:
            # Two files cannot be replaced at once: a mistake is one that is still there at the next look.
            if self._refused == look:
                self._seen = look
                self._journal.warning(
                    "tls.not_reloaded",
                    f"The TLS files have changed and cannot be used, so the earlier ones stay in use: {error}.",
                )
            self._refused = look
            return
        self.adopt(candidate)
        ends = "" if self._own is None else f"; the certificate ends on {_date(self._own.ends)}"
        self._journal.notice("tls.reloaded", f"The TLS files have changed and are used for new connections{ends}.")
        self.on_change()

    def _look(self, settings: ListenerSettings) -> Look:
        """What tells whether a file is another one; links are followed, as Kubernetes' are."""
        if not (settings.tls_port or settings.tls_replication):
            return ()
        from sidecar import tls

        looks: list[tuple[int, ...] | None] = []
        for file in tls.files(settings, self._path):
            try:
                stat = os.stat(encode(file))
            except OSError:
                looks.append(None)
            else:
                looks.append((stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev))
        return tuple(looks)

    def _warn(self) -> None:
        """Once a day, when our certificate is about to end."""
        if self._own is None or time.time() - self._warned_at < _DAY_S:
            return
        days = self._own.days_left()
        if days < _WARN_DAYS:
            self._warned_at = time.time()
            when = "has ended" if days < 0 else "ends"
            self._journal.warning(
                "tls.certificate_ends",
                f"Our TLS certificate {when} on {_date(self._own.ends)}: clients refuse one that has ended.",
            )


def _date(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))
