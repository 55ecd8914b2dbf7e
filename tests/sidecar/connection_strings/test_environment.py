from __future__ import annotations

import pytest

from sidecar.connection_strings.environment import format_environment, from_environment, variable_prefix
from sidecar.connection_strings.forms import parse
from sidecar.connection_strings.model import ConnectionStringError
from sidecar.connection_strings.uri import format_uri
from tests.sidecar.connection_strings.samples import HARD, at


def test_the_environment_that_aspire_gives_is_understood() -> None:
    text = f"cache.dev.internal:6379,password={HARD},ssl=true"
    aspires = {
        "ConnectionStrings__cache": text,
        "CACHE_HOST": "cache.dev.internal",
        "CACHE_PORT": "6379",
        "CACHE_PASSWORD": HARD,
        "CACHE_URI": format_uri(parse(text), scheme="valkey"),
    }
    whole = at("cache.dev.internal:6379", password=HARD, tls=True)
    assert from_environment(aspires, "cache") == whole
    del aspires["ConnectionStrings__cache"]
    assert from_environment(aspires, "cache") == whole
    del aspires["CACHE_URI"]
    assert from_environment(aspires, "cache") == at("cache.dev.internal:6379", password=HARD)
    assert from_environment(aspires, "other") is None
    assert from_environment({"CACHE_HOST": "::1"}, "cache") == at("::1:6379")


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("cache", "CACHE_"), ("my-cache", "MY_CACHE_"), ("a.b--c", "A_B__C_"), ("2nd", "_2ND_"), ("Ab_c", "AB_C_")],
)
def test_names_become_those_of_aspires_variables(name: str, prefix: str) -> None:
    assert variable_prefix(name) == prefix


def test_a_connection_string_has_the_names_that_dotnet_finds_it_by() -> None:
    for variable in ("ConnectionStrings__my--cache", "CONNECTIONSTRINGS__MY--CACHE", "ConnectionStrings__my_cache"):
        assert from_environment({variable: "cache:1"}, "my--cache") == at("cache:1")


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        (
            {"ConnectionStrings__cache": "cache,ssl=Hunter2"},
            "ConnectionStrings__cache: part 2, ssl: it must be true or false",
        ),
        ({"CACHE_URI": "redis://cache:0"}, "CACHE_URI: server: the port must be a number between 1 and 65535"),
        ({"CACHE_PORT": "1"}, "CACHE_HOST: it is not set, and CACHE_PORT is"),
        ({"CACHE_PASSWORD": "Hunter2"}, "CACHE_HOST: it is not set, and CACHE_PASSWORD is"),
        ({"CACHE_HOST": "a b"}, "CACHE_HOST: server: the host has characters that no host name has, or is too long"),
        (
            {"CACHE_HOST": "a", "CACHE_PORT": "Hunter2"},
            "CACHE_PORT: server: the port must be a number between 1 and 65535",
        ),
        (
            {"CACHE_HOST": "a", "CACHE_PASSWORD": "Hunter2\n"},
            "CACHE_PASSWORD: password: a control character, such as a line break, cannot be written",
        ),
    ],
)
def test_a_mistake_in_the_environment_names_its_variable(environment: dict[str, str], problem: str) -> None:
    with pytest.raises(ConnectionStringError) as caught:
        from_environment(environment, "cache")
    assert str(caught.value) == problem


def test_lines_that_cannot_be_written_are_told_and_the_others_are_there() -> None:
    lines, problems = format_environment(at("cache:1", password="a,b"), "cache")
    assert lines == ["CACHE_HOST=cache", "CACHE_PORT=1", "CACHE_PASSWORD=a,b", "CACHE_URI=redis://:a%2Cb@cache:1"]
    assert problems == [
        "ConnectionStrings__cache: password: StackExchange.Redis' form cannot hold a comma: choose one without"
    ]
    lines, problems = format_environment(at("a:1", "b:2", password="x"), "cache")
    assert lines == ["ConnectionStrings__cache=a:1,b:2,password=x"]
    assert problems == ["CACHE_URI: servers: a URI names one server, and there are 2"]
    with pytest.raises(ConnectionStringError, match=r"cannot hold a comma.*names one server"):
        format_environment(at("a:1", "b:2", password="x,y"), "cache")
