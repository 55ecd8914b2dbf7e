"""Through us a client sees what it would see directly: the same bytes, the same closes, for every command that changes a session's state."""

from __future__ import annotations

import re
import socket

import pytest

from tests.conftest import Server, receive

# What differs between any two servers or runs: ids, times, addresses.
_VARIABLE = [
    (re.compile(rb"\$2\r\nid\r\n:\d+"), b"$2\r\nid\r\n:N"),
    (re.compile(rb"\+\d+\.\d+ \[\d+ [^\]]+\]"), b"+T [0 A]"),
]


def bulk(*args: str | bytes) -> bytes:
    encoded = [a.encode() if isinstance(a, str) else a for a in args]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in encoded)


def lines(text: str) -> bytes:
    """One request per line, as arrays."""
    return b"".join(bulk(*line.split()) for line in text.strip().splitlines())


def converse(server: Server, data: bytes, cuts: int) -> bytes:
    """Everything the server answers to these bytes, sent in pieces, until it closes or a closing ECHO comes back."""
    sock = server.connect()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    size = max(1, len(data) // cuts)
    try:
        for i in range(0, len(data), size):
            sock.sendall(data[i : i + size])
        answer = receive(sock, b"$11\r\nend-of-test\r\n", timeout=20)
    except ConnectionError:
        answer = b"<reset>"
    return settled(answer)


def settled(answer: bytes) -> bytes:
    """The answer without what differs between any two servers or runs."""
    for pattern, replacement in _VARIABLE:
        answer = pattern.sub(replacement, answer)
    return answer


END = bulk("ECHO", "end-of-test")
LEAVE_PUBSUB = lines("RESET")

CONVERSATIONS = {
    "types": lines("SET a 1\nGET a\nGET b\nINCR a\nLPUSH l 1 2 3\nLRANGE l 0 -1\nHSET h f v\nHGETALL h\nZADD z 1.5 m\nZSCORE z m\nGET l\nMGET a b h\nSADD s x\nSMEMBERS s"),
    "types in RESP3": lines("HELLO 3\nSET a 1\nGET b\nHSET h f v\nHGETALL h\nZADD z 1.5 m\nZSCORE z m\nSMEMBERS s\nDEBUG PROTOCOL attrib\nDEBUG PROTOCOL push\nDEBUG PROTOCOL map\nDEBUG PROTOCOL set\nDEBUG PROTOCOL bignum\nDEBUG PROTOCOL verbatim\nDEBUG PROTOCOL double\nDEBUG PROTOCOL true\nDEBUG PROTOCOL null\nMGET a b"),
    "inline": b'PING\r\nset a "x y"\r\nget a\r\n\r\nGET a\n  incr   n  \r\nnosuch a b\r\nconfig get port-not\r\n',
    "switching protocols": lines("HELLO 3\nHELLO 2\nHELLO 4\nHELLO\nGET a"),
    "unknown commands": lines("NOSUCH a\nCONFIG NOSUCH\nCLIENT NOSUCH\nGET\nSET a\nXREAD\nSUBSCRIBE\nEXEC\nDISCARD"),
    "transaction": lines("MULTI\nSET a 1\nINCR a\nGET a\nEXEC\nGET a"),
    "transaction with errors": lines("SET s x\nMULTI\nINCR s\nGET s\nLPUSH s 1\nEXEC\nMULTI\nNOSUCH\nSET a 1\nEXEC\nGET a\nMULTI\nMULTI\nDISCARD\nEXEC"),
    "transaction discarded": lines("MULTI\nSET a 1\nDISCARD\nGET a\nWATCH w\nSET w 1\nMULTI\nGET a\nEXEC\nUNWATCH\nMULTI\nEXEC"),
    "transaction in RESP3": lines("HELLO 3\nMULTI\nHSET h f v\nHGETALL h\nGET nosuch\nEXEC\nMULTI\nRESET"),
    "transaction in RESP3 on a key that was changed": lines("HELLO 3\nSET w 1\nWATCH w\nSET w 2\nMULTI\nSET a 1\nGET w\nEXEC\nGET a\nMULTI\nGET w\nEXEC"),
    "transaction with inspected commands": lines("MULTI\nCONFIG GET maxmemory\nCONFIG SET maxmemory 0\nINFO nosuch\nGET a\nEXEC\nMULTI\nCONFIG SET port abc\nCONFIG SET maxmemory abc\nEXEC"),
    "transaction with blocking commands": lines("MULTI\nBLPOP nosuch 0\nXREAD BLOCK 0 STREAMS s $\nGET a\nEXEC"),
    "subscriptions": lines("SUBSCRIBE a b c\nPSUBSCRIBE p* q*\nPING\nPING hi\nGET a\nUNSUBSCRIBE a\nUNSUBSCRIBE\nPUNSUBSCRIBE\nUNSUBSCRIBE\nPUNSUBSCRIBE x\nGET a\nSSUBSCRIBE s1\nSUNSUBSCRIBE\nSUNSUBSCRIBE\nGET a"),
    "subscriptions in RESP3": lines("HELLO 3\nSUBSCRIBE a b\nGET a\nPUBLISH a hello\nSUBSCRIBE a\nUNSUBSCRIBE nosuch\nUNSUBSCRIBE\nUNSUBSCRIBE\nSSUBSCRIBE s1 s2\nSPUBLISH s1 x\nSUNSUBSCRIBE\nGET a"),
    "arrays like messages in RESP3": lines("HELLO 3\nSUBSCRIBE a\nRPUSH l message x y\nLRANGE l 0 -1\nMULTI\nLRANGE l 0 -1\nINCR n\nEXEC\nGET a\nHELLO 2\nSUBSCRIBE b\nUNSUBSCRIBE\nLRANGE l 0 -1"),
    "subscription in a transaction": lines("MULTI\nSUBSCRIBE a b\nGET x\nEXEC") + LEAVE_PUBSUB,
    "subscription ended by RESET": lines("SUBSCRIBE a\nPSUBSCRIBE p") + LEAVE_PUBSUB,
    "replies off": lines("CLIENT REPLY OFF\nSET a 1\nNOSUCH\nCLIENT REPLY ON\nGET a"),
    "reply skipped": lines("CLIENT REPLY SKIP\nSET a 1\nGET a\nCLIENT REPLY SKIP\nCLIENT REPLY SKIP\nGET a\nGET a\nCLIENT REPLY NOSUCH\nCLIENT REPLY"),
    "replies off and a refused RESET": lines("RPUSH cfg port 1 a b\nCLIENT REPLY OFF\nRESET x\nCLIENT REPLY ON\nCONFIG GET maxmemory\nLRANGE cfg 0 -1\nGET a"),
    "replies off and a refused SYNC": lines("CLIENT REPLY OFF\nSYNC x\nCLIENT REPLY ON\nPING\nCLIENT REPLY SKIP\nSYNC x\nPING"),
    "a skipped reply and then nothing": lines("CLIENT REPLY SKIP") + b"*0\r\n" + lines("GET a\nCLIENT REPLY SKIP") + b"\r\n" + lines("GET a\nCLIENT REPLY SKIP\nCLIENT REPLY OFF\nRESET\nGET a"),
    "transactions that are refused": lines("MULTI x\nSUBSCRIBE a\nUNSUBSCRIBE\nMULTI\nDISCARD x\nGET a\nDISCARD\nGET a\nMULTI\nEXEC x\nEXEC\nGET a\nMULTI\nGET\nRESET x\nEXEC"),
    "protocol changed in a transaction": lines("HSET h f v\nMULTI\nHELLO 3\nHGETALL h\nEXEC\nHGETALL h\nSUBSCRIBE a\nPUBLISH a x\nHELLO 2\nPUBLISH a y\nUNSUBSCRIBE\nGET a"),
    "REPLCONF of all kinds": lines("REPLCONF ACK\nREPLCONF bad x ACK 1\nREPLCONF ACK 1\nREPLCONF capa eof capa psync2\nREPLCONF GETACK *\nREPLCONF\nREPLCONF capa eof ACK 1\nGET a"),
    "blanks that separate nothing inline": b"config\x0bset timeout 5\r\nconfig set timeout\x0b 5\r\nclient\x0creply\x0coff\r\n\x0bget\x0c a\r\nget a\x0b\r\n",
    "groups with names of options": lines("XGROUP CREATE st block $ MKSTREAM\nXGROUP CREATE st streams-g $\nXREADGROUP GROUP block c STREAMS st >\nXREADGROUP GROUP streams-g streams BLOCK 20 COUNT 1 STREAMS st >\nXREADGROUP BLOCK 20 GROUP block block NOACK STREAMS st >\nXREAD COUNT BLOCK STREAMS st 0\nXREAD COUNT 1 BLOCK 20 STREAMS st $"),
    "replies off until RESET": lines("CLIENT REPLY OFF\nGET a\nRESET\nGET a"),
    "replies off and a subscription": lines("CLIENT REPLY OFF\nSUBSCRIBE a\nGET a\nRESET\nGET a"),
    "replies off and a transaction": lines("CLIENT REPLY OFF\nMULTI\nSET a 5\nEXEC\nCLIENT REPLY ON\nGET a\nCLIENT REPLY SKIP\nMULTI\nGET a\nEXEC\nGET a"),
    "CLIENT REPLY in a transaction": lines("MULTI\nCLIENT REPLY OFF\nSET a 1\nEXEC\nCLIENT REPLY ON\nGET a"),
    "tracking": lines("HELLO 3\nCLIENT TRACKING ON\nGET a\nSET a 1\nGET a\nCLIENT TRACKING OFF\nGET a"),
    "scripts": lines("FUNCTION LIST") + bulk("EVAL", "return {1, 'two', redis.status_reply('QUEUED'), false}", "0") + bulk("EVAL", "return redis.error_reply('MY err')", "0") + bulk("EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", "a", "7") + bulk("FUNCTION", "LOAD", "#!lua name=l\nserver.register_function('f', function(keys, args) return args[1] end)") + lines("FCALL f 0 hello\nEVALSHA ffffffffffffffffffffffffffffffffffffffff 0\nSCRIPT EXISTS x"),
    "blocking": lines("RPUSH l 1 2\nBLPOP l 0\nBLPOP l nosuch 1\nBLPOP nosuch 0.05\nXADD s 1-1 f v\nXREAD BLOCK 50 STREAMS s $\nXREAD BLOCK 0 STREAMS s 0\nXREAD STREAMS s 0\nBLMOVE nosuch l LEFT LEFT 0.05\nWAIT 0 10\nGET a"),
    "waiting for the append-only file": lines("SET a 1\nWAITAOF 0 0 0\nWAITAOF 1 0 10\nWAITAOF 0 1 20\nWAITAOF 0 x 0\nMULTI\nWAITAOF 0 1 0\nEXEC\nGET a"),
    "copies and order": lines("RPUSH l 3 1 2\nSORT l\nSORT l DESC LIMIT 0 2\nSORT l ALPHA STORE s\nSORT_RO l\nCOPY s t\nCOPY s t\nCOPY s t REPLACE\nCOPY nosuch u\nRENAME t u\nRENAME t u\nSET a 1\nGETEX a EX 100\nGETEX nosuch\nTYPE u\nGETDEL a\nGETDEL u\nLMPOP 2 nosuch l LEFT COUNT 2\nLMPOP 1 l LEFT COUNT 2\nLMPOP 1 l LEFT\nSCAN 0 COUNT 100 TYPE list"),
    "looking inside": lines("SET a 1\nRPUSH l x\nOBJECT ENCODING a\nOBJECT ENCODING l\nOBJECT REFCOUNT l\nOBJECT IDLETIME nosuch\nOBJECT FREQ a\nOBJECT ENCODING nosuch\nOBJECT NOSUCH a\nOBJECT HELP\nMEMORY USAGE a SAMPLES x\nMEMORY HELP\nMEMORY USAGE nosuch\nMEMORY USAGE\nLATENCY LATEST\nLATENCY HISTORY nosuch\nLATENCY RESET\nLATENCY NOSUCH\nLATENCY HISTOGRAM nosuch\nSLOWLOG GET x\nSLOWLOG NOSUCH"),
    "databases": lines("SET a 0\nSELECT 3\nGET a\nSET a 3\nSWAPDB 0 3\nGET a\nSELECT 99\nSELECT 0\nGET a\nMOVE a 5"),
    "names": lines("CLIENT SETNAME me\nCLIENT GETNAME\nCLIENT SETINFO lib-name x\nCLIENT NO-EVICT ON\nCLIENT NO-TOUCH ON\nRESET\nCLIENT GETNAME"),
    "ids of too many digits": lines(f"CLIENT LIST ID {'9' * 5000}\nCLIENT KILL ID {'9' * 5000}\nCLIENT LIST ID {'9' * 20} IP 1.2.3.4"),
    "auth without a password": lines("AUTH x\nAUTH nosuch x\nHELLO 3 AUTH nosuch x\nGET a"),
    "an empty request": b"*0\r\n*-1\r\n\r\n" + lines("PING"),
    "an empty name": bulk("") + bulk("", "x") + lines("PING"),
    "a name that ends in NUL": lines("SET a 1") + bulk("GET\0", "a") + bulk("MULTI\0") + bulk("PING\0\0\0\0") + bulk("exec\0"),
    "binary": bulk("SET", bytes(range(256)), b"\r\n$5\r\n*3\r\n") + bulk("GET", bytes(range(256))) + bulk("ECHO", b"\r\n"),
    "sleep": lines("DEBUG SLEEP 0.05\nGET a"),
    "many": lines("\n".join(f"SET k{i} {i}\nGET k{i}" for i in range(3000))),
}  # fmt: skip


CLOSING = {
    "quit": lines("SET a 1\nGET a\nQUIT"),
    "quit inline": b"QUIT\r\n",
    "not RESP: no dollar": lines("PING") + b"*1\r\nPING\r\n",
    "not RESP: bad count": lines("GET a") + b"*abc\r\n",
    "not RESP: bad length": b"*2\r\n$3\r\nGET\r\n$-5\r\n",
    "not RESP: huge count": b"*2147483648\r\n",
    "not RESP: huge length": b"*1\r\n$999999999999\r\n",
    "not RESP: line end of an inspected command": b"*4\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$7\r\ntimeout\r\n$1\r\n0xx" + lines("PING"),
    "not RESP: quotes": b'SET a "b\r\n',
    "not RESP: endless line": b"x" * 70_000,
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSING)
def test_the_engine_refuses_and_closes_as_directly(server: Server, bare: Server, name: str) -> None:
    seen = []
    for each in (server, bare):
        sock = each.connect()
        sock.sendall(CLOSING[name])
        answer = bytearray()
        try:
            while chunk := sock.recv(1 << 16):
                answer += chunk
        except ConnectionResetError:  # the engine closed with bytes unread
            pass
        seen.append(bytes(answer))
    assert seen[0] == seen[1]
    assert seen[0]


@pytest.mark.parametrize("cuts", [1, 7, 100_000], ids=["whole", "pieces", "bytes"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_client_sees_the_same_bytes(server: Server, bare: Server, name: str, cuts: int) -> None:
    data = CONVERSATIONS[name] + END
    if cuts > 7 and len(data) > 20_000:
        cuts = len(data) // 1000
    assert converse(server, data, cuts) == converse(bare, data, cuts)


def test_monitor_is_seen_and_ended_as_directly(server: Server, bare: Server) -> None:
    seen = []
    for each in (server, bare):
        watcher = each.connect()
        watcher.sendall(lines("MONITOR"))
        assert receive(watcher, b"+OK\r\n") == b"+OK\r\n"
        with each.client() as client:
            client.set("a", "1")
            client.get("a")
        watcher.sendall(lines("RESET\nGET a") + END)
        text = receive(watcher, b"end-of-test\r\n")
        for pattern, replacement in _VARIABLE:
            text = pattern.sub(replacement, text)
        seen.append(
            [
                line
                for line in text.split(b"\r\n")
                if b'"CLIENT"' not in line and b'"INFO"' not in line and b'"info"' not in line
            ]
        )
    assert seen[0] == seen[1]


def test_a_second_monitor_is_answered_as_directly(server: Server, bare: Server) -> None:
    seen = []
    for each in (server, bare):
        sock = each.connect()
        sock.sendall(lines("RPUSH cfg port 1\nMONITOR"))
        receive(sock, b"+OK\r\n")
        sock.sendall(lines("MONITOR\nPING\nCONFIG GET maxmemory\nRESET\nPING\nLRANGE cfg 0 -1\nCONFIG GET save") + END)
        text = receive(sock, b"$11\r\nend-of-test\r\n")
        both = each.connect()  # both on their way at once
        both.sendall(lines("MONITOR\nMONITOR\nPING\nRESET\nLRANGE cfg 0 -1\nCONFIG GET save") + END)
        text += receive(both, b"$11\r\nend-of-test\r\n")
        seen.append([line for line in text.split(b"\r\n") if not re.match(rb"\+\d", line)])
    assert seen[0] == seen[1]


def _publisher(server: Server) -> socket.socket:
    """One whose way to the engine is open: an engine that stands still accepts no connection."""
    sock = server.connect()
    sock.sendall(lines("PUBLISH nobody m"))
    assert receive(sock, b"\r\n") == b":0\r\n"
    return sock


def test_a_message_after_the_protocol_went_back_to_2_is_no_reply(server: Server) -> None:
    client, publisher = server.connect(), _publisher(server)
    client.sendall(lines("HELLO 3\nSUBSCRIBE ch\nHELLO 2\nPING"))
    receive(client, b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
    with server.frozen_engine():
        publisher.sendall(lines("PUBLISH ch m"))
        server.wait_in_flight(1)
        client.sendall(lines("PING\nUNSUBSCRIBE\nCONFIG GET maxmemory\nPING") + END)
        server.wait_in_flight(6)
    text = receive(client, b"$11\r\nend-of-test\r\n")
    assert text.startswith(b"*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$1\r\nm\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n")
    assert text.endswith(b"*2\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n+PONG\r\n$11\r\nend-of-test\r\n")


def test_messages_arrive_between_replies(server: Server) -> None:
    subscriber = server.connect()
    subscriber.sendall(lines("SUBSCRIBE news"))
    assert receive(subscriber, b":1\r\n")
    with server.client() as client:
        for i in range(100):
            assert client.publish("news", f"m{i}") == 1
    subscriber.sendall(lines("PING\nUNSUBSCRIBE\nGET a"))
    text = receive(subscriber, b"$-1\r\n")
    assert text.count(b"$7\r\nmessage\r\n") == 100
    assert text.endswith(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n*3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n$-1\r\n")


def test_a_push_before_the_result_of_a_transaction_is_no_part_of_it(server: Server) -> None:
    client = server.connect()
    client.sendall(lines("HELLO 3\nSUBSCRIBE news\nMULTI\nGET a\nGET b\nGET c"))
    receive(client, b"+QUEUED\r\n" * 3)
    publisher = _publisher(server)
    with server.frozen_engine():
        publisher.sendall(lines("PUBLISH news hello"))
        server.wait_in_flight(1)
        client.sendall(lines("EXEC\nCONFIG GET port") + END)
        server.wait_in_flight(4)
    text = receive(client, b"end-of-test\r\n")
    push = b">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n"
    port = b"%%1\r\n$4\r\nport\r\n$5\r\n%d\r\n" % server.port
    assert text == push + b"*3\r\n_\r\n_\r\n_\r\n" + port + b"$11\r\nend-of-test\r\n"


@pytest.mark.parametrize("protocol", [2, 3])
def test_tracking_invalidations_are_pushed(server: Server, protocol: int) -> None:
    tracker = server.connect()
    tracker.sendall(lines(f"HELLO {protocol}"))
    receive(tracker, b"lua\r\n$4\r\nargs\r\n*0\r\n")
    if protocol == 3:
        tracker.sendall(lines("CLIENT TRACKING ON\nGET watched"))
        assert receive(tracker, b"_\r\n") == b"+OK\r\n_\r\n"
        with server.client() as client:
            client.set("watched", "x")
        assert receive(tracker, b"$7\r\nwatched\r\n") == b">2\r\n$10\r\ninvalidate\r\n*1\r\n$7\r\nwatched\r\n"
        return
    with server.client() as client:
        redirected = client.client_id()
        client_connection = client.connection_pool.get_connection("_")
        client_connection.send_command("CLIENT", "ID")
        redirected = client_connection.read_response()
        client_connection.send_command("SUBSCRIBE", "__redis__:invalidate")
        client_connection.read_response()
        tracker.sendall(lines(f"CLIENT TRACKING ON REDIRECT {redirected}\nGET watched"))
        assert receive(tracker, b"$-1\r\n") == b"+OK\r\n$-1\r\n"
        with server.client() as writer:
            writer.set("watched", "x")
        assert client_connection.read_response() == [b"message", b"__redis__:invalidate", [b"watched"]]
        client_connection.disconnect()
