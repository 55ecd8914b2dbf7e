from __future__ import annotations

import json
import os

from tests.conftest import Start


def test_a_log_reader_that_stops_reading_stops_no_server(start_here: Start) -> None:
    reading, writing = os.pipe()
    try:
        server = start_here("--save", "", preexec_fn=lambda: os.dup2(writing, 1)).wait_ready()
        # The engine ends this only when the supervisor has read almost all of it: 2 MB.
        server.client().eval("for i = 1, 4000 do redis.log(redis.LOG_WARNING, i .. string.rep('x', 500)) end", 0)
        assert server.get("/livez") == (200, "ok\n")
        assert server.client().ping()
        assert server.terminate() == 0
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as log:
        first = json.loads(log.readline())
    assert first["severity_number"]
