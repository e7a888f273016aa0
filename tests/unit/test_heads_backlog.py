"""Who is cut when clients do not read."""

from __future__ import annotations

from typing import Any

from gridwire.heads.backlog import Backlog


class Unread:
    """A transport with so much in its buffer."""

    def __init__(self, size: int) -> None:
        self.size, self.aborted = size, False

    def get_write_buffer_size(self) -> int:
        return self.size

    def abort(self) -> None:
        self.aborted = True


def waiting(backlog: Backlog, *sizes: int) -> list[Any]:
    transports: list[Any] = [Unread(size) for size in sizes]
    for transport in transports:
        backlog.paused(transport)
    return transports


def test_within_the_limit_nobody_is_cut() -> None:
    backlog = Backlog(100)
    held = waiting(backlog, 40, 60)
    assert backlog.bytes == 100
    assert not any(each.aborted for each in held)
    for each in held:
        backlog.resumed(each)
    assert backlog.bytes == 0


def test_who_waits_longest_is_cut_first_and_no_more_than_needed() -> None:
    backlog = Backlog(100)
    first, second, third = waiting(backlog, 40, 60, 30)
    assert (first.aborted, second.aborted, third.aborted) == (True, False, False)
    assert (backlog.bytes, backlog.dropped) == (90, 1)


def test_whoever_reads_is_not_the_oldest() -> None:
    backlog = Backlog(100)
    reader, greedy = waiting(backlog, 40, 50)
    backlog.resumed(reader)
    backlog.paused(reader)
    waiting(backlog, 30)
    assert (reader.aborted, greedy.aborted) == (False, True)


def test_what_was_read_meanwhile_counts() -> None:
    backlog = Backlog(100)
    first, second = waiting(backlog, 60, 40)
    first.size = 5
    waiting(backlog, 50)
    assert not first.aborted
    assert not second.aborted
    assert backlog.bytes == 95


def test_one_that_is_too_much_alone_goes() -> None:
    backlog = Backlog(100)
    [alone] = waiting(backlog, 101)
    assert alone.aborted
    assert backlog.bytes == 0
