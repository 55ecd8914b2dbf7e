"""Where samples/python-service looks for its cache, by the variables that Aspire gives it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from valkey.connection import parse_url

_FILE = Path(__file__).parents[2] / "samples" / "python-service" / "cache.py"
_PASSWORD = "a:b/c@d%e f"


def _cache_url(environment: Mapping[str, str]) -> str:
    spec = importlib.util.spec_from_file_location("python_service_cache", _FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.cache_url(environment))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {"host": "localhost", "port": 6379}),
        ({"CACHE_HOST": "cache.dev.internal", "CACHE_PORT": "6380"}, {"host": "cache.dev.internal", "port": 6380}),
        ({"CACHE_HOST": "cache", "CACHE_PASSWORD": ""}, {"host": "cache", "port": 6379}),
        (
            {"CACHE_HOST": "cache", "CACHE_PORT": "7000", "CACHE_PASSWORD": _PASSWORD},
            {"host": "cache", "port": 7000, "password": _PASSWORD},
        ),
        (
            {"CACHE_URI": "valkey://:a%3Ab@cache:6379", "CACHE_HOST": "other"},
            {"host": "cache", "port": 6379, "password": "a:b"},
        ),
    ],
)
def test_the_service_finds_its_cache_as_aspire_names_it(environment: dict[str, str], expected: dict[str, Any]) -> None:
    found = parse_url(_cache_url(environment))
    assert {name: found[name] for name in ("host", "port", "password") if name in found} == expected


def test_a_cache_with_tls_is_spoken_to_with_tls() -> None:
    found = parse_url(_cache_url({"CACHE_URI": "rediss://:secret@cache:6379"}))
    assert found["connection_class"].__name__ == "SSLConnection"
