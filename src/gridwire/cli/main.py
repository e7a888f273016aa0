"""Puts the commands together and turns errors into one sentence with the next step."""

from __future__ import annotations

import sys
from typing import Any

from cyclopts import App

import gridwire
from gridwire.cli.checks import doctor, verify
from gridwire.cli.events import send, tail
from gridwire.cli.groups import group
from gridwire.cli.hubs import hub, status
from gridwire.cli.lake import sql
from gridwire.cli.up import up, worker
from gridwire.core.errors import GridwireError

app = App(
    name="gridwire",
    help="The open event platform of the smart grid.",
    version=gridwire.__version__,
)
app.register_install_completion_command()
for command in (up, hub, send, tail, group, sql, status, doctor, verify):
    app.command(command)
app.command(worker, show=False)


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
