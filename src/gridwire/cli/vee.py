"""`gridwire vee`, `gridwire readings`: rules, completeness, what failed; the history of a reading, and editing it."""

from __future__ import annotations

import getpass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cyclopts import App

from gridwire.cli.client import HubClient
from gridwire.cli.durations import moment
from gridwire.cli.grid import publish
from gridwire.cli.output import Common, print_fields, print_json, print_table, say
from gridwire.core.errors import GridwireError
from gridwire.core.hubs import READING_EDITS, READINGS
from gridwire.grid.reading import timestamp_us

if TYPE_CHECKING:
    from gridwire.grid.network import Network

vee = App(name="vee", help="Validation and estimation of readings: rules, their settings, what failed, completeness.")
readings = App(name="readings", help="One reading: its versions, and editing it.")

_VERDICTS: Final = """
with told as (
    select value_text::json as v, row_number() over (
        partition by value_text::json->>'usage_point', value_text::json->>'reading_type', value_text::json->>'ts_end'
        order by "partition", "offset" desc) as age
    from "grid.vee" where value is not null
), failed as (
    select unnest(cast(v->'$.failed' as varchar[])) as rule, v->>'usage_point' as point, v->>'ts_end' as ts_end
    from told where age = 1 and left(v->>'ts_end', 10) >= '{since}'
)
select rule, count(*) as intervals, count(distinct point) as usage_points, min(ts_end) as first, max(ts_end) as last
from failed group by rule order by intervals desc
"""

_FEEDERS: Final = """
with newest as (
    select feeder, ts_end, interval_s, "count", expected, coalesce(estimated, 0) as estimated, row_number() over (
        partition by feeder, ts_end order by version desc) as age
    from "grid.feeders" where feeder is not null
), days as (
    select feeder, cast((ts_end - to_seconds(interval_s)) at time zone 'UTC' as date) as day, "count" as measured,
        estimated, expected, interval_s, ts_end from newest where age = 1 and expected > 0
), ends as (
    select day, count(distinct ts_end) as intervals from days group by day
)
select 'feeder' as kind, feeder as unit, cast(day as varchar) as day, max(expected) * max(intervals) as expected,
    sum(measured)::bigint as measured, sum(estimated)::bigint as estimated,
    round(sum(measured) / (max(expected) * max(intervals)), 4) as completeness
from days join ends using (day) where day >= '{since}' group by feeder, day order by day, feeder
"""

_SOURCES: Final = """
with known as (
    select coalesce(source, '') as source, usage_point, reading_type, ts_end,
        cast((ts_end - to_seconds(interval_s)) at time zone 'UTC' as date) as day
    from readings_current
    where interval_s between 1 and 82799 and (quality >> 16 & 255) not in (8, 12)
        and source is distinct from 'gridwire.vee'
), ends as (
    select day, count(distinct ts_end) as intervals from known group by day
), channels as (
    select source, count(distinct (usage_point, reading_type)) as channels from known group by source
)
select 'source' as kind, source as unit, cast(day as varchar) as day, max(channels) * max(intervals) as expected,
    count(*) as measured, 0 as estimated, round(count(*) / (max(channels) * max(intervals)), 4) as completeness
from known join ends using (day) join channels using (source) where day >= '{since}'
group by source, day order by day, source
"""


@vee.command
def rules(*, category: str | None = None, defaults: bool = False, common: Common = Common()) -> None:  # noqa: B008
    """Show every rule with its settings, as the current network model has them.

    Args:
        category: settings of this class of usage points instead of the network's.
        defaults: show the defaults; no hub is needed.
    """
    from gridwire.grid.vee import config as vee_config
    from gridwire.grid.vee.rules import ESTIMATION, VALIDATION

    config = vee_config.parse({} if defaults else current_model(common.client()).vee)
    if category is not None and category not in config.classes:
        raise GridwireError(f"no settings for the class {category!r}; there are: {', '.join(config.classes) or 'none'}")
    settings = config.rules_of(category or "")
    rows: list[dict[str, Any]] = [
        {
            "rule": rule.name, "kind": kind, "quality": rule.quality, "about": rule.about,
            "settings": {field.name: getattr(settings[rule.name], field.name) for field in rule.fields},
        }
        for kind, table in (("validation", VALIDATION), ("estimation", ESTIMATION))
        for rule in table
    ]  # fmt: skip
    if common.json:
        print_json(rows)
        return
    shown = [
        (row["rule"], row["kind"], row["quality"], " ".join(f"{k}={v}" for k, v in row["settings"].items()))
        for row in rows
    ]
    print_table(("rule", "kind", "quality", "settings"), shown)


