"""`gridwire train`, `gridwire model`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from gridwire.cli.client import HubClient
from gridwire.cli.output import Common, print_fields, print_json, print_table, say, size_text
from gridwire.core.errors import GridwireError
from gridwire.core.hubs import MODELS

if TYPE_CHECKING:
    from gridwire.grid.models.dataset import Failure
    from gridwire.grid.models.model_log import ModelLog, Stored
    from gridwire.grid.models.package import Manifest
    from gridwire.grid.models.train import Trained

FAILURES_MAX: Final = 1_000_000
"""Of one file."""

model = App(name="model", help="Trained models: which there are, how good they are, and which is in effect.")


def train(
    *kinds: str,
    data: Path = Path("gridwire-data"),
    zone: str = "UTC",
    begin: Annotated[str | None, Parameter(name="--from", help="learn from facts after this time only")] = None,
    end: Annotated[str | None, Parameter(name="--to", help="learn from facts up to this time only")] = None,
    force: bool = False,
    promote: bool = True,
    dry_run: bool = False,
    failures: Path | None = None,
    common: Common = Common(),  # noqa: B008
) -> int:
    """Train models on the lake and publish them to the hub `models`; the stream uses them at once.

    Every model is tested on what it was not fitted to: load_forecast beside seasonal naive (the same hour of last
    week), weather_normalisation beside that day of last week, transformer_health beside the risk of grid.health. One
    that is not better is published with --force only.

    Args:
        kinds: load_forecast, weather_normalisation, transformer_health; when none is named all that there is data for.
        data: the data directory whose lake is learnt from.
        zone: time zone of the utility, such as Europe/Berlin: its days, weekends and peaks.
        force: publish what is not better too.
        promote: put what is published in effect.
        dry_run: train and test, publish nothing.
        failures: CSV with the columns transformer and failed (a date or time) of transformers that failed, which
            transformer_health learns from.
    """
    from gridwire.grid.models import dataset, hazard
    from gridwire.grid.models import train as trainer

    _zone(zone)
    for kind in kinds:
        trainer.check_kind(kind)
    client = common.client()
    chosen = kinds or [kind for kind in trainer.KINDS if kind != hazard.KIND or failures]
    if hazard.KIND in chosen and failures is None:
        raise GridwireError("transformer_health learns from transformers that failed: name them with --failures FILE")
    found = dataset.load(
        data / "lake",
        begin=_moment(begin),
        end=_moment(end),
        station_of=None if dry_run else _stations(client),
        failures=_failures(failures) if failures else (),
        with_loads=any(kind != hazard.KIND for kind in chosen),
    )
    trained, reasons = [], {}
    for kind in chosen:
        try:
            trained.append(trainer.train(kind, found, zone, datetime.now(UTC)))
        except dataset.TooLittleData as error:
            reasons[kind] = str(error)
    if not trained:
        raise GridwireError("; ".join(f"{kind}: {reason}" for kind, reason in reasons.items()))
    published = [] if dry_run else [each for each in trained if each.manifest.better or force]
    for each in published:
        _publish(client, each if promote else trainer.unpromoted(each))
    _show_trained(trained, {each.manifest.version for each in published}, reasons, common, dry_run=dry_run)
    return 0 if len(published) == len(trained) or dry_run else 1


def _failures(path: Path) -> list[Failure]:
    """Failures out of a CSV file. Raises GridwireError with the line that makes no sense."""
    import csv

    from gridwire.grid.models.dataset import Failure

    found: list[Failure] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            for number, row in enumerate(csv.DictReader(lines), start=2):
                if len(found) == FAILURES_MAX:
                    raise GridwireError(f"{path} has more than {FAILURES_MAX:,} failures")
                failed = _moment((row.get("failed") or "").strip() or "nothing")
                if not row.get("transformer") or failed is None:
                    raise GridwireError(f"{path}, line {number}: columns are transformer,failed")
                found.append(Failure(str(row["transformer"]), int(failed.timestamp()) // 86_400))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GridwireError(f"cannot read {path}: {error}") from None
    return found


def _zone(name: str) -> None:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise GridwireError(f"--zone must be a time zone such as Europe/Berlin, not {name!r}") from None


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise GridwireError(f"{text!r} is no time such as 2026-01-01T00:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _stations(client: HubClient) -> dict[str, dict[str, str]]:
    """Station by unit, as the current network model has it; nothing where there is none."""
    from gridwire.cli.vee import current_model

    if not client.get("/v1/grid/networks", limit=1)["networks"]:
        return {}
    found = current_model(client)
    of_transformer = {each.id: each.station for each in found.transformers}
    of_feeder = {each.id: of_transformer.get(each.transformer, "") for each in found.feeders}
    for point in found.usage_points:
        if not of_feeder.get(point.feeder):
            of_feeder[point.feeder] = of_transformer.get(point.transformer, "")
    return {"transformer": of_transformer, "feeder": of_feeder}


def _publish(client: HubClient, trained: Trained) -> None:
    from gridwire.grid.models import package
    from gridwire.grid.models.train import forced

    each = forced(trained)
    for event in package.events(each.manifest, each.data):
        client.send_events(MODELS, [event])


def _show_trained(
    trained: list[Trained], published: set[str], reasons: dict[str, str], common: Common, *, dry_run: bool
) -> None:
    from gridwire.grid.models.package import summary

    if common.json:
        models = [{**summary(t.manifest), "published": t.manifest.version in published} for t in trained]
        print_json({"models": models, "not_trained": reasons})
        return
    rows = [row for each in trained for row in _metric_rows(each.manifest)]
    print_table(("model", "level", "units", "MAE kW", "naive MAE kW", "skill", "rCRPS", "naive rCRPS"), rows)
    for each in trained:
        if each.manifest.version in published:
            say(f"published {each.manifest.kind} {each.manifest.version}")
        elif not dry_run:
            say(f"{each.manifest.kind} is not better than seasonal naive: not published, --force would")
    for kind, reason in reasons.items():
        say(f"{kind} not trained: {reason}")


def _metric_rows(manifest: Manifest) -> list[tuple[Any, ...]]:
    return [
        (
            manifest.kind, level, found.get("units"), found.get("mae_kw"), found.get("naive_mae_kw"),
            found.get("skill"), found.get("rcrps"), found.get("naive_rcrps"),
        )
        for level, found in manifest.metrics.items()
    ]  # fmt: skip


# -- gridwire model -----------------------------------------------------------------------------------------------


def _log(client: HubClient) -> ModelLog:
    from gridwire.grid.models.model_log import ModelLog

    log = ModelLog()
    if any(known["name"] == MODELS for known in client.get("/v1/hubs")["hubs"]):
        for event in client.stored(MODELS, 0, 0):
            log.take(event.value, {name: text.encode() for name, text in event.headers.items()})
    return log


@model.command(name="list")
def list_(*, common: Common = Common()) -> None:  # noqa: B008
    """List the models in the hub `models`, newest last."""
    log = _log(common.client())
    rows = [
        {
            "kind": kind, "version": version, "in_effect": log.promoted.get(kind, [""])[-1] == version,
            "trained_to": stored.manifest.trained_to.isoformat(), "units": stored.manifest.units,
            "skill": _skills(stored.manifest), "kept": stored.data is not None,
        }
        for kind, models in log.models.items()
        for version, stored in models.items()
    ]  # fmt: skip
    if common.json:
        print_json(rows)
        return
    columns = ("kind", "version", "in_effect", "trained_to", "units", "skill")
    print_table(columns, [tuple(row[name] for name in columns) for row in rows])


def _skills(manifest: Manifest) -> str:
    return ", ".join(f"{level} {found.get('skill')}" for level, found in manifest.metrics.items())


@model.command
def show(version: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Show everything known of a model.

    Args:
        version: as `gridwire model list` has it, or the beginning of one; or a kind, for the model in effect.
    """
    from gridwire.grid.models.package import summary

    log = _log(common.client())
    stored = _find(log, version)
    found = {**summary(stored.manifest), "in_effect": log.current(stored.manifest.kind) is stored}
    if common.json:
        print_json(found)
        return
    plain = {name: value for name, value in found.items() if not isinstance(value, dict)}
    print_fields({**plain, "bytes": size_text(stored.manifest.bytes)})
    for level, metrics in stored.manifest.metrics.items():
        say(f"{level}:")
        print_fields({f"  {name}": value for name, value in metrics.items()})


