from __future__ import annotations

import pytest

from sidecar.connection_strings.model import ConnectionStringError
from sidecar.connection_strings.server import described_by, log_line
from sidecar.connection_strings.stackexchange import format_stackexchange
from sidecar.listener_settings import ListenerSettings
from sidecar.secret import SecretStr
from tests.sidecar.connection_strings.samples import at


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        (("*", "-::*"), "localhost:6379"),
        (("0.0.0.0",), "localhost:6379"),
        (("127.0.0.1", "-::1"), "127.0.0.1:6379"),
        (("127.0.0.1", "10.1.2.3"), "10.1.2.3:6379"),
        (("-::1",), "[::1]:6379"),
    ],
)
def test_a_server_is_told_by_an_address_that_it_listens_on(bind: tuple[str, ...], expected: str) -> None:
    assert format_stackexchange(described_by(ListenerSettings(bind=bind), None, None)) == expected


def test_a_server_with_a_unix_socket_only_is_told_by_it() -> None:
    for settings in (ListenerSettings(port=0), ListenerSettings(bind=())):
        assert described_by(settings, SecretStr("x"), "/run/v.sock") == at(unix_path="/run/v.sock", password="x")
        with pytest.raises(ConnectionStringError, match=r"^server: it listens nowhere: port is 0 and there is no unix"):
            described_by(settings, None, None)
        assert log_line(settings, None, has_password=False) is None


def test_a_server_without_tls_is_not_told_with_it() -> None:
    with pytest.raises(ConnectionStringError, match=r"^TLS: the server has no tls-port$"):
        described_by(ListenerSettings(), None, None, tls=True)
    assert described_by(ListenerSettings(), None, None, tls=False).tls is False


def test_a_server_with_tls_is_told_with_it_as_aspire_tells_redis() -> None:
    settings = ListenerSettings(port=6380, tls_port=6379)
    assert format_stackexchange(described_by(settings, None, None)) == "localhost:6379,ssl=true"
    assert format_stackexchange(described_by(settings, None, None, tls=False)) == "localhost:6380"
    with pytest.raises(ConnectionStringError, match=r"^TLS: the server has no port without it$"):
        described_by(ListenerSettings(port=0, tls_port=6379), None, None, tls=False)


def test_the_line_for_the_log_has_both_forms_and_no_password() -> None:
    assert log_line(ListenerSettings(), None, has_password=True) == (
        "Clients connect with localhost:6379,password=*** (StackExchange.Redis) or redis://:***@localhost:6379"
    )
    assert log_line(ListenerSettings(port=0), "/run/v.sock", has_password=False) == (
        "Clients connect with !/run/v.sock (StackExchange.Redis) or unix:///run/v.sock"
    )
