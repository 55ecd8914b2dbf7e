"""What /metrics says equals what the engine says."""

from __future__ import annotations

import random
import re

import pytest
import valkey

from tests.conftest import Server, Start, receive, wait_until
from tests.sidecar.relay.test_transparency import CONVERSATIONS, END, converse, lines

# Commands that the engine counts for our own connection too, and those whose form we change on the way.
_OURS = {
    "INFO",
    "CLIENT LIST",
    "CLIENT SETNAME",
    "CLIENT NO-EVICT",
    "ACL GETUSER",
    "COMMAND",
    "PING",
    "CLIENT SETINFO",
    "CONFIG RESETSTAT",
    "CONFIG GET",
    "SLOWLOG GET",
    "SLOWLOG LEN",
    "LATENCY LATEST",
}


def engine_calls(server: Server) -> dict[str, tuple[int, int]]:
    """{command: (calls and rejected calls, those that failed)} of INFO commandstats."""
    with server.client() as client:
        stats = client.info("commandstats")
    found = {}
    for key, value in stats.items():
        name = key.removeprefix("cmdstat_").replace("|", " ").upper()
        found[name] = (value["calls"] + value["rejected_calls"], value["failed_calls"] + value["rejected_calls"])
    return found


def our_calls(server: Server) -> dict[str, tuple[int, int]]:
    totals: dict[str, tuple[int, int]] = {}
    for (name, error), calls in server.calls().items():
        before = totals.get(name, (0, 0))
        totals[name] = (before[0] + calls, before[1] + (calls if error else 0))
    return totals


def difference(after: dict[str, tuple[int, int]], before: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    changed = {}
    for name, (calls, errors) in after.items():
        old = before.get(name, (0, 0))
        if (calls, errors) != old and name not in _OURS:
            changed[name] = (calls - old[0], errors - old[1])
    return changed


def assert_equal_counts(server: Server, before: dict[str, tuple[int, int]]) -> None:
    ours = difference(our_calls(server), before)
    ours.pop("_OTHER", None)
    assert ours == difference(engine_calls(server), {})


@pytest.fixture
def counted(server: Server) -> tuple[Server, dict[str, tuple[int, int]]]:
    """The server with the engine's statistics at zero, and our counts at that moment."""
    return server, our_calls(server)


Counted = tuple[Server, dict[str, tuple[int, int]]]


def test_a_mixed_workload_counts_to_the_unit(counted: Counted) -> None:
    server, before = counted
    rng = random.Random(1)
    with server.client() as client:
        for i in range(300):
            client.set(f"k{i % 50}", i)
            client.get(f"k{rng.randrange(100)}")
            client.hset("h", f"f{i}", i)
            client.hgetall("h")
            client.zadd("z", {f"m{i}": i})
            client.lpush("l", i)
            with pytest.raises(valkey.ResponseError):
                client.incr("h")
        pipe = client.pipeline(transaction=False)
        for i in range(2000):
            pipe.set(f"p{i}", i)
            pipe.get(f"p{i}")
            pipe.execute_command("LPUSH", f"p{i}", 1)
        pipe.execute(raise_on_error=False)
        pipe = client.pipeline(transaction=True)
        for i in range(100):
            pipe.incr("n")
            pipe.lpush("n", i)
        pipe.execute(raise_on_error=False)
    assert_equal_counts(server, before)


# Commands inside scripts are the engine's alone; what we change on its way is counted under its own name.
_NOT_COMPARABLE = {"scripts", "replies off and a refused SYNC", "REPLCONF of all kinds", "transaction with inspected commands", "CLIENT REPLY in a transaction", "subscription in a transaction",
                   "replies off and a subscription", "replies off and a transaction"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(CONVERSATIONS) - _NOT_COMPARABLE))
def test_every_conversation_counts_to_the_unit(counted: Counted, name: str) -> None:
    server, before = counted
    converse(server, CONVERSATIONS[name] + END, 1)
    ours = difference(our_calls(server), before)
    ours.pop("_OTHER", None)
    engine = difference(engine_calls(server), {})
    if "off" in name or "skip" in name:  # without replies nobody sees the errors
        ours = {k: (v[0], 0) for k, v in ours.items()}
        engine = {k: (v[0], 0) for k, v in engine.items()}
    assert ours == engine


