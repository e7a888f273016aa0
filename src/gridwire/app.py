"""The composition root: the only file that knows everyone.

`Hub` puts broker, heads and worker supervision together in one process. `run_worker` is what a worker process runs.
Heavy parts (numpy, numba, pyarrow, deltalake) are imported by workers only.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

import gridwire
from gridwire import entities
from gridwire.auth.bearer import BearerRules
from gridwire.broker.alert_routes import AlertRoutes, concerns_routes
from gridwire.broker.alert_rules import AlertRules, RuleRecord, concerns_rules
from gridwire.broker.claims import declare_groups
from gridwire.broker.deployments import Deployments, concerns_apps
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.identities import Identities, TokenIssuer
from gridwire.broker.issuer_keys import issuer_keys
from gridwire.broker.key_file import KEY_FILE
from gridwire.broker.local_server import LocalServer
from gridwire.broker.membership import Membership
from gridwire.broker.port import GroupDirectory, Journal
from gridwire.capture.layout import Layout
from gridwire.config import OFF, Settings, broker_flags, is_loopback, kafka_address, webhooks_allowed
from gridwire.core.clock import SystemClock
from gridwire.core.errors import FencedEpoch, GridwireError, HubExists
from gridwire.core.hubs import (
    ALERT_NOTES,
    ALERTS,
    DEMAND,
    FEEDERS,
    FORECASTS,
    HEALTH,
    METER_EVENTS,
    MODELS,
    NETWORK,
    QUARANTINE,
    READINGS,
    RISK,
    RULE_STATES,
    SINGLE_PARTITION,
    TEMPLATES,
    TRANSFORMERS,
    WEATHER,
)
from gridwire.core.limits import MIB
from gridwire.deployed import DeployedApps, why_unable
from gridwire.heads.amqp import AmqpHead
from gridwire.heads.amqp.websocket import SUBPROTOCOLS, WEBSOCKET_PATH
from gridwire.heads.http.rule_states import RuleStates
from gridwire.heads.http.server import HttpHead
from gridwire.heads.http.upgrade import Upgrade
from gridwire.heads.kafka import KafkaHead
from gridwire.heads.tls import Certificates
from gridwire.lake_reader import LakeReader
from gridwire.log import disk
from gridwire.router.addresses import Allowed
from gridwire.router.messenger import Messenger
from gridwire.supervisor import Command, Supervisor
from gridwire.web import static_directory

if TYPE_CHECKING:
    from gridwire.broker.kafka_address import KafkaAddress
    from gridwire.broker.local import LocalSource
    from gridwire.broker.port import EventSource
    from gridwire.grid.worker import WorkerSettings
    from gridwire.router.worker import Keeper

GRID_GROUP: Final = "grid.loads"
GRID_FEEDERS_GROUP: Final = "grid.feeder-sums"
GRID_LATE_GROUP: Final = "grid.late"
WATCH_GROUP: Final = "grid.watch"
RULES_GROUP: Final = "grid.rules"
FORECAST_GROUP: Final = "grid.forecast"
VEE_GROUP: Final = "grid.vee"
NO_DETECTORS: Final = "none"
CAPTURE_GROUP: Final = "lake.capture"
AVRO_GROUP: Final = "capture.avro"
DECODE_GROUP: Final = "grid.decode"
ROUTER_GROUP: Final = "alert-routes"
FUNCTIONS: Final = "functions"
PATIENCE_S: Final = 5.0
"""What a worker whose hub is gone gets to save its state. Hosts of functions get none: they keep nothing."""

SETTLE_S: Final = 0.2
"""Hubs tend to be created several at a time; workers are started once for all of them."""

LOG_COUNTERS_S: Final = 60.0
RETIRE_S: Final = 1.0
"""How often it is asked whether removed alert rules have closed what they had open."""

TRY_AGAIN_S: Final = 5.0
"""Pause after workers could not be started."""

REPORT_S: Final = 5.0
"""How old a worker's counters in /metrics may be."""

GARBAGE_OBJECTS: Final = 25_000
"""New objects between two looks for cycles among them. Thousands of requests in flight are no garbage, and walking them
for every 700 new objects, as Python does by itself, took an eighth of a busy hub's time."""

log = structlog.get_logger("gridwire")


