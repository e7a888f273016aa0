"""What every command shares: which hub, and tables or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from gridwire.cli.client import HubClient
from gridwire.core.errors import GridwireError


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options of every command that talks to a hub."""

    url: Annotated[
        str | None, Parameter(help="the hub's HTTP address [default: GRIDWIRE_URL or http://127.0.0.1:8700]")
    ] = None
    connection_string: Annotated[
        str | None, Parameter(help="policy and key to sign in with [default: GRIDWIRE_CONNECTION_STRING]")
    ] = None
    output: Annotated[Literal["table", "json"], Parameter(name=["-o", "--output"], help="how to print")] = "table"

    def client(self) -> HubClient:
        """A client of the hub meant."""
        return HubClient(self.url, connection_string=self.connection_string)

    @property
    def json(self) -> bool:
        """Whether to print JSON."""
        return self.output == "json"


def typed(question: str) -> str:
    """What a person answers. Raises GridwireError where nobody can be asked."""
    try:
        return input(question)
    except EOFError:
        raise GridwireError("nobody is there to answer: say --yes if you mean it") from None


def print_json(value: Any) -> None:
    """One JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[str] = ()) -> None:
    """A table; columns in `numbers` are right-aligned. Plain tab-separated lines when not on a terminal."""
    from rich.console import Console
    from rich.table import Table

    rows = list(rows)
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            sys.stdout.write("\t".join(_cell(cell) for cell in row) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    Console().print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        sys.stdout.write(f"{name:<{width}}  {_cell(value)}\n")


def say(text: str) -> None:
    """One line for the reader."""
    sys.stdout.write(text + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def size_text(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
