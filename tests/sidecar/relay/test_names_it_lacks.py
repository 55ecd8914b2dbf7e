"""Commands that the engine lacks: they are known by the name that was sent, and stay as unknown to the engine as ever."""

from __future__ import annotations

import re
import socket
import subprocess
import sysconfig
from pathlib import Path

import pytest
import valkey

from sidecar.relay.commands import CommandTable
from telemetry import spanpacket
from telemetry.commandnames import KNOWN
from telemetry.housekeeping import is_housekeeping
from telemetry.redaction import redact_reply
from tests.conftest import Server, Start, receive, wait_until
from tests.sidecar.relay.traced import PARENT_ID, T, Talk, command, lines

STACKEXCHANGE = (
    "CLIENT SETNAME web(SE.Redis-v2.8.16)\nCLIENT SETINFO lib-name SE.Redis\nCLIENT SETINFO lib-ver 2.8.16\nCLIENT ID",
    "CONFIG GET timeout\nCONFIG GET replica-read-only\nCONFIG GET databases\nSENTINEL MASTERS",
    "INFO replication\nINFO server\nCLUSTER NODES\nCLUSTER SLOTS\nGET __Booksleeve_TieBreak\nECHO x\nPING",
)
"""What StackExchange.Redis sends on a new connection, and what it subscribes to on its second one."""
SUBSCRIPTION = "SUBSCRIBE __Booksleeve_MasterChanged"


# ---- spans


def test_a_handshake_of_stackexchange_redis_leaves_no_span_and_uses_up_no_context(talk: Talk) -> None:
    conversation = talk(
        f"TRACEPARENT {T}", *STACKEXCHANGE, SUBSCRIPTION + "\nUNSUBSCRIBE __Booksleeve_MasterChanged", "GET a"
    )
    assert [(s.name, s.parent_id) for s in conversation.spans] == [("GET", PARENT_ID)]
    assert b"-ERR unknown command 'SENTINEL'" in b"".join(conversation.replies)
    assert conversation.drops == {}


@pytest.mark.parametrize(
    "spelled", [b"SENTINEL MASTERS\r\n", b"sentinel masters\r\n", command("Sentinel", "MASTERS"), command("SENTINEL")]
)
def test_housekeeping_is_a_matter_of_the_name_that_was_sent(talk: Talk, spelled: bytes) -> None:
    assert talk(spelled).spans == []
    assert [s.name for s in talk(spelled, trace_exclude=("GET",)).spans] == [
        "SENTINEL MASTERS" if b"asters" in spelled.lower() else "SENTINEL"
    ]


def test_an_unknown_subcommand_is_treated_as_what_it_is_of(talk: Talk) -> None:
    assert talk(f"TRACEPARENT {T}\nSENTINEL NONESUCH x", "GET a").one("GET").parent_id == PARENT_ID


def test_an_excluded_name_that_the_engine_lacks_has_no_span(talk: Talk) -> None:
    conversation = talk("JSON.GET k", "FT.SEARCH i q", trace_exclude=("JSON.GET",))
    assert [s.name for s in conversation.spans] == ["FT.SEARCH"]


@pytest.mark.parametrize(
    ("sent", "name", "error"),
    [
        (command("JSON.SET", "secret", "$", "1"), "JSON.SET", "ERR unknown command 'JSON.SET'"),
        (command("bf.add", "secret", "x"), "BF.ADD", "ERR unknown command 'BF.ADD'"),
        (b"hotkeys get\r\n", "HOTKEYS GET", "ERR unknown command 'HOTKEYS'"),
        (command("HOTKEYS", "SECRET"), "_OTHER", "ERR unknown command '?'"),
        (command("FT.SECRET", "x"), "_OTHER", "ERR unknown command '?'"),
        (command("secret"), "_OTHER", "ERR unknown command '?'"),
        (command("OBJECT", "SECRET", "k"), "_OTHER", "ERR unknown subcommand '?'. Try OBJECT HELP."),
        (command("JSON.SET\0x"), "_OTHER", "ERR unknown command '?'"),
    ],
)
def test_a_well_known_name_is_shown_and_any_other_is_not(talk: Talk, sent: bytes, name: str, error: str) -> None:
    span = talk(sent).one(name)
    assert redact_reply(span.name, span.error.decode()) == error
    assert span.flags & spanpacket.ERROR_REPLY


