"""`gridwire send`, `gridwire tail`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from cyclopts import Parameter

from gridwire.cli.client import hub_path
from gridwire.cli.output import Common, print_json, say
from gridwire.core.errors import GridwireError

_BODY_BYTES = 8 * 1024 * 1024
"""Lines are sent in bodies of about this size."""


def send(
    hub: str,
    events: Annotated[list[str] | None, Parameter(negative="")] = None,
    *,
    file: Path | None = None,
    key: str | None = None,
    key_field: str | None = None,
    partition: int | None = None,
    header: Annotated[list[str] | None, Parameter(negative="")] = None,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Send events: arguments, or one JSON event a line from a file or standard input.

    Args:
        hub: where to.
        events: JSON or text, one event each.
        file: one JSON event a line; `-` is standard input.
        key: events of one key keep their order in one partition.
        key_field: take each event's key from this field.
        partition: send to this partition.
        header: NAME=VALUE of every event; may be given more than once.
    """
    client = common.client()
    query = {"key": key, "key_field": key_field, "partition": partition, **_headers(header or [])}
    total = 0
    answer: Any = None
    if events:
        for text in events:
            content_type = "application/json" if _is_json(text) else "text/plain"
            answer = client.send(
                hub,
                text.encode(),
                content_type,
                query if content_type != "text/plain" else {**query, "key_field": None},
            )
            total += answer.get("count", 1)
    else:
        for body in _bodies(file):
            answer = client.send(hub, body, "application/x-ndjson", query)
            total += answer.get("count", 1)
    if answer is None:
        raise GridwireError("nothing to send: give events as arguments, or one JSON event a line on standard input")
    durable = "yes" if answer["durable"] else "no"
    if common.json:
        print_json({"sent": total, "last": answer})
    elif total == 1:
        say(f"sent to {hub} partition {answer['partition']} offset {answer['offset']}, durable: {durable}")
    else:
        say(f"sent {total:,} events to {hub}, durable: {durable}")


def _headers(given: list[str]) -> dict[str, str]:
    """As parameters of the request. Raises GridwireError."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise GridwireError(f"a header is NAME=VALUE, not {text!r}")
        found[f"header.{name}"] = value
    return found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _bodies(file: Path | None) -> Any:
    if file is None or str(file) == "-":
        if sys.stdin.isatty():
            raise GridwireError("nothing to send: give events as arguments, or pipe one JSON event a line")
        yield from _lines(sys.stdin.buffer)
        return
    try:
        with file.open("rb") as stream:
            yield from _lines(stream)
    except OSError as error:
        raise GridwireError(f"cannot read {file}: {error.strerror}") from None


def _lines(stream: BinaryIO) -> Any:
    while lines := stream.readlines(_BODY_BYTES):
        body = b"".join(lines)
        if body.strip():
            yield body


def tail(
    hub: str,
    *,
    from_: Annotated[str, Parameter(name="--from")] = "latest",
    where: str | None = None,
    partition: int | None = None,
    count: Annotated[int | None, Parameter(name=["-n", "--count"])] = None,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Print events as they arrive.

    Args:
        hub: which.
        from_: latest, earliest, a time, or -N for the last N of each partition.
        where: only events for which this holds, such as 'load_kw > 100 and transformer = T1'; see
            docs/reference/http.md.
        partition: only this one.
        count: stop after so many.
    """
    seen = 0
    query = {"from": from_, "partition": partition, "where": where}
    for event in common.client().stream(f"{hub_path(hub)}/tail", **query):
        if "offset" not in event:
            continue
        if common.json:
            sys.stdout.write(json.dumps(event, default=str) + "\n")
        else:
            sys.stdout.write(_line(event) + "\n")
        sys.stdout.flush()
        seen += 1
        if count is not None and seen >= count:
            return


def _line(event: dict[str, Any]) -> str:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    value = event["value"]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return f"P{event['partition']}@{event['offset']}  {at}  {event['key'] or '-'}  {printable}"
