"""Apps of functions over HTTP: deploy, look, stop and start, try, and give dead letters again.

Whoever deploys runs code on the hub's machine. Without sign-in that takes a hub that only its own machine reaches; with
it Manage on the namespace, and from other machines a setting besides.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec

from gridwire.broker.port import Journal
from gridwire.core.errors import Unavailable
from gridwire.core.hubs import group_of
from gridwire.heads.http.dead_letters import DeadLetters
from gridwire.heads.http.guard import is_loopback
from gridwire.heads.http.overview import Overview
from gridwire.heads.http.request import header, number_of, parse_json
from gridwire.heads.http.routes import Answer, Call, json_answer
from gridwire.heads.http.sign_in import IDENTITY
from gridwire.wire.http.problems import Forbidden, HttpError
from gridwire.wire.http.rendering import text_of

PACKAGE_TYPES: Final = (b"application/zip", b"application/x-zip-compressed")
"""No form and no plain text: a browser asks before it sends one of these to a foreign page's address."""

LINES_DEFAULT: Final = 200
LINES_MAX: Final = 5_000
EVENTS_MAX: Final = 10_000
"""Events of one trial: they and what the function makes of them are in memory."""


class InvokeFunction(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST .../invoke. An event is its JSON value, byte for byte, or `{"base64": "..."}`; so is the key."""

    events: list[msgspec.Raw]
    key: Any = None


class RenewKey(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST .../keys. `name`: of a key of all functions (`host`) or of one; a new name is a further key."""

    scope: Literal["master", "system", "host", "function"]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] = "default"
    function: str = ""