class Hub:
    """One hub process: the log is in it, and all heads over it."""

    broker: Journal
    groups: GroupDirectory

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.directory = Path(settings.data).absolute()
        self.clock = SystemClock()
        self.supervisor = Supervisor()
        self.local: LocalServer | None = None
        self.kafka: KafkaHead | None = None
        self.amqp: AmqpHead | None = None
        self.http: HttpHead | None = None
        self.access: Identities | None = None
        self.certificates: Certificates | None = None
        self.apps: DeployedApps | None = None
        self.key_file = Path(settings.secret_file) if settings.secret_file else self.directory / KEY_FILE
        self.routes: AlertRoutes | None = None
        self.rules: AlertRules | None = None
        self.rule_states: RuleStates | None = None
        self.lake = LakeReader([sys.executable, "-m", "gridwire.grid.history", str(self.directory / "lake")])
        self.root_key_file: Path | None = None
        """Where a first start with sign-in put the root policy's connection string."""
        self._started_ms = self.clock.now_ms()
        self._started_s = self.clock.monotonic()
        self._ready = False
        self._reconcile = asyncio.Event()
        self._reconciler: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the log and serve. Raises GridwireError with the next step for the operator."""
        Layout(self.settings.avro_path, self.settings.namespace)
        disk.raise_open_files()
        await self._open_broker()
        try:
            self._open_apps()
            self._open_rules()
            await self._create_entities()
            await self._open_doors()
            await self._start_heads()
        except BaseException:
            await self.stop()
            raise
        self.broker.on_hubs_changed = self._reconcile.set
        self._reconcile.set()
        self._reconciler = asyncio.create_task(self._keep_workers())
        self._ready = True

    async def _open_broker(self) -> None:
        settings = self.settings
        broker = await EmbeddedBroker.open(
            self.directory,
            settings.durability,
            clock=self.clock,
            default_partitions=settings.partitions,
            templates=TEMPLATES,
            single_partition=SINGLE_PARTITION,
        )
        self.broker, self._embedded = broker, broker
        self.groups = self.membership = Membership(self.clock)
        self.local = LocalServer(broker)

    def _open_apps(self) -> None:
        """Deployed apps of functions: what the journal has of them, and changes, whoever makes them."""
        unable = why_unable(self.settings.workers, kafka=isinstance(self, Gateway))
        reports = dict if self.local is None else self.local.apps.fresh
        self.apps = DeployedApps(
            self.directory, Deployments(self.broker, self.clock), self.supervisor, reports=reports,
            base=self._worker_command, unable=unable,
        )  # fmt: skip
        self.routes = AlertRoutes(self.broker, self.clock, self.key_file)
        self.broker.on_change(
            lambda changes: self._reconcile.set() if concerns_apps(changes) or concerns_routes(changes) else None
        )

    def _open_rules(self) -> None:
        """Alert rules of users: what the journal has of them, and changes, whoever makes them."""
        self.rules, self.rule_states = AlertRules(self.broker, self.clock), RuleStates(self.broker)
        self.broker.on_change(lambda changes: self._reconcile.set() if concerns_rules(changes) else None)

    async def _create_entities(self) -> None:
        """Hubs and groups of the entity file, where they are not there yet. Raises InvalidSetting."""
        if not self.settings.entities:
            return
        known = {hub.name: hub for hub in self.broker.hubs()}
        wanted = entities.load(Path(self.settings.entities))
        for entity in wanted:
            if entity.name not in known:
                await self.broker.create_hub(entity.name, entity.partitions)
            elif entity.partitions not in (None, known[entity.name].partitions):
                log.warning(
                    "hub has another number of partitions than the entity file says: left as it is",
                    hub=entity.name, partitions=known[entity.name].partitions, file=entity.partitions,
                )  # fmt: skip
        await declare_groups(self.broker, {group for entity in wanted for group in entity.groups})

    async def _open_doors(self) -> None:
        """Certificates and identities, where they are asked for."""
        settings = self.settings
        if settings.tls_cert:
            client_ca = Path(settings.tls_client_ca) if settings.tls_client_ca else None
            self.certificates = Certificates(
                Path(settings.tls_cert), Path(settings.tls_key), client_ca, require=not settings.auth
            )
            self.certificates.watch()
        if settings.auth:
            self.access = Identities(self.broker, self.directory, self.clock, _token_issuer(settings), self.key_file)
            self.root_key_file = await self.access.open()

    async def _start_heads(self) -> None:
        if self.local is not None:
            await self.local.start()
        await self._start_kafka()
        await self._start_amqp()
        await self._start_http()

    async def _start_kafka(self) -> None:
        settings = self.settings
        if settings.kafka_port != OFF:
            self.kafka = KafkaHead(
                self._embedded,
                self.membership,
                host=settings.host,
                port=settings.kafka_port,
                cluster_id=self.broker.cluster_id,
                auto_create=settings.auto_create,
                default_partitions=settings.partitions,
                clock=self.clock,
                access=self.access,
                tls=self._tls,
            )
            await _bind(self.kafka.start(), "Kafka", "--kafka-port", settings.host, settings.kafka_port)

    async def _start_amqp(self) -> None:
        settings = self.settings
        if self._amqp_port != OFF or self._amqps_port != OFF:
            self.amqp = self._amqp_head()
            await _bind(self.amqp.start(), "AMQP", "--amqp-port", settings.host, settings.amqp_port)

    async def _start_http(self) -> None:
        settings = self.settings
        if settings.http_port != OFF:
            self.http = self._http_head()
            await _bind(self.http.start(), "HTTP", "--http-port", settings.host, settings.http_port)

    @property
    def _amqp_port(self) -> int:
        """With a certificate, keys do not travel in the clear: TLS only, but on loopback."""
        settings = self.settings
        plain = self.certificates is None or is_loopback(settings.host)
        return settings.amqp_port if plain else OFF

    @property
    def _amqps_port(self) -> int:
        return OFF if self.certificates is None else self.settings.amqps_port

    def _amqp_head(self) -> AmqpHead:
        return AmqpHead(
            self.broker,
            host=self.settings.host,
            port=self._amqp_port,
            tls_port=self._amqps_port,
            tls=self._tls,
            auto_create=self.settings.auto_create,
            clock=self.clock,
            access=self.access,
        )

    def _http_head(self) -> HttpHead:
        return HttpHead(
            self.broker,
            self.groups,
            host=self.settings.host,
            port=self.settings.http_port,
            status=self.status,
            auto_create=self.settings.auto_create,
            clock=self.clock,
            counters=self._counters(),
            static_dir=static_directory(),
            access=self.access,
            tls=self._tls,
            functions=self.apps,
            deploy_remote=self.settings.deploy_remote,
            lake=self.lake,
            sql=(sys.executable, "-m", "gridwire.capture.ask", str(self.directory / "lake")),
            routes=self._routes_and_receivers(),
            rule_trial=(sys.executable, "-m", "gridwire.grid.rules.trial", str(self.directory / "lake")),
            upgrades={} if self.amqp is None else {WEBSOCKET_PATH: Upgrade(SUBPROTOCOLS, self.amqp.websocket)},
        )

    def _routes_and_receivers(self) -> tuple[AlertRoutes, Messenger] | None:
        if self.routes is None:
            return None
        allowed, origin = webhooks_allowed(self.settings), self.settings.namespace
        return self.routes, Messenger(allowed, origin, self.key_file, self.clock)

    def _counters(self) -> dict[str, Callable[[], Mapping[str, int]]]:
        counters: dict[str, Callable[[], Mapping[str, int]]] = {"log": self.broker.counters}
        if self.local is not None and not isinstance(self, Gateway):  # workers of a cluster tell their own log
            reports = self.local.reports
            counters["grid"] = lambda: reports.get(GRID_GROUP, {})
            counters["late"] = lambda: reports.get(GRID_LATE_GROUP, {})
            counters["decode"] = lambda: reports.get(DECODE_GROUP, {})
            counters["vee"] = lambda: reports.get(VEE_GROUP, {})
            counters["watch"] = lambda: reports.get(WATCH_GROUP, {})
            counters["rules"] = lambda: reports.get(RULES_GROUP, {})
            counters["forecast"] = lambda: reports.get(FORECAST_GROUP, {})
        if self.kafka is not None:
            counters["kafka"] = partial(_kafka_counters, self.kafka)
        if self.amqp is not None:
            counters["amqp"] = partial(_amqp_counters, self.amqp)
        return counters

    @property
    def _tls(self) -> ssl.SSLContext | None:
        return None if self.certificates is None else self.certificates.context

    async def stop(self) -> None:
        """Drain: heads first, then workers, then the log."""
        self._ready = False
        if self._reconciler is not None:
            self._reconciler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reconciler
        await self.supervisor.stop()
        await self._stop_heads()
        await self.lake.stop()
        if self.certificates is not None:
            await self.certificates.close()
        if self.access is not None:
            await self.access.close()
        await self._close_broker()

    async def _stop_heads(self) -> None:
        await self.membership.close()  # first, or members that wait for their group hold the heads
        await _stop(self.kafka, self.http, self.amqp)

    async def _close_broker(self) -> None:
        if self.local is not None:
            await self.local.stop()
        await self._embedded.close()

    def endpoints(self) -> dict[str, str]:
        """Where clients connect."""
        found = {}
        if self.kafka is not None:
            found["kafka"] = f"{_shown(self.settings.host)}:{self.kafka.port}"
        if self.amqp is not None:
            if self.amqp.port != OFF:
                found["amqp"] = f"amqp://{_shown(self.settings.host)}:{self.amqp.port}"
            if self.amqp.tls_port != OFF:
                found["amqps"] = f"amqps://{_shown(self.settings.host)}:{self.amqp.tls_port}"
        if self.http is not None:
            scheme = "http" if self.certificates is None else "https"
            found["http"] = f"{scheme}://{_shown(self.settings.host)}:{self.http.port}"
        return found

    def status(self) -> dict[str, Any]:
        """What `/v1/status` answers."""
        return {
            "version": gridwire.__version__,
            "started_at": self._started_ms,
            "uptime_s": int(self.clock.monotonic() - self._started_s),
            "durability": self.broker.durability,
            "data_dir": str(self.directory),
            "ready": self._ready and self.broker.trouble is None,
            "broker": self.broker.describe(),
            "auth": self._auth_text(),
            "tls": self.certificates is not None,
            "endpoints": self.endpoints(),
            "memory_bytes": disk.resident_bytes(),
            "disk_free_bytes": disk.free_bytes(self.directory),
            "workers": self.supervisor.describe(),
        }

    def _auth_text(self) -> str:
        if self.settings.auth:
            return "on"
        return "off" if self.settings.insecure_i_understand else "off (loopback only)"

    # -- workers ------------------------------------------------------------------------------------------------

    async def _keep_workers(self) -> None:
        """Whenever hubs or their settings change, make the workers those that have something to do."""
        while True:
            await self._reconcile.wait()
            await asyncio.sleep(SETTLE_S)
            self._reconcile.clear()
            try:
                if self.settings.workers:
                    await self._ensure_grid_hubs()
                    await self._run_wanted()
            except GridwireError as error:
                log.error("workers cannot be started", reason=str(error))
                asyncio.get_running_loop().call_later(TRY_AGAIN_S, self._reconcile.set)

    async def _run_wanted(self) -> None:
        wanted: dict[str, Command] = dict(self._wanted())
        if self.apps is None:
            return
        wanted |= await self._of_rules()
        await self.supervisor.want({**wanted, **await self.apps.commands()})
        await self.apps.tidy()
        if "rules" not in wanted and await self._rules_left():  # the last commit of the worker that was stopped
            self._reconcile.set()

    async def _of_rules(self) -> dict[str, Command]:
        """The worker of alert rules, while there are any, or removed ones that have something open.

        Its rules are in a file that is named by what is in it, so that another set of rules is another worker.
        """
        records = [] if self.rules is None else [*self.rules.all().values()]
        left = await self._rules_left()
        if left:
            asyncio.get_running_loop().call_later(RETIRE_S, self._reconcile.set)
        if not records and not left:
            return {}
        known = {hub.name for hub in self.broker.hubs()}
        for hub in (ALERTS, ALERT_NOTES, RULE_STATES):
            if hub not in known:
                with contextlib.suppress(HubExists):
                    await self.broker.create_hub(hub)
        file = await asyncio.to_thread(_rules_file, self.directory / "workers" / "rules", records)
        return {"rules": (RULES_GROUP, [*self._worker_command("rules"), "--path", str(file)])}

    async def _rules_left(self) -> bool:
        """Whether there is something to close of rules that are no more."""
        if self.rules is None or self.rule_states is None:
            return False
        return bool((await self.rule_states.all()).keys() - self.rules.all().keys())

    async def _ensure_grid_hubs(self) -> None:
        names = {hub.name for hub in self.broker.hubs()}
        if NETWORK in names:
            grid = (READINGS, QUARANTINE, TRANSFORMERS, FEEDERS, METER_EVENTS, WEATHER, ALERTS, ALERT_NOTES, HEALTH)
            forecast = (FORECASTS, DEMAND, RISK) if MODELS in names else ()
            for name in (*grid, *forecast):
                if name not in names:
                    with contextlib.suppress(HubExists):
                        await self.broker.create_hub(name)

    def _worker_command(self, name: str) -> list[str]:
        base = [sys.executable, "-m", "gridwire", "worker", name]
        return [*base, "--data", str(self.directory), "--supervised", *broker_flags(self.settings)]

    def _wanted(self) -> dict[str, Command]:
        base = [sys.executable, "-m", "gridwire", "worker"]
        data = ["--data", str(self.directory), "--supervised", *broker_flags(self.settings)]
        wanted: dict[str, Command] = {}
        hubs = self.broker.hubs()
        if any(hub.name == NETWORK for hub in hubs):
            window = ["--window-days", str(self.settings.grid_window)]
            shared = isinstance(self, Gateway) and self.settings.grid_shared
            window += [] if shared else ["--whole"]
            grid = [*base, "grid", *data, *window]
            in_lake = any(hub.name == READINGS and hub.settings.capture != "off" for hub in hubs)
            wanted["grid"] = ((GRID_GROUP, GRID_LATE_GROUP), [*grid, "--late"]) if in_lake else (GRID_GROUP, grid)
            most = ["--channels", str(self.settings.vee_channels)]
            wanted["vee"] = (VEE_GROUP, [*base, "vee", *data, *window, *most])
            if self.settings.detectors != NO_DETECTORS:
                wanted["watch"] = (WATCH_GROUP, [*base, "watch", *data, "--detectors", self.settings.detectors])
        if {NETWORK, MODELS} <= {hub.name for hub in hubs}:  # without a model there is nothing to forecast with
            wanted["forecast"] = (FORECAST_GROUP, [*base, "forecast", *data])
        if self.routes is not None and self.routes.all():
            where = ["--secret-file", str(self.key_file), "--webhook-allow", webhooks_allowed(self.settings)]
            wanted["router"] = (ROUTER_GROUP, [*base, "router", *data, *where])
        tables = [f"{hub.name}={hub.settings.capture}" for hub in hubs if hub.settings.capture != "off"]
        if tables:
            flush = ["--flush-s", str(self.settings.lake_flush)]
            wanted["capture"] = (CAPTURE_GROUP, [*base, "capture", *data, *flush, "--table", *tables])
        if files := [hub.name for hub in hubs if hub.settings.capture_avro == "on"]:
            flush = ["--flush-s", str(self.settings.avro_window), "--flush-mib", str(self.settings.avro_size)]
            names = ["--path", self.settings.avro_path, "--namespace", self.settings.namespace]
            wanted["avro"] = (AVRO_GROUP, [*base, "avro", *data, *flush, *names, "--table", *files])
        if feeds := [f"{hub.name}={hub.settings.decode}" for hub in hubs if hub.settings.decode != "off"]:
            wanted["decode"] = (DECODE_GROUP, [*base, "decode", *data, *self._of_frames(), "--table", *feeds])
        return wanted

    def _of_frames(self) -> list[str]:
        """What frames leave out, as flags of the worker that decodes them."""
        settings = self.settings
        told = {"processes": settings.decode_processes, "zone": settings.decode_zone}
        told |= {"keys": settings.decode_keys, "mapping": settings.decode_mapping}
        return [f"--{name}={value}" for name, value in told.items() if value]


class Gateway(Hub):
    """One gateway process: heads over a Kafka cluster, which keeps everything. There may be any number of them.

    It has no Kafka head, for Kafka clients go to Kafka itself, and no consumer groups of its own.
    """

    def __init__(self, settings: Settings, address: KafkaAddress) -> None:
        super().__init__(settings)
        self.address = address

    async def _open_broker(self) -> None:
        from gridwire.broker.kafka import KafkaBroker

        self.directory.mkdir(parents=True, exist_ok=True)
        broker = await KafkaBroker.open(
            self.address,
            clock=self.clock,
            default_partitions=self.settings.partitions,
            templates=TEMPLATES,
            single_partition=SINGLE_PARTITION,
        )
        self.broker, self._cluster, self.groups = broker, broker, broker.groups
        self.local = LocalServer(None, self.directory)  # hosts of functions tell it how they are

    async def _start_heads(self) -> None:
        if self.local is not None:
            await self.local.start()
        await self._start_amqp()
        await self._start_http()

    async def _stop_heads(self) -> None:
        await _stop(self.http, self.amqp)

    async def _close_broker(self) -> None:
        if self.local is not None:
            await self.local.stop()
        await self._cluster.close()

    def endpoints(self) -> dict[str, str]:
        """Where clients connect: Kafka clients to the cluster itself."""
        return {"kafka": self.address.bootstrap, **super().endpoints(), "broker": self.address.url}


def _rules_file(directory: Path, records: list[RuleRecord]) -> Path:
    """Write rules for their worker; those of workers before it go."""
    data = msgspec.json.encode(records)
    file = directory / f"{hashlib.sha256(data).hexdigest()[:16]}.json"
    directory.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        disk.write_atomic(file, data, sync=False)
    for other in directory.glob("*.json"):
        if other != file:
            other.unlink(missing_ok=True)
    return file


async def _stop(*heads: KafkaHead | HttpHead | AmqpHead | None) -> None:
    """Stop heads at the same time: each may wait for what its clients have under way. Raises what the first raised."""
    outcomes = await asyncio.gather(*(head.stop() for head in heads if head is not None), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


def _token_issuer(settings: Settings) -> TokenIssuer | None:
    if not settings.oauth_jwks:
        return None
    rules = BearerRules(settings.oauth_issuer, settings.oauth_audience, settings.oauth_claim)
    return TokenIssuer(rules, issuer_keys(settings.oauth_jwks))


def _kafka_counters(head: KafkaHead) -> dict[str, int]:
    counters = head.counters
    requests = {f"requests_{name}": count for name, count in counters.requests.items()}
    plain = {name: getattr(counters, name) for name in _KAFKA_COUNTERS}
    return {**plain, **requests}


def _amqp_counters(head: AmqpHead) -> dict[str, int]:
    return {field.name: getattr(head.counters, field.name) for field in fields(head.counters)}


_KAFKA_COUNTERS: Final = (
    "connections",
    "connections_total",
    "connections_refused",
    "bytes_in",
    "bytes_out",
    "events_in",
    "events_out",
    "errors",
)


async def _bind(starting: Any, head: str, flag: str, host: str, port: int) -> None:
    try:
        await starting
    except OSError as error:
        raise GridwireError(
            f"{head} head cannot listen on {host}:{port}: {error.strerror or error}. "
            f"Choose another port with {flag} (0 picks a free one)"
        ) from None


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def serve(settings: Settings, ready: Any = None) -> None:
    """Run a hub until SIGTERM or SIGINT; `ready(hub)` is called once every head serves."""
    address = kafka_address(settings)
    hub = Hub(settings) if address is None else Gateway(settings, address)
    stop = asyncio.Event()
    _on_signals(asyncio.get_running_loop(), stop)
    await hub.start()
    if ready is not None:
        ready(hub)
    _collect_rarely()
    await stop.wait()
    log.info("stopping")
    await hub.stop()


def _collect_rarely() -> None:
    """Look for cycles of garbage after so many new objects only, and never again among what a start leaves behind."""
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 20, 20)


def _on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))


def run(main: Any) -> None:
    """Run a coroutine on the fast event loop where there is one."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