def _find(log: ModelLog, name: str) -> Stored:
    if (current := log.current(name)) is not None:
        return current
    found = [stored for models in log.models.values() for key, stored in models.items() if key.startswith(name)]
    if len(found) != 1:
        known = ", ".join(key for models in log.models.values() for key in models) or "none: `gridwire train` makes one"
        raise GridwireError(f"{len(found)} models are called {name!r}; there are {known}")
    return found[0]


@model.command
def promote(version: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Put a model in effect; the stream uses it from its next event on.

    Args:
        version: as `gridwire model list` has it, or the beginning of one.
    """
    client = common.client()
    _promote(client, _find(_log(client), version), common)


@model.command
def rollback(kind: str = "load_forecast", *, common: Common = Common()) -> None:  # noqa: B008
    """Put the model in effect that was before the present one.

    Args:
        kind: of the model.
    """
    client = common.client()
    log = _log(client)
    before = log.previous(kind)
    if before is None:
        raise GridwireError(f"there is no earlier model of {kind} to go back to")
    _promote(client, log.models[kind][before], common)


def _promote(client: HubClient, stored: Stored, common: Common) -> None:
    from gridwire.grid.models.package import promotion_event

    stored.arrays()  # what cannot be read any more cannot be in effect
    manifest = stored.manifest
    client.send_events(MODELS, [promotion_event(manifest.kind, manifest.version, datetime.now(UTC))])
    if common.json:
        print_json({"kind": manifest.kind, "version": manifest.version, "in_effect": True})
    else:
        say(f"{manifest.kind} {manifest.version} is in effect")
