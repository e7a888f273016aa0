"""`gridwire salvage`."""

from __future__ import annotations

from pathlib import Path

from gridwire.cli.output import Common, print_json, say
from gridwire.core.clock import SystemClock


def salvage(*, data: Path = Path("gridwire-data"), common: Common = Common()) -> None:  # noqa: B008
    """Make a data directory with a damaged control journal startable again. No event is touched; stop the hub first.

    A backup of the directory `control` is better: with it, nothing of the journal is lost.

    Args:
        data: the data directory.
    """
    from gridwire.broker.salvage import salvage as do

    done = do(data, SystemClock().now_ms())
    if common.json:
        print_json({name: getattr(done, name) for name in done.__slots__})
        return
    say(f"{done.change_sets:,} change sets are whole, {done.damaged_places} damaged places were left out")
    for directory, name in done.hubs_taken_over.items():
        say(f"hub {name} has the events of directory {directory}, which the journal did not name")
    say(f"the damaged journal is kept in {done.kept_at}; positions may be older than they were")
    say(f"next: gridwire up --data {data}")