# -- worker processes ---------------------------------------------------------------------------------------------


def run_worker(name: str, data: Path, options: Mapping[str, Any]) -> int:
    """Run one worker until it is told to stop or its hub is gone. Returns the exit code.

    Args:
        options: `broker`, a `KafkaAddress`, makes it a member of its group on that cluster; without one it works for
            the hub of `data`. `supervised`: it ends when its standard input does. The rest is each worker's own.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options["supervised"]:
        patience_s = 0.0 if name == FUNCTIONS else PATIENCE_S
        threading.Thread(target=_end_with_parent, args=(stop, patience_s), daemon=True).start()
    try:
        _WORKERS[name](data, stop, options)
    except FencedEpoch as error:
        log.warning("worker replaced by a newer one", worker=name, reason=str(error))
        return 3
    except GridwireError as error:
        log.error("worker failed", worker=name, reason=str(error))
        return 1
    except Exception:
        log.exception("worker failed", worker=name)  # one structured line; the supervisor starts it again
        return 1
    return 0


def _end_with_parent(stop: threading.Event, patience_s: float) -> None:
    """The hub holds the other end of our standard input: its end is ours."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 4096):
            pass
    stop.set()
    time.sleep(patience_s)
    os._exit(4)


def open_source(data: Path, group: str, hubs: list[str], follow: Sequence[str] = ()) -> LocalSource:
    """A worker's subscription to the hub of a data directory."""
    from gridwire.broker.local import LocalSource

    return LocalSource(data, group, hubs, follow=follow)


