"""The HTTP endpoint as the hub starts and stops it: uvicorn inside the hub's own event loop.

No signal handlers, no access log, no lifespan protocol; the socket is bound here, so that a busy port is an OSError for
the caller and not an exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import uvicorn

from gridwire.broker.alert_routes import AlertRoutes
from gridwire.broker.alert_rules import AlertRules
from gridwire.broker.identities import Identities
from gridwire.broker.port import GroupDirectory, Journal
from gridwire.broker.schemas import SchemaRegistry
from gridwire.core.clock import Clock, SystemClock
from gridwire.heads.http.admin import Admin
from gridwire.heads.http.alert_routes import AlertRoutesApi, Receivers
from gridwire.heads.http.alert_rules import Rules
from gridwire.heads.http.alerts import Alerts
from gridwire.heads.http.app import App
from gridwire.heads.http.connection import HubConnection, connection_class
from gridwire.heads.http.eventhubs import EventHubsSend
from gridwire.heads.http.functions import Apps, Functions
from gridwire.heads.http.grid import Grid, Reader
from gridwire.heads.http.guard import Guard, is_loopback
from gridwire.heads.http.ingest import Ingest
from gridwire.heads.http.live import Live
from gridwire.heads.http.metrics import Counters
from gridwire.heads.http.options import HttpCounters, HttpLimits
from gridwire.heads.http.overview import Overview, Status
from gridwire.heads.http.pages import Pages
from gridwire.heads.http.processors import Processors
from gridwire.heads.http.ranges import Ranges
from gridwire.heads.http.request import BodyMemory
from gridwire.heads.http.routes import Route
from gridwire.heads.http.rule_states import RuleStates
from gridwire.heads.http.schemas import Schemas
from gridwire.heads.http.sign_in import Doorman
from gridwire.heads.http.sql import Sql
from gridwire.heads.http.streams import Streams
from gridwire.heads.http.upgrade import Upgrades

BACKLOG: Final = 2048
"""Connections the kernel holds while the loop is busy."""

DRAIN_POLL_S: Final = 0.01
"""How often a stop looks whether everybody is gone."""


class HttpHead:
    """Serves the HTTP API and the page.

    Args:
        status: the hub's own state, see /v1/status; called on every request that shows it, so it must be quick.
        port: 0 picks a free one; `port` tells which after `start`.
        static_dir: where the built page lies; None or empty answers / with a hint.
        counters: what other parts of the hub count, by part name; shown in /metrics.
        auto_create: whether sending to a hub that does not exist creates it; None means only when bound to loopback.
        hosts_allowed: names besides loopback's that a hub bound to loopback answers to.
        access: who is known; None lets everybody do everything.
        tls: how connections are encrypted; None for not at all.
        upgrades: paths whose connections go on as WebSockets.
        functions: apps of functions that this hub runs; None where there are none. deploy_remote: from other machines.
        lake: who answers the page's questions about the lake; None where there is none.
        routes: routes of alerts, and who speaks to their receivers; None where alerts are not delivered.
        sql: command that answers a question in SQL; empty where there is no lake.
        rule_trial: command that tries an alert rule; empty where there is no worker.
    """

    def __init__(
        self,
        broker: Journal,
        groups: GroupDirectory,
        *,
        status: Status,
        host: str = "127.0.0.1",
        port: int = 8700,
        static_dir: Path | None = None,
        counters: Counters | None = None,
        auto_create: bool | None = None,
        hosts_allowed: Iterable[str] = (),
        clock: Clock | None = None,
        limits: HttpLimits | None = None,
        access: Identities | None = None,
        tls: ssl.SSLContext | None = None,
        upgrades: Upgrades | None = None,
        functions: Apps | None = None,
        deploy_remote: bool = False,
        lake: Reader | None = None,
        sql: tuple[str, ...] = (),
        routes: tuple[AlertRoutes, Receivers] | None = None,
        rule_trial: tuple[str, ...] = (),
    ) -> None:
        self.host = host
        self.port = port
        self.counters = HttpCounters()
        self._limits = limits or HttpLimits()
        clock = clock or SystemClock()
        loopback = is_loopback(host)
        self._upgrades = upgrades or {}
        self._guard = Guard(loopback, frozenset(name.lower() for name in hosts_allowed))
        overview = Overview(broker, groups, status, clock)
        apps = None
        if functions is not None:
            safe = loopback or access is not None
            apps = Functions(functions, broker, overview, deploy_here=safe, deploy_remote=deploy_remote)
        self._streams = Streams(self._limits, self.counters)
        memory = BodyMemory(self._limits.body_bytes_in_flight_max)
        create = loopback if auto_create is None else auto_create
        ingest = Ingest(broker, clock, self._limits, self.counters, memory, auto_create=create)
        alerts = Alerts(broker, clock)
        self._app = App(
            broker=broker,
            guard=self._guard,
            ingest=ingest,
            admin=Admin(broker, groups, overview, self.counters),
            overview=overview,
            live=Live(broker, overview, clock, functions=apps),
            functions=apps,
            streams=self._streams,
            pages=Pages(static_dir),
            parts=counters or {},
            limits=self._limits,
            counters=self.counters,
            processors=Processors(broker, groups, clock),
            registry=Schemas(SchemaRegistry(broker, clock)),
            event_hubs=EventHubsSend(broker, ingest, clock, self._limits, memory),
            alerts=alerts,
            grid=Grid(broker, alerts, lake),
            ranges=Ranges(broker, ingest, clock),
            sql=Sql(sql),
            alert_routes=None if routes is None else AlertRoutesApi(broker, *routes),
            rules=Rules(AlertRules(broker, clock), RuleStates(broker), broker, clock, rule_trial),
            doorman=None if access is None else Doorman(access),
        )
        self._tls = tls
        self._server: uvicorn.Server | None = None
        self._date: asyncio.Task[None] | None = None

    @property
    def routes(self) -> list[Route]:
        """Every address that is served, the page's aside."""
        return self._app.routes

    async def start(self) -> None:
        """Serve. Raises OSError when the address cannot be bound."""
        listener = await _bound(self.host, self.port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http=connection_class(self._limits, self.counters, self._guard, self._upgrades),
            loop="none",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=self._limits.keep_alive_s,
        )
        config.load()
        config.ssl = self._tls
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.on_tick(0)
        try:
            await server.startup(sockets=[listener])
        except BaseException:
            listener.close()
            raise
        self._server = server
        self._date = asyncio.create_task(_keep_date(server))

    async def stop(self) -> None:
        """Take no more connections, end the streams, let running requests finish for `drain_s`."""
        server, self._server = self._server, None
        if server is None:
            return
        self._streams.stop()
        await _drain(server, self._limits.drain_s)
        await self._app.close()
        if self._date is not None:
            self._date.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._date


async def _bound(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # two listeners can both bind with SO_REUSEADDR; only one of them can listen
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    except BaseException:
        listener.close()
        raise
    return listener


async def _drain(server: uvicorn.Server, drain_s: float) -> None:
    """Close the listeners and idle connections, wait for the busy ones, then cut off what is left."""
    state = server.server_state
    for listener in server.servers:
        listener.close()
    for connection in list(state.connections):
        connection.shutdown()
    deadline = asyncio.get_running_loop().time() + drain_s
    while (state.connections or state.tasks) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(DRAIN_POLL_S)  # uvicorn tells nobody when a connection goes
    for task in list(state.tasks):
        task.cancel()
    for connection in list(state.connections):
        if isinstance(connection, HubConnection):
            connection.transport.abort()
    for listener in server.servers:
        await listener.wait_closed()


async def _keep_date(server: uvicorn.Server) -> None:
    """Renew the Date header once a second, which is all of uvicorn's main loop that we need."""
    while True:
        await asyncio.sleep(1)
        await server.on_tick(0)
