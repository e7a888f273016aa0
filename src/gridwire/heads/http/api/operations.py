"""Every address of the hub's own API in words: what it is for, what it takes, what it answers.

One table by method and path. Which addresses there are is said by the table of routes alone, and which right each takes
by `sign_in.ACTIONS`; a route that is not described here is an error of `document`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from gridwire.alerts import Silenced
from gridwire.auth.model import Action
from gridwire.broker.alert_rules import AlertRule
from gridwire.broker.schemas import Schema, SchemaGroup
from gridwire.core.hubs import ALERT_NOTES, ALERTS, FEEDERS, HEALTH, NETWORK, READINGS, TRANSFORMERS
from gridwire.heads.http import (
    admin,
    alert_routes,
    alert_rules,
    alerts,
    functions,
    grid,
    policies,
    processors,
    ranges,
    schemas,
    sql,
    tail,
)
from gridwire.heads.http.api import shapes
from gridwire.heads.http.api.azure_operations import AZURE
from gridwire.heads.http.api.model import (
    EVENT_STREAM,
    JSON,
    NDJSON,
    Answer,
    Body,
    Need,
    Operation,
    Parameter,
    Partition,
    Raw,
    Time,
    answers,
    done,
    takes,
)
from gridwire.heads.http.app_door import METHODS
from gridwire.wire.http import bodies
from gridwire.wire.http.tables import TYPES

Place = Annotated[
    str, Meta(description="earliest, latest, an offset, -N for the last N, or an RFC 3339 time", examples=["latest"])
]

_FileFormat = Literal["ndjson", "csv", "parquet"]
_Rate = Annotated[int, Meta(ge=1, le=tail.RATE_MAX)]

EVENTS, HUBS, GROUPS, SCHEMAS = "Events", "Hubs", "Consumer groups", "Schemas"
SIGN_IN, ALERTING, GRID, LAKE = "Sign-in", "Alerts", "The grid", "SQL"
FUNCTIONS, ITSELF = "Functions", "The hub itself"

_PARTITION: Final = Parameter("partition", "partition; counts from 0", Partition)
_WHERE: Final = Parameter("where", "conditions joined by `and`, such as `value.kw > 3 and key != x`")
_FORMAT_FILE: Final = Parameter("format", "a file of the range instead of a page of it", _FileFormat)
_HUB: Final = Parameter("hub", "name of the hub the group reads", required=True)
_FILES: Final[Mapping[str, Any]] = {kind.partition(";")[0]: Raw for kind in TYPES.values()}


def _limit(default: int, most: int, least: int = 1) -> Parameter:
    return Parameter("limit", f"at most so many; {default:,} by default", Annotated[int, Meta(ge=least, le=most)])


def _reads(*hubs: str) -> tuple[Need, ...]:
    return tuple(Need(Action.READ, f"hub {hub}") for hub in hubs)


_MANAGES_ALERTS: Final = (Need(Action.ALTER_HUB, f"hub {ALERTS}"),)
_RULE_READS: Final = (Need(Action.READ, "the rule's hub"), Need(Action.OBSERVE, "the namespace, for a query"))
_SPEAKS: Final = Need(Action.SEND, f"hub {ALERT_NOTES}")
_HUB_IN_BODY: Final = Need(Action.READ, "the hub named in the body")
_HUB_IN_QUERY: Final = Need(Action.READ, "the hub in the query")

_EVENTS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", "/v1/hubs/{hub}/events"): Operation(
        "sendEvents", EVENTS, "Send events",
        answers("The events are as durable as the hub promises.", shapes.Taken),
        (
            Parameter("key", "key of every event"),
            Parameter("key_field", "member of each JSON object that is its key"),
            _PARTITION,
            Parameter("x-gridwire-key", "key of every event, where the query has none", place="header"),
        ),
        Body({
            JSON: Any, NDJSON: str, "application/cloudevents+json": shapes.CloudEvent,
            "application/cloudevents-batch+json": list[shapes.CloudEvent], bodies.BATCH: Raw,
            "application/octet-stream": Raw,
        }, required=False),
        about="What counts as an event depends on the content type: each element of an array, each line, each "
        "CloudEvent, each record of a Kafka batch; anything else is one event as it is. With `ce-*` headers the body "
        "is the data of a CloudEvent in binary mode. `header.NAME=VALUE` in the query adds a header to every event; "
        "`content-encoding` may be gzip or zstd. On loopback a hub that is not there is created by its first event. "
        "A malformed line or element refuses the whole request; after any other refusal part of a large request may "
        "be stored.",
        needs=(Need(Action.CREATE_HUB, "the hub, where it is not there"),),
    ),
    ("GET", "/v1/hubs/{hub}/events"): Operation(
        "readEvents", EVENTS, "Read a page of a partition's events, or take a range away as a file",
        {200: Answer("A page of events; with `format` a file.", {JSON: shapes.EventPage, **_FILES})},
        (
            _PARTITION,
            Parameter("offset", "where to begin; earliest by default", Place),
            _limit(admin.BROWSE_EVENTS_DEFAULT, admin.BROWSE_EVENTS_MAX),
            _WHERE, _FORMAT_FILE,
            Parameter("to", "of a file: where it ends, itself not in it; latest by default", Place),
            Parameter("fields", "of a file: its columns, named as in a filter, with commas between them"),
        ),
        about=f"One page searches at most {admin.SEARCH_EVENTS_MAX:,} events: go on at `next`. A file has all "
        f"partitions unless one is named, and at most {ranges.EXPORT_EVENTS_MAX:,} events; a connection that ends "
        "before the file does means that something went wrong.",
    ),
    ("GET", "/v1/hubs/{hub}/tail"): Operation(
        "tailHub", EVENTS, "Follow a hub as a stream of server-sent events",
        {200: Answer("Each event's data is an event as pages have it; its id goes into Last-Event-ID.",
                     {EVENT_STREAM: str})},
        (
            Parameter("partition", "this partition only", Partition),
            Parameter("from", "where to begin; latest by default", Place),
            Parameter("max_rate", "about so many events a second, the newest", _Rate),
            _WHERE,
            Parameter("last-event-id", "id of the last event that was seen; none after it is missed", place="header"),
        ),
        about="`event: skipped` says how many were left out, `event: error` which problem ended the stream.",
        refusals=(405,),
    ),
    ("POST", "/v1/hubs/{hub}/copy"): Operation(
        "copyEvents", EVENTS, "Copy a range of a partition to another hub, one step a request",
        answers("What this step copied, and where the next one goes on.", shapes.Copied), body=takes(ranges.CopyEvents),
        about=f"A step copies at most {ranges.COPY_EVENTS_MAX:,} events. One that is repeated copies twice.",
        needs=(Need(Action.SEND, "the hub named in the body"),
               Need(Action.CREATE_HUB, "the hub named in the body, where it is not there")),
    ),
}  # fmt: skip

_HUBS: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "/v1/hubs"): Operation(
        "listHubs", HUBS, "List hubs", answers("All hubs by name.", shapes.Hubs),
    ),
    ("POST", "/v1/hubs"): Operation(
        "createHub", HUBS, "Create a hub", answers("The hub.", shapes.Hub, 201), body=takes(admin.CreateHub),
        refusals=(409,), needs=(Need(Action.CREATE_HUB, "the hub named in the body"),),
    ),
    ("GET", "/v1/hubs/{hub}"): Operation("showHub", HUBS, "Show a hub", answers("The hub.", shapes.Hub)),
    ("PATCH", "/v1/hubs/{hub}"): Operation(
        "alterHub", HUBS, "Change a hub's settings, or give it more partitions", answers("The hub.", shapes.Hub),
        body=takes(admin.AlterHub), needs=(Need(Action.GROW_HUB, "the hub, for more partitions"),),
    ),
    ("DELETE", "/v1/hubs/{hub}"): Operation(
        "deleteHub", HUBS, "Delete a hub with its events", done("It is gone."), refusals=(409,),
    ),
}  # fmt: skip

_GROUPS: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "/v1/groups"): Operation(
        "listGroups", GROUPS, "List consumer groups", answers("All groups by name.", shapes.Groups),
    ),
    ("GET", "/v1/groups/{group}"): Operation(
        "showGroup", GROUPS, "Show a consumer group", answers("The group.", shapes.Group),
    ),
    ("POST", "/v1/groups/{group}/reset"): Operation(
        "resetGroup", GROUPS, "Move a group's position in a hub, or tell what that would change",
        answers("The group as it is now; of a dry run what would change.", (shapes.Group, shapes.DryReset)),
        body=takes(admin.ResetGroup), refusals=(409,), needs=(_HUB_IN_BODY,),
        about="A group with members, or one that a worker of the hub reads, is not reset: 409.",
    ),
    ("GET", "/v1/groups/{group}/claims"): Operation(
        "listClaims", GROUPS, "List the claims of a group's processors",
        answers("Claims in force.", shapes.Claims), (_HUB,), needs=(_HUB_IN_QUERY,),
    ),
    ("POST", "/v1/groups/{group}/claims"): Operation(
        "claimPartitions", GROUPS, "Claim partitions, or renew claims",
        answers("Those that were granted; the others were changed by somebody else.", shapes.Claims),
        body=takes(processors.ClaimPartitions), needs=(_HUB_IN_BODY,),
    ),
    ("GET", "/v1/groups/{group}/positions"): Operation(
        "listPositions", GROUPS, "List a group's committed positions in a hub",
        answers("Committed positions.", shapes.Positions), (_HUB,), needs=(_HUB_IN_QUERY,),
    ),
    ("POST", "/v1/groups/{group}/positions"): Operation(
        "commitPositions", GROUPS, "Commit positions", answers("All committed positions.", shapes.Positions),
        body=takes(processors.CommitPositions), refusals=(409,), needs=(_HUB_IN_BODY,),
        about="A group with Kafka members commits its positions itself: 409.",
    ),
}  # fmt: skip

_SCHEMAS: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "/v1/schemagroups"): Operation(
        "listSchemaGroups", SCHEMAS, "List schema groups", answers("All schema groups.", shapes.SchemaGroups),
    ),
    ("POST", "/v1/schemagroups"): Operation(
        "createSchemaGroup", SCHEMAS, "Create a schema group", answers("The group.", SchemaGroup, 201),
        body=takes(schemas.CreateGroup), refusals=(409, 415),
    ),
    ("DELETE", "/v1/schemagroups/{group}"): Operation(
        "deleteSchemaGroup", SCHEMAS, "Delete a schema group that has no schemas", done("It is gone."),
        refusals=(409,),
    ),
    ("GET", "/v1/schemagroups/{group}/schemas"): Operation(
        "listSchemas", SCHEMAS, "List the schemas of a group", answers("The newest versions.", shapes.Schemas),
    ),
    ("POST", "/v1/schemagroups/{group}/schemas"): Operation(
        "addSchema", SCHEMAS, "Register a version of a schema", answers("The version.", Schema, 201),
        body=takes(schemas.RegisterSchema), refusals=(415,),
    ),
    ("GET", "/v1/schemagroups/{group}/schemas/{schema}"): Operation(
        "showSchema", SCHEMAS, "Show all versions of a schema", answers("All versions.", shapes.SchemaVersions),
    ),
    ("DELETE", "/v1/schemagroups/{group}/schemas/{schema}"): Operation(
        "deleteSchema", SCHEMAS, "Delete a schema with all its versions", done("It is gone."),
    ),
}  # fmt: skip

_SIGN_IN: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "/v1/rights"): Operation(
        "showRights", SIGN_IN, "Tell who asks and what he may do",
        answers("Name and actions, named as in the audit hub.", shapes.Rights),
        (Parameter("hub", "actions on this hub too"), Parameter("group", "actions on this consumer group too")),
    ),
    ("GET", "/v1/policies"): Operation(
        "listPolicies", SIGN_IN, "List policies, users and certificates", answers("Without secrets.", shapes.Policies),
        refusals=(409,),
    ),
    ("POST", "/v1/policies"): Operation(
        "createPolicy", SIGN_IN, "Make a policy", answers("With its keys.", shapes.PolicyWithKeys, 201),
        body=takes(policies.CreatePolicy), refusals=(409,),
    ),
    ("DELETE", "/v1/policies/{policy}"): Operation(
        "deletePolicy", SIGN_IN, "Forget a policy", done("Who signed in with it is out."), refusals=(409,),
    ),
    ("POST", "/v1/policies/{policy}/rotate"): Operation(
        "rotateKey", SIGN_IN, "Make one of a policy's keys anew", answers("With its keys.", shapes.PolicyWithKeys),
        body=takes(policies.RotateKey, required=False), refusals=(409,),
    ),
    ("POST", "/v1/users"): Operation(
        "setUser", SIGN_IN, "Make or change a user", answers("The user.", shapes.User),
        body=takes(policies.SetUser), refusals=(409,),
    ),
    ("DELETE", "/v1/users/{user}"): Operation(
        "deleteUser", SIGN_IN, "Forget a user", done("He is gone."), refusals=(409,),
    ),
    ("POST", "/v1/certificates"): Operation(
        "setCertificate", SIGN_IN, "Say whose policies a client's certificate carries",
        answers("The certificate's subject.", shapes.Certificate), body=takes(policies.SetCertificate), refusals=(409,),
        about="No policies forget the subject.",
    ),
    ("GET", "/v1/identities/recipient"): Operation(
        "showRecipient", SIGN_IN, "Show the public key that another hub seals identities for this one with",
        answers("The key.", shapes.Recipient), refusals=(409,),
    ),
    ("POST", "/v1/identities/export"): Operation(
        "exportIdentities", SIGN_IN, "Seal all identities, keys included, for one other hub",
        answers("The sealed box.", shapes.Sealed), body=takes(policies.ExportIdentities), refusals=(409,),
    ),
    ("POST", "/v1/identities/import"): Operation(
        "importIdentities", SIGN_IN, "Add the identities that another hub sealed for this one",
        answers("How many of each kind.", dict[str, int]), body=takes(policies.ImportIdentities), refusals=(409,),
    ),
}  # fmt: skip

_ALERTS: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "/v1/alerts"): Operation(
        "listAlerts", ALERTING, "List what detectors found", answers("Findings.", shapes.AlertList),
        (
            Parameter("state", "open by default", Literal["open", "closed", "all"]),
            Parameter("kind", "pattern, such as `outage` or `voltage.*`"),
            Parameter("subject", "pattern over kind and id of the subject, such as `transformer/T1*`"),
            Parameter("at", "those that went on at a time", Time), _limit(1000, alerts.LIMIT_MAX),
        ),
        needs=_reads(ALERTS),
    ),
    ("GET", "/v1/alerts/{id}"): Operation(
        "showAlert", ALERTING, "Show a finding", answers("The finding.", shapes.ShownAlert), needs=_reads(ALERTS),
    ),
    ("POST", "/v1/alerts/{id}/ack"): Operation(
        "acknowledgeAlert", ALERTING, "Say that a finding is seen", answers("The finding.", shapes.ShownAlert),
        body=takes(alerts.NewAcknowledgement, required=False), needs=(*_reads(ALERTS), _SPEAKS),
    ),
    ("GET", "/v1/silences"): Operation(
        "listSilences", ALERTING, "List silences in effect", answers("Silences.", shapes.Silences),
        needs=_reads(ALERTS),
    ),
    ("POST", "/v1/silences"): Operation(
        "beginSilence", ALERTING, "Say that findings are expected for a while", answers("It.", Silenced, 201),
        body=takes(alerts.NewSilence), refusals=(409,), needs=(_SPEAKS,),
        about="It ends at `until` or after `for_s` seconds. Findings it covers are kept, and marked.",
    ),
    ("DELETE", "/v1/silences/{name}"): Operation(
        "endSilence", ALERTING, "End a silence now", done("It is over."), needs=(_SPEAKS,),
    ),
    ("GET", "/v1/alert-routes"): Operation(
        "listAlertRoutes", ALERTING, "List routes of findings to webhooks", answers("Routes.", shapes.AlertRoutes),
        refusals=(404,), needs=_MANAGES_ALERTS,
    ),
    ("POST", "/v1/alert-routes"): Operation(
        "addAlertRoute", ALERTING, "Deliver findings to a webhook from now on", answers("It.", shapes.AlertRoute, 201),
        body=takes(alert_routes.NewRoute), refusals=(404, 409), needs=_MANAGES_ALERTS,
        about="With `handshake` the receiver is asked first (OPTIONS with WebHook-Request-Origin, as CloudEvents has "
        "it), and one that does not agree gets no route.",
    ),
    ("GET", "/v1/alert-routes/{name}"): Operation(
        "showAlertRoute", ALERTING, "Show a route", answers("The route.", shapes.AlertRoute), needs=_MANAGES_ALERTS,
    ),
    ("DELETE", "/v1/alert-routes/{name}"): Operation(
        "removeAlertRoute", ALERTING, "End a route", done("It is gone; what was not delivered is not."),
        needs=_MANAGES_ALERTS,
    ),
    ("POST", "/v1/alert-routes/{name}/test"): Operation(
        "testAlertRoute", ALERTING, "Send a sample to a route's receiver",
        answers("What it answered.", shapes.AlertRouteTest), refusals=(409,), needs=_MANAGES_ALERTS,
    ),
    ("POST", "/v1/alert-routes/{name}/resume"): Operation(
        "resumeAlertRoute", ALERTING, "Go on with a route that was stopped", answers("The route.", shapes.AlertRoute),
        needs=_MANAGES_ALERTS,
    ),
    ("GET", "/v1/alert-rules"): Operation(
        "listAlertRules", ALERTING, "List rules of users", answers("Rules and how they are.", shapes.AlertRules),
        needs=_reads(ALERTS),
    ),
    ("POST", "/v1/alert-rules"): Operation(
        "makeAlertRule", ALERTING, "Make a rule", answers("The rule.", shapes.ShownRule, 201),
        body=takes(AlertRule), refusals=(404, 409, 413), needs=(*_MANAGES_ALERTS, *_RULE_READS),
    ),
    ("POST", "/v1/alert-rules/try"): Operation(
        "tryAlertRule", ALERTING, "Tell what a rule would find, and keep nothing",
        answers("What it would have opened.", shapes.AlertRuleTrial), body=takes(alert_rules.TryRule),
        refusals=(404, 503), needs=(*_MANAGES_ALERTS, *_RULE_READS),
    ),
    ("GET", "/v1/alert-rules/{name}"): Operation(
        "showAlertRule", ALERTING, "Show a rule", answers("The rule.", shapes.ShownRule), needs=_reads(ALERTS),
    ),
    ("PUT", "/v1/alert-rules/{name}"): Operation(
        "changeAlertRule", ALERTING, "Change a rule", answers("The rule.", shapes.ShownRule), body=takes(AlertRule),
        about="What was open is closed, and the rule begins anew.", needs=(*_MANAGES_ALERTS, *_RULE_READS),
    ),
    ("DELETE", "/v1/alert-rules/{name}"): Operation(
        "removeAlertRule", ALERTING, "Remove a rule", done("It is gone; what was open is closed."),
        needs=_MANAGES_ALERTS,
    ),
}  # fmt: skip

_UNIT: Final = (
    Parameter("transformer", "id of a transformer"), Parameter("feeder", "id of a feeder, in place of a transformer")
)  # fmt: skip
_AT: Final = Parameter("at", "by the network model of this time; that of now by default", Time)
_GRID: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "/v1/grid/network"): Operation(
        "showNetwork", GRID, "Show the network model that holds now, or at a time", answers("Devices.", shapes.Network),
        (_AT,), needs=_reads(NETWORK), refusals=(404,),
    ),
    ("GET", "/v1/grid/networks"): Operation(
        "listNetworks", GRID, "List the versions of the network model",
        answers("The newest first, those that were replaced too.", shapes.Networks),
        (_limit(grid.VERSIONS, grid.VERSIONS_MAX),), needs=_reads(NETWORK),
    ),
    ("GET", "/v1/grid/usage-points"): Operation(
        "listUsagePoints", GRID, "List the usage points below a transformer or feeder",
        answers(f"At most {grid.POINTS_MAX:,}.", shapes.UsagePoints), (*_UNIT, _AT),
        needs=_reads(NETWORK), refusals=(404,),
    ),
    ("GET", "/v1/grid/usage-points/{usage_point}/readings"): Operation(
        "listReadings", GRID, "List a usage point's readings", answers("Oldest first.", shapes.PointReadings),
        (
            Parameter("from", "intervals that end later; a day before `to` by default", Time),
            Parameter("to", "and not after this; the newest by default", Time),
            Parameter("versions", "those that count, or every one", Literal["current", "all"]),
        ),
        needs=_reads(READINGS),
    ),
    ("GET", "/v1/grid/loads"): Operation(
        "listLoads", GRID, "List the intervals of a transformer or feeder", answers("Oldest first.", shapes.Loads),
        (*_UNIT, Parameter("until", "intervals that end by then", Time), _limit(grid.INTERVALS, grid.INTERVALS_MAX)),
        needs=_reads(TRANSFORMERS, FEEDERS), refusals=(404,),
    ),
    ("GET", "/v1/grid/times"): Operation(
        "showTimes", GRID, "Tell the first and last interval of the lake",
        answers("Ends of intervals.", shapes.LakeTimes), needs=_reads(TRANSFORMERS), refusals=(404,),
    ),
    ("GET", "/v1/grid/at"): Operation(
        "showGridAt", GRID, "Show the grid as it was at a time", answers("As it is known now.", shapes.GridAt),
        (Parameter("time", "of the grid", Time, required=True),),
        needs=_reads(TRANSFORMERS, FEEDERS, HEALTH, ALERTS), refusals=(404,),
    ),
}  # fmt: skip

_LAKE: Final[dict[tuple[str, str], Operation]] = {
    ("POST", "/v1/sql"): Operation(
        "askLake", LAKE, "Ask the lake's tables one question in SQL",
        {200: Answer("Rows; with `format` a file.", {JSON: shapes.Rows, **_FILES})}, body=takes(sql.Question),
        about=f"One statement that reads, in DuckDB's dialect: at most {sql.ROWS_MAX:,} rows in JSON, "
        f"{sql.FILE_ROWS_MAX:,} in a file.",
        refusals=(404,),
    ),
    ("GET", "/v1/sql/tables"): Operation(
        "listTables", LAKE, "List the lake's tables and their columns", answers("Tables.", shapes.Tables),
        refusals=(404, 405),
    ),
}  # fmt: skip

_APP: Final = "/v1/functions/{app}"
_ONE: Final = _APP + "/functions/{function}"
_FUNCTIONS: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "/v1/functions"): Operation(
        "listApps", FUNCTIONS, "List apps of functions", answers("All apps by name.", shapes.AppList),
    ),
    ("GET", _APP): Operation("showApp", FUNCTIONS, "Show an app", answers("The app.", shapes.App)),
    ("PUT", _APP): Operation(
        "deployApp", FUNCTIONS, "Deploy an app: the newest version from now on",
        answers("The app.", shapes.App, 201),
        (
            Parameter("venv", "environment that the app runs in; its own by default"),
            Parameter("port", "of its HTTP functions, on loopback", Annotated[int, Meta(ge=0, le=65535)]),
        ),
        Body({functions.PACKAGE_TYPES[0].decode(): Raw}),
        about="The body is a zip file of the app's directory. Deploying is running code on the hub's machine.",
    ),
    ("DELETE", _APP): Operation(
        "removeApp", FUNCTIONS, "Forget an app", done("Its hubs, positions and dead letters stay."),
    ),
    ("POST", _APP + "/start"): Operation(
        "startApp", FUNCTIONS, "Run an app, or another version of it", answers("The app.", shapes.App),
        (Parameter("version", "one of its versions", Annotated[int, Meta(ge=1, le=2**31)]),), refusals=(415,),
    ),
    ("POST", _APP + "/stop"): Operation(
        "stopApp", FUNCTIONS, "Stop an app at the end of its batches", answers("The app.", shapes.App),
    ),
    ("GET", _APP + "/logs"): Operation(
        "readLog", FUNCTIONS, "Read an app's log", answers("Lines.", shapes.LogLines),
        (
            Parameter("lines", f"at most so many; {functions.LINES_DEFAULT} by default",
                      Annotated[int, Meta(ge=1, le=functions.LINES_MAX)]),
            Parameter("after", "those after a `next`, not the last ones", Annotated[int, Meta(ge=0, le=2**62)]),
        ),
    ),
    ("GET", _APP + "/keys"): Operation(
        "showAppKeys", FUNCTIONS, "Show the keys of an app's HTTP functions", answers("Keys.", shapes.AppKeys),
    ),
    ("POST", _APP + "/keys"): Operation(
        "renewAppKey", FUNCTIONS, "Make a key of an app's HTTP functions anew", answers("All keys.", shapes.AppKeys),
        body=takes(functions.RenewKey), about="The key before opens nothing any more. A new name is a further key.",
    ),
    ("POST", _ONE + "/invoke"): Operation(
        "invokeFunction", FUNCTIONS, "Call a function apart from what runs",
        answers("Nothing is published.", shapes.Trial), body=takes(functions.InvokeFunction),
        about="An event is its JSON, byte for byte, or `{\"base64\": \"...\"}`.",
    ),
    ("POST", _ONE + "/replay"): Operation(
        "replayLetters", FUNCTIONS, "Give dead letters to a function again", answers("How many.", shapes.Replayed),
        body=takes(functions.ReplayLetters, required=False), refusals=(409,),
    ),
    **{
        (method, "/apps/{app}/*"): Operation(
            f"{method.lower()}App", FUNCTIONS, f"{method} an app's HTTP functions",
            {200: Answer("Whatever the app answers, its status included.", {"*/*": Raw})},
            body=None if method in ("GET", "HEAD", "OPTIONS") else Body({"*/*": Raw}, required=False),
            about="The app's functions ask for keys of their own; the hub asks for nothing. The path may have slashes.",
            refusals=(502, 504),
        )
        for method in METHODS
    },
}  # fmt: skip

_ITSELF: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "/v1/live"): Operation(
        "watchHub", ITSELF, "Watch rates, hubs, groups and workers, once a second",
        {200: Answer("Server-sent events of one JSON object each.", {EVENT_STREAM: str})}, refusals=(405,),
    ),
    ("GET", "/v1/status"): Operation(
        "showStatus", ITSELF, "Show the hub's own state",
        answers("Version, durability, endpoints, workers.", dict[str, Any]),
    ),
    ("GET", "/metrics"): Operation(
        "readMetrics", ITSELF, "Metrics for Prometheus", {200: Answer("Prometheus text format.", {"text/plain": str})},
    ),
    ("GET", "/readyz"): Operation(
        "isReady", ITSELF, "Ask whether every endpoint serves",
        {200: Answer("They do.", {JSON: shapes.Readiness}), 503: Answer("They do not.", {JSON: shapes.Readiness})},
    ),
    ("GET", "/v1/openapi.json"): Operation(
        "readOpenApi", ITSELF, "This document", answers("OpenAPI 3.1.", dict[str, Any]),
    ),
    ("GET", "/v1/asyncapi.json"): Operation(
        "readAsyncApi", ITSELF, "The platform's own hubs and their events", answers("AsyncAPI 3.0.", dict[str, Any]),
    ),
    **{
        ("GET", path): Operation(name, ITSELF, "Ask whether the process answers", answers("It does.", shapes.Health))
        for path, name in (("/healthz", "isAlive"), ("/health", "isHealthy"))
    },
}  # fmt: skip

OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    **_EVENTS, **_HUBS, **_GROUPS, **_SCHEMAS, **_SIGN_IN, **_ALERTS, **_GRID, **_LAKE, **_FUNCTIONS, **_ITSELF,
    **AZURE,
}  # fmt: skip
"""By method and path, as the table of routes spells them."""

NAMES: Final[Mapping[str, str]] = {
    "hub": "name of a hub",
    "group": "name of a consumer group, or of a schema group",
    "schema": "name of a schema",
    "policy": "name of a policy",
    "user": "name of a user",
    "id": "id of a finding or schema; slashes are written %2F",
    "name": "name of a silence, of a route of findings or of a rule",
    "usage_point": "id of a usage point",
    "app": "name of an app",
    "function": "name of a function",
    "partition": "number of a partition",
    "publisher": "name of the sender, which is the key of its events",
    "version": "number of a version",
    "path": "the rest of the address, slashes and all",
}
"""What stands in paths."""
