from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from sidecar.link import Link
from sidecar.relay import worker as worker_module
from sidecar.relay.worker import Worker
from sidecar.worker_process import link_sockets
from telemetry.totals import Totals


def test_a_message_of_any_size_arrives_whole_and_in_order() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        arrived: list[tuple[str, dict[str, Any], list[int]]] = []
        ours, theirs = link_sockets()

        def receive(kind: str, body: dict[str, Any], fds: list[int]) -> None:
            arrived.append((kind, body, fds))
            if "id" in body:
                there.reply(body, {"peers": body["peers"]})

        here = Link(ours, loop, lambda *_: None, lambda _frame: None, lambda: None)
        there = Link(theirs, loop, receive, lambda _frame: None, lambda: None)
        peers = [[number, f"127.0.0.1:{number}", "127.0.0.1:6379"] for number in range(60_000)]
        read_end, write_end = os.pipe()
        here.send("listen", {"listeners": ["S" * 500_000]}, [write_end])
        here.send("pause")
        assert await here.request("peers", {"peers": peers}, timeout=30) == {"peers": peers}
        here.send("resume")
        await here.request("peers", {"peers": []})
        assert [kind for kind, _, _ in arrived] == ["listen", "pause", "peers", "resume", "peers"]
        ((_, body, (fd,)), *_) = arrived
        assert body == {"listeners": ["S" * 500_000]}
        os.write(fd, b"x")
        assert os.read(read_end, 10) == b"x"
        for descriptor in (read_end, write_end, fd):
            os.close(descriptor)
        here.close()
        there.close()

    asyncio.run(main())


def test_figures_do_not_pile_up_while_the_supervisor_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_SNAPSHOT_INTERVAL_S", 0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = link_sockets()
        worker = Worker(loop, theirs)
        running = asyncio.create_task(worker.run())
        name = "a" * 50_000
        for _ in range(1000):
            worker._ledger.count(name)
            await asyncio.sleep(0)
        totals, packets = Totals(), 0
        ours.setblocking(False)
        await loop.sock_sendall(ours, json.dumps({"kind": "stop"}).encode())
        while packet := await asyncio.wait_for(loop.sock_recv(ours, 1 << 18), 10):
            packets += 1
            totals.apply(1, packet)
        await running
        assert totals.counter(name) == {"": 1000}
        assert packets < 100
        ours.close()

    asyncio.run(main())