def _sources(
    data: Path, broker: KafkaAddress | None, *, whole_hubs: bool, together: bool = False
) -> Callable[..., EventSource]:
    """What opens a worker's subscriptions."""
    if broker is None:
        return partial(open_source, data)
    try:
        from gridwire.broker.kafka_source import KafkaSource
    except ImportError:
        raise GridwireError("a worker on a cluster needs the Kafka client: pip install 'gridwire[kafka]'") from None

    return partial(KafkaSource, broker, whole_hubs=whole_hubs, together=together)


def _grid(data: Path, stop: threading.Event, options: Mapping[str, Any]) -> None:
    """One stage where a worker has whole hubs, two where partitions are shared; when one ends, all end."""
    from gridwire.grid import worker

    late = options["late"]
    stages = {GRID_GROUP: worker.LOADS_AND_LATE if late else worker.LOADS}
    if _shared(options):
        stages[GRID_FEEDERS_GROUP] = worker.FEEDERS_AND_LATE if late else worker.FEEDERS
    with ThreadPoolExecutor(len(stages) + 1) as threads:
        running = [
            threads.submit(_grid_stage, data, stop, options, worker.WorkerSettings(group, stage))
            for group, stage in stages.items()
        ]
        if late:
            running.append(threads.submit(_late, data, stop, options))
        wait(running, return_when=FIRST_COMPLETED)
        stop.set()
    for each in running:
        each.result()


