"""Replay of quarantined frames: after a fix, with a key, once whatever happens in between."""

import base64
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

import pytest

import meter_frames as frames
from gridwire.grid import quarantine
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import BAD_FRAME_BYTES_MAX, BadFrame, Context
from gridwire.grid.formats.keys import Keys, MeterKey
from gridwire.grid.ingest import ingest, quarantine_event, usage_point_of_meter

KEYS = Keys(default=MeterKey(frames.KEY, frames.AUTH_KEY))


@dataclass
class Stored:
    offset: int
    value: bytes
    headers: dict


class Hubs:
    """Hubs of one partition in memory; a send can fail before or after it was stored."""

    def __init__(self):
        self.log = defaultdict(list)
        self.fail = None  # (hub, "before" | "after")

    def ends(self, hub):
        return {0: len(self.log[hub])} if hub in self.log else {}

    def stored(self, hub, partition, offset):
        yield from list(self.log[hub][offset:])

    def send_events(self, hub, events):
        failing, when = self.fail or ("", "")
        if (hub, when) == (failing, "before"):
            raise ConnectionError
        for event in events:
            headers = {name: value.decode() for name, value in event.headers}
            self.log[hub].append(Stored(len(self.log[hub]), event.value, headers))
        if (hub, when) == (failing, "after"):
            raise ConnectionError


@pytest.fixture
def hubs(tmp_path):
    found = Hubs()
    for number in range(3):
        path = tmp_path / f"push{number}.hdlc"
        path.write_bytes(frames.hdlc(frames.gcm(frames.PUSH_LIST, counter=number + 1)))
        assert ingest("dlms", [path], found).quarantined == 1
    return found


def replay(hubs, keys=KEYS):
    return quarantine.replay(hubs, Context(keys=keys), usage_point_of_meter())


def test_what_cannot_be_read_stays_and_says_why(hubs):
    report = replay(hubs, Keys())
    assert (report.frames, report.replayed) == (3, 0)
    assert all("no key for system title" in reason for _, reason in report.still_bad)
    assert "readings" not in hubs.log


def test_a_key_makes_them_readable_once(hubs):
    assert (replay(hubs).replayed, len(hubs.log["readings"])) == (3, 6)
    again = replay(hubs)
    assert (again.replayed, again.already, len(hubs.log["readings"])) == (0, 3, 6)


@pytest.mark.parametrize("hub", ["readings", "quarantine.replays"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupted_anywhere_it_is_still_once(hubs, hub, when):
    hubs.fail = (hub, when)
    with pytest.raises(ConnectionError):
        replay(hubs)
    with suppress(ConnectionError):  # where everything had been stored before it failed, this one completes
        replay(hubs)
    hubs.fail = None
    replay(hubs)
    marks = [(event.headers["frame"], event.headers["frame_number"]) for event in hubs.log["readings"]]
    assert len(marks) == len(set(marks)) == 6
    assert replay(hubs).already == 3


def test_control_without_the_journal_there_would_be_doubles(hubs):
    replay(hubs)
    hubs.log["quarantine.replays"].clear()
    replay(hubs)
    assert len(hubs.log["readings"]) == 12


def test_pieces_are_put_together_and_preludes_decoded_first():
    hubs = Hubs()
    bad, _ = registry.get("nem12").decode(frames.NEM12.replace(b"E1,N1", b"X1,N1"))
    mended = BadFrame(bad.raw, bad.reason, bad.position, bad.prelude.replace(b"X1,N1", b"E1,N1"))
    half = len(mended.raw) // 2
    pieces = [
        BadFrame(mended.raw[:half], "r", 0, mended.prelude, more=True),
        BadFrame(mended.raw[half:], "r", half),
    ]
    hubs.send_events("quarantine", [quarantine_event(piece, "nem12", "f") for piece in pieces])
    (frame,) = quarantine.frames(hubs)
    assert (frame.raw, frame.prelude) == (mended.raw, mended.prelude)
    assert replay(hubs).readings == 47
    assert base64.b64decode(hubs.log["quarantine"][0].headers["prelude"]) == mended.prelude
    assert half < BAD_FRAME_BYTES_MAX
