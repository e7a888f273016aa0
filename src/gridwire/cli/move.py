"""`gridwire move`: hubs and what belongs to them from one side to the other, while both serve."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import Parameter

from gridwire.cli.client import hub_path
from gridwire.cli.move_sides import Cluster, Side, Target, moved_schemas, opened
from gridwire.cli.output import print_table, say

if TYPE_CHECKING:
    from gridwire.move.mover import Progress, Result

SOURCE_KEY: Final = "GRIDWIRE_FROM_CONNECTION_STRING"
TARGET_KEY: Final = "GRIDWIRE_TO_CONNECTION_STRING"


def move(
    *,
    from_: Annotated[str, Parameter(name="--from")],
    to: str,
    hub: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    follow: bool = False,
    identities: bool = True,
    source: Annotated[Cluster, Parameter(name="--from")] = Cluster(),  # noqa: B008
    target: Annotated[Target, Parameter(name="--to")] = Target(),  # noqa: B008
    from_connection_string: str | None = None,
    to_connection_string: str | None = None,
    output: Annotated[Literal["table", "json"], Parameter(name=["-o", "--output"], help="how to print")] = "table",
) -> None:
    """Move hubs, settings, positions of groups, schemas and identities to another place, while both serve.

    Either side is a Kafka cluster (kafka://host:9092,host2:9092), a hub that runs (http://host:8700), or the data
    directory of one that does not. What was moved is read back and compared. Started again it brings what came since.

    Args:
        from_: where from.
        to: where to.
        hub: only these hubs.
        follow: go on until Ctrl-C or SIGTERM, then check and hand the groups over.
        identities: policies, users, certificates and access control lists too, where the source has sign-in.
        from_connection_string: policy and key to sign in with [default: GRIDWIRE_FROM_CONNECTION_STRING].
        to_connection_string: the same for the destination [default: GRIDWIRE_TO_CONNECTION_STRING].
    """
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(
            opened(to, target, to_connection_string or os.environ.get(TARGET_KEY),
                    replication=target.replication, min_insync=target.min_insync)
        )  # fmt: skip
        here = stack.enter_context(opened(from_, source, from_connection_string or os.environ.get(SOURCE_KEY)))
        screen = stack.enter_context(_screen(output == "json"))
        result = _moved(here, there, hub or [], screen, _stopped_by_signals() if follow else None)
        counts, notes = _beside_events(here, there, result, identities)
    _print(result, counts, notes, as_json=output == "json")


def _moved(
    here: Side, there: Side, hubs: list[str], screen: Callable[[Progress], None], stop: threading.Event | None
) -> Result:
    from gridwire.move import side
    from gridwire.move.mover import Mover

    mover = Mover(side.Side(here.address), side.Side(there.address), hubs, screen)
    return mover.run(follow=stop is not None, stop=stop)


def _beside_events(here: Side, there: Side, result: Result, identities: bool) -> tuple[dict[str, int], list[str]]:
    """What only gridwire knows: counts by kind of what was moved, and notes of what was not and why."""
    counts: dict[str, int] = {}
    notes = []
    if here.client is not None and there.client is not None:
        counts["schema"] = moved_schemas(here.client, there.client)
    elif here.client is not None and here.client.get("/v1/schemagroups")["groups"]:
        notes.append("schemas were not moved: the registry is gridwire's, give a gateway (--to.gateway)")
    for hub, settings in sorted(result.ours.items()):
        if there.client is not None:
            there.client.patch(hub_path(hub), {"settings": settings})
        else:
            shown = ", ".join(f"{name}={value}" for name, value in settings.items())
            notes.append(f"hub {hub}: {shown} was not moved, Kafka has no such config: give a --to.gateway")
    if identities and here.door is not None:
        if there.door is not None:  # last: the destination's own root key may be another one afterwards
            counts |= there.door.take(here.door.export(there.door.recipient()))
        else:
            notes.append("policies and users were not moved: give a hub or gateway with sign-in (--to.gateway)")
    return counts, notes


def _stopped_by_signals() -> threading.Event:
    """Set by the first Ctrl-C or SIGTERM; the second ends the program, and the next run goes on."""
    stop = threading.Event()

    def handle(number: int, _: Any) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return stop


@contextlib.contextmanager
def _screen(as_json: bool) -> Iterator[Callable[[Progress], None]]:
    """Progress: a line of JSON each time, a bar on a terminal, else nothing."""
    if as_json:
        yield lambda told: _line(json.dumps(dataclasses.asdict(told)))
    elif not sys.stderr.isatty():
        yield lambda _: None
    else:
        from rich import progress
        from rich.console import Console

        columns = (
            "{task.description}",
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=Console(stderr=True)) as bar:
            tasks: dict[str, Any] = {}

            def show(told: Progress) -> None:
                if told.phase not in tasks:
                    tasks[told.phase] = bar.add_task(told.phase)
                bar.update(tasks[told.phase], completed=told.events, total=told.of)

            yield show


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _print(result: Result, counts: dict[str, int], notes: list[str], *, as_json: bool) -> None:
    if as_json:
        told = {
            "partitions": [dataclasses.asdict(row) for row in result.partitions],
            "positions": [dataclasses.asdict(row) for row in result.positions],
            "beside": counts, "notes": notes,
        }  # fmt: skip
        _line(json.dumps(told))
        return
    columns = ("hub", "partition", "events", "checksum")
    print_table(columns, [dataclasses.astuple(row) for row in result.partitions], ("partition", "events"))
    if result.positions:
        say("")
        shown = ("group", "hub", "partition", "old", "new", "state")
        rows = [(row.group, row.hub, row.partition, row.source, row.target, row.state) for row in result.positions]
        print_table(shown, rows, shown[2:5])
    if any(counts.values()):
        say("moved: " + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count))
    for note in notes:
        sys.stderr.write(f"note: {note}\n")
