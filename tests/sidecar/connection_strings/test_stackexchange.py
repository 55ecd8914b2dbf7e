from __future__ import annotations

from typing import Any

import pytest

from sidecar.connection_strings.forms import parse
from sidecar.connection_strings.model import ConnectionString, ConnectionStringError
from sidecar.connection_strings.stackexchange import format_stackexchange, parse_stackexchange
from sidecar.connection_strings.uri import format_uri
from tests.sidecar.connection_strings.samples import at

NO_COMMA = "a password in this form cannot have a comma, and servers come first"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", at("localhost:6379")),
        ("localhost:0", at("localhost:6379")),
        ("localhost,ssl=true", at("localhost:6380", tls=True)),
        ("localhost:7000 , ssl = TRUE ", at("localhost:7000", tls=True)),
        ("localhost:6380", at("localhost:6380")),
        ("sentinel,serviceName=mymaster", at("sentinel:26379", service_name="mymaster")),
        ("sentinel,serviceName=mymaster,ssl=on", at("sentinel:26379", service_name="mymaster", tls=True)),
        ("localhost,serviceName=", at("localhost:6379")),
        ("a:1,ssl=false,b:2", at("a:1", "b:2")),
        ("a:1,b:2,b:2,c,password=x", at("a:1", "b:2", "c:6379", password="x")),
        ("::1", at("::1:6379")),
        ("[::1]", at("::1:6379")),
        ("[fe80::1%eth0]:7000", at("fe80::1%eth0:7000")),
        ("127.0.0.1:7000", at("127.0.0.1:7000")),
        ("!/run/valkey.sock,password=x", at(unix_path="/run/valkey.sock", password="x")),
        (
            "cache:6379,PASSWORD=a=b==,User=bob,DefaultDatabase= 3 ,Name=shop,abortConnect=No",
            at("cache:6379", password="a=b==", user="bob", database=3, client_name="shop", abort_connect=False),
        ),
        ("cache:6379,password=one,password=two,,", at("cache:6379", password="two")),
        ("cache:6379,password=,user=", at("cache:6379")),
        (
            "cache:6379,connecttimeout=5000,$FLUSHALL=,newOption=a b,ssl=0",
            at("cache:6379", options=(("connectTimeout", "5000"), ("$FLUSHALL", ""), ("newOption", "a b"))),
        ),
        (
            "cache:6379,sslHost=a,tunnel=http:proxy:80,sslhost=b",
            at("cache:6379", options=(("tunnel", "http:proxy:80"), ("sslHost", "b"))),
        ),
    ],
)
def test_the_form_of_stackexchange_redis_means_what_it_means_there(text: str, expected: ConnectionString) -> None:
    assert parse(text) == parse_stackexchange(text) == expected


@pytest.mark.parametrize(
    ("host", "port", "tls"),
    [
        ("contoso.redis.cache.windows.net", 6380, True),
        ("contoso.redis.cache.windows.net", 6379, False),
        ("contoso.redis.cache.chinacloudapi.cn", 6380, True),
        ("contoso.redis.cache.usgovcloudapi.net", 6380, True),
        ("contoso.westeurope.redis.azure.net", 10000, True),
        ("Contoso.WestEurope.Redis.Azure.Net", 7000, True),
        ("contoso.redis.chinacloudapi.cn", 10000, True),
        ("contoso.redisenterprise.cache.azure.net", 10000, True),
        ("redis.azure.net.example.com", 10000, False),
        ("example.com", 6380, False),
    ],
)
def test_azure_has_tls_where_stackexchange_redis_assumes_it(host: str, port: int, tls: bool) -> None:
    assert parse(f"{host}:{port},password=x").tls is tls
    opposite = parse(f"{host}:{port},password=x,ssl={not tls}")
    assert opposite.tls is not tls
    assert parse(format_stackexchange(opposite)) == opposite


def test_the_strings_of_azures_portal_become_uris() -> None:
    cache = "contoso.redis.cache.windows.net:6380,password=k3y+/w==,ssl=True,abortConnect=False"
    assert format_uri(parse(cache)) == "rediss://:k3y%2B%2Fw%3D%3D@contoso.redis.cache.windows.net:6380"
    managed = "contoso.westeurope.redis.azure.net:10000,password=k3y=,ssl=True,abortConnect=False"
    assert format_uri(parse(managed)) == "rediss://:k3y%3D@contoso.westeurope.redis.azure.net:10000"


