"""The ASGI application: guard, route, answer; errors become problems in one place."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import structlog
from starlette.types import Message, Receive, Scope, Send

from gridwire.auth.model import Action
from gridwire.broker.alert_rules import AlertRule
from gridwire.broker.port import Broker
from gridwire.core.errors import GridwireError, RemoteProtocolError
from gridwire.core.hubs import ALERT_NOTES, ALERTS, FEEDERS, HEALTH, NETWORK, READINGS, TRANSFORMERS
from gridwire.heads.http import metrics, tail
from gridwire.heads.http.admin import Admin, AlterHub, CreateHub, ResetGroup
from gridwire.heads.http.alert_routes import AlertRoutesApi
from gridwire.heads.http.alert_rules import Rules, TryRule, hub_of, parse_rule
from gridwire.heads.http.alerts import Alerts
from gridwire.heads.http.api.document import Documents
from gridwire.heads.http.app_door import METHODS, AppDoor
from gridwire.heads.http.eventhubs import EventHubsSend
from gridwire.heads.http.files import PARQUET, through
from gridwire.heads.http.functions import Functions
from gridwire.heads.http.grid import Grid
from gridwire.heads.http.guard import Guard
from gridwire.heads.http.ingest import Ingest
from gridwire.heads.http.live import Live
from gridwire.heads.http.options import HttpCounters, HttpLimits
from gridwire.heads.http.overview import Overview
from gridwire.heads.http.pages import Pages
from gridwire.heads.http.policies import Policies
from gridwire.heads.http.processors import ClaimPartitions, CommitPositions, Processors
from gridwire.heads.http.ranges import Ranges
from gridwire.heads.http.request import (
    BodyMemory,
    ClientGone,
    header,
    parse_json,
    read_body,
    respond,
    respond_problem,
)
from gridwire.heads.http.routes import Answer, Call, ErrorStyle, Handler, Route, Table, json_answer
from gridwire.heads.http.schemas import Schemas
from gridwire.heads.http.sign_in import IDENTITY, Doorman
from gridwire.heads.http.sql import Sql
from gridwire.heads.http.streams import Streams
from gridwire.wire.http import eventhubs, problems, schemas
from gridwire.wire.http.problems import HttpError, problem_of
from gridwire.wire.http.tables import TYPES

API_PREFIX: Final = "/v1"

log = structlog.get_logger("gridwire.http")


class App:
    """Everything the HTTP endpoint serves, over the parts that do the work."""

    def __init__(
        self,
        *,
        broker: Broker,
        guard: Guard,
        ingest: Ingest,
        admin: Admin,
        overview: Overview,
        live: Live,
        streams: Streams,
        pages: Pages,
        parts: metrics.Counters,
        limits: HttpLimits,
        counters: HttpCounters,
        processors: Processors,
        registry: Schemas,
        event_hubs: EventHubsSend,
        alerts: Alerts,
        grid: Grid,
        ranges: Ranges,
        sql: Sql,
        rules: Rules,
        functions: Functions | None = None,
        alert_routes: AlertRoutesApi | None = None,
        doorman: Doorman | None = None,
    ) -> None:
        self._broker = broker
        self._guard = guard
        self._ingest = ingest
        self._admin = admin
        self._overview = overview
        self._live = live
        self._streams = streams
        self._pages = pages
        self._parts = parts
        self._limits = limits
        self._counters = counters
        self._processors = processors
        self._registry = registry
        self._event_hubs = event_hubs
        self._alerts = alerts
        self._grid = grid
        self._ranges = ranges
        self._sql = sql
        self._alert_rules = rules
        self._functions = functions
        self._alert_routes = alert_routes
        self._memory = BodyMemory(limits.body_bytes_in_flight_max)
        self._doorman = doorman
        self._policies = None if doorman is None else Policies(doorman.access)
        self._door = None if functions is None else AppDoor(functions.address, limits, self._memory)
        self._documents = Documents(lambda: self._table.routes)
        self._table = Table(self._routes())

    @property
    def routes(self) -> list[Route]:
        """Every address that is served, the page's aside."""
        return self._table.routes

    async def close(self) -> None:
        """Let go of what requests left open."""
        if self._door is not None:
            await self._door.close()

    def _routes(self) -> list[Route]:
        return [
            Route("events", "/v1/hubs/{hub}/events", {"POST": self._post_events, "GET": self._browse}),
            Route("tail", "/v1/hubs/{hub}/tail", {"GET": self._tail}),
            Route("copy", "/v1/hubs/{hub}/copy", {"POST": self._copy}),
            Route("hub", "/v1/hubs/{hub}", {"GET": self._hub, "PATCH": self._alter_hub, "DELETE": self._delete_hub}),
            Route("hubs", "/v1/hubs", {"GET": self._hubs, "POST": self._create_hub}),
            Route("groups", "/v1/groups", {"GET": self._groups}),
            Route("group", "/v1/groups/{group}", {"GET": self._group}),
            Route("reset", "/v1/groups/{group}/reset", {"POST": self._reset}),
            Route("claims", "/v1/groups/{group}/claims", {"GET": self._claims, "POST": self._claim}),
            Route("positions", "/v1/groups/{group}/positions", {"GET": self._positions, "POST": self._commit}),
            Route("schemagroups", "/v1/schemagroups",
                  {"GET": self._registry.list_groups, "POST": self._with(self._registry.create_group)}),
            Route("schemagroups", "/v1/schemagroups/{group}", {"DELETE": self._registry.delete_group}),
            Route("schemas", "/v1/schemagroups/{group}/schemas",
                  {"GET": self._registry.list_schemas, "POST": self._with(self._registry.add)}),
            Route("schemas", "/v1/schemagroups/{group}/schemas/{schema}",
                  {"GET": self._registry.show, "DELETE": self._registry.delete}),
            Route("rights", "/v1/rights", {"GET": self._rights}),
            Route("policies", "/v1/policies", {"GET": self._list_policies, "POST": self._create_policy}),
            Route("policy", "/v1/policies/{policy}", {"DELETE": self._delete_policy}),
            Route("rotate", "/v1/policies/{policy}/rotate", {"POST": self._rotate_policy}),
            Route("users", "/v1/users", {"POST": self._set_user}),
            Route("user", "/v1/users/{user}", {"DELETE": self._delete_user}),
            Route("certificates", "/v1/certificates", {"POST": self._set_certificate}),
            Route("identities", "/v1/identities/recipient", {"GET": self._recipient}),
            Route("identities", "/v1/identities/export", {"POST": self._export_identities}),
            Route("identities", "/v1/identities/import", {"POST": self._import_identities}),
            Route("alerts", "/v1/alerts", {"GET": self._list_alerts}),
            Route("alert", "/v1/alerts/{id}", {"GET": self._show_alert}),
            Route("ack", "/v1/alerts/{id}/ack", {"POST": self._acknowledge}),
            Route("silences", "/v1/silences", {"GET": self._list_silences, "POST": self._silence}),
            Route("silence", "/v1/silences/{name}", {"DELETE": self._unsilence}),
            Route("alert_routes", "/v1/alert-routes", {"GET": self._list_routes, "POST": self._add_route}),
            Route("alert_route", "/v1/alert-routes/{name}", {"GET": self._show_route, "DELETE": self._remove_route}),
            Route("alert_route_test", "/v1/alert-routes/{name}/test", {"POST": self._test_route}),
            Route("alert_route_resume", "/v1/alert-routes/{name}/resume", {"POST": self._resume_route}),
            Route("alert_rules", "/v1/alert-rules", {"GET": self._list_rules, "POST": self._make_rule}),
            Route("alert_rule_try", "/v1/alert-rules/try", {"POST": self._try_rule}),
            Route("alert_rule", "/v1/alert-rules/{name}",
                  {"GET": self._show_rule, "PUT": self._change_rule, "DELETE": self._remove_rule}),
            Route("grid", "/v1/grid/network", {"GET": self._network}),
            Route("grid", "/v1/grid/networks", {"GET": self._networks}),
            Route("grid", "/v1/grid/usage-points", {"GET": self._usage_points}),
            Route("grid", "/v1/grid/usage-points/{usage_point}/readings", {"GET": self._readings}),
            Route("grid", "/v1/grid/loads", {"GET": self._loads}),
            Route("grid", "/v1/grid/times", {"GET": self._times}),
            Route("grid", "/v1/grid/at", {"GET": self._at}),
            Route("sql", "/v1/sql", {"POST": self._ask_lake}),
            Route("sql", "/v1/sql/tables", {"GET": self._lake_tables}),
            Route("live", "/v1/live", {"GET": self._live_stream}),
            Route("status", "/v1/status", {"GET": self._status}),
            Route("metrics", "/metrics", {"GET": self._metrics}),
            Route("healthz", "/healthz", {"GET": self._healthz}),
            Route("healthz", "/health", {"GET": self._healthz}),  # where users of Azure's emulator look
            Route("readyz", "/readyz", {"GET": self._readyz}),
            Route("documents", "/v1/openapi.json", {"GET": self._documents.openapi}),
            Route("documents", "/v1/asyncapi.json", {"GET": self._documents.asyncapi}),
            *self._function_routes(),
            *self._azure_routes(),
        ]  # fmt: skip

    def _function_routes(self) -> list[Route]:
        apps, door = self._functions, self._door
        if apps is None or door is None:
            return []
        one = "/v1/functions/{app}/functions/{function}"
        return [
            Route("functions", "/v1/functions", {"GET": apps.list}),
            Route("function", "/v1/functions/{app}",
                  {"GET": apps.show, "PUT": self._deploy, "DELETE": apps.remove}),
            Route("function_start", "/v1/functions/{app}/start", {"POST": apps.start}),
            Route("function_stop", "/v1/functions/{app}/stop", {"POST": apps.stop}),
            Route("function_logs", "/v1/functions/{app}/logs", {"GET": apps.logs}),
            Route("function_keys", "/v1/functions/{app}/keys", {"GET": apps.keys, "POST": self._with(apps.renew_key)}),
            Route("app", "/apps/{app}/*", dict.fromkeys(METHODS, door)),
            Route("function_invoke", one + "/invoke", {"POST": self._with(apps.invoke)}),
            Route("function_replay", one + "/replay", {"POST": self._with(apps.replay)}),
        ]  # fmt: skip

    def _azure_routes(self) -> list[Route]:
        """Addresses as Event Hubs and its schema registry have them, errors included."""
        hubs, registry = self._event_hubs, self._registry
        one = "/$schemagroups/{group}/schemas/{schema}"
        return [
            Route("messages", "/{hub}/messages", {"POST": hubs.to_hub}, eventhubs.rendered),
            Route("messages", "/{hub}/partitions/{partition}/messages", {"POST": hubs.to_partition},
                  eventhubs.rendered),
            Route("publisher", "/{hub}/publishers/{publisher}/messages", {"POST": hubs.as_publisher},
                  eventhubs.rendered),
            Route("schemagroups", "/$schemagroups", {"GET": registry.groups}, schemas.rendered),
            Route("schema", "/$schemagroups/$schemas/{id}", {"GET": registry.by_id}, schemas.rendered),
            Route("schema", one, {"PUT": self._with(registry.register), "POST": self._with(registry.find)},
                  schemas.rendered),
            Route("schema", one + "/versions", {"GET": registry.versions}, schemas.rendered),
            Route("schema", one + "/versions/{version}", {"GET": registry.by_version}, schemas.rendered),
        ]  # fmt: skip

    def _with(self, handler: Callable[[Call, bytes], Awaitable[Answer]]) -> Handler:
        """A handler that is given the request's body."""

        async def handle(call: Call) -> Answer:
            return await handler(call, await self._body(call))

        return handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong is answered too, unless half an answer is out already."""
        if scope["type"] != "http":
            raise RemoteProtocolError(f"{scope['type']} is not served")
        status = 0
        doorman = self._doorman

        async def counting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif doorman is not None:
                doorman.used(scope, 0, len(message.get("body", b"")))
            await send(message)

        label, names = "page", tuple[str, ...]()
        errors: ErrorStyle = problems.rendered
        try:
            self._guard.check(scope)
            found = self._table.find(scope)
            if found is not None:
                label, names, errors = found[0].label, found[1], found[0].errors
            if doorman is not None:
                self._admit(doorman, scope, label, names)
                receive = _charged(doorman, scope, receive)
            if found is None:
                await self._page(scope, receive, counting_send)
            else:
                await self._call(found[0], Call(scope, receive, counting_send, found[1]))
        except ClientGone:
            status = 499
        except Exception as error:
            await self._fail(error, scope, counting_send, errors, begun=status != 0)
        self._counters.requests[label, status] += 1
        if doorman is not None:
            doorman.done(scope, label, "/".join(names), status)

    def _admit(self, doorman: Doorman, scope: Scope, label: str, names: tuple[str, ...]) -> None:
        """Let a request in, or not. Raises HttpError 401, 403, 429."""
        doorman.check(scope, label, names)
        if label == "events" and scope["method"] == "POST" and not self._exists(names[0]):
            doorman.require(scope, Action.CREATE_HUB, names[0])

    def _exists(self, hub: str) -> bool:
        return any(info.name == hub for info in self._broker.hubs())

    async def _call(self, route: Route, call: Call) -> None:
        if call.scope["method"] == "OPTIONS" and "OPTIONS" not in route.methods:
            allow = ", ".join(route.methods).encode()
            answer: Answer | None = Answer(204, b"", [(b"allow", allow)])
        else:
            answer = await route.handler(call.scope["method"])(call)
        if answer is not None:
            await respond(call.send, answer.status, answer.body, answer.headers)

    async def _fail(self, error: Exception, scope: Scope, send: Send, errors: ErrorStyle, *, begun: bool) -> None:
        problem = problem_of(error)
        self._counters.problems[problem.type.rpartition(":")[2]] += 1
        if problem.status >= 500:
            known = isinstance(error, GridwireError)
            log.error("request failed", path=scope["path"], reason=str(error), exc_info=None if known else error)
        if begun:
            raise error  # the server cuts the connection, so that nobody takes half an answer for a whole one
        if header(scope, b"expect"):  # the client may not send the body now: the next bytes could be anything
            problem = replace(problem, headers=(*problem.headers, ("connection", "close")))
        await respond_problem(send, problem, *errors(problem))

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == API_PREFIX or path.startswith(API_PREFIX + "/"):
            raise HttpError(404, f"nothing is at {path[:80]!r}: see /v1/openapi.json for what there is")
        await self._pages(scope, receive, send)

    async def _body(self, call: Call) -> bytes:
        """An administrative body: small, and read at once."""
        limits = self._limits
        body = await read_body(call.scope, call.receive, limits, limits.admin_bytes_max, self._memory)
        self._memory.give(len(body))
        return body

    async def _post_events(self, call: Call) -> None:
        await self._ingest(call.scope, call.receive, call.send, call.name)

    async def _browse(self, call: Call) -> Answer | None:
        if "format" in call.query():
            return await self._export(call)
        page = await self._admin.browse(call.name, call.query())
        return Answer(200, page, json_answer(None).headers)

    async def _export(self, call: Call) -> Answer | None:
        """A range as a file. HEAD only asks whether it can be had."""
        wanted = await self._ranges.export(call.name, call.query())
        form = wanted.rows.form
        name = f'attachment; filename="{call.name}.{form}"'.encode()
        headers = [(b"content-type", TYPES[form].encode()), (b"content-disposition", name)]
        headers += [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
        if call.scope["method"] == "HEAD":
            return Answer(200, b"", headers)
        parts = self._ranges.lines(wanted)
        if form == "parquet":
            parts = through(PARQUET, parts)
        if self._doorman is not None:
            parts = self._doorman.while_allowed(call.scope, Action.READ, call.name, parts)
        await self._streams.download(call.receive, call.send, headers, parts)
        return None

    async def _copy(self, call: Call) -> Answer:
        wanted = self._ranges.wanted(call.name, await self._body(call))
        there = self._ranges.exists(wanted.to_hub)
        if self._doorman is not None:
            self._doorman.require(call.scope, Action.SEND, wanted.to_hub)
            if not there:
                self._doorman.require(call.scope, Action.CREATE_HUB, wanted.to_hub)
        return json_answer(await self._ranges.copy(call.name, wanted))

    async def _rights(self, call: Call) -> Answer:
        """Who asks, and what he may do to the hub and group he names: what a page need not offer."""
        if self._doorman is None:
            return json_answer({"name": "", "sign_in": False, "may": sorted(action.value for action in Action)})
        query = call.query()
        may = self._doorman.may(call.scope, query.get("hub") or None, query.get("group") or None)
        return json_answer({"name": call.scope[IDENTITY].name, "sign_in": True, "may": may})

    async def _ask_lake(self, call: Call) -> None:
        await self._streams.download(call.receive, call.send, *self._sql.ask(await self._body(call)))

    async def _lake_tables(self, call: Call) -> None:
        _no_head(call)
        await self._streams.download(call.receive, call.send, *self._sql.tables())

    async def _tail(self, call: Call) -> None:
        _no_head(call)
        info = self._broker.hub(call.name)
        request = tail.parse(info, call.query(), header(call.scope, b"last-event-id").decode("latin-1"))
        reader = tail.Tail(self._broker, request, self._limits, self._counters)
        await reader.start()
        await self._stream(call, reader.frames(), Action.READ)

    async def _live_stream(self, call: Call) -> None:
        _no_head(call)
        await self._stream(call, self._live.frames(), Action.OBSERVE)

    async def _stream(self, call: Call, frames: AsyncGenerator[bytes, None], action: Action) -> None:
        if self._doorman is not None:
            frames = self._doorman.while_allowed(call.scope, action, call.name or None, frames)
        await self._streams.serve(call.receive, call.send, frames)

    async def _hubs(self, call: Call) -> Answer:
        hubs = await self._overview.hubs()
        if self._doorman is not None:
            hubs = self._doorman.visible(call.scope, Action.DESCRIBE_HUB, hubs, "name")
            hubs = [self._told(call, hub) for hub in hubs]
        return json_answer({"hubs": hubs})

    async def _create_hub(self, call: Call) -> Answer:
        body = await self._body(call)
        if self._doorman is not None:
            self._doorman.require(call.scope, Action.CREATE_HUB, parse_json(body, CreateHub).name)
        return json_answer(await self._admin.create_hub(body), 201)

    async def _hub(self, call: Call) -> Answer:
        return json_answer(self._told(call, await self._admin.show_hub(call.name)))

    def _told(self, call: Call, hub: dict[str, Any]) -> dict[str, Any]:
        """A hub as whoever asks may know it: its settings take a right of their own."""
        doorman = self._doorman
        if doorman is None or doorman.visible(call.scope, Action.DESCRIBE_SETTINGS, [hub], "name"):
            return hub
        return {**hub, "settings": {}}

    async def _alter_hub(self, call: Call) -> Answer:
        body = await self._body(call)
        if self._doorman is not None and parse_json(body, AlterHub).partitions is not None:
            self._doorman.require(call.scope, Action.GROW_HUB, call.name)
        return json_answer(await self._admin.alter_hub(call.name, body))

    async def _delete_hub(self, call: Call) -> Answer:
        await self._admin.delete_hub(call.name)
        return Answer(204, b"", [])

    async def _groups(self, call: Call) -> Answer:
        groups = await self._overview.groups()
        if self._doorman is not None:
            groups = self._doorman.visible(call.scope, Action.DESCRIBE_GROUP, groups, "group")
        return json_answer({"groups": groups})

    async def _group(self, call: Call) -> Answer:
        return json_answer(await self._overview.group(call.name))

    async def _reset(self, call: Call) -> Answer:
        body = await self._body(call)
        if self._doorman is not None:
            self._doorman.require(call.scope, Action.READ, parse_json(body, ResetGroup).hub)
        return json_answer(await self._admin.reset(call.name, body))

    def _reads(self, call: Call, hub: str) -> str:
        """The hub, if whoever asks may read it. Raises HttpError 403."""
        if self._doorman is not None:
            self._doorman.require(call.scope, Action.READ, hub)
        return hub

    async def _claims(self, call: Call) -> Answer:
        hub = self._reads(call, call.query().get("hub", ""))
        return json_answer(self._processors.claims(call.name, hub))

    async def _claim(self, call: Call) -> Answer:
        wanted = parse_json(await self._body(call), ClaimPartitions)
        self._reads(call, wanted.hub)
        return json_answer(await self._processors.claim(call.name, wanted))

    async def _positions(self, call: Call) -> Answer:
        hub = self._reads(call, call.query().get("hub", ""))
        return json_answer(await self._processors.positions(call.name, hub))

    async def _commit(self, call: Call) -> Answer:
        wanted = parse_json(await self._body(call), CommitPositions)
        self._reads(call, wanted.hub)
        return json_answer(await self._processors.commit(call.name, wanted))

    def _rules(self, call: Call) -> tuple[Policies, str]:
        """The policies, and who asks. Raises HttpError 409 where nobody signs in."""
        if self._policies is None:
            raise HttpError(409, "sign-in is off: start the hub with --auth on")
        return self._policies, call.scope[IDENTITY].name

    async def _list_policies(self, call: Call) -> Answer:
        return json_answer(self._rules(call)[0].list())

    async def _create_policy(self, call: Call) -> Answer:
        policies, who = self._rules(call)
        return json_answer(await policies.create(who, await self._body(call)), 201)

    async def _rotate_policy(self, call: Call) -> Answer:
        policies, who = self._rules(call)
        return json_answer(await policies.rotate(who, call.name, await self._body(call)))

    async def _delete_policy(self, call: Call) -> Answer:
        policies, who = self._rules(call)
        await policies.delete(who, call.name)
        return Answer(204, b"", [])

    async def _set_user(self, call: Call) -> Answer:
        policies, who = self._rules(call)
        return json_answer(await policies.set_user(who, await self._body(call)))

    async def _delete_user(self, call: Call) -> Answer:
        policies, who = self._rules(call)
        await policies.delete_user(who, call.name)
        return Answer(204, b"", [])

    async def _set_certificate(self, call: Call) -> Answer:
        policies, who = self._rules(call)
        return json_answer(await policies.set_certificate(who, await self._body(call)))

    async def _recipient(self, call: Call) -> Answer:
        return json_answer(self._rules(call)[0].recipient())

    async def _export_identities(self, call: Call) -> Answer:
        policies, who = self._rules(call)
        return json_answer(await policies.export(who, await self._body(call)))

    async def _import_identities(self, call: Call) -> Answer:
        policies, who = self._rules(call)
        return json_answer(await policies.take(who, await self._body(call)))

    def _speaks(self, call: Call) -> str:
        """Who leaves a note on alerts, empty where nobody signs in. Raises HttpError 403."""
        if self._doorman is None:
            return ""
        self._doorman.require(call.scope, Action.SEND, ALERT_NOTES)
        return str(call.scope[IDENTITY].name)

    async def _list_alerts(self, call: Call) -> Answer:
        self._reads(call, ALERTS)
        return json_answer(await self._alerts.list(call.query()))

    async def _show_alert(self, call: Call) -> Answer:
        self._reads(call, ALERTS)
        return json_answer(await self._alerts.show(call.name))

    async def _acknowledge(self, call: Call) -> Answer:
        self._reads(call, ALERTS)
        who = self._speaks(call)
        return json_answer(await self._alerts.acknowledge(call.name, who, await self._body(call)))

    async def _list_silences(self, call: Call) -> Answer:
        self._reads(call, ALERTS)
        return json_answer(await self._alerts.silences())

    async def _silence(self, call: Call) -> Answer:
        who = self._speaks(call)
        return json_answer(await self._alerts.silence(who, await self._body(call)), 201)

    async def _unsilence(self, call: Call) -> Answer:
        await self._alerts.unsilence(call.name, self._speaks(call))
        return Answer(204, b"", [])

    def _ways(self, call: Call) -> tuple[AlertRoutesApi, str]:
        """The routes of alerts, and who asks. Raises HttpError 403, 404."""
        who = self._manages_alerts(call)
        if self._alert_routes is None:
            raise HttpError(404, "this hub delivers no alerts")
        return self._alert_routes, who

    async def _list_routes(self, call: Call) -> Answer:
        return json_answer(await self._ways(call)[0].list())

    async def _show_route(self, call: Call) -> Answer:
        return json_answer(await self._ways(call)[0].show(call.name))

    async def _add_route(self, call: Call) -> Answer:
        routes, who = self._ways(call)
        return json_answer(await routes.add(who, await self._body(call)), 201)

    async def _remove_route(self, call: Call) -> Answer:
        await self._ways(call)[0].remove(call.name)
        return Answer(204, b"", [])

    async def _test_route(self, call: Call) -> Answer:
        return json_answer(await self._ways(call)[0].test(call.name))

    async def _resume_route(self, call: Call) -> Answer:
        return json_answer(await self._ways(call)[0].resume(call.name))

    async def _list_rules(self, call: Call) -> Answer:
        self._reads(call, ALERTS)
        return json_answer(await self._alert_rules.list())

    async def _show_rule(self, call: Call) -> Answer:
        self._reads(call, ALERTS)
        return json_answer(await self._alert_rules.show(call.name))

    async def _make_rule(self, call: Call) -> Answer:
        who = self._manages_alerts(call)
        rule = self._readable(call, parse_rule(await self._body(call)))
        return json_answer(await self._alert_rules.put(rule, who, replace=False), 201)

    async def _change_rule(self, call: Call) -> Answer:
        who = self._manages_alerts(call)
        rule = self._readable(call, parse_rule(await self._body(call), call.name))
        return json_answer(await self._alert_rules.put(rule, who, replace=True))

    async def _remove_rule(self, call: Call) -> Answer:
        self._manages_alerts(call)
        await self._alert_rules.remove(call.name)
        return Answer(204, b"", [])

    async def _try_rule(self, call: Call) -> Answer:
        self._manages_alerts(call)
        wanted = parse_json(await self._body(call), TryRule)
        self._readable(call, wanted.rule)
        return json_answer(await self._alert_rules.trial(wanted))

    def _manages_alerts(self, call: Call) -> str:
        """Who has a say in what is an alert, empty where nobody signs in. Raises HttpError 403."""
        if self._doorman is None:
            return ""
        self._doorman.require(call.scope, Action.ALTER_HUB, ALERTS)
        return str(call.scope[IDENTITY].name)

    def _readable(self, call: Call, rule: AlertRule) -> AlertRule:
        """A rule of what whoever asks may read himself. Raises HttpError 403."""
        hub = hub_of(rule)
        if hub is not None:
            self._reads(call, hub)
        elif self._doorman is not None:
            self._doorman.require(call.scope, Action.OBSERVE, "")
        return rule

    async def _network(self, call: Call) -> Answer:
        self._reads(call, NETWORK)
        return json_answer(await self._grid.network(call.query()))

    async def _networks(self, call: Call) -> Answer:
        self._reads(call, NETWORK)
        return json_answer(await self._grid.networks(call.query()))

    async def _usage_points(self, call: Call) -> Answer:
        self._reads(call, NETWORK)
        return json_answer(await self._grid.usage_points(call.query()))

    async def _readings(self, call: Call) -> Answer:
        self._reads(call, READINGS)
        return json_answer(await self._grid.readings(call.name, call.query()))

    async def _loads(self, call: Call) -> Answer:
        self._reads(call, TRANSFORMERS)
        self._reads(call, FEEDERS)
        return json_answer(await self._grid.loads(call.query()))

    async def _times(self, call: Call) -> Answer:
        self._reads(call, TRANSFORMERS)
        return json_answer(await self._grid.times())

    async def _at(self, call: Call) -> Answer:
        for hub in (TRANSFORMERS, FEEDERS, HEALTH, ALERTS):
            self._reads(call, hub)
        return json_answer(await self._grid.at(call.query()))

    async def _deploy(self, call: Call) -> Answer:
        """A package is as large as a request may be, so whether it may come is asked before it does."""
        assert self._functions is not None
        self._functions.check_deploy(call)
        body = await read_body(call.scope, call.receive, self._limits, self._limits.body_bytes_max, self._memory)
        try:
            return await self._functions.deploy(call, body)
        finally:
            self._memory.give(len(body))

    async def _status(self, call: Call) -> Answer:
        return json_answer(self._overview.status())

    async def _healthz(self, call: Call) -> Answer:
        return json_answer({"status": "ok"})

    async def _readyz(self, call: Call) -> Answer:
        ready = bool(self._overview.status().get("ready"))
        return json_answer({"ready": ready}, 200 if ready else 503)

    async def _metrics(self, call: Call) -> Answer:
        points = await metrics.snapshot(
            self._overview, self._counters, self._parts, self._functions, self._alert_routes, self._alert_rules
        )
        body = metrics.exposition(points)
        return Answer(200, body, [(b"content-type", metrics.CONTENT_TYPE), (b"cache-control", b"no-store")])


def _charged(doorman: Doorman, scope: Scope, receive: Receive) -> Receive:
    """Count what a request brings against its sender's quota."""

    async def receiving() -> Message:
        message = await receive()
        doorman.used(scope, len(message.get("body", b"")), 0)
        return message

    return receiving


def _no_head(call: Call) -> None:
    if call.scope["method"] == "HEAD":
        raise HttpError(405, "a stream is read with GET", (("allow", "GET"),))
