"""Routes of alerts: which findings go to which webhook, in the control journal.

    alertroute/<name>       RouteRecord; the header's value is sealed, see `gridwire.auth.keys`

How far a route has come is no control state: it is the committed position of the route's own consumer group, whose
note tells how the route is (`RouteNote`). So it is there for every gateway, and survives whoever delivers.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from gridwire.alerts import TEXT_CHARS_MAX, Alert
from gridwire.broker.control import Changes, pack
from gridwire.broker.key_file import sealer
from gridwire.broker.port import Journal, Place, Position
from gridwire.core.clock import Clock
from gridwire.core.errors import FencedEpoch, InvalidSetting, RouteExists, UnknownHub, UnknownRoute
from gridwire.core.hubs import ALERT_ROUTE, ALERTS, again_of, dead_letters_of, route_group
from gridwire.core.limits import check_name

SEVERITIES: Final = ("info", "warning", "critical")
STATES: Final = ("opened", "changed", "closed")
MODES: Final = ("structured", "binary", "text")

ROUTES_MAX: Final = 32
"""Each is a reader of its own: a thread, and on a cluster a member of a group."""

NAME_CHARS_MAX: Final = 80
URL_CHARS_MAX: Final = 2000
SECRET_CHARS_MAX: Final = 4000
TIME_LIMIT_S_MAX: Final = 7 * 24 * 3600
TIME_LIMIT_S: Final = 24 * 3600
"""How long a finding is tried, unless the route says otherwise: as long as Event Grid does."""

_ROUTE: Final = "alertroute/"
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}\Z")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]+\Z")
_OURS: Final = frozenset(
    {"host", "content-length", "content-type", "content-encoding", "connection", "transfer-encoding", "te", "trailer",
     "upgrade", "expect", "accept-encoding", "user-agent"}
)  # fmt: skip
"""Headers that the sender sets itself."""


class RouteRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A route as the journal keeps it.

    Args:
        id: another one for every route that is made. url: http or https.
        kind, subject: patterns, as silences have them. severity: the least. states: those that are delivered.
        silenced: whether findings that a silence covers are delivered too.
        mode: `structured` and `binary` as CloudEvents has them; `text` is `{"text": "..."}`, which chat services take.
        header: name of a header that goes along, empty for none. secret: its value, sealed.
        handshake: the receiver was asked before. rate_per_min: what it allowed, 0 where it set no limit.
        time_limit_s: from a finding's telling until it is given up.
        stopped: why nothing is delivered, empty while it is.
    """

    id: str
    url: str
    kind: str = "*"
    subject: str = "*"
    severity: str = "info"
    states: list[str] = msgspec.field(default_factory=lambda: list(STATES))
    silenced: bool = False
    mode: str = "structured"
    header: str = ""
    secret: bytes = b""
    handshake: bool = True
    rate_per_min: int = 0
    time_limit_s: int = TIME_LIMIT_S
    created_ms: int = 0
    created_by: str = ""
    stopped: str = ""

    def takes(self, alert: Alert, *, silenced: bool) -> bool:
        """Whether a finding goes this way. A severity nobody knows counts as the highest."""
        known = alert.severity in SEVERITIES
        severe = not known or SEVERITIES.index(alert.severity) >= SEVERITIES.index(self.severity)
        return (
            severe
            and alert.state in self.states
            and (self.silenced or not silenced)
            and fnmatchcase(alert.kind, self.kind)
            and fnmatchcase(f"{alert.subject_kind}/{alert.subject}", self.subject)
        )


class RouteNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a route's worker leaves with its positions. It is short: Kafka keeps 4 KB.

    Args:
        delivered, failed: findings since the route was made; failed are those given up. tries: that came to nothing.
        delivered_ms: the last one. error, error_ms: why the last try that failed did, and when.
        beyond: by `hub/partition`, how far was read beyond the position, and the findings up to there that still
            wait, as distances from the position: the rest of it is delivered, given up, or does not go this way.
    """

    delivered: int = 0
    failed: int = 0
    tries: int = 0
    delivered_ms: int = 0
    error: str = ""
    error_ms: int = 0
    beyond: dict[str, list[int]] = {}


def group_of(name: str, record: RouteRecord) -> str:
    """The consumer group of a route."""
    return route_group(name, record.id)


def hubs_of(name: str) -> list[str]:
    """What a route reads: alerts, and what its dead letters are given back through."""
    return [ALERTS, again_of(ALERT_ROUTE, name)]


def letters_of(name: str) -> str:
    """The hub of findings that a route could not deliver."""
    return dead_letters_of(ALERT_ROUTE, name)


def parse_note(text: str) -> RouteNote:
    """A note as it was committed; an empty one where it is none of ours."""
    text = text.rstrip("\0")  # librdkafka puts one at the end of what a transaction commits
    try:
        return msgspec.json.decode((text or "{}").encode(), type=RouteNote)
    except (msgspec.MsgspecError, UnicodeError):
        return RouteNote()


def newest_note(positions: Mapping[Place, Position]) -> RouteNote:
    """What the route's worker left last."""
    newest = max(positions.values(), key=lambda position: position.committed_ms, default=Position(0))
    notes = [parse_note(each.metadata) for each in positions.values() if each.committed_ms == newest.committed_ms]
    return max(notes, key=lambda note: (note.delivered + note.failed, note.tries), default=RouteNote())


def check_route(name: str, record: RouteRecord) -> None:
    """Raises InvalidName, InvalidSetting: it says what a route may be."""
    check_name(name, "route")
    if len(name) > NAME_CHARS_MAX:
        raise InvalidSetting(f"a route's name has at most {NAME_CHARS_MAX} characters")
    check_url(record.url)
    for text, what in ((record.kind, "kind"), (record.subject, "subject")):
        if not 1 <= len(text) <= TEXT_CHARS_MAX:
            raise InvalidSetting(f"{what} is a pattern of 1 to {TEXT_CHARS_MAX} characters")
    if record.severity not in SEVERITIES:
        raise InvalidSetting(f"severity is {', '.join(SEVERITIES)}, not {record.severity[:40]!r}")
    if not record.states or not set(record.states) <= set(STATES):
        raise InvalidSetting(f"states are some of {', '.join(STATES)}")
    if record.mode not in MODES:
        raise InvalidSetting(f"mode is {', '.join(MODES)}, not {record.mode[:40]!r}")
    if not 1 <= record.time_limit_s <= TIME_LIMIT_S_MAX:
        raise InvalidSetting(f"the time limit is 1 to {TIME_LIMIT_S_MAX} seconds")


