"""Alert rules of users, in the control journal; what the worker knows of them, in the hub `grid.rule-states`.

    alertrule/<name>                    RuleRecord: a rule, and from where on it reads

What the worker keeps in its hub, in the commits that tell its findings; of a rule that was removed until it has closed
what that had open:

    key <rule>                          RuleState
    key <rule>/<subject>                Held: a subject that is open, or on its way there
    key #commit                         number of the commit, which is also the note on the positions
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec

from gridwire.broker.control import Changes, pack
from gridwire.broker.port import Broker, Journal, Place
from gridwire.core.clock import Clock
from gridwire.core.errors import InvalidName, InvalidSetting, MessageTooLarge, RuleExists, UnknownHub, UnknownRule
from gridwire.core.hubs import ALERT_NOTES, ALERTS, RULE_STATES
from gridwire.wire.http import where

RULES_MAX: Final = 100
"""Each threshold looks at every event of its hub, and each query has the lake to itself for a while."""

OPEN_MAX: Final = 1_000
"""Open findings of one rule: more are one fault, and nobody reads them one by one."""

ROW_MAX: Final = 20_000
"""Subjects of one rule that are on their way to a finding (`for_count`). Some 200 bytes each."""

FIELD_CHARS_MAX: Final = 200
TEXT_CHARS_MAX: Final = 1_000
QUERY_CHARS_MAX: Final = 10_000
FOR_COUNT_MAX: Final = 1_000
QUIET_S_MAX: Final = 30 * 86_400
EVERY_S_MIN: Final = 10
EVERY_S_MAX: Final = 86_400

RULE: Final = "rule"
"""Kind of subject of what is found about a rule itself, and of a rule that names no subject."""

FAILED: Final = "failed"
FULL: Final = "full"
"""What is found about a rule itself: its query fails, more would be open than may be."""

RESERVED: Final = frozenset({FAILED, FULL, "try"})

Severity = Literal["info", "warning", "critical"]

Time = Annotated[int, msgspec.Meta(ge=-1, lt=253_402_300_800_000_000)]
"""Microseconds since the epoch, before the year 10000; -1 is none."""

_RECORD: Final = "alertrule/"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}\Z")
_KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_OWN_HUBS: Final = frozenset({ALERTS, ALERT_NOTES, RULE_STATES})


class ThresholdRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type",
                    tag="threshold"):  # fmt: skip
    """A finding opens for a subject while its values are beyond a limit.

    Args:
        field, subject: names of fields as in filters; without `subject` the whole hub is one subject.
        op, value: the finding opens when `field op value` has held `for_count` times in a row.
        closes_at: and closes when `field op closes_at` does not hold any more; None: the same as `value`.
        where: events it does not hold for are not looked at.
        quiet_s: it closes, too, when nothing was heard of the subject for so long; None: never.
        subject_kind: what findings call the subject's kind; empty: the last part of `subject`.
        text: what to do about it, for whoever reads the alert.
    """

    name: str
    severity: Severity = "warning"
    text: str = ""
    hub: str
    field: str
    op: Literal[">", ">=", "<", "<=", "=", "!="]
    value: float | str
    subject: str = ""
    subject_kind: str = ""
    where: str = ""
    for_count: int = 1
    closes_at: float | None = None
    quiet_s: int | None = None


class SqlRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="sql"):
    """A finding is open for each row that a question about the lake answers.

    Args:
        query: its column `subject` names the subject, without one the rule is it; other columns are the evidence.
        every_s: how often it is asked.
    """

    name: str
    severity: Severity = "warning"
    text: str = ""
    query: str
    every_s: int = 60
    subject_kind: str = ""


AlertRule = ThresholdRule | SqlRule


class RuleRecord(msgspec.Struct, frozen=True):
    """A rule as the journal keeps it.

    Args:
        revision: rises with every change; what another revision had open is closed.
        hub_id, starts: the hub that was there when the rule came, and where its partitions ended: what is before that
            is not looked at.
    """

    rule: AlertRule
    revision: int = 1
    changed_ms: int = 0
    changed_by: str = ""
    hub_id: str = ""
    starts: dict[int, int] = {}

    def start(self, place: Place, hub_id: UUID) -> int:
        """First offset of a place that the rule looks at; a hub made anew under the name is looked at from its start.

        Partitions that came later are, too.
        """
        return self.starts.get(place[1], 0) if str(hub_id) == self.hub_id else 0


class Held(msgspec.Struct, omit_defaults=True):
    """A subject in mind.

    Args:
        started_us: when what is open, or is on its way there, began. heard_us: newest event of it.
        count: values beyond the limit in a row. version: of the finding, as last told.
        before_us, before_version: of the finding before this one: should the next one begin at the same time, it is
            the same again.
    """

    started_us: Time
    heard_us: Time = 0
    count: int = 0
    open: bool = False
    version: int = 0
    evidence: dict[str, Any] = {}
    before_us: Time = -1
    before_version: int = 0


class RuleState(msgspec.Struct, omit_defaults=True):
    """How a rule is.

    Args:
        open: its findings. events, skipped: of its hub: looked at; left out for want of the field or the subject.
        refused: subjects that were too many. last_ms: newest event, or when the query was last asked. took_ms: the
            query. error: of its last run.
        severity, subject_kind: what its findings were told with.
        failed, full: findings about the rule itself.
    """

    revision: int
    severity: Severity = "warning"
    subject_kind: str = ""
    open: int = 0
    events: int = 0
    skipped: int = 0
    refused: int = 0
    last_ms: int = 0
    took_ms: int = 0
    error: str = ""
    failed: Held | None = None
    full: Held | None = None


class AlertRules:
    """The rules in the journal."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal, self._clock = journal, clock

    def all(self) -> dict[str, RuleRecord]:
        """Every rule by name."""
        found = self._journal.kept(_RECORD)
        return {name: msgspec.msgpack.decode(value, type=RuleRecord) for name, value in sorted(found)}

    def get(self, name: str) -> RuleRecord:
        """One of them. Raises UnknownRule."""
        known = self.all()
        if name not in known:
            raise UnknownRule(f"no alert rule {name[:80]!r}: there are {', '.join(known) or 'none'}")
        return known[name]

    async def put(self, rule: AlertRule, by: str, *, replace: bool) -> RuleRecord:
        """Make a rule, or change it; durable when it returns.

        Raises:
            InvalidName, InvalidSetting, UnknownHub. RuleExists, UnknownRule: as `replace` has it. MessageTooLarge.
        """
        check(rule)
        hub_id, starts = await _ends(self._journal, rule)

        def decide() -> Changes:
            before = self.all()
            known = before.get(rule.name)
            if known is not None and not replace:
                raise RuleExists(f"there is an alert rule {rule.name!r} already: change it, or choose another name")
            if replace:
                self.get(rule.name)
            elif len(before) >= RULES_MAX:
                raise MessageTooLarge(f"a hub has at most {RULES_MAX} alert rules: remove one")
            # By the clock, so that a rule of a removed one's name is another one.
            revision = max(self._clock.now_ms(), 0 if known is None else known.revision + 1)
            record = RuleRecord(rule, revision, self._clock.now_ms(), by, hub_id, starts)
            return {_RECORD + rule.name: pack(record)}

        await self._journal.update(decide)
        return self.get(rule.name)

    async def remove(self, name: str) -> None:
        """Remove a rule; its worker closes what it has open. Raises UnknownRule."""

        def decide() -> Changes:
            self.get(name)
            return {_RECORD + name: None}

        await self._journal.update(decide)


