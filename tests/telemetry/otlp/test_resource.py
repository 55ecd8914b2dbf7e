from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from telemetry.otlp.resource import Attributes, attributes, container_id
from telemetry.otlp.settings import read

ID = "0123456789abcdef" * 4


def made(**variables: str) -> Attributes:
    settings, _ = read({f"OTEL_{name}": value for name, value in variables.items()})
    return attributes(settings, version="1.2", valkey_version="9.1.2", address="0.0.0.0", port=6379)


def test_the_contracts_attributes_are_there() -> None:
    found = made()
    assert found["service.name"] == "valkey"
    assert str(uuid.UUID(str(found["service.instance.id"]))) == found["service.instance.id"]
    assert found["service.instance.id"] == made()["service.instance.id"]
    assert (found["service.version"], found["valkey.version"], found["db.system.name"]) == ("1.2", "9.1.2", "valkey")
    assert (found["server.address"], found["server.port"]) == ("0.0.0.0", 6379)
    assert found["process.pid"] == os.getpid()
    assert found["host.name"]


def test_what_is_given_is_never_altered() -> None:
    found = made(
        RESOURCE_ATTRIBUTES="service.instance.id=abc%20d,deployment.environment.name=prod,service.name=other,host.name=h",
        SERVICE_NAME="cache",
    )
    assert (found["service.instance.id"], found["host.name"]) == ("abc d", "h")
    assert (found["service.name"], found["deployment.environment.name"]) == ("cache", "prod")
    assert made(RESOURCE_ATTRIBUTES="service.name=other")["service.name"] == "other"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cgroup", f"12:pids:/docker/{ID}\n11:cpu:/docker/{ID}\n"),
        ("cgroup", f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n"),
        ("mountinfo", f"9 1 254:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/vda1 rw\n"),
        (
            "mountinfo",
            f"9 1 0:25 /containers/overlay-containers/{ID}/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw\n",
        ),
    ],
)
def test_a_containers_id_is_found(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / name).write_text(text)
    assert container_id(tmp_path) == ID


def test_no_container_has_no_id(tmp_path: Path) -> None:
    assert container_id(tmp_path) is None
    (tmp_path / "cgroup").write_text("0::/user.slice/session-1.scope\n")
    (tmp_path / "mountinfo").write_text(f"9 1 0:1 /var/lib/docker/overlay2/{ID}/merged / rw - overlay overlay rw\n")
    assert container_id(tmp_path) is None
