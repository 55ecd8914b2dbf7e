from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from telemetry.azure.connection import ConnectionStringError, check
from telemetry.azure.export import open_export
from telemetry.otlp.stats import ExportStats
from tests.telemetry.azure.stand_in_ingestion import KEY

_ENDPOINT = "https://westeurope-5.in.applicationinsights.example/"


@pytest.mark.parametrize(
    ("text", "string", "host"),
    [
        (
            f"InstrumentationKey={KEY};IngestionEndpoint={_ENDPOINT}",
            f"instrumentationkey={KEY};ingestionendpoint={_ENDPOINT}",
            "westeurope-5.in.applicationinsights.example",
        ),
        (f" InstrumentationKey = {KEY.upper()} ; ", f"instrumentationkey={KEY}", "the global endpoint"),
        (
            f"Authorization=ikey;InstrumentationKey={KEY};EndpointSuffix=azure.example",
            f"authorization=ikey;instrumentationkey={KEY};endpointsuffix=azure.example",
            "azure.example",
        ),
    ],
)
def test_what_people_paste_is_brought_into_form(text: str, string: str, host: str) -> None:
    connection = check(text)
    assert (connection.string, connection.host) == (string, host)
    assert KEY not in repr(connection)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (KEY, "list of name=value pairs"),
        (f"InstrumentationKey={KEY};rubbish", "list of name=value pairs"),
        (f"InstrumentationKey=a={KEY}", "list of name=value pairs"),
        ("", "InstrumentationKey is missing"),
        ("IngestionEndpoint=https://host", "InstrumentationKey is missing"),
        ("InstrumentationKey=secret-key", "InstrumentationKey is not a UUID"),
        (f"InstrumentationKey={KEY};Authorization=aad", "Authorization must be ikey"),
        (f"InstrumentationKey={KEY};IngestionEndpoint=westeurope", "IngestionEndpoint is not"),
        (f"InstrumentationKey={KEY};IngestionEndpoint=http://host:x/", "IngestionEndpoint is not"),
    ],
)
def test_what_is_malformed_is_told_in_one_warning_without_the_key(
    text: str, problem: str, records: list[dict[str, Any]]
) -> None:
    with pytest.raises(ConnectionStringError, match=problem):
        check(text)
    assert open_export(text, {}, ExportStats()) is None
    (warning,) = records
    assert (warning["level"], warning["event_name"]) == ("warning", "azure.off")
    assert problem in warning["message"]
    assert KEY not in str(warning)
    assert "secret-key" not in str(warning)


def test_without_the_extra_one_warning_says_what_to_install() -> None:
    script = """
import sys
sys.modules["azure.monitor.opentelemetry.exporter"] = None
from telemetry import logs
from telemetry.azure.export import open_export
from telemetry.otlp.stats import ExportStats
logs.configure(format="json")
print(open_export(sys.argv[1], {}, ExportStats()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, f"InstrumentationKey={KEY}"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    warning, returned = done.stdout.splitlines()
    assert "pip install valkey-sidecar[azure]" in warning
    assert KEY not in warning
    assert returned == "None"
    assert done.stderr == ""


def test_nothing_of_azure_is_imported_before_it_is_wanted() -> None:
    script = "import sys, telemetry.azure.export; print([name for name in sys.modules if name.startswith('azure')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