def _shared(options: Mapping[str, Any]) -> bool:
    """Whether grid workers share out partitions of readings."""
    return options["broker"] is not None and not options["whole"]


def _grid_stage(data: Path, stop: threading.Event, options: Mapping[str, Any], settings: WorkerSettings) -> None:
    from gridwire.grid.loads import LoadsSettings

    settings = replace(settings, loads=LoadsSettings(days=options["window_days"], tell_late=options["late"]))
    opener = _sources(data, options["broker"], whole_hubs=options["whole"])
    _run_stage("grid", data, stop, settings, opener, remote=options["broker"] is not None)


def _late(data: Path, stop: threading.Event, options: Mapping[str, Any]) -> None:
    """One worker sums days again that are over; others on a cluster stand by."""
    from gridwire.grid import late_worker

    counters = _told_counters(data, GRID_LATE_GROUP, stop, remote=options["broker"] is not None)
    opener = _sources(data, options["broker"], whole_hubs=True)
    outcome = late_worker.run(
        lambda group, hubs, follow: opener(group, hubs, follow=follow),
        GRID_LATE_GROUP,
        Path(options["lake"]) if options["lake"] else data / "lake",
        stop,
        shared=_shared(options),
        metrics=counters,
    )
    if outcome == "fenced":
        raise FencedEpoch("another worker of late readings took over")


