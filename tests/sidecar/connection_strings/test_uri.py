from __future__ import annotations

import pytest

from sidecar.connection_strings.forms import parse
from sidecar.connection_strings.model import ConnectionString, ConnectionStringError
from sidecar.connection_strings.uri import format_uri, parse_uri
from tests.sidecar.connection_strings.samples import at

BEHIND = "an @ stands behind the server: in a password write / as %2F and ? as %3F, elsewhere @ as %40"
NO_EQUALS = "query parameter 2: it has no name or no equals sign; in a password write ? as %3F"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://localhost", at("localhost:6379")),
        ("REDIS://localhost/", at("localhost:6379")),
        (" valkey://localhost:7000/3\n", at("localhost:7000", database=3)),
        ("rediss://localhost", at("localhost:6379", tls=True)),
        ("valkeys://localhost:7000?db=4", at("localhost:7000", tls=True, database=4)),
        ("redis://localhost/3?db=4", at("localhost:6379", database=4)),
        ("redis://localhost?database=4", at("localhost:6379", database=4)),
        ("redis://:p%40ss%2C%C3%A9@cache", at("cache:6379", password="p@ss,é")),
        ("redis://:a@b:c@cache", at("cache:6379", password="a@b:c")),
        ("redis://bob:x@cache", at("cache:6379", user="bob", password="x")),
        ("redis://b%3Ab:@cache", at("cache:6379", user="b:b")),
        ("redis://:@cache", at("cache:6379")),
        ("redis://:a+b@cache?client_name=a+b%2B", at("cache:6379", password="a+b", client_name="a b+")),
        ("redis://[::1]", at("::1:6379")),
        ("redis://:x@[fe80::1%25eth0]:7000/1", at("fe80::1%eth0:7000", password="x", database=1)),
        ("redis://cache?username=bob&password=x%20y", at("cache:6379", user="bob", password="x y")),
        ("redis://ann:z@cache?username=bob&password=x", at("cache:6379", user="ann", password="z")),
        ("redis://cache?timeout=10s&&ssl_ca=a%2Fb", at("cache:6379", query=(("timeout", "10s"), ("ssl_ca", "a%2Fb")))),
        ("redis://cache?virtual_host=2", at("cache:6379", query=(("virtual_host", "2"),))),
        ("unix:///run/valkey.sock", at(unix_path="/run/valkey.sock")),
        ("unix://bob:x@/run/a%20b.sock?db=2", at(unix_path="/run/a b.sock", user="bob", password="x", database=2)),
        ("redis+socket:///run/v.sock?virtual_host=2", at(unix_path="/run/v.sock", database=2)),
        ("redis-socket:///run/v.sock?clientName=s", at(unix_path="/run/v.sock", client_name="s")),
    ],
)
def test_a_uri_means_what_clients_take_it_for(text: str, expected: ConnectionString) -> None:
    assert parse(text) == parse_uri(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http://localhost", "scheme: it is none of redis://, rediss://, valkey://, valkeys:// and unix://"),
        ("redis://:Hunter2/Xyzzy@cache", BEHIND),
        ("redis://:1/2@cache", BEHIND),
        ("redis://:x@Hunter2?Xyzzy=a@cache", BEHIND),
        ("redis://:Hunter2#Xyzzy@cache", "a # has no meaning here: in a password write it as %23"),
        ("redis://:Hunter2 Xyzzy@cache", "a blank or control character: write it percent-encoded, a blank as %20"),
        ("redis://:Hunter2%@cache", "password: a % is not followed by two hexadecimal digits: write it as %25"),
        ("redis://:Hunter2%ff@cache", "password: it is not UTF-8 once it is decoded"),
        ("redis://Hunter2@cache", "user: no colon before the @: write :PASSWORD@ or USER:PASSWORD@"),
        ("redis://:Hunter2%0A@cache", "password: a control character, such as a line break, cannot be written"),
        ("redis://cache:Hunter2", "server: the port must be a number between 1 and 65535"),
        ("redis://cache:0", "server: the port must be a number between 1 and 65535"),
        ("redis://:6379", "server: there is no host, as in localhost:6379"),
        ("redis://", "server: there is no host, as in localhost:6379"),
        ("redis://Hunter2~Xyzzy", "server: the host has characters that no host name has, or is too long"),
        ("redis://a:1,b:2", "server: a URI names one server"),
        ("redis://[::1", "server: brackets hold an IPv6 address, as in [::1]:6379"),
        ("redis://cache/Hunter2", "path: the database must be a number, 0 or more"),
        ("redis://cache?db=Hunter2", "query parameter 1: the database must be a number, 0 or more"),
        ("redis://cache?db=1&Hunter2", NO_EQUALS),
        ("redis://cache/4294967296", "path: the database must be a number, 0 or more"),
        ("unix://run/valkey.sock", "a path has three slashes, as in unix:///run/valkey.sock"),
        ("unix:///", "a path has three slashes, as in unix:///run/valkey.sock"),
    ],
)
def test_a_mistake_in_a_uri_is_named_without_what_is_there(text: str, problem: str) -> None:
    with pytest.raises(ConnectionStringError) as caught:
        parse(text, "CACHE_URI")
    assert str(caught.value) == f"CACHE_URI: {problem}"


def test_a_uri_names_one_server() -> None:
    with pytest.raises(ConnectionStringError, match=r"^servers: a URI names one server, and there are 2$"):
        format_uri(at("a:1", "b:2"))
    with pytest.raises(ConnectionStringError, match=r"^service name: a URI cannot ask Sentinel for a server$"):
        format_uri(at("a:1", service_name="mymaster"))


def test_the_scheme_of_a_uri_is_chosen() -> None:
    assert format_uri(at("cache:6379"), scheme="valkey") == "valkey://cache:6379"
    assert format_uri(at("cache:6379", tls=True), scheme="valkey") == "valkeys://cache:6379"
