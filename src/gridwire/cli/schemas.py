"""`gridwire schema`: the schema registry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from cyclopts import App, Parameter

from gridwire.cli.output import Common, print_json, print_table, say, typed
from gridwire.core.errors import GridwireError

schema = App(name="schema", help="The schema registry: groups, and the versions of their schemas.")


def _path(*names: str) -> str:
    group, *rest = (quote(name, safe="") for name in names)
    return "/".join(["/v1/schemagroups", group, "schemas", *rest])


@schema.command(name="create-group")
def create_group(
    name: str,
    *,
    format: Literal["avro", "json", "custom"] = "avro",
    compatibility: Literal["none", "backward", "forward", "full"] = "none",
    common: Common = Common(),  # noqa: B008
) -> None:
    """Create a schema group: its schemas have one format, and keep one promise to readers.

    Args:
        name: letters, digits, '.', '_' and '-'.
        format: what its schemas are written in.
        compatibility: backward: new readers understand older data; forward: older readers understand new data.
    """
    made = common.client().post("/v1/schemagroups", {"name": name, "format": format, "compatibility": compatibility})
    if common.json:
        print_json(made)
    else:
        say(f"created schema group {name}; add to it with `gridwire schema register {name} NAME FILE`")


@schema.command(name="delete-group")
def delete_group(name: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Forget an empty schema group.

    Args:
        name: the group.
    """
    common.client().delete(f"/v1/schemagroups/{quote(name, safe='')}")
    if common.json:
        print_json({"deleted": name})
    else:
        say(f"deleted schema group {name}")


@schema.command(name="list")
def list_(group: str | None = None, *, common: Common = Common()) -> None:  # noqa: B008
    """List groups, or the schemas of one.

    Args:
        group: the group whose schemas to list.
    """
    client = common.client()
    if group is None:
        groups = client.get("/v1/schemagroups")["groups"]
        rows = [(each["name"], each["format"], each["compatibility"], each["schemas"]) for each in groups]
        _print(groups, ("group", "format", "compatibility", "schemas"), rows, common)
        return
    found = client.get(_path(group))["schemas"]
    _print(found, ("schema", "version", "id"), [(each["name"], each["version"], each["id"]) for each in found], common)


def _print(found: list[dict[str, Any]], columns: tuple[str, ...], rows: list[Any], common: Common) -> None:
    if common.json:
        print_json(found)
    else:
        print_table(columns, rows, ("schemas", "version"))


@schema.command
def show(group: str, name: str, *, version: int | None = None, common: Common = Common()) -> None:  # noqa: B008
    """Show a schema's definition.

    Args:
        group: its group.
        name: the schema.
        version: which one; the newest unless said.
    """
    versions = common.client().get(_path(group, name))["versions"]
    found = [each for each in versions if each["version"] == (version or len(versions))]
    if not found:
        raise GridwireError(f"schema {name!r} has versions 1 to {len(versions)}")
    if common.json:
        print_json(found[0])
    else:
        say(found[0]["definition"])


@schema.command
def register(group: str, name: str, file: Path, *, common: Common = Common()) -> None:  # noqa: B008
    """Add a version of a schema, if it keeps what its group promises; the same definition again changes nothing.

    Args:
        group: its group.
        name: the schema.
        file: the definition; - for standard input.
    """
    client = common.client()
    kinds = {each["name"]: each["format"] for each in client.get("/v1/schemagroups")["groups"]}
    if group not in kinds:
        raise GridwireError(f"no schema group {group!r}: create it with `gridwire schema create-group {group}`")
    try:
        definition = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise GridwireError(f"cannot read {file}: {error}") from None
    made = client.post(_path(group), {"name": name, "definition": definition, "format": kinds[group]})
    if common.json:
        print_json(made)
    else:
        say(f"schema {name} version {made['version']}, id {made['id']}")


@schema.command
def delete(
    group: str, name: str, *, yes: Annotated[bool, Parameter(negative="")] = False, common: Common = Common()  # noqa: B008
) -> None:  # fmt: skip
    """Forget a schema with all its versions: events that name them can no longer be decoded.

    Args:
        group: its group.
        name: the schema.
        yes: do not ask.
    """
    if not yes and typed(f"delete schema {name} and all its versions? Type its name: ") != name:
        say("not deleted")
        return
    common.client().delete(_path(group, name))
    if common.json:
        print_json({"deleted": name})
    else:
        say(f"deleted schema {name}")
