from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.redaction import redact, redact_reply


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("WRONGTYPE Operation against a key", "WRONGTYPE Operation against a key"),
        ("ERR unknown command 'FOO', with args beginning with: 'secret' 'more' ", "ERR unknown command '?'"),
        ("ERR unknown command `FOO`, with args beginning with: `secret`, ", "ERR unknown command `?`"),
        ("ERR wrong number of arguments for 'get' command", "ERR wrong number of arguments for '?' command"),
        ('ERR Unknown option "secret" near "more"', 'ERR Unknown option "?"'),
        ("ERR Can't execute 'get': only SUBSCRIBE", "ERR Can't execute '?': only SUBSCRIBE"),
        ("ERR no such key 'it's secret' here", "ERR no such key '?' here"),
        ("ERR cut off 'secret and more", "ERR cut off '?"),
        ('ERR cut off "secret', 'ERR cut off "?'),
        ("ERR cut off `secret", "ERR cut off `?"),
        ("ERR two\nlines 'secret\nmore' end", "ERR two\nlines '?' end"),
        ("ERR two 'quotes' in 'secret' words", "ERR two '?' words"),
        ("ERR empty ''", "ERR empty '?'"),
        ("ERR Unrecognized REPLCONF option: secret", "ERR Unrecognized REPLCONF option: ?"),
        ("ERR Unsupported rdb-filter-only option: secret\nmore", "ERR Unsupported rdb-filter-only option: ?"),
        ("ERR Unknown argument secret more", "ERR Unknown argument ?"),
        ("ERR Unknown node secret", "ERR Unknown node ?"),
        ("ERR I don't know about node secret", "ERR I don't know about node ?"),
        ("ERR member secret does not exist", "ERR member ?"),
        ("", ""),
    ],
)
def test_what_is_quoted_is_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


_WITHOUT_QUOTES = st.text(alphabet="ab0 ,:\n")
_WITH_QUOTES = st.text(alphabet="ab0 ,:\n'\"`")
_QUOTES = st.sampled_from("'\"`")


@given(_QUOTES, _WITH_QUOTES, _WITH_QUOTES)
def test_an_argument_in_quotes_never_shows(quote: str, before: str, after: str) -> None:
    assert "secret" not in redact(f"ERR no {quote}{before}secret{after}{quote}")


@given(_QUOTES, _WITHOUT_QUOTES, _WITHOUT_QUOTES)
def test_an_argument_that_was_cut_off_never_shows(quote: str, before: str, after: str) -> None:
    assert "secret" not in redact(f"ERR no {quote}{before}secret{after}")


@pytest.mark.parametrize(
    ("command", "text", "shown"),
    [
        ("EVAL", "ERR secret of the script", "ERR (a script's own words are not shown)"),
        ("FCALL", "secret", "ERR (a script's own words are not shown)"),
        ("FUNCTION LOAD", "ERR Library secret already exists", "ERR (a script's own words are not shown)"),
        ("EVALSHA", "SECRET words", "SECRET (a script's own words are not shown)"),
        ("EVALSHA", "NOSCRIPT No matching script.", "NOSCRIPT No matching script."),
        ("GET", "ERR value is not an integer or out of range", "ERR value is not an integer or out of range"),
    ],
)
def test_what_a_script_says_is_not_shown(command: str, text: str, shown: str) -> None:
    assert redact_reply(command, text) == shown


_ARGUMENTS = ", with args beginning with: 'JSON.SET' 'secret' "


@pytest.mark.parametrize(
    ("command", "text", "shown"),
    [
        ("JSON.SET", "ERR unknown command 'Json.Set'" + _ARGUMENTS, "ERR unknown command 'JSON.SET'"),
        ("JSON.SET", "ERR unknown command `json.set`, with args beginning with: ", "ERR unknown command `JSON.SET`"),
        ("SENTINEL MASTERS", "ERR unknown command 'SENTINEL'" + _ARGUMENTS, "ERR unknown command 'SENTINEL'"),
        ("CLIENT X", "ERR unknown subcommand 'x'. Try CLIENT HELP.", "ERR unknown subcommand 'X'. Try CLIENT HELP."),
        ("_OTHER", "ERR unknown command 'SECRET'" + _ARGUMENTS, "ERR unknown command '?'"),
        ("_OTHER", "ERR unknown command '_OTHER'" + _ARGUMENTS, "ERR unknown command '?'"),
        ("_OTHER", "ERR unknown subcommand 'secret'. Try CLIENT HELP.", "ERR unknown subcommand '?'. Try CLIENT HELP."),
        ("GET", "ERR unknown command 'secret'", "ERR unknown command '?'"),
        ("GET", "ERR no such 'GET'", "ERR no such '?'"),
        ("EVAL", "ERR unknown command 'EVAL'", "ERR (a script's own words are not shown)"),
    ],
)
def test_a_name_that_the_engine_lacks_is_shown_if_the_span_has_it(command: str, text: str, shown: str) -> None:
    assert redact_reply(command, text) == shown
