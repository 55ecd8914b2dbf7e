from __future__ import annotations

from pathlib import Path

import pytest
import valkey

from tests.conftest import Start


def test_a_shutdown_whose_save_fails_is_refused_and_all_goes_on(start_here: Start, tmp_path: Path) -> None:
    server = start_here("--save", "3600 1").wait_ready()
    client, other = (server.client(single_connection_client=True, retry=None) for _ in range(2))
    client.set("kept", "yes")
    engine, worker = server.engine, server.worker
    in_the_way = tmp_path / f"temp-{engine.pid}.rdb"
    in_the_way.mkdir()  # where the engine wants to write its file
    with pytest.raises(valkey.ResponseError, match="Errors trying to SHUTDOWN"):
        client.execute_command("SHUTDOWN")
    assert client.get("kept") == b"yes"
    assert other.get("kept") == b"yes"
    assert server.get("/readyz")[0] == 200
    assert (server.engine, server.worker) == (engine, worker)
    in_the_way.rmdir()
    with pytest.raises(valkey.ConnectionError):
        client.execute_command("SHUTDOWN")
    assert server.wait_end() == 0
    assert start_here().wait_ready().client().get("kept") == b"yes"
