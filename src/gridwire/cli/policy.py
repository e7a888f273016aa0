"""`gridwire policy`: who may do what on a hub with sign-in."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from cyclopts import App, Parameter

from gridwire.auth.plain import ConnectionString
from gridwire.cli.output import Common, print_fields, print_json, print_table, say

policy = App(name="policy", help="Create, rotate, list and delete policies, users and certificates.")


def _show_keys(made: dict[str, Any], common: Common) -> None:
    if common.json:
        print_json(made)
        return
    host = urlsplit(common.client().url).hostname or "localhost"
    strings = {
        f"{kind} connection string": str(
            ConnectionString(f"sb://{host}/", made["name"], made[f"{kind}_key"], made["hub"])
        )
        for kind in ("primary", "secondary")
    }
    print_fields({"policy": made["name"], "rights": ", ".join(made["rights"]), **strings})


def _path(kind: str, name: str) -> str:
    return f"/v1/{kind}/{quote(name, safe='')}"


@policy.command
def create(
    name: str,
    *,
    rights: Annotated[list[str], Parameter(consume_multiple=True)],
    hub: str | None = None,
    group: str | None = None,
    bytes_in_s: int = 0,
    bytes_out_s: int = 0,
    connections: int = 0,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Create a policy and show its keys.

    Args:
        name: letters, digits, '.', '_' and '-'.
        rights: Send, Listen or Manage, or several of them. Manage implies the others.
        hub: the only hub it is for.
        group: the only consumer group of that hub it is for.
        bytes_in_s: what whoever holds it may send, all connections together; 0 is no limit.
        bytes_out_s: what he may read; 0 is no limit.
        connections: how many Kafka connections he may hold; 0 is no limit.
    """
    names = [each for text in rights for each in text.split(",") if each]
    body = {"name": name, "rights": names, "hub": hub, "group": group, "bytes_in_s": bytes_in_s,
            "bytes_out_s": bytes_out_s, "connections": connections}  # fmt: skip
    _show_keys(common.client().post("/v1/policies", body), common)


@policy.command
def rotate(name: str, *, which: str = "secondary", common: Common = Common()) -> None:  # noqa: B008
    """Make one key of a policy anew; whoever signed in with the old one is out.

    Args:
        name: the policy.
        which: primary or secondary.
    """
    _show_keys(common.client().post(_path("policies", name) + "/rotate", {"key": which}), common)


@policy.command(name="list")
def list_(*, common: Common = Common()) -> None:  # noqa: B008
    """List policies, users and certificates, without keys."""
    found = common.client().get("/v1/policies")
    if common.json:
        print_json(found)
        return
    rows = [
        (row["name"], ", ".join(row["rights"]), row["hub"], row["group"], row["bytes_in_s"], row["bytes_out_s"])
        for row in found["policies"]
    ]
    print_table(("policy", "rights", "hub", "group", "bytes in/s", "bytes out/s"), rows, ("bytes in/s", "bytes out/s"))
    if found["users"]:
        print_table(("user", "policies"), [(row["user"], ", ".join(row["policies"])) for row in found["users"]])
    if found["certificates"]:
        subjects = [(row["subject"], ", ".join(row["policies"])) for row in found["certificates"]]
        print_table(("certificate", "policies"), subjects)


@policy.command
def delete(name: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Delete a policy; whoever signed in with it is out.

    Args:
        name: the policy.
    """
    common.client().delete(_path("policies", name))
    if common.json:
        print_json({"deleted": name})
    else:
        say(f"deleted policy {name}")


@policy.command
def user(
    name: str, *, policies: Annotated[list[str], Parameter(consume_multiple=True)] | None = None,
    delete: Annotated[bool, Parameter(negative="")] = False, common: Common = Common(),  # noqa: B008
) -> None:  # fmt: skip
    """Make or change a user who signs in with SCRAM; the password is asked for, or read from standard input.

    Args:
        name: the user.
        policies: whose rights it gets.
        delete: forget the user instead.
    """
    if delete:
        common.client().delete(_path("users", name))
        say(f"deleted user {name}")
        return
    asked = getpass.getpass("password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    made = common.client().post("/v1/users", {"name": name, "password": asked, "policies": policies or []})
    if common.json:
        print_json(made)
    else:
        say(f"user {name} has the rights of {', '.join(made['policies']) or 'nobody'}")


@policy.command
def certificate(
    subject: str, *, policies: Annotated[list[str], Parameter(consume_multiple=True)] | None = None,
    common: Common = Common(),  # noqa: B008
) -> None:  # fmt: skip
    """Say whose rights a client certificate gets; without policies, forget it.

    Args:
        subject: its common name or one of its alternative names.
        policies: whose rights it gets.
    """
    made = common.client().post("/v1/certificates", {"subject": subject, "policies": policies or []})
    if common.json:
        print_json(made)
    else:
        say(f"certificate {subject} has the rights of {', '.join(made['policies']) or 'nobody'}")
