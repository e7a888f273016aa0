"""The dashboard asks for metrics and labels that there are, the scrape configuration for an address that there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gridwire import config
from gridwire.heads.http.metrics import METRICS

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "gridwire.json").read_text())
KNOWN = {row.name: row for row in METRICS}
OF_PROMETHEUS = {"instance", "job"}
PARTS = {"_bucket": {"le"}, "_sum": set[str](), "_count": set[str]()}
"""What Prometheus makes of a histogram, and the labels it adds."""

NAME = re.compile(r"\bgridwire_\w+")
SELECTOR = re.compile(r"(gridwire_\w+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
LEGEND = re.compile(r"\{\{(\w+)\}\}")


def labels_of(name: str) -> set[str]:
    """Labels of a metric. Raises KeyError: there is none of that name."""
    if name in KNOWN and KNOWN[name].type != "histogram":
        return {*KNOWN[name].labels, *OF_PROMETHEUS}
    for ending, more in PARTS.items():
        if name.endswith(ending) and KNOWN[name.removesuffix(ending)].type == "histogram":
            return {*KNOWN[name.removesuffix(ending)].labels, *OF_PROMETHEUS, *more}
    raise KeyError(name)


def check(expression: str, legend: str = "") -> None:
    """Raises KeyError or AssertionError: a metric or label is not there."""
    names = NAME.findall(expression)
    assert names, expression
    known = set.intersection(*(labels_of(name) for name in names))
    for name, inside in SELECTOR.findall(expression):
        assert set(LABEL.findall(inside)) <= labels_of(name), expression
    grouped = {label.strip() for group in GROUPING.findall(expression) for label in group.split(",")}
    assert grouped <= known, expression
    assert set(LEGEND.findall(legend)) <= (grouped or known), f"{legend} of {expression}"


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"], target["legendFormat"]


def test_every_query_is_about_what_there_is() -> None:
    found = list(queries())
    assert len(found) > 30
    for expression, legend in found:
        check(expression, legend)


def test_what_there_is_not_would_be_seen() -> None:
    for expression, legend in (
        ("gridwire_no_such_thing", ""),
        ("gridwire_http_append_seconds", ""),
        ('sum(gridwire_hub_end_offset{topic="x"})', ""),
        ("sum by (route) (gridwire_hub_end_offset)", ""),
        ("sum by (hub) (gridwire_hub_end_offset)", "{{partition}}"),
    ):
        with pytest.raises((KeyError, AssertionError)):
            check(expression, legend)


def test_variables_are_about_what_there_is() -> None:
    used = set(re.findall(r"\$(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert used | {"datasource"} == variables.keys()
    for name, variable in variables.items():
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            assert label == name
            assert label in labels_of(metric)


def test_rates_are_of_what_only_grows() -> None:
    """A rate of a gauge means nothing, but for ends of partitions and what parts count, which go up."""
    for expression, _ in queries():
        for name in re.findall(r"(?:rate|increase)\((gridwire_\w+)", expression):
            row = KNOWN.get(name)
            grows = row is None or row.type == "counter" or name in ("gridwire_hub_end_offset", "gridwire_part_count")
            assert grows, expression


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_is_sent_to_the_hub(http_hub: Any) -> None:
    (job,) = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())["scrape_configs"]
    default = next(row.default for row in config.SETTINGS if row.name == "http_port")
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{default}"]}]
    hub = http_hub()
    httpx.post(f"{hub.url}/v1/hubs/r/events", content=b"x").raise_for_status()
    text = httpx.get(hub.url + job["metrics_path"]).text
    told = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert {"gridwire_ready", "gridwire_hub_end_offset", "gridwire_http_append_seconds_bucket"} <= told
