"""GET /metrics in the Prometheus text format. One table; the exporter and the reference page derive from it.

Nothing is measured twice: the endpoint counts in plain integers, everything else is read when somebody asks.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gridwire.broker.reports import DURATION_BUCKETS_S
from gridwire.core.errors import Unavailable
from gridwire.heads.http.alert_routes import AlertRoutesApi
from gridwire.heads.http.alert_rules import Rules
from gridwire.heads.http.functions import Functions
from gridwire.heads.http.options import APPEND_BUCKETS_S, HttpCounters
from gridwire.heads.http.overview import RUNNING, Overview

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

Counters = Mapping[str, Callable[[], Mapping[str, int]]]
"""What other parts of the hub count: part name to a function that tells name and value."""

Point = tuple[tuple[str, ...], float]
"""Label values and value."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric. `unit` is the last part of the name before `_total`, or empty for a plain count."""

    name: str
    type: str
    unit: str
    help: str
    labels: tuple[str, ...] = ()


_PARTITION: Final = ("hub", "partition")
_FUNCTION: Final = ("app", "function")
_RULE: Final = ("rule",)
_FUNCTION_COUNTERS: Final = (
    "invocations", "events", "outputs", "failures", "timeouts", "deaths", "retries", "bisections", "dead_letters",
)  # fmt: skip

METRICS: Final = (
    MetricRow(
        "gridwire_build_info", "gauge", "", "Always 1; says version and durability mode.", ("version", "durability")
    ),
    MetricRow("gridwire_ready", "gauge", "", "1 when every endpoint serves."),
    MetricRow("gridwire_uptime_seconds", "gauge", "seconds", "Time since the hub started."),
    MetricRow("gridwire_memory_bytes", "gauge", "bytes", "Resident memory of the hub process."),
    MetricRow("gridwire_disk_free_bytes", "gauge", "bytes", "Free space where the data directory lies."),
    MetricRow("gridwire_hub_start_offset", "gauge", "", "First offset kept.", _PARTITION),
    MetricRow(
        "gridwire_hub_end_offset", "gauge", "", "Offset the next event gets; its rate is the event rate.", _PARTITION
    ),
    MetricRow("gridwire_hub_size_bytes", "gauge", "bytes", "Bytes kept.", _PARTITION),
    MetricRow("gridwire_group_members", "gauge", "", "Members of a consumer group.", ("group",)),
    MetricRow(
        "gridwire_group_lag_events", "gauge", "", "Events a group has not committed yet.", ("group", *_PARTITION)
    ),
    MetricRow("gridwire_group_lag_seconds", "gauge", "seconds", "Age of the first of them.", ("group", *_PARTITION)),
    MetricRow("gridwire_worker_up", "gauge", "", "1 when the worker process runs.", ("worker",)),
    MetricRow("gridwire_worker_restarts_total", "counter", "", "Times the worker was started again.", ("worker",)),
    *(
        MetricRow(f"gridwire_function_{name}", kind, unit, text, labels)
        for name, kind, unit, text, labels in (
            ("app_up", "gauge", "", "1 when the app's host runs; of apps that were deployed.", ("app",)),
            ("workers", "gauge", "", "Worker processes of the app.", ("app",)),
            ("cpu_seconds_total", "counter", "seconds", "Processor time of the app's host and its calls.", ("app",)),
            ("invocations_total", "counter", "", "Calls.", _FUNCTION),
            ("events_total", "counter", "", "Events dealt with.", _FUNCTION),
            ("outputs_total", "counter", "", "Events handed out and committed.", _FUNCTION),
            ("failures_total", "counter", "", "Calls that raised an error.", _FUNCTION),
            ("timeouts_total", "counter", "", "Calls that took too long.", _FUNCTION),
            ("deaths_total", "counter", "", "Calls whose worker process ended.", _FUNCTION),
            ("retries_total", "counter", "", "Batches repeated as they were.", _FUNCTION),
            ("bisections_total", "counter", "", "Batches taken apart after a failure.", _FUNCTION),
            ("dead_letters_total", "counter", "", "Events given up.", _FUNCTION),
            ("letters_waiting", "gauge", "", "Dead letters that were not replayed.", _FUNCTION),
            ("lag_events", "gauge", "", "Events of its hub that are not committed yet.", _FUNCTION),
            ("lag_seconds", "gauge", "seconds", "Age of the first of them.", _FUNCTION),
            ("call_cpu_seconds_total", "counter", "seconds", "Processor time of workers, by function.", _FUNCTION),
            ("flushes_total", "counter", "", "Batches given out, by reason.", (*_FUNCTION, "reason")),
            ("call_seconds", "histogram", "seconds", "How long calls took.", _FUNCTION),
        )
    ),
    MetricRow("gridwire_alert_route_up", "gauge", "", "1 while the route delivers; 0 stopped or failing.", ("route",)),
    MetricRow("gridwire_alert_route_delivered_total", "counter", "", "Findings a receiver took.", ("route",)),
    MetricRow("gridwire_alert_route_failed_total", "counter", "", "Findings given up: dead letters.", ("route",)),
    MetricRow("gridwire_alert_route_tries_failed_total", "counter", "", "Tries that came to nothing.", ("route",)),
    MetricRow("gridwire_alert_route_waiting", "gauge", "", "Findings that wait, or were not looked at.", ("route",)),
    MetricRow("gridwire_alert_rule_open", "gauge", "", "Open alerts of a rule.", _RULE),
    MetricRow("gridwire_alert_rule_failing", "gauge", "", "1 when the last run of a rule failed.", _RULE),
    MetricRow("gridwire_alert_rule_events_total", "counter", "", "Events or rows a rule looked at.", _RULE),
    MetricRow("gridwire_alert_rule_skipped_total", "counter", "", "Those without the field or the subject.", _RULE),
    MetricRow("gridwire_alert_rule_refused_total", "counter", "", "Subjects that were too many.", _RULE),
    MetricRow("gridwire_http_requests_total", "counter", "", "HTTP requests answered.", ("route", "status")),
    MetricRow("gridwire_http_problems_total", "counter", "", "HTTP requests refused or failed.", ("problem",)),
    MetricRow("gridwire_http_connections", "gauge", "", "Open HTTP connections."),
    MetricRow("gridwire_http_streams", "gauge", "", "Open event streams."),
    MetricRow("gridwire_http_events_received_total", "counter", "", "Events taken in over HTTP."),
    MetricRow("gridwire_http_received_bytes_total", "counter", "bytes", "Bodies they came in, decompressed."),
    MetricRow("gridwire_http_batches_appended_total", "counter", "", "Batches they were appended as."),
    MetricRow("gridwire_http_append_seconds", "histogram", "seconds", "Time until a request's events were durable."),
    MetricRow("gridwire_http_events_sent_total", "counter", "", "Events browsed and tailed."),
    MetricRow("gridwire_http_sent_bytes_total", "counter", "bytes", "Bytes of tails."),
    MetricRow("gridwire_http_events_skipped_total", "counter", "", "Events left out of rate-limited tails."),
    MetricRow("gridwire_part_count", "gauge", "", "What another part of the hub counts.", ("part", "name")),
)


