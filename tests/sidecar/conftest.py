"""Whole servers, started as people start them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server, Start


@pytest.fixture
def start_here(start: Start, tmp_path: Path) -> Start:
    """Starts a server with one worker in the test's folder and does not wait: it may be up, or ended, only later."""

    def start_one(*args: str, env: dict[str, str] | None = None, **options: Any) -> Server:
        return start(*args, env={"SIDECAR_WORKERS": "1", **(env or {})}, folder=tmp_path, wait=False, **options)

    return start_one