def _vee(data: Path, stop: threading.Event, options: Mapping[str, Any]) -> None:
    """Where partitions are shared out each is judged by itself, as the sums are made."""
    from gridwire.grid.loads import LoadsSettings
    from gridwire.grid.vee.stage import VEE, VEE_WHOLE, up_to
    from gridwire.grid.worker import WorkerSettings

    remote = options["broker"] is not None
    stage = VEE if remote and not options["whole"] else VEE_WHOLE
    opener = _sources(data, options["broker"], whole_hubs=stage is VEE_WHOLE, together=stage is VEE_WHOLE)
    loads = LoadsSettings(days=options["window_days"])
    settings = WorkerSettings(VEE_GROUP, up_to(options["channels"], stage), loads=loads)
    _run_stage("vee", data, stop, settings, opener, remote=remote)


def _watch(data: Path, stop: threading.Event, options: Mapping[str, Any]) -> None:
    """One worker watches everything; others on a cluster stand by."""
    from gridwire.grid.watch import registry
    from gridwire.grid.watch.worker import watch_stage
    from gridwire.grid.worker import WorkerSettings

    opener = _sources(data, options["broker"], whole_hubs=True, together=True)
    names = registry.chosen(options["detectors"])
    settings = WorkerSettings(WATCH_GROUP, watch_stage(partial(registry.make, names)))
    _run_stage("watch", data, stop, settings, opener, remote=options["broker"] is not None)