# ---- what the engine and other clients see


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_the_engine_refuses_them_byte_for_byte(server: Server, bare: Server, size: int) -> None:
    names = [
        "SENTINEL MASTERS x",
        "SENTINEL",
        "SENTINEL FOO",
        "JSON.SET a b",
        "client maint_notifications on",
        "HOTKEYS GET",
        "VADD a",
    ]
    plain = "".join(f"{name}\n" for name in names)
    data = lines(f"MULTI\n{plain}EXEC\n{plain}CLIENT REPLY SKIP\nSENTINEL MASTERS\nHELLO 3\n{plain}")
    data += (
        plain.replace("\n", "\r\n").encode()
        + command("SENTINEL", "x\0y")
        + command("SENTINEL\0", "x")
        + command("SENTINEL", "y" * 300)
    )
    data += command("SENTINEL", "M" * (1 << 20) + "\0" + "S" * 4000) + command("ECHO", "the end")
    assert _talk(server, data, size) == _talk(bare, data, size)


def test_client_list_has_no_last_command_then_as_without_us(server: Server, bare: Server) -> None:
    for sent in (command("JSON.SET", "a"), command("SENTINEL", "MASTERS"), command("SENTINEL"), b"json.get x\r\n"):
        shown = []
        for one in (server, bare):
            sock = one.connect()
            sock.sendall(lines("CLIENT SETNAME lacking") + sent)
            receive(sock, b"beginning with: \r\n" if sent == command("SENTINEL") else b"' \r\n")
            with one.client() as client:
                shown.append([entry["cmd"] for entry in client.client_list() if entry["name"] == "lacking"])
            sock.close()
        assert shown == [["NULL"], ["NULL"]]


# ---- counts


def test_a_well_known_name_counts_as_itself_and_only_once_it_was_sent(start: Start) -> None:
    server = start("--save", "")
    assert not {name for name, _ in server.calls()} & {"SENTINEL MASTERS", "JSON.SET"}
    before = server.calls().get(("_OTHER", "ERR"), 0)
    _talk(server, lines("SENTINEL MASTERS\nJSON.SET a\nNONESUCH a\nSENTINEL NONESUCH\nECHO x"))
    calls = server.calls()
    counted = [calls[name, "ERR"] for name in ("SENTINEL MASTERS", "JSON.SET", "_OTHER")]
    assert counted == [1, 1, before + 2]
    assert not [name for name in server.metrics() if "TS.ADD" in name]


def test_a_command_that_rename_command_took_away_is_housekeeping_as_before(start: Start) -> None:
    """Many take CONFIG away, and clients ask for it nevertheless."""
    server = start("--save", "", "--rename-command", "CONFIG", "", "--rename-command", "KEYS", "hidden-keys")
    error = _talk(server, lines("CONFIG GET databases\nKEYS *\nECHO x"))
    assert b"-ERR unknown command 'CONFIG'" in error
    assert b"-ERR unknown command 'KEYS'" in error
    assert _talk(server, lines("HIDDEN-KEYS *\nECHO x")).startswith(b"*0\r\n")
    calls = server.calls()
    assert [calls["CONFIG GET", "ERR"], calls["KEYS", "ERR"], calls["KEYS", ""]] == [1, 1, 1]
    assert ("_OTHER", "ERR") not in calls


def test_all_errors_that_a_handshake_expects_are_housekeepings(start: Start) -> None:
    server = start("--save", "")
    for part in STACKEXCHANGE:
        _talk(server, lines(part))
    errors = {name for name, error in server.calls() if error}
    assert errors == {"SENTINEL MASTERS", "CLUSTER NODES", "CLUSTER SLOTS"}
    assert all(is_housekeeping(name) for name in errors)


def test_what_newer_clients_ask_for_in_vain_counts_as_itself(start: Start) -> None:
    """redis-py's CLIENT MAINT_NOTIFICATIONS, and the helper's TRACEPARENT where our server is told not to know it."""
    server = start("--save", "", "--sidecar-trace-context", "off")
    _talk(server, lines("CLIENT MAINT_NOTIFICATIONS ON\nTRACEPARENT x\nECHO x"))
    calls = server.calls()
    assert (calls["CLIENT MAINT_NOTIFICATIONS", "ERR"], calls["TRACEPARENT", "ERR"]) == (1, 1)
    assert ("_OTHER", "ERR") not in calls


