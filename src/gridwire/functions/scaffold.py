"""A new app to begin with: one function that reads a hub and writes to another, an ordinary Azure Functions app."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from gridwire.core.errors import GridwireError, InvalidSetting
from gridwire.core.limits import check_name

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
"""A name of a function as of an app: it becomes a name in Python and part of the names of groups."""

_ROWS: Final = '''"""Reads events of the hub {trigger}, and hands out to {output} what somebody should look at."""

import json

import azure.functions as func

app = func.FunctionApp()

LIMIT_KW = 5.0


@app.event_hub_message_trigger(
    arg_name="events", event_hub_name="{trigger}", connection="HUB", cardinality=func.Cardinality.MANY
)
@app.event_hub_output(arg_name="out", event_hub_name="{output}", connection="HUB")
def {name}(events: list[func.EventHubEvent], out: func.Out[list[str]]) -> None:
    readings = [json.loads(event.get_body()) for event in events]
    out.set([json.dumps(each) for each in readings if each.get("kw", 0) > LIMIT_KW])
'''

_COLUMNS: Final = '''"""Reads columns of the hub {trigger}, and hands out to {output} what somebody should look at."""

import azure.functions as func
import pyarrow as pa
import pyarrow.compute as pc

app = func.FunctionApp()

LIMIT_KW = 5.0


@app.event_hub_message_trigger(
    arg_name="batch", event_hub_name="{trigger}", connection="HUB", columns={{"meter": "text", "kw": "float"}}
)
@app.event_hub_output(arg_name="$return", event_hub_name="{output}", connection="HUB")
def {name}(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(pc.greater(batch["kw"], LIMIT_KW))
'''

_HOST: Final = '{\n  "version": "2.0"\n}\n'
_SETTINGS: Final = """{
  "IsEncrypted": false,
  "Values": {
    "FUNCTIONS_WORKER_RUNTIME": "python",
    "HUB": "Endpoint=sb://localhost:5672;SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true;"
  }
}
"""


def create(directory: Path, trigger: str, output: str, *, columns: bool = False) -> list[Path]:
    """Write the app; its function is called like the directory.

    Args:
        columns: it takes columns of Arrow in place of one event after the other.

    Returns:
        The files written.

    Raises:
        InvalidSetting, InvalidName: a name that cannot be one. GridwireError: something is there already.
    """
    if not NAME.match(directory.name):
        raise InvalidSetting(f"{directory.name!r} cannot be a function: lower-case letters, digits and _")
    for hub in (trigger, output):
        check_name(hub)
    code = (_COLUMNS if columns else _ROWS).format(name=directory.name, trigger=trigger, output=output)
    files = {"function_app.py": code, "host.json": _HOST, "local.settings.json": _SETTINGS}
    if taken := [name for name in files if (directory / name).exists()]:
        raise GridwireError(f"{directory / taken[0]} is there already: choose another name")
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in files]