def _rules(data: Path, stop: threading.Event, options: Mapping[str, Any]) -> None:
    """One worker has all rules; others on a cluster stand by."""
    from gridwire.grid.rules import worker
    from gridwire.grid.rules.question import asker

    counters = _told_counters(data, RULES_GROUP, stop, remote=options["broker"] is not None)
    opener = _sources(data, options["broker"], whole_hubs=True, together=True)
    records = msgspec.json.decode(Path(options["path"]).read_bytes(), type=list[RuleRecord])
    worker.run(
        lambda hubs, follow: opener(RULES_GROUP, hubs, follow=follow),
        records,
        asker(Path(options["lake"]) if options["lake"] else data / "lake"),
        stop,
        metrics=counters,
    )


def _forecast(data: Path, stop: threading.Event, options: Mapping[str, Any]) -> None:
    """One worker forecasts everything; others on a cluster stand by."""
    from gridwire.grid.models.stage import forecast_stage
    from gridwire.grid.worker import WorkerSettings

    opener = _sources(data, options["broker"], whole_hubs=True, together=True)
    settings = WorkerSettings(FORECAST_GROUP, forecast_stage())
    _run_stage("forecast", data, stop, settings, opener, remote=options["broker"] is not None)


def _run_stage(
    name: str, data: Path, stop: threading.Event, settings: WorkerSettings, opener: Callable[..., EventSource], *,
    remote: bool,
) -> None:  # fmt: skip
    """Run a stage of the grid's workers."""
    from gridwire.grid import worker

    counters = _told_counters(data, settings.group, stop, remote=remote)
    outcome = worker.run(
        lambda group, hubs, follow: opener(group, hubs, follow=follow),
        data / "workers" / name,
        stop,
        settings,
        metrics=counters,
    )
    if outcome == "fenced":
        raise FencedEpoch(f"another {name} worker took over")


def _told_counters(data: Path, group: str, stop: threading.Event, *, remote: bool) -> dict[str, int]:
    """What a worker fills with its counters, told to the hub, or to the log where there is none."""
    counters = dict[str, int]()
    tell = _log_counters if remote else partial(_report, data)
    threading.Thread(target=tell, args=(group, counters, stop), daemon=True).start()
    return counters


def _log_counters(group: str, counters: Mapping[str, int], stop: threading.Event) -> None:
    """One line a minute: on a cluster there is no hub to tell."""
    while not stop.wait(LOG_COUNTERS_S):
        log.info("counters", group=group, **dict(counters))


def _report(data: Path, group: str, counters: Mapping[str, int], stop: threading.Event) -> None:
    """Tell the hub now and then what a worker counts; over a connection of its own, for sources are not shared."""
    from gridwire.broker.local import report

    while not stop.wait(REPORT_S):
        with contextlib.suppress(GridwireError):
            report(data, group, dict(counters))