class ReplayLetters(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST .../replay: one letter, or all that wait."""

    offset: int | None = None


class Apps(Protocol):
    """What runs them: `gridwire.deployed`."""

    async def deploy(self, app: str, data: bytes, *, by: str = "", venv: str = "", port: int = 0) -> dict[str, Any]:
        """Check a package and make it the newest version. Raises InvalidApp and others."""
        ...

    def apps(self) -> list[dict[str, Any]]:
        """Every app by name."""
        ...

    def app(self, name: str) -> dict[str, Any]:
        """One of them. Raises UnknownApp."""
        ...

    async def set_running(self, app: str, running: bool, version: int | None = None) -> dict[str, Any]:
        """Stop or start one, or another version of it. Raises UnknownApp."""
        ...

    async def remove(self, app: str) -> None:
        """Forget one. Raises UnknownApp."""
        ...

    def logs(self, app: str, after: int | None, lines: int) -> Any:
        """Lines of its log. Raises UnknownApp."""
        ...

    def address(self, app: str) -> str:
        """Of its HTTP functions. Raises UnknownApp, Unavailable."""
        ...

    def keys(self, app: str) -> dict[str, Any]:
        """Of its HTTP functions. Raises UnknownApp, Unavailable."""
        ...

    def renew_key(self, app: str, scope: str, name: str, function: str) -> dict[str, Any]:
        """Make one of them anew. Raises UnknownApp, Unavailable, InvalidSetting."""
        ...

    async def try_out(self, app: str, function: str, events: list[bytes], key: bytes | None) -> Any:
        """Call a function apart from what runs. Raises UnknownApp, InvalidSetting."""
        ...


class Functions:
    """What the addresses do.

    Args:
        deploy_here: whether apps are taken from this machine. deploy_remote: and from others.
    """

    def __init__(
        self, apps: Apps, broker: Journal, overview: Overview, *, deploy_here: bool, deploy_remote: bool
    ) -> None:
        self._apps, self._broker, self._overview = apps, broker, overview
        self._deploy_here, self._deploy_remote = deploy_here, deploy_remote
        self._letters = DeadLetters(broker)

    async def rows(self, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Every app, with lags from the positions of its groups: true of apps that do not run, too."""
        apps = self._apps.apps()
        lags = {group["group"]: group for group in groups}
        names = [(app["app"], function["name"]) for app in apps for function in app["functions"]]
        counts = await self._letters.counts(names)
        for app in apps:
            for function in app["functions"]:
                name = function["name"]
                group = lags.get(group_of(app["app"], name), {})
                function["group"] = group_of(app["app"], name) if function["reads"] else ""
                function["lag_events"] = group.get("lag_events", 0)
                function["lag_seconds"] = group.get("lag_seconds", 0.0)
                function["letters"], function["letters_waiting"] = counts.get((app["app"], name), (0, 0))
        return apps

    async def all(self) -> list[dict[str, Any]]:
        """Every app; without lags where the broker does not answer."""
        try:
            groups = await self._overview.groups()
        except Unavailable:
            groups = []
        return await self.rows(groups)

    async def list(self, call: Call) -> Answer:
        """GET /v1/functions."""
        return json_answer({"apps": await self.all()})

    async def show(self, call: Call) -> Answer:
        """GET /v1/functions/{app}."""
        return await self._shown(call.name)

    async def _shown(self, name: str, status: int = 200) -> Answer:
        self._apps.app(name)
        return json_answer(next(row for row in await self.all() if row["app"] == name), status)

    def check_deploy(self, call: Call) -> None:
        """Whether whoever asks may deploy at all, the right aside. Raises Forbidden, HttpError 415."""
        client = call.scope.get("client")
        here = client is None or is_loopback(str(client[0]).removeprefix("::ffff:"))
        if not self._deploy_here:
            raise Forbidden(
                "whoever deploys runs code on the hub's machine: this hub can be reached by others and asks nobody who "
                "he is. Start it with --auth, or on 127.0.0.1"
            )
        if not here and not self._deploy_remote:
            raise Forbidden(
                "apps are taken from the hub's own machine only, for whoever deploys runs code on it: deploy from "
                "there, or start the hub with --deploy-remote"
            )
        kind = header(call.scope, b"content-type").partition(b";")[0].strip().lower()
        if kind not in PACKAGE_TYPES:
            accept = (("accept", "application/zip"),)
            raise HttpError(415, "a package is a zip file: send it with content-type application/zip", accept)

    async def deploy(self, call: Call, body: bytes) -> Answer:
        """PUT /v1/functions/{app}?venv=&port=: the body is the package."""
        query = call.query()
        identity = call.scope.get(IDENTITY)
        by = "" if identity is None else identity.name
        port = number_of(query, "port", 0, 0, 65535)
        await self._apps.deploy(call.name, body, by=by, venv=query.get("venv", ""), port=port)
        return await self._shown(call.name, 201)

    async def start(self, call: Call) -> Answer:
        """POST /v1/functions/{app}/start?version=."""
        version = number_of(call.query(), "version", 0, 1, 2**31)
        await self._apps.set_running(call.name, True, version or None)
        return await self._shown(call.name)

    async def stop(self, call: Call) -> Answer:
        """POST /v1/functions/{app}/stop."""
        await self._apps.set_running(call.name, False)
        return await self._shown(call.name)

    async def remove(self, call: Call) -> Answer:
        """DELETE /v1/functions/{app}."""
        await self._apps.remove(call.name)
        return Answer(204, b"", [])

    async def logs(self, call: Call) -> Answer:
        """GET /v1/functions/{app}/logs?lines=&after=."""
        query = call.query()
        after = number_of(query, "after", 0, 0, 2**62) if "after" in query else None
        lines = number_of(query, "lines", LINES_DEFAULT, 1, LINES_MAX)
        return json_answer(self._apps.logs(call.name, after, lines))

    async def keys(self, call: Call) -> Answer:
        """GET /v1/functions/{app}/keys."""
        return json_answer(self._apps.keys(call.name))

    async def renew_key(self, call: Call, body: bytes) -> Answer:
        """POST /v1/functions/{app}/keys."""
        wanted = parse_json(body, RenewKey)
        return json_answer(self._apps.renew_key(call.name, wanted.scope, wanted.name, wanted.function))

    def address(self, app: str) -> str:
        """Where an app's HTTP functions answer on this machine. Raises UnknownApp, Unavailable."""
        return self._apps.address(app)

    async def invoke(self, call: Call, body: bytes) -> Answer:
        """POST /v1/functions/{app}/functions/{function}/invoke."""
        wanted = parse_json(body, InvokeFunction)
        if not 1 <= len(wanted.events) <= EVENTS_MAX:
            raise HttpError(400, f"give 1 to {EVENTS_MAX:,} events")
        events = [_bytes(bytes(event)) for event in wanted.events]
        key = None if wanted.key is None else _bytes(msgspec.json.encode(wanted.key), text=True)
        outcome = await self._apps.try_out(call.name, call.names[1], events, key)
        return json_answer({
            "done": outcome.done, "took_ms": outcome.took_ms, "error": outcome.error, "traceback": outcome.traceback,
            "rejected": [{"event": row, "reason": reason} for row, reason in outcome.rejected],
            "outputs": [
                {"hub": each.hub, "key": text_of(each.key), "value": text_of(each.value)} for each in outcome.outputs
            ],
        })  # fmt: skip

    async def replay(self, call: Call, body: bytes) -> Answer:
        """POST /v1/functions/{app}/functions/{function}/replay."""
        wanted = parse_json(body or b"{}", ReplayLetters)
        app, function = call.names
        return json_answer({"replayed": await self._letters.replay(app, function, wanted.offset)})


def _bytes(value: bytes, *, text: bool = False) -> bytes:
    """An event as it was meant: JSON as it stands, `{"base64": ...}` as the bytes it names, a key's text as it is."""
    found = msgspec.json.decode(value)
    if isinstance(found, dict) and found.keys() == {"base64"}:
        try:
            return base64.b64decode(str(found["base64"]), validate=True)
        except ValueError:
            raise HttpError(400, "base64 is not what it says") from None
    return found.encode() if text and isinstance(found, str) else value
