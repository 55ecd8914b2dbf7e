"""The page for users asks only for what the tests here have seen arrive."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from telemetry import spanpacket
from telemetry.spanpacket import pack
from tests.telemetry.azure.conftest import Make
from tests.telemetry.azure.stand_in_ingestion import StandInIngestion
from tests.telemetry.azure.test_azure_export import GET, metrics, record, wait_envelopes

_PAGE = Path(__file__).parents[3] / "docs" / "application-insights.md"


def test_every_property_of_the_page_is_sent(make: Make, stand_in: StandInIngestion) -> None:
    export = make()
    flags = spanpacket.ERROR_REPLY | spanpacket.KEPT_ERROR | spanpacket.HIT
    export.take(pack([replace(GET, flags=flags, error=b"ERR no", batch_size=2, engine_us=7)]))
    export.log(record())
    export.metrics(metrics(1))
    sent = set()
    for kind in ("Request", "Message", "Metric"):
        for envelope in wait_envelopes(stand_in, kind):
            sent |= envelope["data"]["baseData"]["properties"].keys()
    page = _PAGE.read_text()
    asked = set(re.findall(r'customDimensions\["([^"]+)"\]', page))
    for line in page.splitlines():
        if "in `customDimensions`" in line:
            asked |= set(re.findall(r"`([a-z_]+[._][a-z._]+)`", line))
    assert len(asked) > 10
    assert asked <= sent
