from __future__ import annotations

import socket
import threading

import pytest

from bench import data
from bench.data import COMMANDS, DataError
from tests.conftest import Server, Start


def test_every_command_meets_the_data_it_is_about(bare: Server) -> None:
    data.fill(bare.port)
    client = bare.client()
    replies = {
        name: client.execute_command(*(word.replace("__rand_int__", "000000000007") for word in command.arguments))
        for name, command in COMMANDS.items()
    }
    assert replies["GET"] == b"VXK"
    assert replies["ZADD"] == 0  # the member is there
    assert len(replies["HGETALL 100"]) == 100
    assert [len(value) for value in replies["MGET 100"]] == [10] * 100
    assert len(replies["GET 10 KB"]) == 10_000
    assert [bool(replies[name]) for name in ("SET", "SET 10 KB")] == [True, True]
    assert client.zcard("bench:sorted") == 10_000


def test_what_is_under_way_of_a_command_is_known_about(bare: Server) -> None:
    data.fill(bare.port)
    for name, command in COMMANDS.items():
        words = [word.replace("__rand_int__", "000000000007").encode() for word in command.arguments]
        request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
        with socket.create_connection(("127.0.0.1", bare.port)) as connection:
            connection.sendall(request + b"*1\r\n$4\r\nQUIT\r\n")
            reply = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        size = len(request) + len(reply) - len(b"+OK\r\n")
        assert 0.8 * size <= command.wire_bytes <= 1.25 * size, (name, size)


def test_a_server_that_refuses_the_data_is_an_error(start_bare: Start) -> None:
    server = start_bare("--requirepass", "not-to-be-shown")
    with pytest.raises(DataError, match=rf"^SET on port {server.port}: -NOAUTH") as caught:
        data.fill(server.port)
    assert "not-to-be-shown" not in str(caught.value)


def test_a_server_that_goes_away_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_at_once() -> None:
            connection, _ = listener.accept()
            while connection.recv(1 << 20).count(b"bench:sorted") == 0:
                pass
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 20):
                pass
            connection.close()

        thread = threading.Thread(target=close_at_once)
        thread.start()
        with pytest.raises(DataError, match="the connection was closed"):
            data.fill(listener.getsockname()[1])
        thread.join()