async def _ends(broker: Broker, rule: AlertRule) -> tuple[str, dict[int, int]]:
    """Id of a threshold's hub and the ends of its partitions now. Raises UnknownHub."""
    if isinstance(rule, SqlRule):
        return "", {}
    info = broker.hub(rule.hub)
    if info.internal:
        raise UnknownHub(f"no hub {rule.hub!r}")
    bounds = await broker.bounds_of((rule.hub, number) for number in range(info.partitions))
    return str(info.id), {number: each.end for (_, number), each in bounds.items()}


def concerns_rules(changes: Changes) -> bool:
    """Whether a change set of the journal may change what rules there are."""
    return any(key.startswith(_RECORD) for key in changes)


# -- what makes sense ------------------------------------------------------------------------------------------------


def check(rule: AlertRule) -> None:
    """Raises InvalidName, InvalidSetting, HttpError 400: what is wrong with a rule."""
    if _NAME.match(rule.name) is None or rule.name in RESERVED:
        raise InvalidName(
            f"alert rule name {rule.name[:60]!r} is not allowed: use 1 to 48 small letters, digits, '_' and '-', "
            f"but none of {', '.join(sorted(RESERVED))}"
        )
    if len(rule.text) > TEXT_CHARS_MAX:
        raise InvalidSetting(f"text has {len(rule.text)} characters: {TEXT_CHARS_MAX} are the most")
    if rule.subject_kind and _KIND.match(rule.subject_kind) is None:
        raise InvalidSetting("subject_kind is a word of small letters, digits and '_', such as transformer")
    if isinstance(rule, SqlRule):
        _check_sql(rule)
    else:
        _check_threshold(rule)


