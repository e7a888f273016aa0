"""GET /metrics in the Prometheus text format. One table; the exporter and the reference page derive from it.

Nothing is measured twice: the endpoint counts in plain integers, everything else is read when somebody asks.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
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

from gridwire.core.errors import Unavailable
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


async def snapshot(overview: Overview, counters: HttpCounters, parts: Counters) -> dict[str, list[Point]]:
    """Every metric's points by name; the histogram is kept apart in `HttpCounters`."""
    points: dict[str, list[Point]] = {row.name: [] for row in METRICS}
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


def _family(row: MetricRow, points: Iterable[Point], counters: HttpCounters) -> Metric:
    if row.type == "histogram":
        return _histogram(row, counters)
    kind = CounterMetricFamily if row.type == "counter" else GaugeMetricFamily
    family = kind(row.name, row.help, labels=row.labels)
    for labels, value in points:
        family.add_metric(labels, value)
    return family


def _histogram(row: MetricRow, counters: HttpCounters) -> HistogramMetricFamily:
    total = 0
    buckets = []
    for bound, count in zip((*APPEND_BUCKETS_S, math.inf), counters.append_buckets, strict=True):
        total += count
        buckets.append(("+Inf" if bound == math.inf else str(bound), float(total)))
    return HistogramMetricFamily(row.name, row.help, buckets=buckets, sum_value=counters.append_seconds)


class _Snapshot(Collector):
    """A collector for one answer."""

    def __init__(self, points: Mapping[str, Iterable[Point]], counters: HttpCounters) -> None:
        self._points = points
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        for row in METRICS:
            yield _family(row, self._points[row.name], self._counters)


def exposition(points: Mapping[str, Iterable[Point]], counters: HttpCounters) -> bytes:
    """The text a Prometheus server reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(points, counters))
    return generate_latest(registry)
