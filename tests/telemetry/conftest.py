"""What the tests of the client helper share: a server that understands TRACEPARENT, a server that does not, spans."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import valkey
import valkey.asyncio

from tests.conftest import Server
from tests.telemetry.clients import KINDS, Kind, Spans
from tests.telemetry.traceparent_relay import Relay


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    yield spans
    spans.provider.shutdown()


@pytest.fixture
def traced_server(bare: Server) -> Iterator[Relay]:
    """A server that understands TRACEPARENT and tells which context each command came under."""
    with Relay(bare.port) as relay:
        yield relay


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    kind: Kind = request.param
    if kind.python_parser:  # what valkey-py does where libvalkey is not installed
        monkeypatch.setattr(valkey.connection, "LIBVALKEY_AVAILABLE", False)
        monkeypatch.setattr(valkey.asyncio.connection, "LIBVALKEY_AVAILABLE", False)
    return kind
