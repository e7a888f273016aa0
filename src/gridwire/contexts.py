"""Hubs by name, as the command line remembers them: `gridwire context add plant --url https://...`.

The file is `gridwire/contexts.toml` below `XDG_CONFIG_HOME`, `~/.config` or `%APPDATA%`; `GRIDWIRE_CONTEXTS` names
another one. It may hold connection strings, so only its owner can read it.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gridwire.core.errors import GridwireError

OWNER_ONLY: Final = 0o600


@dataclass(frozen=True, slots=True)
class Context:
    """A hub and how one signs in there; "" where nothing is said."""

    url: str
    connection_string: str = ""
    ca_file: str = ""


@dataclass(frozen=True, slots=True)
class Contexts:
    """All of them. `current`: the one in use, "" when there is none."""

    current: str = ""
    named: Mapping[str, Context] = field(default_factory=dict)

    def get(self, name: str) -> Context:
        """One by name. Raises GridwireError."""
        if name not in self.named:
            known = ", ".join(sorted(self.named)) or "none yet: `gridwire context add NAME --url URL` makes one"
            raise GridwireError(f"no context {name!r}; there is {known}")
        return self.named[name]


def path() -> Path:
    """Where the contexts are kept."""
    named = os.environ.get("GRIDWIRE_CONTEXTS")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("APPDATA")
    return (Path(home) if home else Path.home() / ".config") / "gridwire" / "contexts.toml"


def load() -> Contexts:
    """All contexts. Raises GridwireError: the file is damaged."""
    try:
        content: dict[str, Any] = tomllib.loads(path().read_text("utf-8"))
    except FileNotFoundError:
        return Contexts()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GridwireError(f"cannot read contexts in {path()}: {error}") from None
    try:
        return Contexts(content.get("current", ""), {n: Context(**c) for n, c in content.get("context", {}).items()})
    except TypeError:
        raise GridwireError(f"{path()} holds no contexts as gridwire writes them") from None


def save(contexts: Contexts) -> None:
    """Keep them: the whole file or none of it."""
    lines = [f"current = {_text(contexts.current)}"]
    for name, context in sorted(contexts.named.items()):
        lines += ["", f"[context.{_text(name)}]"]
        lines += [f"{key} = {_text(value)}" for key in context.__slots__ if (value := getattr(context, key))]
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    temporary.replace(target)


def chosen() -> Context | None:
    """The context that `GRIDWIRE_CONTEXT` names, else the one in use. Raises GridwireError: it is not there."""
    name = os.environ.get("GRIDWIRE_CONTEXT")
    known = load()
    name = name or known.current
    return known.get(name) if name else None


def _text(value: str) -> str:
    """A TOML string: JSON's escapes are TOML's."""
    return json.dumps(value, ensure_ascii=True).replace("\\/", "/")
