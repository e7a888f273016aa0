"""`gridwire ingest`, `gridwire network`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from gridwire.cli.client import HubClient
from gridwire.cli.durations import moment
from gridwire.cli.output import Common, print_fields, print_json, print_table, say
from gridwire.core.clock import SystemClock
from gridwire.core.errors import GridwireError
from gridwire.core.hubs import METER_EVENTS, NETWORK, QUARANTINE, READINGS, WEATHER
from gridwire.grid.reading import rfc3339, timestamp_us

if TYPE_CHECKING:
    from gridwire.grid.formats.base import Context
    from gridwire.grid.network import Network

network = App(name="network", help="The network model: usage points, feeders, transformers.")


@network.command(name="import")
def import_(
    source: Literal["simbench", "json", "csv", "cim", "pandapower"],
    grids: list[str],
    *,
    folder: Path | None = None,
    name: str = "",
    valid_from: str | None = None,
    check: bool = False,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Import a network model and publish it; live grid facts start with it.

    Args:
        source: simbench; json, gridwire's own form; csv, one line a usage point; cim, CIM XML, several files if need
            be; pandapower, a network that it saved as JSON.
        grids: SimBench codes such as 1-LV-rural1--0-sw or subnets such as LV1.101; else files.
        folder: SimBench CSV files elsewhere than in the installed package.
        name: what to call the utility.
        valid_from: since when or from when on it is right, such as 2026-01-01T00:00:00+01:00; else what the model says,
            else now. What was measured before counts for the model of its time; a past of which the model should hold,
            such as one that is replayed, needs this.
        check: say what is in it and publish nothing.
    """
    found = _imported(source, grids, folder, name)
    if valid_from is not None:
        import msgspec

        found = msgspec.structs.replace(found, valid_from=rfc3339(timestamp_us(moment(valid_from))))
    if not check:
        publish(common.client(), found)
    counts = {
        "transformers": len(found.transformers),
        "feeders": len(found.feeders),
        "usage points": len(found.usage_points),
    }
    if common.json:
        print_json(counts)
    else:
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        since = f", valid from {found.valid_from} on" if found.valid_from else ""
        say(f"{'read' if check else 'published'} network {found.name!r}: {told}{since}")


def _imported(source: str, grids: list[str], folder: Path | None, name: str) -> Network:
    from gridwire.grid import network as model
    from gridwire.grid.importers import cim, pandapower, table
    from gridwire.grid.simbench import import_simbench

    if source == "simbench":
        return import_simbench(grids, name=name or "SimBench", folder=folder).network
    files = [Path(grid) for grid in grids]
    if source == "cim":
        return cim.read(map(_read, files), name)
    if len(files) != 1:
        raise GridwireError(f"{source} takes one file")
    data = _read(files[0])
    if source == "json":
        return model.from_json(data)
    return table.read(data, name or files[0].stem) if source == "csv" else pandapower.read(data, name)


def publish(client: HubClient, found: Network) -> None:
    """Make a network model the current one: in several events where it is large."""
    from gridwire.grid.network_parts import to_events

    for model in to_events(found):
        client.send(NETWORK, model, "application/json", {"key": "network"})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GridwireError(f"cannot read {path}: {error.strerror}") from None


@network.command
def show(*, at: str | None = None, common: Common = Common()) -> None:  # noqa: B008
    """Show the network model in effect.

    Args:
        at: that of another time, such as 2026-01-01T00:00:00Z.
    """
    from gridwire.cli import network_versions as versions
    from gridwire.grid import network as model

    client = common.client()
    found = versions.model_of(client, versions.holding(versions.versions(client), at or _now()))
    if common.json:
        import json

        print_json(json.loads(model.to_json(model.listed(found))))
        return
    points: dict[str, int] = {}
    for point in found.usage_points:
        points[point.transformer] = points.get(point.transformer, 0) + 1
    rows = [(t.id, t.rated_kva, points.get(t.id, 0)) for t in found.transformers]
    print_table(("transformer", "rated kVA", "usage points"), rows, ("rated kVA", "usage points"))


def _now() -> str:
    return rfc3339(SystemClock().now_ms() * 1000)


@network.command(name="list")
def list_(*, limit: int = 20, common: Common = Common()) -> None:  # noqa: B008
    """List versions of the network model, the newest first: from when on each holds, and what changed with it.

    Args:
        limit: at most so many; each is read whole to say what changed.
    """
    from gridwire.cli import network_versions as versions

    if limit < 1:
        raise GridwireError(f"--limit must be at least 1, not {limit}")
    client = common.client()
    known = versions.versions(client)
    changed = versions.changes(client, known, limit)
    shown = known[:limit]
    if common.json:
        print_json([versions.as_json(version, changed.get(version.offset)) for version in shown])
        return
    columns = ("offset", "valid from", "until", "published", "name", "transformers", "usage points", "changes")
    rows = [
        (
            each.offset, each.valid_from, (each.valid_to or "") if each.in_effect else "replaced", each.published,
            each.name, each.transformers, each.usage_points,
            versions.spoken(changed[each.offset]) if each.offset in changed else "",
        )
        for each in shown
    ]  # fmt: skip
    print_table(columns, rows, ("offset", "transformers", "usage points"))


