"""The sample's alert rules say what the server can say."""

from __future__ import annotations

import re
from pathlib import Path

from telemetry.names import REJECTION_REASONS

_ROOT = Path(__file__).parents[2]
_COUNTED = re.compile(r"""(?:_refuse\(\w+, |"connections\.rejected", )"(\w+)\"""")


def test_every_reason_to_refuse_a_client_is_explained() -> None:
    relay = "".join(path.read_text() for path in (_ROOT / "sidecar" / "relay").glob("*.py*") if path.suffix != ".pyc")
    assert set(_COUNTED.findall(relay)) == set(REJECTION_REASONS)
    alerts = (_ROOT / "samples" / "compose" / "prometheus" / "alerts.yml").read_text()
    _, _, rule = alerts.partition("alert: ValkeyRefusesClients")
    explained = re.findall(r"(\w+): ", rule.partition("description: ")[2].partition("\n")[0])
    assert tuple(explained) == REJECTION_REASONS
