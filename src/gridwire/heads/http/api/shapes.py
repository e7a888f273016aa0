"""What addresses answer, as types: a description for documents and tests. Answers are made where they arise."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gridwire.alerts import Alert, Silenced
from gridwire.broker.alert_rules import SqlRule, ThresholdRule
from gridwire.broker.claims import Claimed
from gridwire.broker.reports import FunctionReport
from gridwire.broker.schemas import Schema, SchemaGroup
from gridwire.core.settings import HubSettings

# -- events


class Run(msgspec.Struct):
    """Consecutive offsets of one partition."""

    partition: int
    offset: int
    count: int


class Taken(msgspec.Struct, omit_defaults=True):
    """Where events lie. `count` and `results` come when the request could hold several."""

    partition: int
    offset: int
    durable: bool
    count: int = 0
    results: list[Run] = []


class CloudEvent(msgspec.Struct, omit_defaults=True):
    """A CloudEvent in structured mode; further members are extension attributes."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: str = ""
    time: str = ""
    datacontenttype: str = ""
    data: Any = None
    data_base64: str = ""


class Event(msgspec.Struct):
    """An event as it is shown. Keys and header values: text, or `{"base64": ...}`; `format` says what `value` is."""

    partition: int
    offset: int
    timestamp: int
    key: str | dict[str, str] | None
    value: Any
    format: Literal["json", "text", "base64", "null"]
    headers: dict[str, Any]


class EventPage(msgspec.Struct):
    """Events of one partition. Go on at `next`; the partition has offsets from `start` to before `end`."""

    events: list[Event]
    next: int
    start: int
    end: int


class Copied(msgspec.Struct):
    """One step of a copy. Go on at `next` until it is `end`; `next_ms`: time of the event that `before` stopped at."""

    copied: int
    next: int
    end: int
    next_ms: int | None


# -- hubs and groups


class Extent(msgspec.Struct):
    """What a partition holds: offsets from `start` to before `end`."""

    partition: int
    start: int
    end: int
    bytes: int


class Hub(msgspec.Struct):
    """A hub. `settings` is empty for whoever may not see them."""

    name: str
    id: str
    partitions: int
    settings: HubSettings
    internal: bool
    created_ms: int
    events: int
    bytes: int
    bounds: list[Extent]


class Hubs(msgspec.Struct):
    """All hubs by name, as far as whoever asks may know of them."""

    hubs: list[Hub]


class GroupRow(msgspec.Struct):
    """A consumer group in short. `lag_seconds`: age of the first event it has not committed."""

    group: str
    state: str
    lag_events: int
    lag_seconds: float
    members: int


class Groups(msgspec.Struct):
    """All groups by name, as far as whoever asks may know of them."""

    groups: list[GroupRow]


class GroupPlace(msgspec.Struct):
    """How far a group is in one partition."""

    hub: str
    partition: int
    position: int
    end: int
    lag_events: int
    lag_seconds: float


class Assigned(msgspec.Struct):
    """Partitions of one hub."""

    hub: str
    partitions: list[int]


class Member(msgspec.Struct):
    """A member of a group."""

    id: str
    client_id: str
    host: str
    partitions: list[Assigned]


class Group(msgspec.Struct):
    """A consumer group."""

    group: str
    state: str
    lag_events: int
    lag_seconds: float
    partitions: list[GroupPlace]
    members: list[Member]


class Move(msgspec.Struct, rename={"from_": "from"}):
    """What a reset would change in one partition. `from` is null where nothing was committed."""

    partition: int
    from_: int | None
    to: int


class DryReset(msgspec.Struct):
    """What a reset would change."""

    group: str
    hub: str
    dry_run: bool
    changes: list[Move]


class Claims(msgspec.Struct):
    """Claims of partitions."""

    claims: list[Claimed]


class CommittedPosition(msgspec.Struct):
    """The offset of the next event a group has to read."""

    partition: int
    position: int


class Positions(msgspec.Struct):
    """Committed positions of a group in a hub."""

    positions: list[CommittedPosition]


# -- schemas


class SchemaGroups(msgspec.Struct):
    """All schema groups."""

    groups: list[SchemaGroup]


class Schemas(msgspec.Struct):
    """The newest version of each schema of a group."""

    schemas: list[Schema]


class SchemaVersions(msgspec.Struct):
    """All versions of one schema."""

    versions: list[Schema]


class SchemaGroupNames(msgspec.Struct, rename={"value": "Value"}):
    """Names of schema groups, as Azure's SDKs read them."""

    value: list[str]


class SchemaVersionNumbers(msgspec.Struct, rename={"value": "Value"}):
    """Numbers of a schema's versions, as Azure's SDKs read them."""

    value: list[int]


# -- rights and sign-in


class Rights(msgspec.Struct):
    """Who asks, whether he had to sign in, and the actions he may do."""

    name: str
    sign_in: bool
    may: list[str]


class Policy(msgspec.Struct):
    """What a key grants. Without `hub` it is for the namespace; a quota of 0 is none."""

    name: str
    rights: list[str]
    hub: str | None
    group: str | None
    bytes_in_s: int
    bytes_out_s: int
    connections: int
    created_ms: int


