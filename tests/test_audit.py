from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import audit
from tests.test_lock import normalized

_GOOD = {"name": "starlette", "version": "1.0", "vulns": []}
_BAD = {
    "name": "h11",
    "version": "0.1",
    "vulns": [{"id": "CVE-1", "fix_versions": ["0.2"]}, {"id": "CVE-2", "fix_versions": []}],
}
_SKIPPED = {"name": "grpcio", "skip_reason": "Dependency not found on PyPI and could not be audited: grpcio (1.0)"}


def answer(*packages: dict[str, Any]) -> audit.Answer:
    return audit.read(json.dumps({"dependencies": packages, "fixes": []}), "")


def test_packages_without_a_known_fault_are_well() -> None:
    assert answer(_GOOD, _GOOD).code == 0
    assert str(answer(_GOOD)) == "1 packages looked up, 0 vulnerabilities known"


def test_a_fault_is_named_with_its_remedy() -> None:
    found = answer(_GOOD, _BAD, _SKIPPED)
    assert found.code == 1
    assert str(found).startswith("h11 0.1: CVE-1, fixed in 0.2\nh11 0.1: CVE-2, fixed in none yet\n")


@pytest.mark.parametrize(
    "found",
    [
        answer(_GOOD, _SKIPPED),
        answer(),
        audit.read("", "Traceback\nrequests.exceptions.ConnectionError: no route"),
        audit.read("[]", ""),
    ],
)
def test_what_nobody_could_look_up_is_not_well(found: audit.Answer) -> None:
    assert found.code == 3
    assert "advisories could not be read" in str(found)


def test_the_lock_is_what_is_looked_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "pip-audit"
    program.write_text('#!/bin/sh\necho "$@" >&2\n')
    program.chmod(0o755)
    monkeypatch.setattr(audit, "_program", lambda: program)
    assert audit.main(["--vulnerability-service", "osv"]) == 3
    said = capsys.readouterr().out
    assert f"--requirement {audit.LOCK} " in said
    assert "--vulnerability-service osv" in said


def test_what_audits_is_pinned_with_hashes_too() -> None:
    lines = audit.REQUIREMENTS.read_text().replace("\\\n", "").splitlines()
    pinned = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert all("==" in line and "--hash=sha256:" in line for line in pinned)
    assert "pip-audit" in {normalized(line) for line in pinned}
    assert subprocess.run(["git", "check-ignore", "-q", "build/audit"], cwd=audit.ROOT, check=False).returncode == 0