@network.command
def diff(before: str, after: str, *, limit: int = 20, common: Common = Common()) -> None:  # noqa: B008
    """Say what differs between two versions: usage points that moved, came or went, devices that came or went.

    Args:
        before: the offset of a version as `network list` tells it, or a time at which it holds.
        after: the same of the other version.
        limit: at most so many of each kind; counts are of all.
    """
    from itertools import islice

    import msgspec

    from gridwire.cli import network_versions as versions
    from gridwire.grid.network_diff import NetworkDiff

    client = common.client()
    known = versions.versions(client)
    chosen = [versions.chosen(known, text) for text in (before, after)]
    found = NetworkDiff(*(versions.model_of(client, version) for version in chosen))
    moves = [msgspec.to_builtins(move) for move in islice(found.moves(), limit)]
    lists = {
        "usage_points_added": list(islice(found.added(), limit)),
        "usage_points_removed": list(islice(found.removed(), limit)),
        **{
            name: getattr(found, name)[:limit]
            for name in (
                "transformers_added", "transformers_removed", "transformers_changed", "feeders_added", "feeders_removed"
            )
        },
    }  # fmt: skip
    if common.json:
        print_json({"counts": found.counts(), "usage_points_moved": moves, **lists})
        return
    say(versions.spoken(found.counts()))
    rows = [("usage point moved", *move.values()) for move in moves]
    for name, ids in lists.items():
        *thing, did = name.split("_")
        what = f"{' '.join(thing).removesuffix('s')} {did}"
        rows += [(what, id, "", "", "", "") for id in ids]
    if rows:
        print_table(("what", "id", "from transformer", "from feeder", "to transformer", "to feeder"), rows)


@network.command
def meters(file: Path, *, common: Common = Common()) -> None:  # noqa: B008
    """Say which meter was where, when: the table replaces the model's, every problem of it is told at once.

    Args:
        file: CSV or JSON with the columns meter, usage_point, from, to, reading_type, start_register, end_register,
            dials, multiplier; see docs/reference/vee.md.
    """
    import msgspec

    from gridwire.cli.vee import current_model
    from gridwire.grid import network as model
    from gridwire.grid.meter_install import read_table

    rows = read_table(_read(file), json=file.suffix.lower() == ".json")
    client = common.client()
    changed = msgspec.structs.replace(current_model(client), meters=rows)
    model.check(changed)
    publish(client, changed)
    if common.json:
        print_json({"meters": len(rows)})
    else:
        say(f"published {len(rows)} installations of meters; readings of the window are judged again")


@Parameter(name="*")
@dataclass(frozen=True)
class Beyond:
    """What is known of frames beyond their bytes; options of every command that decodes."""

    zone: Annotated[str | None, Parameter(help="time zone of meters that do not say it, such as Europe/Oslo")] = None
    meter: Annotated[str | None, Parameter(help="id of the meter, for frames that do not name one")] = None
    received_at: Annotated[
        str | None, Parameter(help="when frames without a clock arrived, such as 2026-11-23T12:00:00Z")
    ] = None
    keys: Annotated[Path | None, Parameter(help="TOML file with the keys of encrypted meters")] = None
    mapping: Annotated[
        Path | None, Parameter(help="TOML file that says what a head-end's own columns mean, for the format mapped")
    ] = None

    def context(self) -> Context:
        """As decoders take it. Raises GridwireError: a file or time is not what it should be."""
        from gridwire.grid.formats import keys as key_file
        from gridwire.grid.formats.base import Context

        told: dict[str, Any] = {
            "zone": self.zone,
            "meter": self.meter,
            "received_at_us": None if self.received_at is None else timestamp_us(moment(self.received_at)),
            "keys": key_file.load(self.keys) if self.keys else None,
            "mapping": _read(self.mapping).decode("utf-8", "replace") if self.mapping else None,
        }
        return Context(**{name: value for name, value in told.items() if value is not None})


def expanded(paths: list[Path]) -> list[Path]:
    """Files, and the files in directories, in order of their names."""
    found: list[Path] = []
    for path in paths:
        found += sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]
    return found


def ingest(
    format: str,
    files: list[Path],
    *,
    beyond: Beyond = Beyond(),
    common: Common = Common(),  # noqa: B008
) -> int:
    """Decode meter and weather files: readings go to the hub `readings`, what cannot be read to `quarantine`.

    Args:
        format: one of the formats of docs/reference/formats.md, such as dsmr, dlms or espi.
        files: the files, or directories of them.
    """
    from gridwire.grid.ingest import ingest as ingest_files

    try:
        report = ingest_files(format, expanded(files), common.client(), context=beyond.context())
    except OSError as error:
        raise GridwireError(f"cannot read {error.filename}: {error.strerror}") from None
    if common.json:
        names = ("files", "bytes", "frames", "readings", "events", "weather", "quarantined")
        print_json({name: getattr(report, name) for name in names})
    else:
        print_fields(
            {
                "files": report.files,
                "frames": report.frames,
                READINGS: report.readings,
                METER_EVENTS: report.events,
                WEATHER: report.weather,
                QUARANTINE: report.quarantined,
            }
        )
        for reason, count in report.reasons.most_common(10):
            say(f"  {count} x {reason}")
    return 0
