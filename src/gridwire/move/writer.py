"""Transactions at the destination: what is copied and the record of it become visible together or not at all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from gridwire.core.errors import FencedEpoch, GridwireError, Unavailable
from gridwire.move.side import ANSWER_S, Side

PATIENCE_S: Final = 300.0
"""How long a destination may be away before the mover gives up; started again, it goes on where it was."""


class Aborted(GridwireError):
    """A transaction did not happen; what was in it can be tried again."""


class Writer:
    """A transactional producer of which one is open per source: a second mover fences the first.

    Raises:
        FencedEpoch: another mover took over. Unavailable: the destination does not answer.
    """

    def __init__(self, target: Side, name: str) -> None:
        self._producer = target.producer(name)
        self._target = target

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        """A producer to write with; committed when the block ends well. Raises Aborted."""
        from confluent_kafka import KafkaException

        try:
            self._patiently(self._producer.begin_transaction)
            yield self._producer
            self._patiently(lambda: self._producer.commit_transaction(ANSWER_S))
        except KafkaException as error:
            self._fail(error.args[0])
        except BaseException:
            with contextlib.suppress(KafkaException):
                self._producer.abort_transaction(ANSWER_S)
            raise

    def flush(self) -> None:
        """Return when everything of the open transaction lies at the destination. Raises Unavailable."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self._producer.flush(1.0):
            if time.monotonic() > deadline_s:
                raise Unavailable(f"{self._target} takes no events")

    def _fail(self, error: Any) -> None:
        from confluent_kafka import KafkaError

        fenced = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
        if error.code() in fenced:
            raise FencedEpoch("another `gridwire move` from the same source to the same destination took over")
        if error.txn_requires_abort():
            self._patiently(lambda: self._producer.abort_transaction(ANSWER_S))
            raise Aborted(error.str())
        raise Unavailable(f"{self._target}: {error.str()}")

    def _patiently(self, call: Callable[[], Any]) -> None:
        from confluent_kafka import KafkaException

        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                call()
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)
