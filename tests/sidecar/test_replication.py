"""Replication through us is Valkey's: a real replica follows us over TCP, and we follow a real primary."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest
import valkey

from tests.conftest import Server, Start, free_port, receive, wait_until
from tests.sidecar.test_identity import our_connection

# A replica's full copy begins at once, not after the five seconds that others might need to join.
_AT_ONCE = ("--save", "", "--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes")

_PASSWORD = "the password of the primary"


def info(server: Server, section: str = "replication") -> dict[str, object]:
    with server.client() as client:
        return dict(client.info(section))


def follow(replica: Server, primary: Server, host: str = "127.0.0.1") -> None:
    with replica.client() as client:
        client.replicaof(host, primary.port)
    in_step(replica)


def in_step(replica: Server) -> None:
    wait_until(lambda: info(replica).get("master_link_status") == "up", "the replica is in step", 30)


def write_many(server: Server, prefix: str, count: int = 500) -> None:
    with server.client() as client, client.pipeline(transaction=False) as pipe:
        for i in range(count):
            pipe.set(f"{prefix}:{i}", "v" * (i % 100))
            pipe.rpush(f"{prefix}:list", i)
            pipe.hset(f"{prefix}:hash", str(i), i)
        pipe.execute()


def assert_same_data(one: Server, other: Server) -> None:
    """Equal down to the digest, once everything that was written has arrived."""

    def digests() -> bool:
        with one.client() as a, other.client() as b:
            return bool(a.execute_command("DEBUG", "DIGEST") == b.execute_command("DEBUG", "DIGEST"))

    with one.client() as client:
        assert client.dbsize() > 0
    wait_until(digests, "both have the same data")


def assert_smooth(replica: Server) -> None:
    """The replica had its way at once: no error, no second try, no retreat to an older protocol."""
    for trouble in ("Retrying with SYNC", "aborted", "failed", "-ERR"):
        assert trouble not in replica.log_text(), replica.log_text()


def raw_sessions(server: Server) -> float:
    return server.metrics().get('valkey_sidecar_sessions_raw_total{reason="replication"}', 0.0)


# ---- a replica follows us


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_a_replica_has_what_we_have(start: Start, start_bare: Start, diskless: str) -> None:
    primary = start(*_AT_ONCE, "--repl-diskless-sync", diskless)
    write_many(primary, "before")
    replica = start_bare(*_AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    write_many(primary, "after")
    assert_same_data(primary, replica)
    assert_smooth(replica)


def test_a_snapshot_larger_than_every_buffer_arrives_whole(start: Start, start_bare: Start) -> None:
    primary = start(*_AT_ONCE, "--rdbcompression", "no")
    with primary.client() as client:
        for i in range(24):
            client.set(f"large:{i}", bytes([65 + i]) * (1 << 20))
    replica = start_bare(*_AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    assert_same_data(primary, replica)


def test_a_replica_that_was_cut_off_goes_on_where_it_was(start: Start, start_bare: Start) -> None:
    primary = start(*_AT_ONCE)
    replica = start_bare(*_AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    write_many(primary, "before")
    with primary.client() as client:
        assert client.execute_command("CLIENT", "KILL", "TYPE", "replica") == 1
    write_many(primary, "meanwhile")
    wait_until(lambda: info(primary, "stats")["sync_partial_ok"] == 1, "a partial resynchronization")
    in_step(replica)
    assert_same_data(primary, replica)
    assert info(primary, "stats")["sync_full"] == 1


def test_wait_counts_a_replica_that_has_the_write(start: Start, start_bare: Start) -> None:
    primary = start(*_AT_ONCE)
    replica = start_bare(*_AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    with primary.client(single_connection_client=True) as client:
        client.set("k", "v")
        assert client.wait(1, 10_000) == 1
    with replica.client() as client:
        assert client.get("k") == b"v"


def test_a_replica_is_shown_where_it_can_be_reached(start: Start, start_bare: Start) -> None:
    primary = start(*_AT_ONCE)
    replica = start_bare(*_AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    shown = info(primary)["slave0"]
    assert isinstance(shown, dict)
    assert (shown["ip"], shown["port"], shown["state"]) == ("127.0.0.1", replica.port, "online")
    with primary.client() as client:
        role = client.execute_command("ROLE")
        assert role[0] == b"master"
        assert [entry[:2] for entry in role[2]] == [[b"127.0.0.1", str(replica.port).encode()]]
        (listed,) = client.client_list(_type="replica")
    connections = psutil.Process(replica.process.pid).net_connections("tcp")
    assert listed["addr"] in {f"{c.laddr.ip}:{c.laddr.port}" for c in connections if c.raddr}
    assert listed["laddr"] == f"127.0.0.1:{primary.port}"


@pytest.mark.parametrize("family", ["outer IPv4", "loopback IPv6"])
def test_a_replica_elsewhere_is_shown_there(start: Start, start_bare: Start, outer_address: str, family: str) -> None:
    host = outer_address if family == "outer IPv4" else "::1"
    primary = start(*_AT_ONCE, "--protected-mode", "no")
    replica = start_bare(*_AT_ONCE, "--protected-mode", "no")
    follow(replica, primary, host)
    shown = re.search(rb"slave0:ip=(\S+?),port=(\d+)", _raw_info(primary))
    assert shown is not None
    assert shown[1].decode() == host
    assert int(shown[2]) == replica.port


def _raw_info(server: Server) -> bytes:
    sock = server.connect()
    sock.sendall(b"INFO replication\r\nECHO end\r\n")
    return receive(sock, b"$3\r\nend\r\n")


def test_what_a_replica_announces_counts(start: Start, start_bare: Start) -> None:
    primary = start(*_AT_ONCE)
    announced = ("--replica-announce-ip", "203.0.113.7", "--replica-announce-port", "7777")
    replica = start_bare(*_AT_ONCE, *announced, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    shown = info(primary)["slave0"]
    assert isinstance(shown, dict)
    assert (shown["ip"], shown["port"]) == ("203.0.113.7", 7777)


def test_a_replica_needs_the_password(start: Start, start_bare: Start) -> None:
    primary = start(*_AT_ONCE, "--requirepass", _PASSWORD, password=_PASSWORD)
    write_many(primary, "kept")
    replica = start_bare(*_AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
    wait_until(lambda: "NOAUTH" in replica.log_text(), "the replica is refused")
    with replica.client() as client:
        client.config_set("primaryauth", _PASSWORD)
    in_step(replica)
    assert_same_data(primary, replica)
    shown = info(primary)["slave0"]
    assert isinstance(shown, dict)
    assert (shown["ip"], shown["port"]) == ("127.0.0.1", replica.port)


def test_two_channels_at_once_copy_the_same(start: Start, start_bare: Start) -> None:
    both = ("--dual-channel-replication-enabled", "yes")
    primary = start(*_AT_ONCE, *both)
    write_many(primary, "before", 2000)
    replica = start_bare(*_AT_ONCE, *both, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    write_many(primary, "after")
    assert_same_data(primary, replica)
    assert "Dual channel replication: Successfully streamed" in replica.log_text()
    assert_smooth(replica)
    shown = info(primary)["slave0"]
    assert isinstance(shown, dict)
    assert (shown["ip"], shown["port"]) == ("127.0.0.1", replica.port)


def test_a_replication_stream_is_counted_as_a_raw_session(start: Start, start_bare: Start) -> None:
    primary = start(*_AT_ONCE)
    before = raw_sessions(primary)
    replica = start_bare(*_AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    assert raw_sessions(primary) == before + 1
    assert primary.calls()["PSYNC", ""] == 1


def test_a_replica_stays_when_our_port_changes(start: Start, start_bare: Start) -> None:
    primary = start(*_AT_ONCE)
    replica = start_bare(*_AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    with primary.client(single_connection_client=True) as client:
        primary.port = free_port()
        client.config_set("port", primary.port)
        write_many(primary, "after")
        assert client.wait(1, 10_000) == 1
    assert_same_data(primary, replica)
    stats = info(primary, "stats")
    assert (stats["sync_full"], stats["sync_partial_ok"]) == (1, 0)


def test_a_replica_comes_back_to_a_restarted_engine(start: Start, start_bare: Start) -> None:
    primary = start(*_AT_ONCE, "--appendonly", "yes", "--appendfsync", "always")
    replica = start_bare(*_AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    write_many(primary, "before")
    primary.engine.kill()
    wait_until(lambda: "engine.restarted" in primary.log_text(), "the engine is started again")
    wait_until(primary.answers, "the engine answers")
    write_many(primary, "after")
    wait_until(lambda: (info_or_none(primary) or {}).get("connected_slaves") == 1, "the replica is back", 30)
    in_step(replica)
    assert_same_data(primary, replica)


def info_or_none(server: Server) -> dict[str, object] | None:
    try:
        return info(server)
    except valkey.ValkeyError:
        return None


# ---- PSYNC that is refused


def test_a_psync_without_the_password_leaves_an_ordinary_session(start: Start) -> None:
    server = start(*_AT_ONCE, "--requirepass", "secret", password="secret")
    sock = server.connect()
    sock.sendall(b"PSYNC ? -1\r\n")
    assert receive(sock, b"\r\n") == b"-NOAUTH Authentication required.\r\n"
    sock.sendall(b"AUTH secret\r\nSET k v\r\nGET k\r\n")
    assert receive(sock, b"$1\r\nv\r\n") == b"+OK\r\n+OK\r\n$1\r\nv\r\n"
    calls = server.calls()
    assert calls["PSYNC", "NOAUTH"] == 1
    assert (calls["SET", ""], calls["GET", ""]) == (1, 1)
    assert not raw_sessions(server)


def test_a_psync_to_a_replica_out_of_step_leaves_an_ordinary_session(start: Start, bare: Server) -> None:
    server = start(*_AT_ONCE, "--replicaof", "127.0.0.1", str(free_port()))
    sock = server.connect()
    # What follows in the same packet is a command again, once PSYNC is refused.
    sock.sendall(b"PSYNC ? -1\r\nPING\r\n")
    reply = receive(sock, b"+PONG\r\n")
    assert re.fullmatch(rb"-NOMASTERLINK [^\r]+\r\n\+PONG\r\n", reply), reply
    sock.sendall(b"ECHO hello\r\n")
    assert receive(sock, b"\r\nhello\r\n") == b"$5\r\nhello\r\n"
    calls = server.calls()
    assert calls["PSYNC", "NOMASTERLINK"] == 1
    assert (calls["PING", ""] >= 1, calls["ECHO", ""]) == (True, 1)
    assert not raw_sessions(server)


@pytest.mark.parametrize("request_", ["PSYNC ? -1", "SYNC"])
@pytest.mark.parametrize("together", [True, False])
def test_a_psync_in_a_transaction_is_refused_as_directly(
    server: Server, bare: Server, request_: str, together: bool
) -> None:
    conversation = [b"MULTI\r\n", request_.encode() + b"\r\n", b"SET k v\r\n", b"EXEC\r\n", b"ECHO end\r\n"]
    answers = []
    for one in (server, bare):
        sock = one.connect()
        if together:
            sock.sendall(b"".join(conversation))
            answers.append(receive(sock, b"\r\nend\r\n"))
            continue
        answer = b""
        for line in conversation:
            sock.sendall(line)
            answer += receive(sock, b"\r\n" if line != conversation[-1] else b"\r\nend\r\n")
        answers.append(answer)
    assert answers[0] == answers[1]


def test_a_tool_that_asks_for_a_copy_without_a_handshake_gets_it(start: Start) -> None:
    server = start(*_AT_ONCE)
    sock = server.connect()
    sock.sendall(b"SYNC\r\n")
    received = b""
    while b"VALKEY" not in received and b"REDIS" not in received:
        received += sock.recv(1 << 16)
    assert re.match(rb"\n*\$(\d+|EOF:\w{40})\r\n(VALKEY|REDIS)\d+", received), received


def test_an_acknowledgement_outside_replication_has_no_reply_and_shifts_none(server: Server) -> None:
    before = server.metrics()
    sock = server.connect()
    sock.sendall(b"REPLCONF ACK 1\r\nSET k v\r\nGET k\r\nREPLCONF GETACK *\r\nGET none\r\nECHO end\r\n")
    assert receive(sock, b"\r\nend\r\n") == b"+OK\r\n$1\r\nv\r\n$-1\r\n$3\r\nend\r\n"
    after = server.metrics()
    for sample, more in (
        ('valkey_keyspace_lookups_total{db_operation_name="GET",valkey_cache_hit="true"}', 1),
        ('valkey_keyspace_lookups_total{db_operation_name="GET",valkey_cache_hit="false"}', 1),
        ('valkey_command_calls_total{db_operation_name="REPLCONF",error_type=""}', 2),
    ):
        assert after[sample] - before.get(sample, 0) == more, sample


# ---- we follow a primary


def test_we_follow_a_primary_and_it_can_reach_us(start: Start, start_bare: Start) -> None:
    primary = start_bare(*_AT_ONCE)
    write_many(primary, "before")
    replica = start(*_AT_ONCE, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    write_many(primary, "after")
    assert_same_data(primary, replica)
    shown = info(primary)["slave0"]
    assert isinstance(shown, dict)
    assert (shown["ip"], shown["port"]) == ("127.0.0.1", replica.port)
    with valkey.Valkey(host=shown["ip"], port=shown["port"]) as client:
        assert client.execute_command("ROLE")[:3] == [b"slave", b"127.0.0.1", primary.port]
        with pytest.raises(valkey.exceptions.ReadOnlyError):
            client.set("k", "v")
    assert replica.calls()["SET", "READONLY"] == 1


def test_we_follow_a_primary_with_a_password_and_are_promoted(start: Start, start_bare: Start) -> None:
    primary = start_bare(*_AT_ONCE, "--requirepass", _PASSWORD)
    primary.password = _PASSWORD
    write_many(primary, "kept")
    replica = start(*_AT_ONCE, "--primaryauth", _PASSWORD)
    follow(replica, primary)
    assert_same_data(primary, replica)
    with replica.client() as client:
        assert client.execute_command("REPLICAOF", "NO", "ONE")
        assert client.execute_command("ROLE")[0] == b"master"
        assert client.set("mine", "1")
        assert client.dbsize() > 1


def test_a_port_of_ours_that_changed_is_the_one_announced(start: Start, start_bare: Start) -> None:
    primary = start_bare(*_AT_ONCE)
    replica = start(*_AT_ONCE)
    with replica.client(single_connection_client=True) as client:
        replica.port = free_port()
        client.config_set("port", replica.port)
        client.config_set("replica-announce-port", 0)  # Valkey's word for the port it listens on
    follow(replica, primary)
    shown = info(primary)["slave0"]
    assert isinstance(shown, dict)
    assert shown["port"] == replica.port


def test_an_address_the_user_announces_is_left_alone(start: Start, start_bare: Start) -> None:
    primary = start_bare(*_AT_ONCE)
    announced = ("--replica-announce-ip", "203.0.113.9", "--replica-announce-port", "6999")
    replica = start(*_AT_ONCE, *announced, "--replicaof", "127.0.0.1", str(primary.port))
    in_step(replica)
    shown = info(primary)["slave0"]
    assert isinstance(shown, dict)
    assert (shown["ip"], shown["port"]) == ("203.0.113.9", 6999)


def test_a_planned_failover_between_two_of_us_loses_nothing(start: Start) -> None:
    primary, replica = start(*_AT_ONCE), start(*_AT_ONCE)
    follow(replica, primary)
    write_many(primary, "before")
    with primary.client() as client:
        assert client.execute_command("FAILOVER", "TO", "127.0.0.1", str(replica.port))
    wait_until(lambda: info(replica)["role"] == "master", "the replica is the primary")
    in_step(primary)
    write_many(replica, "after")
    assert_same_data(replica, primary)
    assert info(replica, "stats")["sync_full"] == 0  # PSYNC … FAILOVER goes on where they were
    shown = info(replica)["slave0"]
    assert isinstance(shown, dict)
    assert (shown["ip"], shown["port"]) == ("127.0.0.1", primary.port)


def test_a_replica_of_our_replica_follows_too(start: Start, start_bare: Start) -> None:
    primary = start_bare(*_AT_ONCE)
    middle = start(*_AT_ONCE)
    follow(middle, primary)
    last = start_bare(*_AT_ONCE)
    follow(last, middle)
    write_many(primary, "through")
    assert_same_data(primary, last)
    assert_same_data(middle, last)


@pytest.mark.parametrize("edited", [False, True])
def test_sentinels_transaction_is_in_the_users_file(start: Start, tmp_path: Path, edited: bool) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("# mine\nmaxmemory-samples 7\n")
    server = start(str(conf), *_AT_ONCE)
    if edited:
        conf.write_text("# edited\n" + conf.read_text())
    sock = server.connect()
    # As Sentinel sends it. Besides, our own connection to the engine is cut, which an edited file's rewrite needs.
    sock.sendall(
        b"MULTI\r\nSLAVEOF 127.0.0.1 7\r\nCONFIG REWRITE\r\nCLIENT KILL TYPE normal\r\nCLIENT KILL TYPE pubsub\r\n"
        b"CLIENT KILL ID %b\r\nEXEC\r\nECHO end\r\n" % our_connection(server)
    )
    answer = receive(sock, b"$3\r\nend\r\n").removesuffix(b"$3\r\nend\r\n")
    assert re.fullmatch(rb"\+OK\r\n(\+QUEUED\r\n){5}\*5\r\n\+OK\r\n\+OK\r\n:\d+\r\n:0\r\n:1\r\n", answer), answer
    text = conf.read_text()
    assert text.startswith("# edited\n# mine\n" if edited else "# mine\n")
    assert "\nreplicaof 127.0.0.1 7\n" in text
    assert "announce" not in text
