"""`gridwire decode`, `gridwire quarantine`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cyclopts import App

from gridwire.cli.client import HubClient, StoredEvent, hub_path
from gridwire.cli.grid import Beyond, expanded
from gridwire.cli.output import Common, print_fields, print_json, print_table, say
from gridwire.core.batch import Event
from gridwire.core.errors import GridwireError

quarantine = App(name="quarantine", help="Frames that could not be read: what they are, and trying them again.")


def decode(
    format: str,
    files: list[Path],
    *,
    beyond: Beyond = Beyond(),  # noqa: B008
    limit: int = 1000,
    common: Common = Common(),  # noqa: B008
) -> int:
    """Show the readings in meter files; no hub is needed and nothing is sent.

    Args:
        format: one of the formats of docs/reference/formats.md.
        files: the files, or directories of them.
        limit: how many readings, events and bad frames to show at most.
    """
    rows = list(islice(_shown(format, expanded(files), beyond.context()), limit))
    if common.json:
        print_json(rows)
    else:
        columns = ("meter", "usage_point", "ts_end", "reading_type", "value", "interval_s", "quality", "problem")
        print_table(columns, [tuple(row.get(name, "") for name in columns) for row in rows], ("value", "interval_s"))
    return 1 if any("problem" in row for row in rows) else 0


def _shown(format: str, files: list[Path], context: Any) -> Iterator[dict[str, Any]]:
    import orjson

    from gridwire.grid.formats import registry
    from gridwire.grid.formats.base import CHUNK_BYTES, BadFrame
    from gridwire.grid.meter_event import event_json
    from gridwire.grid.reading import reading_json
    from gridwire.grid.weather import RANGES, weather_json

    decoder = registry.get(format)
    for path in files:
        try:
            with path.open("rb") as file:
                for item in decoder.stream(iter(lambda: file.read(CHUNK_BYTES), b""), context):
                    if isinstance(item, BadFrame):
                        yield {"problem": item.reason, "position": item.position, "file": path.name}
                        continue
                    yield from (_row(reading_json(reading)) for reading in item.readings)
                    for event in item.events:
                        row = orjson.loads(event_json(event))
                        yield {**row, "ts_end": row["ts_event"], "reading_type": row["kind"]}
                    for observation in item.weather:
                        row = orjson.loads(weather_json(observation))
                        shown = ", ".join(f"{name} {row[name]:g}" for name in RANGES if name in row)
                        yield {**row, "ts_end": row["ts"], "usage_point": row["station"], "value": shown}
        except OSError as error:
            raise GridwireError(f"cannot read {path}: {error.strerror}") from None


def _row(text: bytes) -> dict[str, Any]:
    """A reading with its value as text, because a float would not show all its digits."""
    import json

    row: dict[str, Any] = json.loads(text, parse_float=str)
    return row


class _Hubs:
    """A hub server as `grid.quarantine` needs it."""

    def __init__(self, client: HubClient) -> None:
        self._client = client

    def stored(self, hub: str, partition: int, offset: int) -> Iterator[StoredEvent]:
        return self._client.stored(hub, partition, offset)

    def ends(self, hub: str) -> dict[int, int]:
        if all(known["name"] != hub for known in self._client.get("/v1/hubs")["hubs"]):
            return {}
        return {bound["partition"]: bound["end"] for bound in self._client.get(hub_path(hub))["bounds"]}

    def send_events(self, hub: str, events: list[Event]) -> None:
        self._client.send_events(hub, events)


@quarantine.command(name="list")
def list_(*, format: str | None = None, common: Common = Common()) -> None:  # noqa: B008
    """List the frames in quarantine.

    Args:
        format: frames of this format only.
    """
    from gridwire.grid.quarantine import frames

    rows = [
        (frame.offset, frame.format, frame.source, frame.position, len(frame.raw), frame.reason)
        for frame in frames(_Hubs(common.client()))
        if format in (None, frame.format)
    ]
    columns = ("offset", "format", "source", "position", "bytes", "reason")
    if common.json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows, ("offset", "position", "bytes"))


@quarantine.command
def show(offset: int, *, common: Common = Common()) -> None:  # noqa: B008
    """Show one frame with its bytes in hexadecimal.

    Args:
        offset: as `list` shows it.
    """
    from gridwire.grid.quarantine import frames

    found = next((frame for frame in frames(_Hubs(common.client())) if frame.offset == offset), None)
    if found is None:
        raise GridwireError(f"no frame at offset {offset}: `gridwire quarantine list` shows which there are")
    fields = {name: getattr(found, name) for name in ("format", "source", "position", "reason", "meter", "zone")}
    fields |= {"identity": found.identity, "prelude": found.prelude.hex(), "bytes": found.raw.hex()}
    if common.json:
        print_json(fields)
    else:
        print_fields(fields)


@quarantine.command
def replay(
    offsets: list[int] | None = None,
    *,
    format: str | None = None,
    beyond: Beyond = Beyond(),  # noqa: B008
    common: Common = Common(),  # noqa: B008
) -> int:
    """Try frames again, after a fix or with what was missing: a key, a meter's id, a time of receipt.

    What can be read now is sent exactly once, however often this runs and wherever it is interrupted. Run one at
    a time.

    Args:
        offsets: frames as `list` shows them; all when none is named.
        format: frames of this format only.
    """
    from gridwire.grid import quarantine as grid_quarantine
    from gridwire.grid.ingest import usage_point_of_meter

    report = grid_quarantine.replay(
        _Hubs(common.client()),
        beyond.context(),
        usage_point_of_meter(),
        lambda frame: (not offsets or frame.offset in offsets) and format in (None, frame.format),
    )
    counts = {
        name: getattr(report, name) for name in ("frames", "replayed", "already", "readings", "events", "weather")
    }
    if common.json:
        print_json({**counts, "still_bad": [{"offset": at, "reason": why} for at, why in report.still_bad]})
    else:
        print_fields({**counts, "still bad": len(report.still_bad)})
        for at, why in report.still_bad[:20]:
            say(f"  {at}: {why}")
    return 0
