"""`gridwire cheat`: what one wants to do, and the command for it."""

from __future__ import annotations

from typing import Final

from gridwire.cli.output import say

SHEET: Final = (
    (
        "Start",
        (
            ("a hub with a live demo utility", "gridwire demo"),
            ("a hub", "gridwire up --data gridwire-data"),
            ("what it was started with, and why", "gridwire config show --origin"),
            ("is everything well", "gridwire doctor"),
            ("rates, lag, workers, live", "gridwire top"),
        ),
    ),
    (
        "Hubs and events",
        (
            ("make a hub", "gridwire hub create plant --partitions 4 --retention 7d"),
            ("send an event", """gridwire send plant '{"kw": 3.2}' --key m-1"""),
            ("send a file, one JSON event a line", "gridwire send plant --file events.ndjson --key-field meter"),
            ("see what arrives", "gridwire tail plant --where 'kw > 3'"),
            ("see what came since nine", "gridwire tail plant --from 2026-01-01T09:00:00Z"),
            ("copy a range to another hub", "gridwire copy plant plant-2 --from -1000 --where 'kw > 3'"),
            ("play a range again, ten times as fast", "gridwire replay plant plant-2 --from earliest --speed 10"),
        ),
    ),
    (
        "Readers",
        (
            ("who is behind", "gridwire lag"),
            ("who is behind, for monitoring", "gridwire lag --over 60"),
            ("read again, first only to see", "gridwire group reset billing plant --to earliest --dry-run"),
        ),
    ),
    (
        "Meters and the grid",
        (
            ("look into a file of frames", "gridwire decode dsmr telegram.txt"),
            ("send it", "gridwire ingest dsmr telegram.txt"),
            ("decode what a head-end sends, as it comes", "gridwire hub create frames --decode dlms"),
            ("what could not be read", "gridwire quarantine list"),
            ("the network model", "gridwire network import csv usage-points.csv"),
            ("SQL on the lake", "gridwire sql 'select * from readings limit 5'"),
            (
                "an alert of one's own",
                "gridwire alert rule add low --hub volts --field v --op '<' --value 210",
            ),
            ("a Green Button file", "gridwire export espi 2026-01-01T00:00:00Z 2026-02-01T00:00:00Z"),
        ),
    ),
    (
        "Functions",
        (
            ("run an Azure Functions app", "gridwire fn start my-app"),
            ("what failed for good", "gridwire dlq list"),
        ),
    ),
    (
        "Elsewhere",
        (
            ("name a hub and use it", "gridwire context add plant-a --url https://hub.example:8700"),
            ("for programs", "gridwire hub list -o json"),
        ),
    ),
)
"""Tasks by theme; a test parses every command."""


def cheat() -> None:
    """Show the commands one needs most."""
    width = max(len(task) for _, tasks in SHEET for task, _ in tasks)
    for theme, tasks in SHEET:
        say(theme)
        for task, command in tasks:
            say(f"  {task:<{width}}  {command}")
