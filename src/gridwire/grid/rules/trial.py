"""What a rule would find, without telling anybody: the process behind `POST /v1/alert-rules/try`.

python -m gridwire.grid.rules.trial LAKE  <  first line: the rule and the time
                                             then, of a threshold's hub: u32 size, u32 partition, a record batch
{"events":4000,"skipped":0,"opened":3,"open":1,"error":"","findings":[...]}
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import orjson

from gridwire.broker.alert_rules import OPEN_MAX, AlertRule, SqlRule
from gridwire.capture import ask
from gridwire.capture.sql import SqlError
from gridwire.columnar.decode import decode
from gridwire.grid.findings import FindingState
from gridwire.grid.rules.question import Answer, Question
from gridwire.grid.rules.subjects import Subjects
from gridwire.grid.rules.threshold import Threshold

FINDINGS_MAX: Final = 200
"""Findings that are shown, the newest version of each; all are counted."""

FRAME: Final = struct.Struct(">II")


class Trial(msgspec.Struct, frozen=True):
    """The first line of what is given."""

    rule: AlertRule
    now_ms: int


def outcome(trial: Trial, lake: Path, batches: Iterator[tuple[int, bytes]]) -> dict[str, Any]:
    """What comes of a rule."""
    subjects = Subjects.fresh(trial.rule, 1)
    found = _Found()
    if isinstance(trial.rule, SqlRule):
        _ask(trial, Question(trial.rule, subjects), lake)
        found.take(subjects)
    else:
        threshold = Threshold(trial.rule, subjects)
        for partition, data in batches:
            for columns in decode(data, 0, len(data), from_offset=0).columns:
                threshold.take(partition, columns, trial.now_ms)
            found.take(subjects)
        threshold.pass_time(trial.now_ms * 1000)
        found.take(subjects)
    state = subjects.state
    return {
        "events": state.events, "skipped": state.skipped, "opened": found.opened, "open": state.open,
        "refused": state.refused, "error": state.error, "findings": [*found.newest.values()],
    }  # fmt: skip


def _ask(trial: Trial, question: Question, lake: Path) -> None:
    asked = ask.Question(question.rule.query, OPEN_MAX)
    try:
        question.take(msgspec.json.decode(ask.rows(lake, asked), type=Answer), trial.now_ms)
    except SqlError as error:
        question.failed(str(error), trial.now_ms)


class _Found:
    """The newest version of the first findings."""

    def __init__(self) -> None:
        self.opened = 0
        self.newest: dict[str, Any] = {}

    def take(self, subjects: Subjects) -> None:
        for told in subjects.take_told():
            self.opened += told.finding.state is FindingState.OPENED and told.finding.kind == f"rule.{subjects.name}"
            if told.finding.id in self.newest or len(self.newest) < FINDINGS_MAX:
                self.newest[told.finding.id] = orjson.loads(told.finding.to_event(0).value or b"")
        for _ in subjects.take_changed():
            pass


def _batches(given: BinaryIO) -> Iterator[tuple[int, bytes]]:
    while head := given.read(FRAME.size):
        size, partition = FRAME.unpack(head)
        yield partition, given.read(size)


def main() -> None:
    """See the module."""
    given = sys.stdin.buffer
    trial = msgspec.json.decode(given.readline(), type=Trial)
    told = outcome(trial, Path(sys.argv[1]), _batches(given))
    sys.stdout.buffer.write(orjson.dumps(told))


if __name__ == "__main__":
    main()