class PolicyWithKeys(Policy, kw_only=True):
    """A policy with its keys, which only making and rotating them shows."""

    primary_key: str
    secondary_key: str


class User(msgspec.Struct):
    """A user and his policies."""

    user: str
    policies: list[str]


class Certificate(msgspec.Struct):
    """Whose policies a client's certificate carries."""

    subject: str
    policies: list[str]


class Policies(msgspec.Struct):
    """Everybody who is known, without secrets."""

    policies: list[Policy]
    users: list[User]
    certificates: list[Certificate]


class Recipient(msgspec.Struct):
    """The public key that identities for this hub are sealed with (Base64)."""

    recipient: bytes


class Sealed(msgspec.Struct):
    """All identities, for the hub of one public key only (Base64)."""

    sealed: bytes


# -- alerts


class Acknowledgement(msgspec.Struct):
    """Who has seen a finding."""

    by: str
    why: str
    at: str


class ShownAlert(Alert, frozen=True, kw_only=True):
    """A finding, and what people said of it. `silenced`: name of the silence that covers it."""

    acknowledged: Acknowledgement | None
    silenced: str | None


class AlertList(msgspec.Struct):
    """Findings, the newest first."""

    alerts: list[ShownAlert]


class Silences(msgspec.Struct):
    """Silences in effect."""

    silences: list[Silenced]


class AlertRoute(msgspec.Struct):
    """A route of findings to a webhook, and how it goes.

    `mode`: `structured`, `binary` or `text`. `header`: name of one that goes along; its value is shown to nobody.
    `handshake`: the receiver was asked before; `rate_per_min`: what it allowed, 0 for no limit. `stopped`: why
    nothing is delivered, else empty. `waiting`: findings not delivered yet, `tries_failed`: tries that were repeated.
    """

    name: str
    url: str
    kind: str
    subject: str
    severity: str
    states: list[str]
    silenced: bool
    mode: str
    header: str
    handshake: bool
    rate_per_min: int
    time_limit_s: int
    created_ms: int
    created_by: str
    stopped: str
    state: Literal["on", "failing", "stopped"]
    group: str
    waiting: int
    delivered: int
    failed: int
    tries_failed: int
    delivered_ms: int | None
    error: str
    error_ms: int | None


class AlertRoutes(msgspec.Struct):
    """All routes."""

    routes: list[AlertRoute]


class AlertRouteTest(msgspec.Struct):
    """What became of a sample. `status`: null where nobody answered; `error` says why."""

    name: str
    delivered: bool
    status: int | None
    answer: str
    error: str
    took_ms: float


class AlertRuleStatus(msgspec.Struct):
    """How a rule is. `events`, `skipped`: of its hub, looked at, and left out for want of a field; `refused`: subjects
    that were too many; `last_ms`: its newest event, or when its query was last asked."""

    state: Literal["starting", "running", "failing", "full"]
    open: int
    events: int
    skipped: int
    refused: int
    last_ms: int
    took_ms: int
    error: str


class ShownThresholdRule(ThresholdRule, frozen=True, kw_only=True, tag_field="type", tag="threshold"):
    """A rule about values of a hub, and how it is."""

    revision: int
    changed_ms: int
    changed_by: str
    status: AlertRuleStatus


class ShownSqlRule(SqlRule, frozen=True, kw_only=True, tag_field="type", tag="sql"):
    """A rule about the lake, and how it is."""

    revision: int
    changed_ms: int
    changed_by: str
    status: AlertRuleStatus


ShownRule = ShownThresholdRule | ShownSqlRule


class AlertRules(msgspec.Struct):
    """All rules."""

    rules: list[ShownRule]


class AlertRuleTrial(msgspec.Struct):
    """What a rule would have opened, and what would be open now. `findings`: the first of them."""

    events: int
    skipped: int
    opened: int
    open: int
    refused: int
    error: str
    findings: list[dict[str, Any]]


# -- the grid


class NetworkTransformer(msgspec.Struct):
    """A transformer. `feeders`: those above it that feed several; `customers`: its usage points."""

    id: str
    rated_kva: float
    substation: str
    lon: float | None
    lat: float | None
    feeders: list[str]
    customers: int


class NetworkFeeder(msgspec.Struct):
    """A feeder. `transformer` is empty where it feeds several."""

    id: str
    transformer: str
    customers: int


class NetworkVersion(msgspec.Struct):
    """When a version of the model holds: until `valid_to`, null until further notice; `in_effect` is false of one that
    was replaced, `first` holds before its time too. It lies at `offset` of `grid.network`, from `first_offset` on."""

    name: str
    valid_from: str
    valid_to: str | None
    in_effect: bool
    first: bool
    published: str
    partition: int
    first_offset: int
    offset: int


class Network(NetworkVersion):
    """A network model without its usage points."""

    interval_s: int
    transformers: list[NetworkTransformer]
    feeders: list[NetworkFeeder]


