"""`gridwire config`: what a hub would be started with, and where that was said."""

from __future__ import annotations

from typing import Any, Literal

from cyclopts import App

from gridwire import config as settings_table
from gridwire.cli.output import print_json, print_table
from gridwire.cli.up import with_settings

config = App(name="config", help="The settings of `gridwire up`.")


@config.command
@with_settings
def show(*, origin: bool = False, output: Literal["table", "json"] = "table", **flags: Any) -> None:
    """Show the settings that `gridwire up` would take with the same flags, variables and file.

    Args:
        origin: also say where each one comes from.
        output: how to print.
    """
    file = flags.pop("config", None)
    settings_table.load(flags, config=file)  # what is wrong with them is said first
    found = settings_table.with_origins(flags, config=file)
    shown = {name: (_shown(name, value), where) for name, (value, where) in found.items()}
    if output == "json":
        print_json({n: {"value": v, "origin": o} if origin else v for n, (v, o) in shown.items()})
        return
    columns = ("setting", "value", "origin") if origin else ("setting", "value")
    print_table(columns, [(name, *pair)[: len(columns)] for name, pair in shown.items()])


def _shown(name: str, value: Any) -> Any:
    port = name.endswith("_port")
    return "off" if port and value == settings_table.OFF else str(value) if port else value
