"""Replaying a past range, and saved batches, with real workers and a real broker."""

from __future__ import annotations

import json
import threading
from functools import partial

import pytest

from gridwire.broker.local import LocalSource
from gridwire.core.errors import InvalidSetting
from gridwire.functions import saved
from gridwire.functions.replay import Range, replay

APP = """
import json, pathlib
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(events) -> list:
    mended = pathlib.Path(__file__).with_name("mended").exists()
    numbers = [json.loads(event.get_body()) for event in events]
    if 13 in numbers and not mended:
        raise ValueError("unlucky")
    return [str(number * 10) for number in numbers]
"""
BATCH_OF_4 = {"extensions": {"eventHubs": {"maxEventBatchSize": 4}}}


@pytest.fixture
def again(hub, write_app, tmp_path):
    """Replay function f of an app."""

    def run(begin="earliest", end="latest", code=APP, **options):
        directory = write_app(code, host=BATCH_OF_4)
        opener = partial(LocalSource, hub.directory)
        log, kept = (tmp_path / "log").open("ab"), options.pop("beneath", None)
        with saved.opened(directory, tmp_path / "blobs", log, beneath=kept) as (app, pool):
            function = saved.stream_of(app, "f")
            stop = options.pop("stop", threading.Event())
            return replay("app", function, opener, pool, Range.parse(begin, end), stop, **options)

    return run


@pytest.mark.parametrize("publish", [False, True])
def test_a_replay_covers_its_range_and_moves_nobody(hub, again, publish):
    hub.create("in", 2)
    for partition in range(2):
        hub.append("in", partition, *range(100, 110))
    before = hub.call(hub.broker.group_names())
    summary = again("3", "9", publish=publish)
    assert (summary.complete, summary.offsets, summary.passed, summary.events) == (True, 12, 12, 12)
    assert (summary.outputs, summary.dead_letters, summary.published) == ({"out": 12}, 0, publish)
    expected = sorted([number * 10 for number in range(103, 109)] * 2) if publish else []
    assert sorted(hub.json("out")) == expected
    assert hub.call(hub.broker.group_names()) == before
    assert hub.position("fn.app.f", "in") == 0


def test_a_range_in_time_takes_the_events_of_that_time(hub, again):
    hub.create("in", 1)
    for second in range(10):
        hub.append("in", 0, 100 + second, timestamp=1_700_000_000_000 + second * 1000)
    summary = again("2023-11-14T22:13:22Z", "2023-11-14T22:13:25+00:00", publish=True)  # seconds 2, 3 and 4
    assert (summary.complete, summary.events, summary.offsets) == (True, 3, 8), "nothing before the time is read"
    assert sorted(hub.json("out")) == [1020, 1030, 1040]


def test_failed_events_are_counted_and_not_published_as_dead_letters(hub, again):
    hub.create("in", 1)
    hub.append("in", 0, *range(10, 20))
    summary = again(publish=True)
    assert (summary.complete, summary.events, summary.dead_letters) == (True, 9, 1)
    assert summary.failures >= 3
    assert sorted(hub.json("out")) == [number * 10 for number in range(10, 20) if number != 13]
    assert hub.events("dlq.app.f") == []


BLOBS = """
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many")
@app.blob_input(arg_name="factor", path="settings/factor.txt", connection="C")
@app.blob_input(arg_name="before", path="sums/all.txt", connection="C")
@app.blob_output(arg_name="after", path="sums/all.txt", connection="C")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(events, factor: func.InputStream, before: str, after: func.Out[str]) -> list:
    total = int(before or 0) + int(factor.read()) * sum(int(event.get_body()) for event in events)
    after.set(str(total))
    return [str(total)]
"""


def test_a_replay_reads_the_blobs_of_the_app_and_writes_none(hub, again, tmp_path):
    kept = tmp_path / "kept"
    for name, text in (("settings/factor.txt", "10"), ("sums/all.txt", "5")):
        (kept / name).parent.mkdir(parents=True)
        (kept / name).write_text(text)
    hub.create("in", 1)
    hub.append("in", 0, *range(8))  # two batches of four
    assert again(code=BLOBS, publish=True, beneath=kept).complete
    assert hub.json("out") == [5 + 60, 5 + 280]
    assert (kept / "sums/all.txt").read_text() == "5"
    assert (tmp_path / "blobs/sums/all.txt").read_text() == "285"


def test_an_empty_range_ends_and_a_stop_is_not_called_complete(hub, again):
    hub.create("in", 1)
    assert again().complete
    hub.append("in", 0, 1, 2)
    assert again("7").offsets == 0
    stop = threading.Event()
    stop.set()
    summary = again(stop=stop)
    assert (summary.complete, summary.passed, summary.offsets) == (False, 0, 2)


