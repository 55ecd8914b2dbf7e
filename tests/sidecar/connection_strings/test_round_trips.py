from __future__ import annotations

import shlex
import string
from dataclasses import replace
from typing import Any

import valkey
from hypothesis import given
from hypothesis import strategies as st

from sidecar.connection_strings.environment import format_environment, from_environment
from sidecar.connection_strings.forms import parse
from sidecar.connection_strings.model import ConnectionString, ConnectionStringError, Endpoint
from sidecar.connection_strings.shell import format_user_secrets, format_valkey_cli
from sidecar.connection_strings.stackexchange import format_stackexchange
from sidecar.connection_strings.uri import format_uri
from sidecar.secret import SecretStr

_names = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)
_hosts = st.one_of(
    st.lists(_names, min_size=1, max_size=3).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.sampled_from(["fe80::1%eth0", "café.example", "c.redis.cache.windows.net", "c.eu.redis.azure.net"]),
)
_endpoints = st.builds(Endpoint, _hosts, st.one_of(st.integers(1, 65535), st.sampled_from([6379, 6380, 10000])))
# Everything that can be sent as UTF-8 in one line.
_texts = st.text(st.characters(codec="utf-8", exclude_characters="".join(map(chr, [*range(32), 127]))), min_size=1)
# What StackExchange.Redis' form can hold.
_plain = _texts.map(lambda text: text.replace(",", "").strip()).filter(
    lambda text: bool(text) and text == text.strip("\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000")
)
_raw = st.text(string.ascii_letters + string.digits + "%._-", min_size=1, max_size=8)


def _connections(
    texts: st.SearchStrategy[str], **fields: st.SearchStrategy[Any]
) -> st.SearchStrategy[ConnectionString]:
    return st.builds(
        ConnectionString,
        user=st.none() | texts,
        password=st.none() | texts.map(SecretStr),
        client_name=st.none() | texts,
        tls=st.booleans(),
        database=st.none() | st.integers(0, 2**31 - 1),
        **fields,
    )


_option_names = st.sampled_from(["connectTimeout", "sslHost", "sentinelPassword", "$PING"]) | st.sampled_from(
    ["new", "x-y"]
)
_options = st.dictionaries(_option_names, _plain, max_size=3).map(lambda options: tuple(options.items()))
_in_stackexchange = _connections(
    _plain,
    endpoints=st.lists(_endpoints, min_size=1, max_size=3, unique=True).map(tuple),
    service_name=st.none() | _plain,
    abort_connect=st.none() | st.booleans(),
    options=_options,
)
_queries = st.lists(st.tuples(_names.map(lambda name: f"x_{name}"), _raw), max_size=3).map(tuple)
_in_a_uri = _connections(_texts, endpoints=_endpoints.map(lambda one: (one,)), query=_queries)
_unix = st.builds(
    ConnectionString,
    unix_path=_plain.map(lambda text: f"/{text.replace('/', '').replace('=', '')}x"),
    user=st.none() | _plain,
    password=st.none() | _plain.map(SecretStr),
    database=st.none() | st.integers(0, 15),
)


@given(st.one_of(_in_stackexchange, _unix))
def test_every_connection_survives_stackexchanges_form(connection: ConnectionString) -> None:
    assert parse(format_stackexchange(connection)) == connection


@given(st.one_of(_in_a_uri, _unix), st.sampled_from(["redis", "valkey"]))
def test_every_connection_survives_a_uri(connection: ConnectionString, scheme: Any) -> None:
    assert parse(format_uri(connection, scheme=scheme)) == connection


@given(_in_stackexchange)
def test_a_string_reads_as_it_was_written_however_it_is_spaced_and_cased(connection: ConnectionString) -> None:
    items = format_stackexchange(replace(connection, options=())).split(",")
    spaced = " ,".join(f"{name.upper()}{'=' if value else ''}\t{value}" for name, _, value in map(_partition, items))
    servers = tuple(Endpoint(endpoint.host.upper(), endpoint.port) for endpoint in connection.endpoints)
    assert parse(spaced) == replace(connection, options=(), endpoints=tuple(dict.fromkeys(servers)))


def _partition(item: str) -> tuple[str, str, str]:
    return item.partition("=")


@given(_in_a_uri)
def test_valkey_py_reads_our_uris_as_we_mean_them(connection: ConnectionString) -> None:
    connection = replace(connection, query=(), client_name=None)
    arguments = valkey.ConnectionPool.from_url(format_uri(connection)).connection_kwargs
    (endpoint,) = connection.endpoints
    password = None if connection.password is None else connection.password.get_secret_value()
    assert arguments.get("password") == password
    assert arguments.get("username") == connection.user
    assert arguments.get("db") == connection.database
    assert arguments["port"] == endpoint.port
    # It puts hosts into lower case and leaves the zone of an address encoded.
    assert arguments["host"].replace("%25", "%") == endpoint.host.lower()


@given(st.one_of(_in_a_uri, _in_stackexchange, _unix))
def test_a_shell_reads_our_command_lines_as_we_mean_them(connection: ConnectionString) -> None:
    connection = replace(connection, endpoints=connection.endpoints[:1], service_name=None)
    words = shlex.split(format_valkey_cli(connection))
    assert words[words.index("valkey-cli") + 1] in ("-h", "-s")
    if connection.password is not None:
        assert words[0] == f"VALKEYCLI_AUTH={connection.password.get_secret_value()}"
        assert words[1] == "valkey-cli"
    try:
        text = format_stackexchange(connection)
    except ConnectionStringError:
        return
    assert shlex.split(format_user_secrets(connection, "cache")) == [
        *("dotnet", "user-secrets", "set", "ConnectionStrings:cache"),
        text,
    ]


@given(_in_a_uri)
def test_an_environment_that_we_write_is_the_one_that_we_read(connection: ConnectionString) -> None:
    connection = replace(connection, query=())
    lines, _ = format_environment(connection, "my-cache")
    environment = dict(line.partition("=")[::2] for line in lines)
    assert from_environment(environment, "my-cache") == connection
    environment.pop("ConnectionStrings__my-cache", None)
    assert from_environment(environment, "my-cache") == connection
    del environment["MY_CACHE_URI"]
    # The parts say nothing of the rest.
    assert from_environment(environment, "my-cache") == replace(connection, tls=False, database=None, client_name=None)
