"""docs/reference/amqp.md: the text of `pages/amqp.md` with tables from code and from the ledger of clients."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import amqp_clients
from client_ledger import missing_tests

from gridwire.core.limits import MIB
from gridwire.heads.amqp import context
from gridwire.wire.amqp import connection, frames, link, types
from gridwire.wire.amqp.errors import CONDITIONS

Table = Callable[[list[str], list[list[str]]], str]

TEXT: Final = Path(__file__).parent / "pages" / "amqp.md"


def page(table: Table) -> str:
    """The whole page."""
    if missing := missing_tests(amqp_clients.CLIENTS):
        sys.exit(f"the ledger of AMQP clients names tests that are not there: {', '.join(missing)}")
    clients = [
        [each.name, each.version, each.passes, each.limits or "-", f"`{each.file}`"] for each in amqp_clients.CLIENTS
    ]
    gaps = [[gap.what, gap.clients, gap.instead] for gap in amqp_clients.GAPS]
    tables = {
        "clients": table(["client", "version", "what it does in CI", "limits", "tests"], clients),
        "refusals": table(["reason", "condition"], _refusals()),
        "limits": table(["what", "limit"], _limits()),
        "gaps": table(["what", "with", "instead"], gaps),
    }
    text = TEXT.read_text()
    for name, rows in tables.items():
        text = text.replace(f"{{{{{name}}}}}\n", rows)
    return text


def _refusals() -> list[list[str]]:
    return [[(kind.__doc__ or kind.__name__).splitlines()[0].rstrip("."), f"`{said}`"] for kind, said in CONDITIONS]


def _limits() -> list[list[str]]:
    return [
        ["a frame", _size(frames.FRAME_BYTES_MAX)],
        ["a message or batch on links of Event Hubs' SDKs", _size(context.MESSAGE_BYTES_MAX)],
        ["a message of others", "`message_bytes_max` of the hub, less 64 KiB"],
        ["sessions of a connection", f"{connection.CHANNEL_MAX + 1:,}"],
        ["links of a connection; of a session", f"{connection.LINKS_MAX:,}; {link.HANDLE_MAX + 1}"],
        ["transfers of a session before it hears from the hub", f"{link.INCOMING_WINDOW:,}"],
        ["deliveries under way on a sender's link", f"{context.SENDER_CREDIT:,}"],
        ["deliveries without an outcome on a receiver's link; on a connection",
         f"{context.UNSETTLED_MAX:,}; {context.CONNECTION_UNSETTLED_MAX:,}"],
        ["events not on disk yet, of a connection; of all", _both(context.PENDING_BYTES_MAX, context.HEAD_BYTES_MAX)],
        ["frames and messages that are not whole, of a connection; of all",
         _both(context.ARRIVING_BYTES_MAX, context.HEAD_ARRIVING_BYTES_MAX)],
        ["answers nobody reads, over all connections; then the slowest reader is cut",
         _size(context.HEAD_UNREAD_BYTES_MAX)],
        ["receivers without owner level on one partition of one group", str(context.NON_EPOCH_READERS_MAX)],
        ["nesting of values; items of one", f"{types.DEPTH_MAX}; {types.ITEMS_MAX:,}"],
        ["time until open", f"{context.SIGN_IN_S:.0f} s"],
        ["silence of a connection without links; with links",
         f"{2 * context.IDLE_TIME_OUT_MS / 1000:.0f} s; {context.SILENCE_S:.0f} s"],
    ]  # fmt: skip


def _size(size: int) -> str:
    return f"{size // MIB} MiB"


def _both(one: int, every: int) -> str:
    return f"{_size(one)}; {_size(every)}"
