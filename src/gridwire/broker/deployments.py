"""Deployed apps of functions, in the control journal.

    function/<app>                      DeploymentRecord: which version runs, if any, and which others are there
    functionpackage/<app>/<id>/<n>      a piece of a package, see `gridwire.functions.package`

The record is what decides: the pieces are written before it, and what a deployment pushes out is forgotten with it.
Pieces that no record names were left by a deployment that was cut short; the next one of the app takes them away.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gridwire.broker.control import Changes, pack
from gridwire.broker.port import Journal
from gridwire.core.clock import Clock
from gridwire.core.errors import InvalidName, MessageTooLarge, Unavailable, UnknownApp
from gridwire.core.limits import KIB, MIB, check_name

PACKAGES_BYTES_MAX: Final = 32 * MIB
"""All packages together: they are kept in memory and written anew when the journal is compacted."""

VERSIONS_MAX: Final = 5
"""Of an app, the one that runs with them; fewer where packages take too much room."""

PIECE_BYTES: Final = 512 * KIB
"""A change set is one record batch, and Kafka clusters take 1 MB unless told otherwise."""

APPS_MAX: Final = 64
"""Each app that runs is a process of its own."""

NAME_CHARS_MAX: Final = 80
"""An app's name is a part of the names of its groups and hubs."""

_RECORD: Final = "function/"
_PIECES: Final = "functionpackage/"


class DeploymentRecord(msgspec.Struct, frozen=True):
    """A deployed app as the journal keeps it.

    Args:
        version: counts up with every deployment. package: id of its bytes. pieces, bytes: how many there are.
        functions: what the check of the app found, for those who ask while it does not run.
        venv: environment its code runs in, empty for the hub's own. port: of its HTTP functions, 0 for a free one.
        others: versions that can be run instead, the newest first; they have no others themselves.
    """

    version: int
    package: str
    pieces: int
    bytes: int
    running: bool = True
    deployed_ms: int = 0
    deployed_by: str = ""
    venv: str = ""
    port: int = 0
    functions: list[dict[str, Any]] = []
    others: list[DeploymentRecord] = []

    @property
    def versions(self) -> list[DeploymentRecord]:
        """All versions there are, the newest first."""
        return sorted([msgspec.structs.replace(self, others=[]), *self.others], key=lambda each: -each.version)

    def without(self, version: int) -> DeploymentRecord:
        """The record once a version is forgotten that does not run."""
        return msgspec.structs.replace(self, others=[each for each in self.others if each.version != version])