def test_errors_are_counted_by_their_code(counted: Counted) -> None:
    server, _ = counted
    before = server.calls()
    converse(
        server,
        lines(
            "SET s x\nLPUSH s 1\nINCR s\nEVALSHA ffffffffffffffffffffffffffffffffffffffff 0\nEXEC\nMULTI\nNOSUCH\nEXEC\nGET"
        )
        + END,
        1,
    )
    after = server.calls()
    changed = {key: n - before.get(key, 0) for key, n in after.items() if n != before.get(key, 0)}
    assert changed[("LPUSH", "WRONGTYPE")] == 1
    assert changed[("INCR", "ERR")] == 1
    assert changed[("EVALSHA", "NOSCRIPT")] == 1
    assert changed[("EXEC", "ERR")] == 1
    assert changed[("EXEC", "EXECABORT")] == 1
    assert changed[("_OTHER", "ERR")] == 1
    assert changed[("GET", "ERR")] == 1


def test_error_codes_are_bounded(start: Start) -> None:
    server = start("--save", "")
    with server.client() as client:
        for i in range(100):
            with pytest.raises(valkey.ResponseError):
                client.eval(f"return redis.error_reply('CODE{i} text')", 0)
            with pytest.raises(valkey.ResponseError):
                client.eval("return redis.error_reply('lower case')", 0)
    codes = {code for _name, code in server.calls()}
    assert len(codes) <= 66
    assert "_OTHER" in codes
    assert "lower" not in codes


def test_hits_and_misses_come_from_the_replies(server: Server) -> None:
    def lookups() -> dict[tuple[str, str], float]:
        samples = server.metrics()
        return {
            (name, hit): samples.get(
                f'valkey_keyspace_lookups_total{{db_operation_name="{name}",valkey_cache_hit="{hit}"}}', 0
            )
            for name in ("GET", "MGET", "EXISTS", "HGETALL", "STRLEN", "SMEMBERS")
            for hit in ("true", "false")
        }

    before = lookups()
    converse(
        server,
        lines(
            "SET a 1\nGET a\nGET b\nGET c\nMGET a b a\nEXISTS a b a\nHGETALL nosuch\nHSET h f v\nHGETALL h\nSTRLEN a\nSTRLEN x\nMULTI\nGET a\nGET b\nEXEC\nHELLO 3\nGET b\nSMEMBERS s"
        )
        + END,
        1,
    )
    after = lookups()
    assert {key: after[key] - before[key] for key in after} == {
        ("GET", "true"): 2, ("GET", "false"): 4, ("MGET", "true"): 2, ("MGET", "false"): 1, ("EXISTS", "true"): 2, ("EXISTS", "false"): 1,
        ("HGETALL", "true"): 1, ("HGETALL", "false"): 1, ("STRLEN", "true"): 1, ("STRLEN", "false"): 1, ("SMEMBERS", "true"): 0, ("SMEMBERS", "false"): 1,
    }  # fmt: skip


def test_bytes_in_and_out_are_those_on_the_wire(server: Server) -> None:
    names = [
        f'valkey_command_{d}_bytes_total{{db_operation_name="{c}"}}'
        for c in ("SET", "GET")
        for d in ("request", "response")
    ]
    before = server.metrics()
    sent = lines("SET key " + "v" * 1000), lines("GET key")
    sock = server.connect()
    sock.sendall(b"".join(sent))
    answer = receive(sock, b"v\r\n")
    after = server.metrics()
    assert [after[n] - before.get(n, 0) for n in names] == [
        len(sent[0]),
        len(b"+OK\r\n"),
        len(sent[1]),
        len(answer) - len(b"+OK\r\n"),
    ]


def test_waiting_does_not_spoil_the_latency_picture(server: Server) -> None:
    def count(metric: str) -> float:
        return server.metrics().get(metric, 0)

    blocked = 'valkey_command_blocked_duration_seconds_count{db_operation_name="BLPOP"}'
    waited = 'valkey_command_blocked_duration_seconds_sum{db_operation_name="BLPOP"}'
    latency = 'valkey_command_duration_seconds_count{db_operation_name="BLPOP",error_type=""}'
    read = 'valkey_command_blocked_duration_seconds_count{db_operation_name="XREAD"}'
    read_latency = 'valkey_command_duration_seconds_count{db_operation_name="XREAD",error_type=""}'
    before = {m: count(m) for m in (blocked, waited, latency, read, read_latency)}
    with server.client() as client:
        client.blpop("nosuch", timeout=0.2)
        client.xread({"s": "$"}, block=20)
        client.xread({"s": "0"})
    after = {m: count(m) for m in before}
    assert after[blocked] - before[blocked] == 1
    assert 0.2 <= after[waited] - before[waited] < 5
    assert after[latency] == before[latency] == 0
    assert after[read] - before[read] == 1
    assert after[read_latency] - before[read_latency] == 1


