"""Puts the commands together and turns errors into one sentence with the next step."""

from __future__ import annotations

import sys
from typing import Any, Final

from cyclopts import App, CycloptsError

import gridwire
from gridwire.core.errors import GridwireError, NotAllowed, NotAuthenticated, Unavailable

app = App(
    name="gridwire",
    help="The open event platform of the smart grid.",
    version=gridwire.__version__,
)
app.register_install_completion_command()
_COMMANDS: Final = {
    "up": "gridwire.cli.up:up",
    "demo": "gridwire.cli.demo:demo",
    "status": "gridwire.cli.hubs:status",
    "hub": "gridwire.cli.hubs:hub",
    "send": "gridwire.cli.events:send",
    "tail": "gridwire.cli.events:tail",
    "copy": "gridwire.cli.ranges:copy",
    "replay": "gridwire.cli.ranges:replay",
    "lag": "gridwire.cli.watching:lag",
    "top": "gridwire.cli.watching:top",
    "group": "gridwire.cli.groups:group",
    "policy": "gridwire.cli.policy:policy",
    "schema": "gridwire.cli.schemas:schema",
    "move": "gridwire.cli.move:move",
    "ingest": "gridwire.cli.grid:ingest",
    "decode": "gridwire.cli.meters:decode",
    "quarantine": "gridwire.cli.meters:quarantine",
    "network": "gridwire.cli.grid:network",
    "vee": "gridwire.cli.vee:vee",
    "readings": "gridwire.cli.vee:readings",
    "simulate": "gridwire.cli.simulate:simulate",
    "fn": "gridwire.cli.functions:fn",
    "dlq": "gridwire.cli.dlq:dlq",
    "sql": "gridwire.cli.lake:sql",
    "baseline": "gridwire.cli.baseline:baseline",
    "train": "gridwire.cli.models:train",
    "model": "gridwire.cli.models:model",
    "export": "gridwire.cli.export:export",
    "alert": "gridwire.cli.alerts:alert",
    "reliability": "gridwire.cli.reliability:reliability",
    "doctor": "gridwire.cli.checks:doctor",
    "verify": "gridwire.cli.checks:verify",
    "salvage": "gridwire.cli.salvage:salvage",
    "bench": "gridwire.cli.bench:bench",
    "config": "gridwire.cli.settings:config",
    "context": "gridwire.cli.contexts:context",
    "cheat": "gridwire.cli.cheat:cheat",
}
for _name, _place in _COMMANDS.items():  # imported when called: `up` must be ready within a second
    app.command(_place, name=_name)
app.command("gridwire.cli.up:worker", name="worker", show=False)


EXIT_CODES: Final = {
    0: "done",
    1: "failed; the last line says why and what to do next",
    2: "the command was not understood",
    3: "no hub answers, or it cannot serve now",
    4: "not signed in, or not allowed",
    5: "`gridwire lag --over`: somebody is further behind",
    130: "stopped by Ctrl-C",
}
"""What every command's exit code means."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `gridwire` command."""
    try:
        result: Any = app(arguments, result_action="return_value", exit_on_error=False)
    except CycloptsError:  # it has been said
        sys.exit(2)
    except GridwireError as error:
        sys.stderr.write(f"gridwire: {error}\n")
        sys.exit(_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(result if isinstance(result, int) else 0)


def _code(error: GridwireError) -> int:
    if isinstance(error, Unavailable):
        return 3
    return 4 if isinstance(error, NotAuthenticated | NotAllowed) else 1
