"""Whether a locked package has a known vulnerability: make audit.

Owns what pip-audit's answer means. It never takes a package that nobody could look up for one without fault: then the
exit code is 3, not 0. 1: something is vulnerable; 2: usage.

    python -m tests.audit [pip-audit's own options, such as --vulnerability-service osv]
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REQUIREMENTS = Path(__file__).with_name("audit-requirements.txt")
LOCK = ROOT / "requirements.lock"
_FOLDER = ROOT / "build" / "audit"
_VULNERABLE, _UNKNOWN = 1, 3


@dataclass(frozen=True)
class Answer:
    """How many packages were looked up, what is wrong with which, and which nobody knows about, with the reason."""

    audited: int
    vulnerable: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def code(self) -> int:
        return _VULNERABLE if self.vulnerable else _UNKNOWN if self.unknown else 0

    def __str__(self) -> str:
        lines = list(self.vulnerable)
        if self.code == _UNKNOWN:
            lines.append(f"advisories could not be read, {len(self.unknown)} times: {self.unknown[0]}")
        lines.append(f"{self.audited} packages looked up, {len(self.vulnerable)} vulnerabilities known")
        return "\n".join(lines)


def read(answer: str, complaint: str) -> Answer:
    """What pip-audit's JSON says; without any, its last line is the reason why nothing is known."""
    try:
        dependencies: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Answer(0, unknown=((complaint.strip().splitlines() or ["pip-audit said nothing"])[-1],))
    vulnerable = [
        f"{package['name']} {package['version']}: {found['id']}, "
        f"fixed in {', '.join(found['fix_versions']) or 'none yet'}"
        for package in dependencies
        for found in package.get("vulns", ())
    ]
    if not dependencies:
        return Answer(0, unknown=("pip-audit named no package",))
    unknown = [str(package["skip_reason"]) for package in dependencies if "skip_reason" in package]
    return Answer(len(dependencies) - len(unknown), tuple(vulnerable), tuple(unknown))


def _program() -> Path:
    """pip-audit in an environment of its own, made once for its pinned packages."""
    stamp = _FOLDER / "installed"
    if not stamp.exists() or stamp.read_bytes() != REQUIREMENTS.read_bytes():
        venv.create(_FOLDER, with_pip=True, clear=True)
        pip = [_FOLDER / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", REQUIREMENTS], check=True)
        stamp.write_bytes(REQUIREMENTS.read_bytes())
    return _FOLDER / "bin" / "pip-audit"


def main(options: list[str]) -> int:
    command = [_program(), "--requirement", LOCK, "--disable-pip", "--require-hashes", "--format", "json"]
    done = subprocess.run(
        [*command, "--progress-spinner", "off", *options], capture_output=True, text=True, check=False, cwd=ROOT
    )
    answer = read(done.stdout, done.stderr)
    sys.stdout.write(f"{answer}\n")
    return answer.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
