"""Puts the commands together and turns errors into one sentence with the next step."""

from __future__ import annotations

import sys
from typing import Any, Final

from cyclopts import App

import gridwire
from gridwire.core.errors import GridwireError

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
    "group": "gridwire.cli.groups:group",
    "policy": "gridwire.cli.policy:policy",
    "schema": "gridwire.cli.schemas:schema",
    "move": "gridwire.cli.move:move",
    "ingest": "gridwire.cli.grid:ingest",
    "decode": "gridwire.cli.meters:decode",
    "quarantine": "gridwire.cli.meters:quarantine",
    "network": "gridwire.cli.grid:network",
    "simulate": "gridwire.cli.simulate:simulate",
    "fn": "gridwire.cli.functions:fn",
    "dlq": "gridwire.cli.dlq:dlq",
    "sql": "gridwire.cli.lake:sql",
    "export": "gridwire.cli.export:export",
    "doctor": "gridwire.cli.checks:doctor",
    "verify": "gridwire.cli.checks:verify",
    "salvage": "gridwire.cli.salvage:salvage",
    "bench": "gridwire.cli.bench:bench",
}
for _name, _place in _COMMANDS.items():  # imported when called: `up` must be ready within a second
    app.command(_place, name=_name)
app.command("gridwire.cli.up:worker", name="worker", show=False)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `gridwire` command."""
    try:
        result: Any = app(arguments, result_action="return_value")
    except GridwireError as error:
        sys.stderr.write(f"gridwire: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(result if isinstance(result, int) else 0)