async def snapshot(
    overview: Overview,
    counters: HttpCounters,
    parts: Counters,
    functions: Functions | None = None,
    routes: AlertRoutesApi | None = None,
    rules: Rules | None = None,
) -> dict[str, list[Point]]:
    """Every metric's points by name; of a histogram those of its sum, count and buckets, by their own names."""
    points: dict[str, list[Point]] = defaultdict(list, {row.name: [] for row in METRICS})
    _add_appends(points, counters)
    _add_status(points, overview.status())
    _add_http(points, counters)
    try:
        hubs, groups = await asyncio.gather(overview.hubs(), overview.group_details())
    except Unavailable:  # the rest is still true, and somebody wants to be told that it is not well
        hubs, groups = [], []
    for hub in hubs:
        for row in hub["bounds"]:
            labels = (hub["name"], str(row["partition"]))
            points["gridwire_hub_start_offset"].append((labels, row["start"]))
            points["gridwire_hub_end_offset"].append((labels, row["end"]))
            points["gridwire_hub_size_bytes"].append((labels, row["bytes"]))
    for group in groups:
        name = group["group"]
        points["gridwire_group_members"].append(((name,), len(group["members"])))
        for row in group["partitions"]:
            place = (name, row["hub"], str(row["partition"]))
            points["gridwire_group_lag_events"].append((place, row["lag_events"]))
            points["gridwire_group_lag_seconds"].append((place, row["lag_seconds"]))
    if functions is not None:
        _add_functions(points, await functions.rows(groups))
    if routes is not None:
        await _add_routes(points, routes)
    if rules is not None:
        _add_rules(points, (await rules.list())["rules"])
    for part, read in parts.items():
        points["gridwire_part_count"] += [((part, name), value) for name, value in read().items()]
    return points


def _add_status(points: dict[str, list[Point]], status: Mapping[str, Any]) -> None:
    build = (str(status.get("version", "")), str(status.get("durability", "")))
    points["gridwire_build_info"].append((build, 1))
    points["gridwire_ready"].append(((), float(bool(status.get("ready")))))
    for key in ("uptime_seconds", "memory_bytes", "disk_free_bytes"):
        value = status.get(key.replace("_seconds", "_s"))
        if isinstance(value, int | float):
            points[f"gridwire_{key}"].append(((), value))
    for worker in status.get("workers") or ():
        name = (str(worker.get("name")),)
        points["gridwire_worker_up"].append((name, float(worker.get("state") == RUNNING)))
        points["gridwire_worker_restarts_total"].append((name, worker.get("restarts") or 0))


async def _add_routes(points: dict[str, list[Point]], routes: AlertRoutesApi) -> None:
    try:
        rows = (await routes.list())["routes"]
    except Unavailable:
        return
    for row in rows:
        name = (str(row["name"]),)
        points["gridwire_alert_route_up"].append((name, float(row["state"] == "on")))
        points["gridwire_alert_route_waiting"].append((name, row["waiting"]))
        for counter in ("delivered", "failed", "tries_failed"):
            points[f"gridwire_alert_route_{counter}_total"].append((name, row[counter]))


