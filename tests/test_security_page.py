from __future__ import annotations

import re
from pathlib import Path

_PAGE = Path(__file__).parents[1] / "docs" / "security.md"


def test_everything_that_the_page_of_security_points_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", _PAGE.read_text())
    assert sum(link.startswith("../tests/") for link in links) > 10
    assert [link for link in links if not (_PAGE.parent / link).exists()] == []


def test_it_names_the_settings_as_they_are() -> None:
    settings = (_PAGE.parent / "settings.md").read_text()
    named = set(re.findall(r"`(sidecar-[a-z-]+)`", _PAGE.read_text()))
    assert {"sidecar-http-token", "sidecar-http-bind"} <= named
    assert [name for name in named if f"`{name}`" not in settings] == []
