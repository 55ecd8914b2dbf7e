"""samples/compose: each file is read by the program it is for, and what can run without Docker Hub runs."""

from __future__ import annotations

import http.cookiejar
import re
import stat
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from samples.demo.dashboard import Dashboard
from tests.conftest import PATIENCE_S, Start, wait_until
from tests.e2e.compose_files.files import ROOT, Files

pytestmark = pytest.mark.e2e

_SECRETS = {"VALKEY_PASSWORD", "OTLP_API_KEY", "DASHBOARD_TOKEN", "GRAFANA_PASSWORD"}


# ---- compose.yaml


def test_every_installation_has_passwords_of_its_own(files: Files, ready: Files) -> None:
    done = files.new_env()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    path = files.compose / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = files.environment()
    assert first.keys() == _SECRETS
    assert all(re.fullmatch("[0-9a-f]{32}", value) for value in first.values())
    assert len({*first.values(), *ready.environment().values()}) == 2 * len(_SECRETS)
    again = files.new_env()
    assert again.returncode == 1
    assert ".env is there already" in again.stderr
    assert files.environment() == first


def test_without_passwords_nothing_starts(files: Files) -> None:
    done = files.read("compose", files.compose / "compose.yaml")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert {name for name in _SECRETS if any(f"required variable {name} is missing" in line for line in lines)} == (
        _SECRETS
    )
    assert all("run ./new-env first" in line for line in lines)


def test_git_never_takes_the_passwords() -> None:
    command = ["git", "check-ignore", "--quiet", "samples/compose/.env"]
    assert subprocess.run(command, cwd=ROOT, timeout=PATIENCE_S, check=False).returncode == 0


def test_everything_listens_on_this_machine_only(ready: Files) -> None:
    ports = [port for service in ready.services().values() for port in service.get("ports") or ()]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    published = {(int(port["published"]), int(port["target"])) for port in ports}
    assert published == {(6379, 6379), (18888, 18888), (4317, 18889), (9090, 9090), (3000, 3000), (8000, 8000)}


def test_images_of_others_have_one_version(ready: Files) -> None:
    services = ready.services()
    others = {name: s["image"] for name, s in services.items() if "build" not in s}
    assert others.keys() == {"dashboard", "prometheus", "grafana"}
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in others.values())
    assert {name for name, s in services.items() if not s.get("profiles")} == {"cache", *others}


def test_what_is_mounted_and_what_is_built_is_there(ready: Files) -> None:
    services = ready.services()
    mounts = [m for s in services.values() for m in s.get("volumes") or () if m["type"] == "bind"]
    assert {Path(m["source"]).relative_to(ready.compose) for m in mounts} == {
        Path(name) for name in ("prometheus", "grafana/provisioning", "grafana/boards")
    }
    assert all(Path(m["source"]).is_dir() and m["read_only"] for m in mounts)
    assert Path(services["cache"]["build"]["context"]) == ready.top
    for name in ("shop", "visitors"):
        shop = services[name]["build"]
        places = {"": Path(shop["context"]), "telemetry": Path(shop["additional_contexts"]["telemetry"])}
        copies = re.findall(r"^COPY (?:--from=(\w+) )?(.*) \S+$", shop["dockerfile_inline"], re.MULTILINE)
        assert len(copies) == 3
        assert all((places[place] / one).is_file() for place, names in copies for one in names.split())


def test_who_needs_somebody_waits_until_that_one_is_healthy(ready: Files) -> None:
    services = ready.services()
    needed = {n: set(s["depends_on"]) for n, s in services.items() if s.get("depends_on")}
    assert needed == {"prometheus": {"cache"}, "grafana": {"prometheus"}, "shop": {"cache"}, "visitors": {"shop"}}
    conditions = {d["condition"] for s in services.values() for d in (s.get("depends_on") or {}).values()}
    assert conditions == {"service_healthy"}
    # The health check of the cache is its image's.
    assert all(services[name].get("healthcheck") for name in ("prometheus", "shop"))


# ---- the dashboard


def test_the_dashboard_takes_what_the_cache_sends_and_shows_it_to_those_with_the_token(
    ready: Files, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = ready.services()
    settings = services["dashboard"]["environment"]
    usual = Dashboard._environment
    monkeypatch.setattr(Dashboard, "_environment", lambda self, *more: {**usual(self, *more), **settings})
    with Dashboard() as dashboard:
        told = {**services["cache"]["environment"], "OTEL_EXPORTER_OTLP_ENDPOINT": dashboard.grpc_endpoint}
        password = told["VALKEY_PASSWORD"]
        server = start(*services["cache"]["command"], "--requirepass", password, env=told, password=password)
        with server.client() as client:
            client.set("a", 1)
        assert server.stop() == 0
        spans = wait_until(lambda: dashboard.api.spans("cache"), "the dashboard has spans of the cache")
        assert [span.name for span in spans] == ["SET"]
        token = settings["DASHBOARD__FRONTEND__BROWSERTOKEN"]
        assert "/login" not in _opened(f"{dashboard.url}/login?t={token}")
        assert "/login" in _opened(f"{dashboard.url}/login?t=wrong")
        assert "/login" in _opened(dashboard.url)
    assert not [name for name, secret in ready.environment().items() if secret in server.log_text()]


def _opened(url: str) -> str:
    """Where a browser without cookies ends up."""
    jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    with urllib.request.build_opener(jar).open(url, timeout=PATIENCE_S) as response:
        return str(urllib.parse.urlsplit(response.url).path)
