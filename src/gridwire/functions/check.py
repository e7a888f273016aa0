"""Everything that is wrong with an app, found before it is deployed: `python -m gridwire.functions.check DIRECTORY`.

Runs in the environment that the app would run in, as a process of its own, for it imports the app. Prints one JSON
document, `Checked`; what the app itself prints goes to standard error.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

import gridwire
from gridwire.functions import model
from gridwire.functions.model import App, Function
from gridwire.functions.settings import AppSettings, Invalid
from gridwire.functions.timers import fit

ZONE_SETTING: Final = "WEBSITE_TIME_ZONE"
REQUIREMENTS: Final = "requirements.txt"

OURS: Final = frozenset({"azure-functions", "azure-functions-worker", "gridwire"})
"""Packages the environment brings: what an app asks of their versions was said for another host."""


class Checked(msgspec.Struct, frozen=True):
    """What an app consists of, for people; or every reason why it cannot run. `gridwire`: version that has looked."""

    functions: list[dict[str, Any]] = []
    problems: list[str] = []
    gridwire: str = ""


def check(directory: Path) -> Checked:
    """Load an app in this process and look at everything that can be known without a hub."""
    from gridwire.functions.loader import load

    missing = list(missing_packages(directory))
    app = load(directory).app
    problems = [*app.problems]
    if not problems:
        problems += host_problems(app, AppSettings(directory))
    return Checked([told(app, function) for function in app.functions], [*missing, *problems], gridwire.__version__)


def host_problems(app: App, settings: AppSettings) -> list[str]:
    """What only the host of an app knows to be wrong."""
    problems = []
    try:
        zone_of(settings)
    except Invalid as error:
        problems.append(str(error))
    if not fit([function.name for function in app.functions if function.trigger == model.TIMER]):
        problems.append("the app has more timers, or longer names of them, than can be remembered")
    for function in app.functions:
        if function.trigger == model.HTTP:
            from gridwire.functions.routes import compiled

            try:
                compiled(app.route_prefix, function)
            except Invalid as error:
                problems.append(str(error))
    return problems


def zone_of(settings: AppSettings) -> tzinfo:
    """The time zone of an app's timers. Raises Invalid."""
    name = settings.get(ZONE_SETTING)
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError):
        raise Invalid(f"setting {ZONE_SETTING}: there is no time zone {name!r}") from None


def told(app: App, function: Function) -> dict[str, Any]:
    """A function as lists show it. `reads`: its hub. `when`: what calls it, in words."""
    return {
        "name": function.name,
        "trigger": function.trigger,
        "reads": function.hub,
        "when": when(app, function),
        "writes": sorted({output.target for output in function.outputs if output.kind not in ("http", "blob")}),
    }


def when(app: App, function: Function) -> str:
    """What calls a function, in words."""
    if function.hub:
        return f"reads hub {function.hub}"
    if function.schedule:
        return f"runs at {function.schedule}"
    if function.trigger == model.HTTP:
        return f"answers /{'/'.join(part for part in (app.route_prefix, function.route) if part)}"
    return str(function.trigger)


# -- requirements.txt ---------------------------------------------------------------------------------------------


def missing_packages(directory: Path) -> Iterator[str]:
    """Packages of requirements.txt that this environment, and the app itself, do not have."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    try:
        text = (directory / REQUIREMENTS).read_text("utf-8-sig")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        yield f"{REQUIREMENTS} cannot be read: {error}"
        return
    installed = dict(_installed(directory))
    for line in _lines(text):
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            yield f"{REQUIREMENTS}: {line!r} is not understood: name a package, such as `orjson>=3`"
            continue
        name = canonicalize_name(wanted.name)
        if name in OURS or (wanted.marker is not None and not wanted.marker.evaluate()):
            continue
        have = installed.get(name)
        if have is None:
            yield f"{REQUIREMENTS}: package {wanted.name} is not installed"
        elif not wanted.specifier.contains(have, prereleases=True):
            yield f"{REQUIREMENTS}: package {wanted.name} is there in version {have}, and must be {wanted.specifier}"


def _lines(text: str) -> Iterator[str]:
    """Requirements without comments, options (an index, hashes) and markers of other lines."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        bare = re.sub(r"(^|\s)#.*", "", line)
        bare = re.sub(r"\s--hash[= ]\S+", "", bare).strip()
        if bare and (not bare.startswith("-") or bare.startswith(("-e", "-r", "--editable", "--requirement"))):
            yield bare


def _installed(directory: Path) -> Iterator[tuple[str, str]]:
    from packaging.utils import canonicalize_name

    from gridwire.functions.loader import PACKAGES

    for path in (sys.path, [str(directory / PACKAGES)]):
        for found in importlib.metadata.distributions(path=path):
            metadata: Mapping[str, str] = found.metadata  # type: ignore[assignment]
            if name := metadata.get("Name"):
                yield canonicalize_name(name), found.version


def main() -> None:
    """See the module."""
    told_at = os.dup(1)
    os.dup2(2, 1)  # what the app prints while it is imported is not ours to say
    root = Path(sys.argv[1]).absolute()
    os.chdir(root)
    try:
        os.environ.update(AppSettings(root).missing_from(os.environ))
    except Invalid:
        pass  # `load` says it
    with os.fdopen(told_at, "wb") as out:
        out.write(msgspec.json.encode(check(root)))
    sys.stderr.flush()
    os._exit(0)  # threads that the app has started must not hold us


if __name__ == "__main__":
    main()
