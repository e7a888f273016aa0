"""`gridwire context`: hubs by name."""

from __future__ import annotations

from dataclasses import replace

from cyclopts import App

from gridwire import contexts
from gridwire.address import HubAddress
from gridwire.cli.output import Common, print_json, print_table, say
from gridwire.core.errors import InvalidName
from gridwire.core.limits import check_name

context = App(name="context", help="Hubs by name, so that --url need not be said again.")


@context.command(name="list")
def list_(*, common: Common = Common()) -> None:  # noqa: B008
    """List contexts; connection strings are not shown."""
    known = contexts.load()
    rows = [
        {"name": name, "url": each.url, "signs in": bool(each.connection_string), "in use": name == known.current}
        for name, each in sorted(known.named.items())
    ]
    if common.json:
        print_json(rows)
        return
    if not rows:
        say("no contexts yet: `gridwire context add NAME --url URL` makes one")
        return
    print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])


@context.command
def add(name: str, *, ca_file: str = "", common: Common = Common()) -> None:  # noqa: B008
    """Remember a hub under a name and use it; a name that is there is changed.

    Args:
        name: what to call it.
        ca_file: authorities (PEM) of its certificate, where they are not the system's.
    """
    try:
        check_name(name)
    except InvalidName as error:
        raise InvalidName(f"a context is named like a hub: {error}") from None
    address = HubAddress.found(common.url, common.connection_string)
    made = contexts.Context(address.url, common.connection_string or "", ca_file)
    known = contexts.load()
    contexts.save(contexts.Contexts(name, {**known.named, name: made}))
    say(f"using context {name}: {address.url}")


@context.command
def use(name: str) -> None:
    """Use a context from now on; GRIDWIRE_CONTEXT does so for one shell.

    Args:
        name: which.
    """
    known = contexts.load()
    say(f"using context {name}: {known.get(name).url}")
    contexts.save(replace(known, current=name))


@context.command
def remove(name: str) -> None:
    """Forget a context.

    Args:
        name: which.
    """
    known = contexts.load()
    known.get(name)
    left = {other: each for other, each in known.named.items() if other != name}
    contexts.save(contexts.Contexts("" if known.current == name else known.current, left))
    say(f"forgot context {name}")