def check_url(url: str) -> SplitResult:
    """The parts of a webhook's address. Raises InvalidSetting: it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidSetting("url is no address: https://host/path is one") from None
    if len(url) > URL_CHARS_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidSetting(f"url has at most {URL_CHARS_MAX} printable ASCII characters, no spaces among them")
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        raise InvalidSetting("url begins with https:// (or http://) and a host")
    if parts.username is not None or parts.password is not None:
        raise InvalidSetting("url holds no name or password: say them in a header, which is kept sealed")
    if parts.fragment:
        raise InvalidSetting("url has no #: a receiver never sees what follows it")
    return parts


def check_header(text: str) -> tuple[str, str]:
    """Name and value of `Name: value`. Raises InvalidSetting."""
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _HEADER_NAME.match(name) or not _HEADER_VALUE.match(value):
        raise InvalidSetting("header is `Name: value` in printable ASCII, such as `Authorization: Bearer ...`")
    if len(value) > SECRET_CHARS_MAX:
        raise InvalidSetting(f"a header's value has at most {SECRET_CHARS_MAX} characters")
    if name.lower() in _OURS or name.lower().startswith(("ce-", "webhook-")):
        raise InvalidSetting(f"the header {name} is set by whoever delivers")
    return name, value


class AlertRoutes:
    """See the module.

    Args:
        key_file: what secrets are sealed with; made when the first one is said.
    """

    def __init__(self, journal: Journal, clock: Clock, key_file: Path) -> None:
        self._journal = journal
        self._clock = clock
        self._key_file = key_file

    def all(self) -> dict[str, RouteRecord]:
        """Every route by name."""
        found = self._journal.kept(_ROUTE)
        return {name: msgspec.msgpack.decode(value, type=RouteRecord) for name, value in sorted(found)}

    async def routes(self) -> dict[str, RouteRecord]:
        """As `all`, for a worker that may have to ask somebody."""
        return self.all()

    def get(self, name: str) -> RouteRecord:
        """One of them. Raises UnknownRoute."""
        known = self.all()
        if name not in known:
            raise UnknownRoute(f"no route has the name {name[:80]!r}: there are {', '.join(known) or 'none'}")
        return known[name]

    def sealed(self, name: str, record: RouteRecord, secret: str) -> bytes:
        """The value of a route's header, as it is kept. Raises GridwireError: the key file is not right."""
        return sealer(self._key_file, make=True).seal(secret, _sealed_at(name, record))

    async def add(self, name: str, record: RouteRecord) -> RouteRecord:
        """Make a route that begins with what is told from now on; durable when it returns.

        Raises:
            InvalidName, InvalidSetting: there are too many, or this is none. RouteExists.
        """
        check_route(name, record)
        made = msgspec.structs.replace(record, created_ms=self._clock.now_ms())

        def decide() -> Changes:
            known = self.all()
            if name in known:
                raise RouteExists(f"there is a route {name!r}: remove it, or choose another name")
            if len(known) >= ROUTES_MAX:
                raise InvalidSetting(f"there are at most {ROUTES_MAX} routes: remove one")
            return {_ROUTE + name: pack(made)}

        decide()
        await self._begin_here(group_of(name, made))
        await self._journal.update(decide)
        return made

    async def _begin_here(self, group: str) -> None:
        """Whoever delivers begins with what comes after now, however much later he starts."""
        try:
            info = self._journal.hub(ALERTS)
        except UnknownHub:
            return  # then everything that will be there comes after now
        bounds = await self._journal.bounds_of([(ALERTS, number) for number in range(info.partitions)])
        await self._journal.commit(group, {place: Position(each.end) for place, each in bounds.items()})

    async def remove(self, name: str) -> None:
        """Forget a route and how far it came; its dead letters stay. Raises UnknownRoute."""
        record = self.get(name)

        def decide() -> Changes:
            self.get(name)
            return {_ROUTE + name: None}

        await self._journal.update(decide)
        await self.forget(name, record.id)

    async def forget(self, name: str, id: str) -> None:
        """Forget how far a route came that is no more. On a cluster that takes until nobody delivers for it."""
        known = self.all().get(name)
        if known is None or known.id != id:
            with contextlib.suppress(FencedEpoch):
                await self._journal.delete_group(route_group(name, id))

    async def stop(self, name: str, id: str, reason: str) -> None:
        """Deliver nothing more, unless it is another route by now."""
        await self._journal.update(lambda: self._with_stopped(name, id, reason))

    async def resume(self, name: str) -> RouteRecord:
        """Go on where a route was stopped. Raises UnknownRoute."""
        record = self.get(name)
        await self._journal.update(lambda: self._with_stopped(name, record.id, ""))
        return self.get(name)

    def _with_stopped(self, name: str, id: str, reason: str) -> Changes:
        known = self.all().get(name)
        if known is None or known.id != id or known.stopped == reason:
            return {}
        return {_ROUTE + name: pack(msgspec.structs.replace(known, stopped=reason))}


def opened_secret(key_file: Path, name: str, record: RouteRecord) -> str:
    """The value of a route's header, empty where it has none. Raises GridwireError: another key file sealed it."""
    if not record.secret:
        return ""
    return sealer(key_file).open(record.secret, _sealed_at(name, record))


def new_id() -> str:
    """Of a route that is made."""
    return secrets.token_hex(4)


def concerns_routes(changes: Changes) -> bool:
    """Whether a change set is about routes."""
    return any(key.startswith(_ROUTE) for key in changes)


def _sealed_at(name: str, record: RouteRecord) -> str:
    return f"route {name}/{record.id}"
