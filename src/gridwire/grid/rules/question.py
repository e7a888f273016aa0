"""A question about the lake as a rule: a row of its answer is an open finding, a row that is gone closes it.

    columns  subject     text or number; without the column the rule itself is the subject
             others      evidence, at most 20

The question is answered by a process of its own, the one of `POST /v1/sql`: locked down, 30 s, 512 MiB.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from gridwire.broker.alert_rules import OPEN_MAX, SqlRule
from gridwire.core.errors import GridwireError
from gridwire.core.limits import MIB
from gridwire.grid.rules.subjects import EVIDENCE_ITEMS_MAX, SUBJECT_CHARS_MAX, Subjects, short

SUBJECT: Final = "subject"
ANSWER_BYTES_MAX: Final = 32 * MIB
"""A thousand rows are far less, unless somebody asks for whole documents."""

PATIENCE_S: Final = 60.0
"""The process ends its question after 30 s by itself, and needs a moment to start."""


class Answer(msgspec.Struct, frozen=True):
    """What the lake says. `truncated`: there were more rows."""

    columns: list[dict[str, str]]
    rows: list[list[Any]]
    truncated: bool = False
    took_ms: float = 0.0


class QuestionFailed(GridwireError):
    """The lake has no answer; the message says why."""


Ask = Callable[[str], Answer]
"""Asks a question. Raises QuestionFailed."""


def asker(lake: Path) -> Ask:
    """Asks the lake of a directory, in a process of its own for each question."""

    def ask(query: str) -> Answer:
        question = msgspec.json.encode({"query": query, "limit": OPEN_MAX, "format": "json"})
        told = _run([sys.executable, "-m", "gridwire.capture.ask", str(lake)], question)
        head, _, rest = told.partition(b"\n")
        try:
            error = msgspec.json.decode(head or b"{}", type=dict[str, str]).get("error")
            if error is not None:
                raise QuestionFailed(error)
            return msgspec.json.decode(rest, type=Answer)
        except msgspec.MsgspecError:
            raise QuestionFailed("the question took too long, or too much memory: ask for less") from None

    return ask


def _run(command: Sequence[str], given: bytes) -> bytes:
    """What a process prints, as far as is allowed; it is killed when it says too much or takes too long."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        timer = threading.Timer(PATIENCE_S, process.kill)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(given)
                process.stdin.close()
            told = process.stdout.read(ANSWER_BYTES_MAX + 1)
        finally:
            timer.cancel()
            process.kill()
    if len(told) > ANSWER_BYTES_MAX:
        raise QuestionFailed(f"the answer has more than {ANSWER_BYTES_MAX // MIB} MiB: ask for fewer columns")
    return told


class Question:
    """One rule over the lake."""

    def __init__(self, rule: SqlRule, subjects: Subjects) -> None:
        self.rule, self.subjects = rule, subjects

    def due(self, now_ms: int) -> bool:
        """Whether it is to be asked; at once, too, when the clock was set back."""
        last_ms = self.subjects.state.last_ms
        return not last_ms <= now_ms < last_ms + self.rule.every_s * 1000

    def last_ms(self) -> int:
        """When it was last asked, 0 never."""
        return self.subjects.state.last_ms

    def failed(self, error: str, now_ms: int) -> None:
        """There is no answer: what is open stays so."""
        self.subjects.state.last_ms = now_ms
        self.subjects.fail(error, now_ms * 1000)

    def take(self, answer: Answer, now_ms: int) -> None:
        """Compare an answer with what is open."""
        state, at_us = self.subjects.state, now_ms * 1000
        state.last_ms, state.took_ms = now_ms, round(answer.took_ms)
        self.subjects.work(at_us)
        found = self._found(answer)
        for subject, evidence in found.items():
            self._seen(subject, evidence, at_us)
        if answer.truncated:
            self.subjects.refuse(at_us)  # what was cut off may still be there
            return
        for subject in self.subjects.open_subjects():
            if subject not in found:
                self.subjects.close(subject, at_us, at_us)

    def _seen(self, subject: str, evidence: dict[str, Any], at_us: int) -> None:
        held = self.subjects.held.get(subject)
        if held is not None and held.open:
            if held.evidence != evidence:
                self.subjects.change(subject, evidence, at_us)
        elif self.subjects.begin(subject, at_us) and not self.subjects.open(subject, evidence, at_us):
            self.subjects.forget(subject)

    def _found(self, answer: Answer) -> dict[str, dict[str, Any]]:
        """Evidence by subject; of several rows of a subject the first counts."""
        names = [column["name"] for column in answer.columns]
        found: dict[str, dict[str, Any]] = {}
        self.subjects.state.events += len(answer.rows)
        for row in answer.rows:
            cells = dict(zip(names, row, strict=True))
            subject = _subject(cells)
            if subject is None or subject in found:
                self.subjects.state.skipped += subject is None
                continue
            found[subject] = self._evidence(cells)
        if SUBJECT not in names and found:
            found[""]["rows"] = len(answer.rows)
        return found

    def _evidence(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        others = [(name, value) for name, value in cells.items() if name != SUBJECT]
        found = {name[:SUBJECT_CHARS_MAX]: short(value) for name, value in others[:EVIDENCE_ITEMS_MAX]}
        return {**found, "text": self.rule.text} if self.rule.text else found


def _subject(cells: Mapping[str, Any]) -> str | None:
    if SUBJECT not in cells:
        return ""
    value = cells[SUBJECT]
    if value is None or isinstance(value, dict | list):
        return None
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if 0 < len(text) <= SUBJECT_CHARS_MAX else None
