"""What is remembered of byte strings: bounded, only what comes again, and never an error."""

from __future__ import annotations

import pytest

from gridwire.wire.amqp.known import Known


def test_what_comes_again_is_made_no_third_time() -> None:
    made: list[bytes] = []
    known: Known[int] = Known(lambda data: made.append(data) or len(data), 10, 10)
    assert [known[b"abc"] for _ in range(5)] == [3] * 5
    assert made == [b"abc"] * 2


def test_it_holds_so_many_and_none_that_is_long() -> None:
    known: Known[int] = Known(len, 3, 4)
    for number in range(20):
        for _ in range(3):
            assert known[b"%d" % number] == len(str(number))
            assert known[b"long %d" % number] == len(f"long {number}")
        assert len(known) <= 3
        assert all(len(data) <= 4 for data in known)


def test_an_error_is_not_remembered() -> None:
    known: Known[int] = Known(int, 3, 4)
    for _ in range(3):
        with pytest.raises(ValueError, match="invalid literal"):
            known[b"x"]
    assert not known