@vee.command
def configure(file: Path, *, common: Common = Common()) -> None:  # noqa: B008
    """Put settings of rules into the network model; every problem of the file is told at once.

    Args:
        file: TOML with the tables general, rules and classes, see docs/reference/vee.md.
    """
    import tomllib

    import msgspec

    from gridwire.grid.vee import config as vee_config

    try:
        told = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GridwireError(f"cannot read {file}: {error}") from None
    vee_config.parse(told)
    client = common.client()
    model = current_model(client)
    publish(client, msgspec.structs.replace(model, vee=told))
    if common.json:
        print_json(told)
    else:
        say(f"the network {model.name!r} has these settings now; readings of its window are judged again")


@vee.command
def check(
    *,
    data: Path = Path("gridwire-data"),
    since: str = "1970-01-01",
    slo: float | None = None,
    common: Common = Common(),  # noqa: B008
) -> int:
    """What failed by rule, and completeness of feeders and feeds by day, out of the lake. Exit 1: an SLO was missed.

    Args:
        data: the data directory whose lake is asked.
        since: first day, in UTC.
        slo: completeness that must be reached [default: the rules' own].
    """
    from gridwire.grid.vee.config import General

    wanted = General().slo if slo is None else slo
    try:
        day = datetime.fromisoformat(since).date().isoformat()
    except ValueError:
        raise GridwireError(f"--since must be a day such as 2026-11-23, not {since!r}") from None
    failed = _rows(data, "grid.vee", _VERDICTS.format(since=day))
    complete = _rows(data, "grid.feeders", _FEEDERS.format(since=day))
    complete += _rows(data, "readings", _SOURCES.format(since=day))
    for row in complete:
        row["slo_met"] = row["completeness"] >= wanted
    missed = sum(not row["slo_met"] for row in complete)
    if common.json:
        print_json({"failed": failed, "completeness": complete, "slo": wanted})
    else:
        _print(failed, ("rule", "intervals", "usage_points", "first", "last"))
        _print(complete, ("kind", "unit", "day", "expected", "measured", "estimated", "completeness", "slo_met"))
        say(f"{missed} of {len(complete)} below {wanted:.1%}")
    return 1 if missed else 0