def _add_functions(points: dict[str, list[Point]], apps: Iterable[Mapping[str, Any]]) -> None:
    def add(name: str, labels: tuple[str, ...], value: float) -> None:
        points[f"gridwire_function_{name}"].append((labels, value))

    for app in apps:
        of_app = (str(app["app"]),)
        if app["deployed"]:
            add("app_up", of_app, float(app["state"] == RUNNING))
        add("workers", of_app, app["workers"])
        add("cpu_seconds_total", of_app, app["cpu_s"])
        for function in app["functions"]:
            labels, counts = (*of_app, str(function["name"])), function["counters"]
            for name in _FUNCTION_COUNTERS:
                add(f"{name}_total", labels, counts.get(name, 0))
            add("letters_waiting", labels, function["letters_waiting"])
            add("call_cpu_seconds_total", labels, counts.get("cpu_us", 0) / 1e6)
            if function["reads"]:
                add("lag_events", labels, function["lag_events"])
                add("lag_seconds", labels, function["lag_seconds"])
            for name, count in counts.items():
                if name.startswith("flushed_"):
                    add("flushes_total", (*labels, name.removeprefix("flushed_")), count)
            name, sum_s = "gridwire_function_call_seconds", counts.get("busy_us", 0) / 1e6
            _add_histogram(points, name, labels, DURATION_BUCKETS_S, function["buckets"], sum_s)


def _add_rules(points: dict[str, list[Point]], rules: Iterable[Mapping[str, Any]]) -> None:
    for rule in rules:
        label, status = (str(rule["name"]),), rule["status"]
        points["gridwire_alert_rule_open"].append((label, status["open"]))
        points["gridwire_alert_rule_failing"].append((label, float(bool(status["error"]))))
        for name in ("events", "skipped", "refused"):
            points[f"gridwire_alert_rule_{name}_total"].append((label, status[name]))


def _add_appends(points: dict[str, list[Point]], counters: HttpCounters) -> None:
    name = "gridwire_http_append_seconds"
    _add_histogram(points, name, (), APPEND_BUCKETS_S, counters.append_buckets, counters.append_seconds)


def _add_histogram(
    points: dict[str, list[Point]],
    name: str,
    labels: tuple[str, ...],
    bounds: Sequence[float],
    counts: Sequence[int],
    sum_s: float,
) -> None:
    """Counts by bucket, the last one without an upper bound, as points of `NAME/BOUND` and of the name itself."""
    total = 0
    for bound, count in zip((*bounds, math.inf), counts, strict=False):
        total += count
        points[f"{name}/{'+Inf' if bound == math.inf else bound}"].append((labels, total))
    points[name].append((labels, sum_s))


def _add_http(points: dict[str, list[Point]], counters: HttpCounters) -> None:
    points["gridwire_http_requests_total"] += [
        ((route, str(status)), count) for (route, status), count in counters.requests.items()
    ]
    points["gridwire_http_problems_total"] += [((kind,), count) for kind, count in counters.problems.items()]
    for name, value in (
        ("connections", counters.connections),
        ("streams", counters.streams),
        ("events_received_total", counters.events_received),
        ("received_bytes_total", counters.bytes_received),
        ("batches_appended_total", counters.batches_appended),
        ("events_sent_total", counters.events_sent),
        ("sent_bytes_total", counters.bytes_sent),
        ("events_skipped_total", counters.events_skipped),
    ):
        points[f"gridwire_http_{name}"].append(((), value))


def _family(row: MetricRow, points: Mapping[str, Iterable[Point]]) -> Metric:
    if row.type == "histogram":
        return _histogram(row, points)
    kind = CounterMetricFamily if row.type == "counter" else GaugeMetricFamily
    family = kind(row.name, row.help, labels=row.labels)
    for labels, value in points[row.name]:
        family.add_metric(labels, value)
    return family


def _histogram(row: MetricRow, points: Mapping[str, Iterable[Point]]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(row.name, row.help, labels=row.labels)
    buckets: dict[tuple[str, ...], list[tuple[str, float]]] = {}
    for name, found in points.items():
        if name.startswith(f"{row.name}/"):
            for labels, total in found:
                buckets.setdefault(labels, []).append((name.rpartition("/")[2], total))
    for labels, sum_s in points[row.name]:
        if labels in buckets:
            family.add_metric(labels, buckets[labels], sum_s)
    return family


class _Snapshot(Collector):
    """A collector for one answer."""

    def __init__(self, points: Mapping[str, Iterable[Point]]) -> None:
        self._points = points

    def collect(self) -> Iterator[Metric]:
        for row in METRICS:
            yield _family(row, self._points)


def exposition(points: Mapping[str, Iterable[Point]]) -> bytes:
    """The text a Prometheus server reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(points))
    return generate_latest(registry)