def test_stackexchange_strings_are_as_short_as_aspires() -> None:
    assert format_stackexchange(at("cache:6379", password="x")) == "cache:6379,password=x"
    assert format_stackexchange(at("cache:6379", password="x", tls=True)) == "cache:6379,password=x,ssl=true"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty: give a server, as in localhost:6379"),
        (" \n", "it is empty: give a server, as in localhost:6379"),
        ("password=Hunter2~Xyzzy", "no server: give at least one, as in localhost:6379"),
        (
            "cache:6379,password=Hunter2~Xyzzy,Hunter2",
            f"part 3: it has no equals sign, and part 2 may be a password: {NO_COMMA}",
        ),
        ("cache:6379password=a,Hunter2", f"part 2: it has no equals sign, and part 1 may be a password: {NO_COMMA}"),
        ("cache,sentinelPassword=a,b", f"part 3: it has no equals sign, and part 2 may be a password: {NO_COMMA}"),
        ("cache,passwordHunter2~Xyzzy", "part 2: a password needs an equals sign, as in password=..."),
        ("cache,Password:Hunter2", "part 2: a password needs an equals sign, as in password=..."),
        ("cache,=Hunter2~Xyzzy", "part 2: there is no name before the equals sign"),
        ("cache,Hunter2~Xyzzy", "part 2: the host has characters that no host name has, or is too long"),
        ("cache:Hunter2", "part 1: the port must be a number between 1 and 65535"),
        ("cache:65536", "part 1: the port must be a number between 1 and 65535"),
        (f"cache:{'9' * 5000}", "part 1: the port must be a number between 1 and 65535"),
        (":6379", "part 1: there is no host, as in localhost:6379"),
        ("[::1:6379", "part 1: brackets hold an IPv6 address, as in [::1]:6379"),
        ("[::1]6379", "part 1: brackets hold an IPv6 address, as in [::1]:6379"),
        ("a:b:c", "part 1: no host, port or IPv6 address can be read, as in [::1]:6379"),
        ("cache,ssl=Hunter2", "part 2, ssl: it must be true or false"),
        ("cache,abortConnect=", "part 2, abortconnect: it must be true or false"),
        ("cache,defaultDatabase=Hunter2", "part 2, defaultDatabase: it must be a number"),
        ("cache,defaultDatabase=-1", "database: it must be 0 or more, and fit 32 bits"),
        ("!/a,!/b", "part 2: a second Unix socket: give one"),
        ("!", "Unix socket: its path must begin with a slash"),
        ("!cache", "Unix socket: its path must begin with a slash"),
        ("!/a,cache", "server: a Unix socket and a host: give one of them"),
        ("!/a,ssl=true", "TLS: there is none through a Unix socket"),
        ("cache,password=Hunter2~\nXyzzy", "password: a control character, such as a line break, cannot be written"),
    ],
)
def test_a_mistake_in_stackexchanges_form_is_named_without_what_is_there(text: str, problem: str) -> None:
    with pytest.raises(ConnectionStringError) as caught:
        parse(text, "ConnectionStrings__cache")
    assert str(caught.value) == f"ConnectionStrings__cache: {problem}"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"password": "Hunter2,Xyzzy"}, "password: StackExchange.Redis' form cannot hold a comma"),
        ({"password": " Hunter2"}, "password: StackExchange.Redis' form loses blanks at its ends"),
        ({"password": "Hunter2\u00a0"}, "password: StackExchange.Redis' form loses blanks at its ends"),
        ({"user": "a,b"}, "user: StackExchange.Redis' form cannot hold a comma"),
        ({"client_name": "a "}, "client name: StackExchange.Redis' form loses blanks at its ends"),
    ],
)
def test_what_stackexchanges_form_cannot_hold_is_an_error_and_a_uri_holds_it(
    fields: dict[str, Any], problem: str
) -> None:
    connection = at("cache:6379", **fields)
    with pytest.raises(ConnectionStringError) as caught:
        format_stackexchange(connection)
    assert str(caught.value) == f"{problem}: choose one without"
    assert parse(format_uri(connection)) == connection


def test_a_path_with_an_equals_sign_is_no_server_to_stackexchange_redis() -> None:
    with pytest.raises(ConnectionStringError, match=r"^Unix socket: .* cannot hold an equals sign in a path$"):
        format_stackexchange(at(unix_path="/a=b"))


def test_tls_is_said_even_where_the_name_of_an_azure_server_says_it() -> None:
    """Earlier versions of StackExchange.Redis do not know Azure Managed Redis' names, and would not use TLS."""
    for text in ("a.eastus.redis.azure.net:10000,password=x", "a.redis.cache.windows.net:6380,password=x,ssl=True"):
        assert format_stackexchange(parse_stackexchange(text)).endswith(",password=x,ssl=true")
    plain = format_stackexchange(parse_stackexchange("a.eastus.redis.azure.net:10000,ssl=false"))
    assert plain == "a.eastus.redis.azure.net:10000,ssl=false"