def _capture(data: Path, stop: threading.Event, options: Mapping[str, Any]) -> None:
    from gridwire.capture import decoders, worker
    from gridwire.grid import lake, readings

    kinds = {
        "events": decoders.events,
        "readings": readings.to_arrow,
        "loads": decoders.json_decoder(lake.LOADS),
        "health": decoders.json_decoder(lake.HEALTH),
        "weather": decoders.json_decoder(lake.WEATHER),
        "forecasts": decoders.json_decoder(lake.FORECASTS),
        "demand": decoders.json_decoder(lake.DEMAND),
        "risk": decoders.json_decoder(lake.RISK),
    }
    tables = {}
    for assignment in options["tables"]:
        hub, _, kind = assignment.rpartition("=")
        tables[hub] = kinds[kind]
    broker = options["broker"]
    opener = _sources(data, broker, whole_hubs=True)  # a table has one writer
    worker.run(
        lambda: opener(CAPTURE_GROUP, list(tables)),
        Path(options["lake"]) if options["lake"] else data / "lake",
        tables,
        stop,
        flush_s=options["flush_s"],
        shared=broker is not None,
    )


def _avro(data: Path, stop: threading.Event, options: Mapping[str, Any]) -> None:
    from gridwire.capture import decoders, worker
    from gridwire.capture.avro import AvroWriter

    hubs, broker = options["tables"], options["broker"]
    opener = _sources(data, broker, whole_hubs=True)  # so have these files
    files = Path(options["lake"]) if options["lake"] else data / "capture"
    worker.run(
        lambda: opener(AVRO_GROUP, hubs),
        files,
        dict.fromkeys(hubs, decoders.events),
        stop,
        flush_s=options["flush_s"],
        flush_bytes=options["flush_mib"] * MIB,
        open_writer=partial(AvroWriter, files, Layout(options["path"], options["namespace"])),
        shared=broker is not None,
    )


def _decode(data: Path, stop: threading.Event, options: Mapping[str, Any]) -> None:
    from gridwire.grid import decode_worker
    from gridwire.grid.formats import keys
    from gridwire.grid.formats.base import NO_KEYS, Context

    context = Context(
        zone=options["zone"],
        keys=keys.load(options["keys"]) if options["keys"] else NO_KEYS,
        mapping=_text(options["mapping"]) if options["mapping"] else "",
    )
    pairs = (assignment.rpartition("=") for assignment in options["tables"])
    feeds = [decode_worker.Feed(hub, format, context) for hub, _, format in pairs]
    broker, counters = options["broker"], dict[str, int]()
    tell = _log_counters if broker else partial(_report, data)
    threading.Thread(target=tell, args=(DECODE_GROUP, counters, stop), daemon=True).start()
    opener = _sources(data, broker, whole_hubs=False)
    decode_worker.run(
        lambda hubs, follow: opener(DECODE_GROUP, hubs, follow=follow),
        feeds,
        stop,
        processes=options["processes"] or None,
        metrics=counters,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GridwireError(f"cannot read {path}: {error}") from None


def _router(data: Path, stop: threading.Event, options: Mapping[str, Any]) -> None:
    """Of several on a cluster each delivers for some of the routes."""
    from gridwire.broker.local import LocalRoutes
    from gridwire.router.worker import Worker

    allowed = Allowed.parse(options["webhook_allow"])
    key_file = Path(options["secret_file"] or data / KEY_FILE)
    opener = _sources(data, options["broker"], whole_hubs=True, together=True)

    async def main() -> None:
        async with contextlib.AsyncExitStack() as closing:
            keeper: Keeper = LocalRoutes(data)
            if options["broker"] is not None:
                from gridwire.broker.kafka import KafkaBroker

                cluster = await KafkaBroker.open(options["broker"])
                closing.push_async_callback(cluster.close)
                keeper = AlertRoutes(cluster, cluster.clock, key_file)
            await Worker(keeper, opener, allowed, key_file).run(stop)

    asyncio.run(main())


def _functions(data: Path, stop: threading.Event, options: Mapping[str, Any]) -> None:
    """The host of one deployed app; `stop` is not asked, for it has a loop of its own that signals end."""
    from gridwire.broker.local import report_app
    from gridwire.functions import logs, run

    app, home = options["app"], data.absolute() / "functions" / options["app"]
    lock = run.locked(home / "lock")
    end_log = logs.capture(home / "log")
    try:
        log.info("version starts", app=app, version=options["version"])
        given = {"port": options["port"], "state": home, "keys": True, "python": options["python"], "keep": (lock,)}
        opener = _sources(data, options["broker"], whole_hubs=False)
        tell = partial(report_app, data)
        run.run_host(app, Path(options["path"]), opener, given, tell=tell, version=options["version"])
        log.info("version ended", app=app, version=options["version"])
    except GridwireError as error:
        log.error("version failed", app=app, version=options["version"], reason=str(error))
        raise
    except Exception:
        log.exception("version failed", app=app, version=options["version"])
        raise
    finally:
        end_log()


_WORKERS: Final = {
    "grid": _grid,
    "vee": _vee,
    "watch": _watch,
    "rules": _rules,
    "forecast": _forecast,
    "capture": _capture,
    "avro": _avro,
    "decode": _decode,
    "router": _router,
    FUNCTIONS: _functions,
}