# ---- a module that is loaded later


_MODULE = """
typedef int (*GetApi)(const char *, void *);
static int (*reply)(void *, const char *);
static int answer(void *ctx, void **argv, int argc) { (void)argv; (void)argc; return reply(ctx, "OK"); }
int ValkeyModule_OnLoad(void *ctx, void **argv, int argc) {
    GetApi get = (GetApi)((void **)ctx)[0];
    void (*attributes)(void *, const char *, int, int);
    int (*create)(void *, const char *, void *, const char *, int, int, int);
    (void)argv; (void)argc;
    get("ValkeyModule_SetModuleAttribs", &attributes);
    get("ValkeyModule_CreateCommand", &create);
    get("ValkeyModule_ReplyWithSimpleString", &reply);
    attributes(ctx, "fakejson", 1, 1);
    return create(ctx, "json.set", answer, "write", 1, 1, 1);
}
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module whose JSON.SET says OK."""
    folder = tmp_path_factory.mktemp("module")
    (folder / "json.c").write_text(_MODULE)
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    subprocess.run([*compiler, "-shared", "-fPIC", "-o", "json.so", "json.c"], cwd=folder, check=True)
    return folder / "json.so"


def test_a_module_that_is_loaded_later_is_found_out_and_its_command_keeps_its_series(
    start: Start, module: Path
) -> None:
    server = start("--save", "", "--enable-module-command", "yes", "--sidecar-workers", "1")
    with server.client(client_name="json") as client, server.client() as admin:
        with pytest.raises(valkey.ResponseError, match=r"unknown command 'JSON\.SET'"):
            client.execute_command("JSON.SET", "a", "$", "1")
        admin.execute_command("MODULE", "LOAD", str(module))

        def is_a_command_like_any_other() -> bool:
            client.execute_command("JSON.SET", "a", "$", "1")
            return "json.set" in {entry["cmd"] for entry in admin.client_list()}

        wait_until(is_a_command_like_any_other, "the command table was read again")
    calls = server.calls()
    assert calls["JSON.SET", "ERR"] == 1
    assert calls["JSON.SET", ""] >= 2
    series = [
        name for name in server.metrics() if re.match(r'valkey_command_calls_total\{db_operation_name="JSON.SET"', name)
    ]
    assert len(series) == 2


# ---- the table


def test_a_known_name_becomes_the_command_when_the_engine_has_it() -> None:
    table = CommandTable()
    table.update([("get", [])])
    table.lack(KNOWN)
    assert table.lookup(b"JSON.SET") == ("JSON.SET", 0)
    assert "JSON.SET" in table.lacking
    assert "GET" not in table.lacking
    names = list(table.names)
    table.update([("get", []), ("json.set", ["blocking"]), ("sentinel", []), ("sentinel|masters", [])])
    table.lack(KNOWN)
    assert table.names == names
    assert len(set(names)) == len(names)
    assert table.lookup(b"JSON.SET")[1] != 0
    assert table.lookup(b"SENTINEL|MASTERS")[0] == "SENTINEL MASTERS"
    assert not {"JSON.SET", "SENTINEL MASTERS"} & table.lacking
    assert "SENTINEL SET" in table.lacking


def test_a_known_name_never_hides_a_command_that_was_given_it() -> None:
    table = CommandTable()
    table.update(
        [("get", []), ("config", []), ("config|set", [])], {"CONFIG SET"}, {"json.set": "get", "sentinel": "config"}
    )
    table.lack(KNOWN)
    assert table.lookup(b"JSON.SET")[0] == "GET"
    assert table.lookup(b"SENTINEL|SET")[0] == "CONFIG SET"
    assert table.lookup(b"CONFIG|SET") == ("CONFIG SET", 0)
    assert table.lookup(b"GET") == ("GET", 0)


def _talk(server: Server, data: bytes, size: int = 0) -> bytes:
    """All that comes back until the server has closed; data in pieces of this size, each on its way when the next comes."""
    sock = server.connect()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = data[: 3000 if size else 0]
    for at in range(0, len(head), size or 1):
        sock.sendall(head[at : at + size])
    sock.sendall(data[len(head) :] + command("QUIT"))
    answer = b""
    while chunk := sock.recv(1 << 16):
        answer += chunk
    return re.sub(rb"\$2\r\nid\r\n:\d+", b"", answer)