def _print(rows: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    numbers = [name for name in names if rows and isinstance(rows[0][name], (int, float))]
    print_table(names, [tuple(row[name] for name in names) for row in rows], tuple(numbers))


def _rows(data: Path, table: str, question: str) -> list[dict[str, Any]]:
    """Rows of an answer; none where the lake has no such table yet."""
    from gridwire.capture import sql as lake

    if table not in {info.name for info in lake.tables(data / "lake")}:
        return []
    result = lake.query(data / "lake", question, limit_rows=100_000)
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


def current_model(client: HubClient) -> Network:
    """The newest network model. Raises GridwireError: there is none."""
    from gridwire.cli import network_versions as versions

    return versions.model_of(client, versions.versions(client, limit=1)[0])


@readings.command
def history(
    usage_point: str,
    ts_end: str,
    *,
    reading_type: str = "import_kwh",
    data: Path = Path("gridwire-data"),
    common: Common = Common(),  # noqa: B008
) -> None:
    """Every version of one reading that the lake has, the one that holds last.

    Args:
        usage_point: id in the network model.
        ts_end: end of the interval, such as 2026-11-23T12:00:00Z.
        reading_type: alias.
        data: the data directory whose lake is asked.
    """
    rows = _versions(data, usage_point, timestamp_us(moment(ts_end)), reading_type)
    names = ("version", "value", "quality", "source", "received_at", "partition", "offset")
    if common.json:
        print_json(rows)
    else:
        print_table(names, [tuple(row[name] for name in names) for row in rows], ("version", "value"))


@readings.command
def edit(
    usage_point: str,
    ts_end: str,
    value: str,
    *,
    why: str,
    by: str | None = None,
    reading_type: str = "import_kwh",
    interval_s: int | None = None,
    version: int | None = None,
    data: Path = Path("gridwire-data"),
    common: Common = Common(),  # noqa: B008
) -> None:
    """Put a value in by hand, as a new version of quality `edited`; who and why stand in the hub `reading.edits`.

    Args:
        usage_point: id in the network model.
        ts_end: end of the interval, such as 2026-11-23T12:00:00Z.
        value: in the reading type's unit, exact.
        why: for those who come later.
        by: who [default: the name of this system's user].
        reading_type: alias.
        interval_s: length of the interval [default: the network model's].
        version: of the reading [default: one more than the newest that the lake has].
        data: the data directory whose lake knows the versions so far.
    """
    import orjson

    from gridwire.core.batch import Event
    from gridwire.grid.reading import (
        EDITED_FLAG,
        EDITED_QUALITY,
        Reading,
        decimal_text,
        reading_json,
        rfc3339,
        value_parts,
    )  # fmt: skip
    from gridwire.grid.reading_types import BY_ALIAS

    client = common.client()
    model = current_model(client)
    transformer = next((unit.transformer for unit in model.usage_points if unit.id == usage_point), None)
    if transformer is None:
        raise GridwireError(f"no usage point {usage_point!r} in the network {model.name!r}")
    if reading_type not in BY_ALIAS:
        raise GridwireError(f"unknown reading type {reading_type!r}, see docs/reference/readings.md")
    moment_us = timestamp_us(moment(ts_end))
    known = _versions(data, usage_point, moment_us, reading_type)
    try:
        mantissa, scale = value_parts(value)
    except ValueError as error:
        raise GridwireError(str(error)) from None
    reading = Reading(
        moment_us, BY_ALIAS[reading_type].id, mantissa, scale, model.interval_s if interval_s is None else interval_s,
        usage_point, quality=EDITED_QUALITY, source="gridwire.edit", flags=EDITED_FLAG,
        version=max([row["version"] for row in known], default=0) + 1 if version is None else version,
    )  # fmt: skip
    record = {
        "usage_point": usage_point, "reading_type": reading_type, "ts_end": rfc3339(moment_us),
        "value": float(decimal_text(mantissa, scale)), "version": reading.version,
        "by": by or getpass.getuser(), "why": why,
        "before": [{"version": row["version"], "value": row["value"]} for row in known[-1:]],
    }  # fmt: skip
    client.send_events(READING_EDITS, [Event(orjson.dumps(record), usage_point.encode())])  # told before it counts
    client.send_events(READINGS, [Event(reading_json(reading), transformer.encode())])
    if common.json:
        print_json(record)
    else:
        print_fields(record)


def _versions(data: Path, usage_point: str, ts_end_us: int, reading_type: str) -> list[dict[str, Any]]:
    from gridwire.grid.reading import rfc3339

    place = " and ".join(
        f"{column} = {_literal(text)}"
        for column, text in (("usage_point", usage_point), ("reading_type", reading_type))
    )
    quality = "(quality >> 24) || '.' || (quality >> 16 & 255) || '.' || (quality & 65535) as quality"
    columns = f'version, value, {quality}, source, received_at, "partition", "offset"'
    return _rows(
        data,
        READINGS,
        f"select {columns} from readings where {place} and ts_end = timestamptz {_literal(rfc3339(ts_end_us))} "
        f'order by version, "partition", "offset"',
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
