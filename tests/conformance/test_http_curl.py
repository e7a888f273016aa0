"""curl, as everybody's first client, against a hub that syncs before it answers."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"


@pytest.fixture
def hub(http_hub):
    return http_hub(durability="fsync")


def curl(*arguments, text=None):
    found = subprocess.run(
        ["curl", "-sS", "--max-time", "20", *arguments], input=text, capture_output=True, check=True, timeout=30
    )
    return found.stdout


def test_the_first_event(hub):
    url = hub.url + "/v1/hubs/readings/events"
    answer = json.loads(curl(url, "-H", "content-type: application/json", "-d", '{"meter":"m-0042","kw":3.2}'))
    assert answer == {"partition": 0, "offset": 0, "durable": True}
    page = json.loads(curl(url + "?partition=0"))
    assert page["events"][0]["value"] == {"meter": "m-0042", "kw": 3.2}


def test_without_a_content_type(hub):
    answer = json.loads(curl(hub.url + "/v1/hubs/r/events?key=k", "-d", "raw text"))
    page = json.loads(curl(f"{hub.url}/v1/hubs/r/events?partition={answer['partition']}"))
    [event] = page["events"]
    assert (event["key"], event["value"], event["headers"]) == ("k", "raw text", {})


def test_a_file_of_lines_with_expect_and_chunks_and_gzip(hub, tmp_path):
    lines = tmp_path / "lines.ndjson"
    lines.write_text("".join(f'{{"m":"meter-{number}","kw":{number}}}\n' for number in range(30_000)))
    url = hub.url + "/v1/hubs/r/events?key_field=m"
    kind = ("-H", "content-type: application/x-ndjson")
    plain = curl(url, *kind, "-H", "expect: 100-continue", "--data-binary", f"@{lines}")
    chunked = curl(url, *kind, "-H", "transfer-encoding: chunked", "-T", str(lines), "-X", "POST")
    subprocess.run(["gzip", "-k", str(lines)], check=True)
    packed = curl(url, *kind, "-H", "content-encoding: gzip", "--data-binary", f"@{lines}.gz")
    for answer in (plain, chunked, packed):
        assert json.loads(answer)["count"] == 30_000
    shown = json.loads(curl(hub.url + "/v1/hubs/r"))
    assert shown["events"] == 90_000


def test_cloudevents_modes(hub):
    url = hub.url + "/v1/hubs/r/events?partition=0"
    binary = (
        "-H",
        "ce-specversion: 1.0",
        "-H",
        "ce-id: 1",
        "-H",
        "ce-source: /meters",
        "-H",
        "ce-type: org.example.reading",
    )
    curl(url, *binary, "-H", "ce-subject: m-1", "-H", "content-type: application/json", "-d", '{"kw":1}')
    event = {"specversion": "1.0", "id": "2", "source": "/meters", "type": "org.example.reading", "subject": "m-1"}
    event["data"] = {"kw": 1}
    curl(url, "-H", "content-type: application/cloudevents+json", "-d", json.dumps(event))
    curl(url, "-H", "content-type: application/cloudevents-batch+json", "-d", json.dumps([event, event]))
    events = json.loads(curl(url))["events"]
    assert [one["headers"]["ce_id"] for one in events] == ["1", "2", "2", "2"]
    assert {one["key"] for one in events} == {"m-1"}
    assert {one["headers"]["content-type"] for one in events} == {"application/json"}
    assert [one["value"] for one in events] == [{"kw": 1}] * 4


def test_a_refusal_is_a_problem_and_a_status(hub, tmp_path):
    body = tmp_path / "large"
    body.write_bytes(b"x" * (33 * 2**20))
    for expect in ("expect: 100-continue", "expect:"):
        out = curl(hub.url + "/v1/hubs/r/events", "-H", expect, "-w", "\n%{http_code}", "--data-binary", f"@{body}")
        problem, status = out.rsplit(b"\n", 1)
        assert status == b"413"
        assert json.loads(problem)["title"] == "too large"


def test_administration(hub):
    made = curl(hub.url + "/v1/hubs", "-H", "content-type: application/json", "-d", '{"name":"r","partitions":2}')
    assert json.loads(made)["partitions"] == 2
    grown = curl(hub.url + "/v1/hubs/r", "-X", "PATCH", "-d", '{"partitions":3,"settings":{"retention_ms":86400000}}')
    assert (json.loads(grown)["partitions"], json.loads(grown)["settings"]["retention_ms"]) == (3, 86_400_000)
    reset = curl(hub.url + "/v1/groups/g/reset", "-d", '{"hub":"r","to":"latest"}')
    assert len(json.loads(reset)["partitions"]) == 3
    assert curl(hub.url + "/v1/hubs/r", "-X", "DELETE", "-w", "%{http_code}") == b"204"
    assert b"gridwire_hub_end_offset" in curl(hub.url + "/metrics")


def tail(url, *arguments):
    return subprocess.Popen(["curl", "-sSN", "--max-time", "30", *arguments, url], stdout=subprocess.PIPE, text=True)


def until(lines, pattern):
    for line in lines:
        if found := re.match(pattern, line):
            return found
    raise AssertionError(f"the stream ended without {pattern}")


def test_tail_and_resume(hub):
    hub.run(hub.broker.create_hub("r", 2))
    url = hub.url + "/v1/hubs/r/tail"
    with tail(url) as first:
        until(first.stdout, "retry: ")
        curl(hub.url + "/v1/hubs/r/events?partition=1", "-d", "one")
        last_id = until(first.stdout, r"id: (1:0.*)").group(1)
        assert json.loads(until(first.stdout, r"data: (.*)").group(1))["value"] == "one"
        first.terminate()
    for number in (0, 1):
        curl(f"{hub.url}/v1/hubs/r/events?partition={number}", "-d", "missed")
    with tail(url, "-H", f"last-event-id: {last_id}") as second:
        seen = [json.loads(until(second.stdout, r"data: (.*)").group(1)) for _ in range(2)]
        second.terminate()
    assert sorted((one["partition"], one["offset"], one["value"]) for one in seen) == [
        (0, 0, "missed"),
        (1, 1, "missed"),
    ]


def test_stop_ends_a_tail_as_a_whole_answer(hub):
    hub.run(hub.broker.create_hub("r", 1))
    with tail(hub.url + "/v1/hubs/r/tail") as following:
        until(following.stdout, "retry: ")
        started = time.monotonic()
        hub.stop()
        following.stdout.read()
        assert following.wait(10) == 0  # 18 would be a cut transfer
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("-H", "host: evil.example"), b"403"),
        (("-H", "host: evil.example", "-d", "x"), b"403"),
        (("-H", "origin: http://evil.example", "-d", "x"), b"403"),
        (("-H", "origin: null", "-d", "x"), b"403"),
        (("-H", "sec-fetch-site: cross-site", "-d", "x"), b"403"),
        (("-H", "host: localhost:8700", "-H", "origin: http://localhost:8700", "-d", "x"), b"200"),
        (("-d", "x"), b"200"),
    ],
)
def test_foreign_hosts_and_pages(hub, arguments, status):
    out = curl(hub.url + "/v1/hubs/r/events", "-o", "/dev/null", "-w", "%{http_code}", *arguments)
    assert out == (b"404" if status == b"200" and "-d" not in arguments else status)


def test_every_example_of_the_reference_works(hub, tmp_path):
    """Each `$ curl` of the reference page is run as it stands, against this hub; what it shows below must be there."""
    examples = re.findall(r"^\$ (curl .*?(?:\\\n.*?)*)\n((?:(?!\$ |```).*\n)*)", REFERENCE.read_text(), re.MULTILINE)
    assert len(examples) >= 8
    (tmp_path / "readings.ndjson").write_text(
        '{"usage_point":"LV1 Load 1","value":1}\n{"usage_point":"LV1 Load 2","value":2}\n'
    )
    for command, shown in examples:
        command = command.replace("http://127.0.0.1:8700", hub.url)
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode in (0, 28), (command, done.stderr)  # 28: a stream left after --max-time
        for line in shown.splitlines():
            for fragment in filter(None, (part.strip() for part in line.split("..."))):
                assert fragment in done.stdout, (command, done.stdout)
