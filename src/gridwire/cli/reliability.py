"""`gridwire reliability`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from gridwire.cli.client import HubClient, hub_path
from gridwire.cli.durations import moment
from gridwire.cli.output import Common, print_fields, print_json, print_table, say
from gridwire.core.errors import GridwireError, InvalidSetting
from gridwire.core.hubs import ALERTS, NETWORK


def reliability(
    *,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    to: str | None = None,
    customers: int | None = None,
    lake: Path | None = None,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Tell SAIDI, SAIFI, CAIDI and MAIFI (IEEE 1366) of the outages that have ended, with and without major event days.

    Args:
        from_: outages that began at this time or later, RFC 3339 with an offset [default: a year before the end].
        to: outages that began before this time [default: now].
        customers: customers served [default: usage points of the network model].
        lake: read the table grid.alerts of this lake instead of the hub; then --customers is needed.
    """
    from gridwire.grid import reliability as indices
    from gridwire.grid.reading import timestamp_us

    to_us = timestamp_us(moment(to)) if to else time.time_ns() // 1000
    from_us = timestamp_us(moment(from_)) if from_ else to_us - 365 * indices.DAY_US
    if lake is not None:
        if customers is None:
            raise InvalidSetting("a lake does not know how many customers there are: say --customers")
        values: Iterator[bytes] = _of_lake(lake)
    else:
        client = common.client()
        values = _of_hub(client, ALERTS)
        customers = customers or _usage_points(client)
    found, going_on = indices.interruptions(values)
    told = indices.report(found, customers, from_us, to_us)
    if common.json:
        print_json(_plain({**asdict(told), "going_on": going_on}))
        return
    columns = ("", *asdict(told.all))
    rows = [(name, *map(_number, asdict(part).values())) for name, part in _parts(told)]
    print_table(columns, rows, columns[1:])
    say("")
    print_fields(
        {
            "customers": told.customers,
            "outages going on": going_on,
            "T_MED, minutes": "unknown" if told.t_med_min is None else _number(told.t_med_min),
            "made from days": told.t_med_days,
            "major event days": ", ".join(_day(each) for each in told.major_days) or "none",
        }
    )
    if found and not told.all.interruptions + told.all.momentary:
        newest = max(each.started_us for each in found)
        say(f"outages that began outside of this time: {len(found)}, the last on {_day(newest)}; say --from and --to")


def _parts(told: Any) -> list[tuple[str, Any]]:
    return [("all", told.all), ("without major event days", told.without_major)]


def _of_hub(client: HubClient, hub: str) -> Iterator[bytes]:
    for number, bounds in enumerate(client.get(hub_path(hub))["bounds"]):
        for event in client.stored(hub, number, bounds["start"]):
            yield event.value


def _of_lake(lake: Path) -> Iterator[bytes]:
    from gridwire.capture import sql

    found = sql.query(lake, f'SELECT value_text FROM "{ALERTS}"', limit_rows=10_000_000)
    for (value,) in found.rows:
        if value is not None:
            yield str(value).encode()


def _usage_points(client: HubClient) -> int:
    from gridwire.grid.network import InvalidNetwork, from_json

    count = 0
    for value in _of_hub(client, NETWORK):
        try:
            count = len(from_json(value).usage_points)
        except InvalidNetwork:
            continue
    if not count:
        raise GridwireError("there is no network model to count customers in: say --customers")
    return count


def _day(us: int) -> str:
    from gridwire.grid.reading import rfc3339

    return rfc3339(us)[:10]


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.6g}"


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for as null."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
