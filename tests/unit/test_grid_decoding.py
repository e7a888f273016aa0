"""Processes that decode: order, and frames that kill them."""

from __future__ import annotations

import pytest

import dying_decoder
from gridwire.core.errors import Unsupported
from gridwire.core.settings import FRAME_FORMATS
from gridwire.grid import decoding
from gridwire.grid.decoding import DIED, DecoderPool, Frame, decode
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import Context

LINE = b'{"usage_point":"U%d","ts_end":"2016-01-01T00:15:00Z","interval_s":900,"reading_type":"import_kwh","value":1}'


def frames(count, deadly=()):
    return [
        Frame(b"deadly" if n in deadly else LINE % n, f"h/0@{n}", "", 1_700_000_000_000_000 + n) for n in range(count)
    ]


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(decoding, "FRAMES_A_TASK", 4)
    made = DecoderPool(2, dying_decoder.decode_or_die)
    yield made
    made.close()


def test_every_format_but_the_one_with_a_memory_can_be_a_hubs():
    assert set(FRAME_FORMATS) == set(registry.NAMES) - {"sparkplug"}


def test_what_comes_out_is_in_the_order_of_the_frames(pool):
    found = pool.decode("json", Context(), frames(30))
    assert [event.key for event in found.readings] == [b"U%d" % n for n in range(30)]
    assert {event.timestamp for event in found.readings} == {1_700_000_000_000}
    assert (found.frames, found.bad, pool.died) == (30, [], 0)


def test_frames_that_kill_their_process_are_alone_in_quarantine(pool):
    found = pool.decode("json", Context(), frames(30, deadly={5, 6, 29}))
    assert [event.key for event in found.readings] == [b"U%d" % n for n in range(30) if n not in (5, 6, 29)]
    assert [dict(event.headers)["source"] for event in found.bad] == [b"h/0@5", b"h/0@6", b"h/0@29"]
    assert {dict(event.headers)["reason"] for event in found.bad} == {DIED.encode()}
    assert (found.frames, pool.died) == (30, 3)
    assert pool.decode("json", Context(), frames(3)).frames == 3


def test_an_unknown_format_is_said():
    with pytest.raises(Unsupported):
        decode("what", Context(), frames(1))