class NetworkCounts(NetworkVersion):
    """A version, and how much is in it."""

    transformers: int
    feeders: int
    usage_points: int


class Networks(msgspec.Struct):
    """Versions of the network model, those published last first."""

    networks: list[NetworkCounts]
    truncated: bool


class NetworkPoint(msgspec.Struct):
    """A usage point of the network model."""

    id: str
    transformer: str
    feeder: str
    expects: list[str]
    phase: int
    category: str
    active: bool


class UsagePoints(msgspec.Struct):
    """Usage points in the model's order."""

    usage_points: list[NetworkPoint]
    truncated: bool


class ShownReading(msgspec.Struct):
    """A reading as the lake has it. `quality`: a CIM code, empty for good; `holds`: whether this version counts."""

    reading_type: str
    ts_end: str
    interval_s: int | None
    value: float | None
    unit: str
    quality: str
    flags: int | None
    meter: str | None
    source: str | None
    version: int | None
    received_at: str | None
    partition: int
    offset: int
    holds: bool


class PointReadings(msgspec.Struct):
    """Readings of a usage point, oldest first."""

    usage_point: str
    readings: list[ShownReading]
    truncated: bool


class LakeTimes(msgspec.Struct):
    """The first and last interval of the loads in the lake; null where there are none."""

    first: str | None
    last: str | None
    interval_s: int


class Loads(msgspec.Struct):
    """Intervals of a unit, oldest first: facts as `grid.transformers` or `grid.feeders` has them."""

    facts: list[dict[str, Any]]


class Reached(msgspec.Struct):
    """The offset a partition had."""

    hub: str
    partition: int
    offset: int


class GridAt(msgspec.Struct):
    """The grid at a time. `reached_ms`: when it had come that far, by the hub's clock; null: it has not gone on."""

    time: str
    transformers: list[dict[str, Any]]
    feeders: list[dict[str, Any]]
    health: list[dict[str, Any]]
    alerts: list[ShownAlert]
    reached_ms: int | None
    offsets: list[Reached]


# -- the lake


class Column(msgspec.Struct):
    """A column and its type in DuckDB's words."""

    name: str
    type: str


class Rows(msgspec.Struct):
    """The answer to a question. `truncated`: there are more rows than the limit."""

    columns: list[Column]
    rows: list[list[Any]]
    truncated: bool
    took_ms: float


class Table(msgspec.Struct):
    """A table of the lake."""

    name: str
    rows: int
    updated_ms: int | None
    columns: list[Column]


class Tables(msgspec.Struct):
    """Tables of the lake."""

    tables: list[Table]


# -- functions


class AppVersion(msgspec.Struct):
    """A version of an app that can be gone back to."""

    version: int
    deployed_ms: int
    deployed_by: str
    bytes: int
    venv: str


class ShownFunction(FunctionReport, frozen=True, kw_only=True):
    """A function of an app, with how far it is behind and its dead letters."""

    group: str
    lag_events: int
    lag_seconds: float
    letters: int
    letters_waiting: int


class App(msgspec.Struct):
    """An app of functions. `version` is 0 where it was not deployed; `reason` says why it is in this state."""

    app: str
    deployed: bool
    version: int
    versions: list[AppVersion]
    state: str
    reason: str
    deployed_ms: int
    deployed_by: str
    bytes: int
    venv: str
    url: str
    workers: int
    cpu_s: float
    restarts: int
    functions: list[ShownFunction]


class AppList(msgspec.Struct):
    """All apps by name."""

    apps: list[App]


class LogLines(msgspec.Struct):
    """Lines of an app's log. Go on at `next`; `skipped` bytes were gone by then."""

    lines: list[str]
    next: int
    skipped: int


class AppKeys(msgspec.Struct):
    """Keys of an app's HTTP functions; of `functions` by function and name of the key."""

    master: str
    system: str
    host: dict[str, str]
    functions: dict[str, dict[str, str]]


class HandedOut(msgspec.Struct):
    """An event a function made."""

    hub: str
    key: str | dict[str, str] | None
    value: str | dict[str, str] | None


class Rejected(msgspec.Struct):
    """An event a function refused; `event` counts from 0."""

    event: int
    reason: str


class Trial(msgspec.Struct):
    """What became of a call that publishes nothing. `done`: events it dealt with."""

    done: int
    took_ms: float
    error: str
    traceback: str
    rejected: list[Rejected]
    outputs: list[HandedOut]


class Replayed(msgspec.Struct):
    """How many dead letters were given again."""

    replayed: int


# -- the hub itself


class Health(msgspec.Struct):
    """The process answers."""

    status: Literal["ok"]


class Readiness(msgspec.Struct):
    """Whether every endpoint serves."""

    ready: bool


class Problem(msgspec.Struct):
    """An error (RFC 9457). `type` is a stable name for programs, `detail` is for the person."""

    type: str
    title: str
    status: int
    detail: str


class AzureErrorText(msgspec.Struct):
    """Code and text of an error."""

    code: str
    message: str


class AzureError(msgspec.Struct):
    """An error as Azure's schema registry answers it."""

    error: AzureErrorText