def _check_sql(rule: SqlRule) -> None:
    if not rule.query.strip() or len(rule.query) > QUERY_CHARS_MAX:
        raise InvalidSetting(f"query is one SQL statement of at most {QUERY_CHARS_MAX:,} characters")
    if not EVERY_S_MIN <= rule.every_s <= EVERY_S_MAX:
        raise InvalidSetting(f"every_s is {EVERY_S_MIN} to {EVERY_S_MAX} seconds")


def _check_threshold(rule: ThresholdRule) -> None:
    if rule.hub in _OWN_HUBS:
        raise InvalidSetting(f"a rule cannot watch {rule.hub}, which its own findings go to")
    for name, path in (("field", rule.field), ("subject", rule.subject)):
        if len(path) > FIELD_CHARS_MAX or re.search(r"\s", path):
            raise InvalidSetting(f"{name} is one field such as load_kw, without spaces")
    if not rule.field:
        raise InvalidSetting("field is missing: say what is compared, such as load_kw")
    if rule.where:
        where.parse(rule.where)
    if not 1 <= rule.for_count <= FOR_COUNT_MAX:
        raise InvalidSetting(f"for_count is 1 to {FOR_COUNT_MAX}")
    if rule.quiet_s is not None and not 1 <= rule.quiet_s <= QUIET_S_MAX:
        raise InvalidSetting(f"quiet_s is 1 to {QUIET_S_MAX} seconds")
    _check_limits(rule)


def _check_limits(rule: ThresholdRule) -> None:
    if isinstance(rule.value, str):
        if rule.op not in ("=", "!=") or len(rule.value) > FIELD_CHARS_MAX:
            raise InvalidSetting(f"{rule.op} compares numbers; a text of {FIELD_CHARS_MAX} characters takes = or !=")
    elif rule.value - rule.value != 0:
        raise InvalidSetting("value is a number that ends")
    closes_at = rule.closes_at
    if closes_at is None or isinstance(rule.value, str):
        if closes_at is not None:
            raise InvalidSetting("closes_at goes with numbers")
        return
    in_order = {">": closes_at <= rule.value, ">=": closes_at <= rule.value,
                "<": closes_at >= rule.value, "<=": closes_at >= rule.value}  # fmt: skip
    if not in_order.get(rule.op, False):
        raise InvalidSetting("closes_at is on the other side of value: below it for > and >=, above it for < and <=")


def kind_of_subjects(rule: AlertRule) -> str:
    """What findings call the kind of the rule's subjects."""
    if rule.subject_kind:
        return rule.subject_kind
    last = rule.subject.rpartition(".")[2].lower() if isinstance(rule, ThresholdRule) else ""
    return last if _KIND.match(last) else "subject"