class Deployments:
    """See the module."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._one = asyncio.Lock()

    def all(self) -> dict[str, DeploymentRecord]:
        """Every deployed app by name."""
        found = self._journal.kept(_RECORD)
        return {app: msgspec.msgpack.decode(value, type=DeploymentRecord) for app, value in sorted(found)}

    def get(self, app: str) -> DeploymentRecord:
        """One of them. Raises UnknownApp."""
        known = self.all()
        if app not in known:
            names = ", ".join(known) or "none"
            raise UnknownApp(f"no app {app[:80]!r} is deployed: there are {names}")
        return known[app]

    def package(self, app: str, record: DeploymentRecord) -> bytes:
        """The bytes of a version's package. Raises Unavailable when it is pushed out this very moment."""
        prefix = f"{_PIECES}{app}/{record.package}/"
        pieces = dict(self._journal.kept(prefix))
        data = b"".join(pieces.get(str(number), b"") for number in range(record.pieces))
        if _id(data) != record.package:
            raise Unavailable(f"the package of app {app!r} is not whole: it is being replaced, or was damaged")
        return data

    async def deploy(
        self, app: str, package: bytes, functions: list[dict[str, Any]], *, by: str = "", venv: str = "", port: int = 0
    ) -> DeploymentRecord:
        """Make a package the newest version of an app; durable when it returns.

        Raises:
            InvalidName, MessageTooLarge: there are too many packages. Unavailable: somebody deploys the same app.
        """
        check_app_name(app)
        package_id = _id(package)
        pieces = [package[at : at + PIECE_BYTES] for at in range(0, len(package), PIECE_BYTES)]
        fresh = DeploymentRecord(
            0, package_id, len(pieces), len(package), True, self._clock.now_ms(), by, venv, port, functions
        )
        async with self._one:
            self._check_room(app, len(package))
            prefix = f"{_PIECES}{app}/{package_id}/"
            for number, piece in enumerate(pieces):
                await self._journal.change({f"{prefix}{number}": piece})
            await self._journal.update(lambda: self._replaced(app, fresh))
        return self.get(app)

    def _check_room(self, app: str, size: int) -> None:
        others = {name: record for name, record in self.all().items() if name != app}
        if len(others) >= APPS_MAX:
            raise MessageTooLarge(f"a hub runs at most {APPS_MAX} apps: remove one")
        taken = sum(record.bytes for record in others.values())
        if taken + size > PACKAGES_BYTES_MAX:
            raise MessageTooLarge(
                f"the packages of all apps are {taken + size:,} bytes with this one, above {PACKAGES_BYTES_MAX:,}: "
                "remove an app, or leave large files out with .funcignore"
            )

    def _replaced(self, app: str, fresh: DeploymentRecord) -> Changes:
        """The change set that makes a version the one that runs; what it pushes out, and leftovers, go with it."""
        before = self.all()
        others = before[app].versions if app in before else []
        kept = {key for key, _ in self._journal.kept(f"{_PIECES}{app}/")}
        if not {f"{fresh.package}/{number}" for number in range(fresh.pieces)} <= kept:
            raise Unavailable(f"somebody else deploys app {app!r} at the same time: try again")
        version = others[0].version + 1 if others else 1
        now = {**before, app: msgspec.structs.replace(fresh, version=version, others=others[: VERSIONS_MAX - 1])}
        _make_room(now)
        changed = {name: record for name, record in now.items() if record != before.get(name)}
        gone = {key: None for name, record in changed.items() for key in self._unnamed(name, record)}
        return {**{f"{_RECORD}{name}": pack(record) for name, record in changed.items()}, **gone}

    def _unnamed(self, app: str, record: DeploymentRecord) -> Iterable[str]:
        """Pieces of an app that none of its versions names."""
        named = {each.package for each in record.versions}
        pieces = (key for key, _ in self._journal.kept(f"{_PIECES}{app}/"))
        return [f"{_PIECES}{app}/{key}" for key in pieces if key.partition("/")[0] not in named]

    async def set_running(self, app: str, running: bool, version: int | None = None) -> DeploymentRecord:
        """Say whether an app is to run, and which version of it. Raises UnknownApp: or it has no such version."""

        def decide() -> Changes:
            record = self.get(app)
            wanted = msgspec.structs.replace(_chosen(app, record, version), running=running)
            return {} if wanted == record else {f"{_RECORD}{app}": pack(wanted)}

        await self._journal.update(decide)
        return self.get(app)

    async def remove(self, app: str) -> None:
        """Forget an app and its package; its hubs and positions stay. Raises UnknownApp."""

        def decide() -> Changes:
            self.get(app)
            pieces: Iterable[str] = (key for key, _ in self._journal.kept(f"{_PIECES}{app}/"))
            return {f"{_RECORD}{app}": None, **{f"{_PIECES}{app}/{key}": None for key in pieces}}

        await self._journal.update(decide)


def _chosen(app: str, record: DeploymentRecord, version: int | None) -> DeploymentRecord:
    """The record with another version as the one that runs. Raises UnknownApp."""
    if version is None or version == record.version:
        return record
    found = next((each for each in record.others if each.version == version), None)
    if found is None:
        there = ", ".join(str(each.version) for each in record.versions)
        raise UnknownApp(f"app {app!r} has no version {version} any more: there are {there}")
    others = [each for each in record.versions if each.version != version]
    return msgspec.structs.replace(found, others=others)


def _make_room(records: dict[str, DeploymentRecord]) -> None:
    """Forget versions that do not run, the oldest first, until all packages fit."""
    spare = sorted(
        ((each.deployed_ms, app, each.version) for app, record in records.items() for each in record.others),
        reverse=True,
    )
    while spare and sum(map(_size, records.values())) > PACKAGES_BYTES_MAX:
        _, app, version = spare.pop()
        records[app] = records[app].without(version)


def _size(record: DeploymentRecord) -> int:
    """Bytes of the packages of an app; one that was deployed twice lies there once."""
    return sum({each.package: each.bytes for each in record.versions}.values())


def check_app_name(app: str) -> None:
    """Raises InvalidName. A dot would make two apps' groups look alike."""
    check_name(app, "app")
    if "." in app or len(app) > NAME_CHARS_MAX:
        raise InvalidName(
            f"app name {app[:90]!r} is not allowed: use 1 to {NAME_CHARS_MAX} letters, digits, '_' and '-'"
        )


def concerns_apps(changes: Changes) -> bool:
    """Whether a change set of the journal may change what is to run."""
    return any(key.startswith(_RECORD) for key in changes)


def _id(package: bytes) -> str:
    return hashlib.sha256(package).hexdigest()[:32]
