"""One relay worker: the process that serves clients.

Owns the process's event loop and what the supervisor tells it over the link; sessions do the rest. It never exports,
never logs by itself and never reads a configuration: everything comes over the link. Started as
``python -m sidecar.relay.worker INDEX LINK_FD``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from sidecar.counts import ClientCount
from sidecar.link import Body, Link, LinkClosedError
from sidecar.relay import limits
from sidecar.relay.commands import CommandTable
from sidecar.relay.complaints import Complaints
from sidecar.relay.lane_rules import HELD_FOR_LANES
from sidecar.relay.listener import Listener
from sidecar.relay.roster import Roster
from sidecar.relay.shared import Relay
from sidecar.relay.special import HELD, TABLE_WITHOUT_ENGINE, Special
from telemetry.commandnames import KNOWN
from telemetry.ledger import Ledger
from telemetry.spanpacket import spans_in
from telemetry.spans import Tracer

_SNAPSHOT_INTERVAL_S = 1.0
_CRON_INTERVAL_S = 1.0
_SPANS_INTERVAL_S = 0.1
"""Spans wait so long for a full packet."""
_PACKETS_MOST = 64
"""So many packets of spans, 48 KB each, may wait for a supervisor that is busy; more are dropped, and counted."""
_WITNESS_WITHIN_S = 5.0
"""For what the engine says about late replies: it may be busy with the next slow command."""
_DRAIN_LOOK_S = 0.1
"""Between looks at whether only clients that take nothing are left; else the last reply ends the drain at once."""
_LAST_WORDS_S = 1.0
"""For the last snapshot, when the supervisor is slow to read."""
_LAST_REPLIES_S = 0.5
"""For what an engine that has ended had answered; there is an end to it anyway, unless the engine is alive."""
_REFRESH_INTERVAL_S = 1.0
"""At most so often an unknown command makes the supervisor read the command table again."""


class Worker:
    """The worker's life: configured, told the command table, serving, stopped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, link_socket: socket.socket) -> None:
        self._loop = loop
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._settings: Body = {}
        self._table = CommandTable()
        self._ledger = Ledger(self._table.names)
        self._tracer = Tracer(self._table.names)
        self._tracer.on_packet = self._send_spans
        self._relay: Relay | None = None
        self._listener: Listener | None = None
        self._special: Special | None = None
        self._roster: Roster | None = None
        self._count: ClientCount | None = None
        self._renamed: dict[str, str] = {}
        self._refreshed_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._told_ready = False
        self._trace_context = True
        self.failed = False
        self._drain_request: Body | None = None
        self._drain_until = 0.0
        self._drain_timer: asyncio.TimerHandle | None = None
        self._link = Link(link_socket, loop, self._message, lambda _frame: None, self._link_closed)
        loop.set_exception_handler(self._fault)

    async def run(self) -> None:
        """Serve until told to stop, or until the supervisor is gone."""
        snapshot_at = cron_at = spans_at = self._loop.time()
        while not self._stopped.done():
            until = min(snapshot_at, cron_at, spans_at)
            await asyncio.wait([self._stopped], timeout=max(0.0, until - self._loop.time()))
            now = self._loop.time()
            if now >= spans_at:
                self._tracer.flush()
                spans_at = now + (_SPANS_INTERVAL_S if self._tracer.enabled else _CRON_INTERVAL_S)
            if now >= snapshot_at:
                if not self._link.packets_waiting:  # the next one says it all
                    self._send_snapshot()
                snapshot_at = now + _SNAPSHOT_INTERVAL_S
            if now >= cron_at:
                cron_at = now + _CRON_INTERVAL_S
                if self._relay is not None:
                    self._relay.close_idle(self._settings["timeout"])
                    self._relay.give_back_memory()
                    if self._relay.lanes:
                        self._relay.park_idle(self._settings["home_timeout"])
        if self._listener is not None:
            self._listener.close()
        if self._relay is not None:
            self._relay.last_replies(_LAST_REPLIES_S)
            for session in list(self._relay.sessions):
                session.close()
            self._relay.suspects.give_up()
        self._tracer.flush()
        self._send_snapshot()
        await self._link.flushed(_LAST_WORDS_S)
        self._link.close()

    # ---- messages --------------------------------------------------------------------------------------------------

    def _message(self, kind: str, body: Body, fds: list[int]) -> None:
        try:
            getattr(self, f"_on_{kind}")(body, fds)
        except Exception as error:
            self._fault(self._loop, {"message": f"it cannot do what {kind} asks for", "exception": error})
            if not self._told_ready:  # it never would be: the supervisor starts another
                self.failed = True
                self._link_closed()

    def _link_closed(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _on_configure(self, body: Body, fds: list[int]) -> None:
        self._settings.update(body["settings"])
        self._renamed = body.get("rename", {})
        self._ledger.enabled = self._settings["ledger"]
        self._relay = Relay(
            self._loop, self._table, self._ledger, self._tracer, body["engine_socket"], self._settings["engine_timeout"]
        )
        self._relay.auth_required = self._settings["auth_required"]
        self._relay.lanes = self._settings["lanes"]
        self._relay.lanes_most = self._settings["lanes_most"]
        self._relay.request_limit = self._settings[limits.REQUEST]
        self._relay.unread_limit = self._settings[limits.UNREAD]
        self._relay.flight_limit = self._settings[limits.FLIGHT]
        # Those of all workers: each has its share.
        self._relay.kept_limit = self._settings[limits.KEPT] // self._settings["workers"]
        self._relay.flights_limit = self._settings[limits.FLIGHTS] // self._settings["workers"]
        complaints = Complaints(self._link, self._loop)
        self._relay.on_limit = lambda limit, peer: limits.say(complaints, limit, self._settings[limit], peer)
        if body["lanes_suspended"]:
            self._relay.suspend_lanes()
        self._trace_context = body["trace_context"]
        if body["tracing"] is not None:
            self._tracer.configure(body["tracing"], fds[1])
        else:
            os.close(fds[1])
        self._count = count = ClientCount(fds[0], body["worker"])
        self._roster = Roster(self._relay, self._settings)
        self._special = Special(self._link, self._settings, body["config_values"], count, self._roster)
        self._relay.special = self._special
        self._relay.on_unknown = self._unknown
        self._relay.suspects.ask = self._ask_witness
        self._relay.on_upstreams = self._count_upstreams
        self._listener = Listener(self._relay, self._link, self._settings, count, complaints)
        self._relay.on_closed = self._listener.closed
        self._on_tls(body, [])
        self._listener.replace(_sockets(body["listeners"], fds[2:]))

    def _on_commands(self, body: Body, _fds: list[int]) -> None:
        held = HELD | HELD_FOR_LANES if self._settings["lanes"] and body["commands"] else HELD
        self._table.update(body["commands"] or TABLE_WITHOUT_ENGINE, held, self._renamed)
        if self._trace_context:
            self._table.update([("traceparent", [])])
        if self._relay is not None:
            self._relay.strict = body["strict"]
        self._table.lack(KNOWN)
        self._ledger.names_grew(self._table.lacking)
        self._tracer.names_grew(self._table.first_keys)
        if not self._told_ready:
            assert self._listener is not None
            self._told_ready = True
            self._listener.resume()
            gc.collect()
            gc.freeze()
            self._link.send("ready")

    def _on_listen(self, body: Body, fds: list[int]) -> None:
        assert self._listener is not None
        self._listener.replace(_sockets(body["listeners"], fds))

    def _on_tls(self, body: Body, _fds: list[int]) -> None:
        """For clients that connect from now on."""
        assert self._listener is not None
        if body["tls"] is not None:
            from sidecar import tls

            self._listener.context = tls.make_context(tls.Material(**body["tls"]))

    def _on_update(self, body: Body, _fds: list[int]) -> None:
        assert self._special is not None
        self._settings.update(body["settings"])
        self._special.config_values = body["config_values"]
        if self._relay is not None:
            self._relay.auth_required = self._settings["auth_required"]

    def _on_judge_again(self, body: Body, _fds: list[int]) -> None:
        """The engine starts anew, perhaps with other passwords or none.

        Who has no connection to lose with it loses its client's: what it proved to the engine before counts no more.
        strangers: who waits for the engine must be judged by the password that it has now.
        """
        if self._roster is not None:
            self._roster.forget()
        if self._relay is not None:
            for session in list(self._relay.sessions):
                if not session.connected and (session.trusted or (body["strangers"] and not session.is_local)):
                    session.close()

    def _on_pause(self, _body: Body, _fds: list[int]) -> None:
        assert self._listener is not None
        assert self._relay is not None
        self._listener.pause()
        self._relay.stop_requests()

    def _on_resume(self, _body: Body, _fds: list[int]) -> None:
        assert self._listener is not None
        assert self._relay is not None
        self._drained()
        self._listener.resume()
        self._relay.resume_requests()

    def _on_drain(self, body: Body, _fds: list[int]) -> None:
        self._on_pause(body, [])
        assert self._relay is not None
        self._drain_request = body
        self._drain_until = self._loop.time() + body["timeout"]
        self._relay.on_quiet = self._drained
        self._look_at_drain()

    def _look_at_drain(self) -> None:
        assert self._relay is not None
        if self._relay.at_rest or self._loop.time() >= self._drain_until:
            self._drained()
        else:
            self._drain_timer = self._loop.call_later(_DRAIN_LOOK_S, self._look_at_drain)

    def _drained(self) -> None:
        if self._drain_request is not None:
            assert self._relay is not None
            if self._drain_timer is not None:
                self._drain_timer.cancel()
                self._drain_timer = None
            self._relay.on_quiet = None
            self._link.reply(self._drain_request, {"drained": True})
            self._drain_request = None

    def _on_snapshot(self, body: Body, _fds: list[int]) -> None:
        self._send_snapshot()
        self._link.reply(body, {})

    def _on_roster(self, body: Body, _fds: list[int]) -> None:
        assert self._roster is not None
        self._answer_later(body, self._roster.answer(body["what"], body))

    def _on_booked(self, body: Body, _fds: list[int]) -> None:
        """Replies that are large only because the engine counts what it had pushed before; each is reported once."""
        booked: list[tuple[str, int]] = []
        if self._relay is not None:
            booked = list(self._relay.booked)
            self._relay.booked.clear()
        self._link.reply(body, {"booked": booked})

    def _on_suspend_lanes(self, body: Body, _fds: list[int]) -> None:
        relay = self._relay
        assert relay is not None

        def suspended(_done: asyncio.Future[None]) -> None:
            if body["close"]:
                relay.close_lanes()
            self._link.reply(body, {})

        relay.suspend_lanes().add_done_callback(suspended)

    def _on_resume_lanes(self, _body: Body, _fds: list[int]) -> None:
        assert self._relay is not None
        self._relay.resume_lanes()

    def _on_bring_home(self, body: Body, _fds: list[int]) -> None:
        assert self._roster is not None
        self._answer_later(body, self._roster.bring_users_home(body["users"], keep=body["keep"]))

    def _answer_later(self, request: Body, answer: Coroutine[Any, Any, dict[str, Any]]) -> None:
        task = self._loop.create_task(self._answer(request, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Body, answer: Coroutine[Any, Any, dict[str, Any]]) -> None:
        self._link.reply(request, await answer)

    def _on_stop(self, _body: Body, _fds: list[int]) -> None:
        self._link_closed()

    # ---- measurements ----------------------------------------------------------------------------------------------

    def _send_snapshot(self) -> None:
        gauges: list[tuple[str, str, int]] = []
        if self._relay is not None and self._listener is not None:
            gauges = [("commands.in_flight", "", self._relay.in_flight)]
            gauges += [("upstreams", "home", self._relay.homes), ("upstreams", "lane", self._relay.lane_count)]
            gauges += [("connections", kind, n) for kind, n in self._listener.by_kind.items()]
        for reason, dropped in self._tracer.take_drops().items():
            self._ledger.count("spans.dropped", reason, dropped)
        for frame in self._ledger.snapshot(gauges):
            self._link.send_figures(frame)

    def _send_spans(self, packet: bytes) -> None:
        if self._link.packets_waiting < _PACKETS_MOST:
            self._link.send_figures(packet)
        else:
            self._ledger.count("spans.dropped", "link_full", spans_in(packet))

    def _fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A fault of ours: it goes to the log, and the worker goes on."""
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if error is not None else ""
        body = {"level": "error", "event": "worker.fault", "message": f"A fault in a worker: {context['message']}."}
        self._link.send("log", {**body, "attributes": {"traceback": trace[-8000:]}})

    def _count_upstreams(self) -> None:
        assert self._relay is not None
        assert self._count is not None
        self._count.set_unmatched(self._relay.unmatched)

    def _ask_witness(self, question: Body, decide: Callable[[Body | None], None]) -> None:
        """Which of these late replies took the time, as the engine's slow log says."""

        async def ask() -> None:
            try:
                answer: Body | None = await self._link.request("witness", question, timeout=_WITNESS_WITHIN_S)
            except (TimeoutError, LinkClosedError):
                answer = None
            decide(answer if answer and "known" in answer else None)

        task = self._loop.create_task(ask())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _unknown(self) -> None:
        now = self._loop.time()
        if now - self._refreshed_at >= _REFRESH_INTERVAL_S:
            self._refreshed_at = now
            self._link.send("refresh_commands")


def _sockets(listeners: list[Body], fds: list[int]) -> list[tuple[socket.socket, str, str]]:
    return [
        (socket.socket(fileno=fd), entry["transport"], entry["address"])
        for entry, fd in zip(listeners, fds, strict=True)
    ]


def main() -> None:
    """Run the worker of this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    link_socket = socket.socket(fileno=int(sys.argv[2]))
    gc.set_threshold(50_000, 20, 50)

    async def serve() -> bool:
        worker = Worker(asyncio.get_running_loop(), link_socket)
        await worker.run()
        return worker.failed

    os._exit(1 if uvloop.run(serve()) else 0)


if __name__ == "__main__":
    main()