def test_a_live_app_is_untouched_by_a_replay(hub, run_app, again, until):
    hub.create("in", 1)
    hub.append("in", 0, 1, 2, 3)
    running = run_app(APP, host=BATCH_OF_4)
    until(lambda: hub.position("fn.app.f", "in") == 3)
    assert again(publish=False).events == 3
    hub.append("in", 0, 4)
    until(lambda: hub.position("fn.app.f", "in") == 4)
    assert sorted(hub.json("out")) == [10, 20, 30, 40]
    assert running.error is None


def test_bounds_are_checked():
    assert Range.parse("5", "latest") == Range(first=5)
    assert Range.parse("1970-01-01T00:00:01", "2") == Range(first_ms=1000, end=2)
    for bounds in (("latest", "latest"), ("-1", "latest"), ("0", "earliest"), ("9" * 30, "latest"), ("x", "latest")):
        with pytest.raises(InvalidSetting, match="RFC 3339"):
            Range.parse(*bounds)


def test_a_failing_batch_is_saved_and_runs_again(hub, run_app, tmp_path, until, gridwire_cli):
    hub.create("in", 1)
    hub.append("in", 0, 11, 12, 13, 14)
    kept = tmp_path / "kept"
    run_app(APP, host=BATCH_OF_4, options={"save_failing": kept})
    until(lambda: hub.position("fn.app.f", "in") == 4)
    (file,) = kept.iterdir()  # the batch as it was, not its halves
    assert file.name == "f-in-0-0.batch"
    directory = tmp_path / "app"
    failed = saved.run(directory, file)
    assert failed.error == "ValueError: unlucky"
    told = gridwire_cli("fn", "run-batch", str(directory), str(file), check=False)
    assert (told.returncode, "function_app.py" in told.stderr) == (1, True)
    (directory / "mended").touch()
    result = saved.run(directory, file)
    assert (result.error, result.done) == ("", 4)
    assert [json.loads(value) for value in result.published[0].values] == [110, 120, 130, 140]
    told = gridwire_cli("fn", "run-batch", str(directory), str(file))
    assert told.stdout.splitlines()[:4] == ["out  110", "out  120", "out  130", "out  140"]


def test_what_is_no_saved_batch_is_said(hub, run_app, tmp_path, until):
    hub.create("in", 1)
    hub.append("in", 0, 13)
    run_app(APP, options={"save_failing": tmp_path / "kept"})
    until(lambda: hub.position("fn.app.f", "in") == 1)
    data = (tmp_path / "kept" / "f-in-0-0.batch").read_bytes()
    file = tmp_path / "bad.batch"
    for bad in (b"", b"x" * 100, data[:-2], data[:40], data[:8] + b"\xff" * 16 + data[24:]):
        file.write_bytes(bad)
        with pytest.raises(InvalidSetting, match="is not a saved batch"):
            saved.read(file)
    file.write_bytes(data)
    assert saved.read(file) == data[8:]
    with pytest.raises(InvalidSetting, match="no function 'g' reads a hub: there are f"):
        saved.run(tmp_path / "app", file, "g")


def test_the_command_line_replays(start_hub, write_app):
    hub = start_hub("--amqp-port", "off")
    hub.cli("hub", "create", "in", "--partitions", "1")
    hub.cli("send", "in", "1", "2", "3")
    directory = write_app(APP)
    done = hub.cli("fn", "replay", str(directory), "f", "--hub", hub.http, "--from", "1", "--json")
    summary = json.loads(done.stdout)
    assert (summary["events"], summary["outputs"], summary["published"]) == (2, {"out": 2}, False)
    failed = hub.cli("fn", "replay", str(directory), "g", "--hub", hub.http, check=False)
    assert "there are f" in failed.stderr


def test_events_given_by_hand(write_app, gridwire_cli):
    directory = write_app(APP)
    result = saved.invoke(directory, "f", [b"1", b"3"], b"k")
    assert (result.error, result.done, result.published[0].values) == ("", 2, [b"10", b"30"])
    told = gridwire_cli("fn", "invoke", str(directory), "f", "7")
    assert told.stdout.startswith("out  70\n1 events in ")
    failed = gridwire_cli("fn", "invoke", str(directory), "f", "13", check=False)
    assert (failed.returncode, "ValueError: unlucky" in failed.stderr) == (1, True)
    assert "at least one event" in gridwire_cli("fn", "invoke", str(directory), "f", check=False).stderr


def test_an_event_given_by_hand_has_its_key_and_an_empty_body(write_app):
    code = APP.replace("[json.loads(event.get_body()) for event in events]", "[]").replace(
        "return [str(number * 10) for number in numbers]",
        "return [repr((event.get_body(), event.partition_key, event.sequence_number)) for event in events]",
    )
    result = saved.invoke(write_app(code), "f", [b"a", b""], b"k")
    assert result.error == ""
    assert result.published[0].values == [b"(b'a', 'k', 0)", b"(b'', 'k', 1)"]