def test_a_duration_is_as_long_as_the_command_took(server: Server) -> None:
    def duration() -> dict[str, float]:
        of_debug = re.compile(
            r'valkey_command_duration_seconds_(\w+){db_operation_name="DEBUG",error_type=""(?:,le="(.+)")?}'
        )
        matches = ((of_debug.fullmatch(name), value) for name, value in server.metrics().items())
        return {match[2] or match[1]: value for match, value in matches if match}

    before = duration()
    with server.client() as client:
        client.execute_command("DEBUG", "SLEEP", "0.2")
    seen = {name: value - before.get(name, 0) for name, value in duration().items()}
    seconds = seen.pop("sum")
    assert 0.2 <= seconds <= 1
    assert seen.pop("count") == 1
    assert seen["0.1"] == 0
    assert seen == {bound: seconds <= float(bound) for bound in seen}


@pytest.mark.parametrize(
    ("conversation", "durations"),
    [
        ("SET a 1", 1),
        ("MULTI\nSET a 1\nEXEC", 0),
        ("CLIENT REPLY OFF\nSET a 1\nCLIENT REPLY ON", 0),
        ("CLIENT REPLY SKIP\nSET a 1", 0),
    ],
    ids=["alone", "in a transaction", "replies off", "reply skipped"],
)
def test_what_has_no_reply_of_its_own_is_counted_without_a_duration(
    server: Server, conversation: str, durations: int
) -> None:
    names = [
        f'valkey_command_{what}{{db_operation_name="SET",error_type=""}}'
        for what in ("calls_total", "duration_seconds_count")
    ]
    before = server.metrics()
    converse(server, lines(conversation) + END, 1)
    after = server.metrics()
    assert [after[name] - before.get(name, 0) for name in names] == [1, durations]


def test_in_flight_is_seen_and_ends(server: Server) -> None:
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 0, "nothing is in flight")
    before = server.calls().get(("BLPOP", "client_gone"), 0)
    sock = server.connect()
    sock.sendall(lines("BLPOP nosuch 0"))
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 1, "one command is in flight")
    sock.close()
    wait_until(lambda: server.metrics()["valkey_command_in_flight"] == 0, "nothing is in flight")
    assert server.calls()[("BLPOP", "client_gone")] == before + 1


def test_connections_are_counted_by_transport(server: Server) -> None:
    def now() -> tuple[float, float, float]:
        samples = server.metrics()
        return (
            samples['valkey_client_connections{network_transport="tcp",tls="false"}'],
            samples["valkey_client_connections_opened_total"],
            samples["valkey_client_connections_closed_total"],
        )

    before = now()
    socks = [server.connect() for _ in range(5)]
    for sock in socks:
        sock.sendall(b"PING\r\n")
        receive(sock, b"+PONG\r\n")
    assert now() == (before[0] + 5, before[1] + 5, before[2])
    for sock in socks:
        sock.close()
    wait_until(lambda: now() == (before[0], before[1] + 5, before[2] + 5), "the connections are gone")


RAW = {
    "subscribe_in_transaction": CONVERSATIONS["subscription in a transaction"],
    "subscribe_without_replies": CONVERSATIONS["replies off and a subscription"],
    "no_reply_in_transaction": CONVERSATIONS["CLIENT REPLY in a transaction"],
    "reply_without_request": lines(
        "ACL SETUSER mute on nopass +@all -client|reply\nAUTH mute x\nCLIENT REPLY OFF\nPING"
    ),
}
"""By reason: what makes a session one that cannot be followed."""


@pytest.mark.parametrize("reason", RAW)
def test_a_session_that_cannot_be_followed_is_raw_and_counted(server: Server, reason: str) -> None:
    def raw() -> dict[str, float]:
        beginning = "valkey_sidecar_sessions_raw_total"
        return {name: value for name, value in server.metrics().items() if name.startswith(beginning)}

    metric = f'valkey_sidecar_sessions_raw_total{{reason="{reason}"}}'
    before = raw()
    converse(server, RAW[reason] + END, 1)
    assert raw() == {**before, metric: before.get(metric, 0) + 1}
    with server.client() as client:
        client.acl_deluser("mute")


def test_without_a_ledger_no_command_is_counted_and_connections_are(start: Start) -> None:
    server = start("--save", "", "--sidecar-workers", "1", "--sidecar-ledger", "off")
    with server.client() as client:
        client.set("key", "value")
        assert client.get("key") == b"value"
        with pytest.raises(valkey.ResponseError):
            client.lpush("key", 1)
        client.blpop("nosuch", timeout=0.01)
        samples = server.metrics()
    assert [name for name in samples if name.startswith(("valkey_command_", "valkey_keyspace_"))] == [
        "valkey_command_in_flight"
    ]
    assert samples['valkey_client_connections{network_transport="tcp",tls="false"}'] == 1
    assert samples["valkey_client_connections_opened_total"] >= 1
