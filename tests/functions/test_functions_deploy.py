"""Apps deployed into a running hub, as a person uses them: the real process, the command line, the HTTP API."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

import gridwire
from api_document import by_name
from gridwire.auth.plain import parse_connection_string
from gridwire.functions import package
from gridwire.heads.http.functions import Functions
from gridwire.heads.http.routes import Call
from gridwire.wire.http.problems import Forbidden

pytestmark = pytest.mark.timeout(600)  # many processes start one after the other, on a machine that may be busy

APP = """
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def f(events) -> list:
    for event in events:
        print("took", event.get_body().decode())
        if event.get_body().startswith(b"bad"):
            raise ValueError("cannot take it")
    return [b"VERSION " + event.get_body() for event in events]

@app.route(route="hello", auth_level=func.AuthLevel.ANONYMOUS)
def hello(req: func.HttpRequest) -> str:
    return "hello"
"""


def metric(hub, name, **labels):
    with urllib.request.urlopen(f"{hub.http}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    found = [line for line in lines if line.startswith(f"{name}{{") and all(part in line for part in wanted)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def out(hub, partitions=1):
    pages = [hub.get(f"/v1/hubs/out/events?partition={number}&offset=0&limit=10000") for number in range(partitions)]
    return sorted(str(event["value"]) for page in pages for event in page["events"])


def send(hub, *values):
    for value in values:
        assert ask(hub.http, "POST", "/v1/hubs/in/events", data=value.encode(), kind="text/plain")[0] == 200


def app_of(hub, name="app"):
    return next(row for row in hub.get("/v1/functions")["apps"] if row["app"] == name)


@pytest.fixture
def hub(start_hub):
    started = start_hub("--amqp-port", "off")
    for name in ("in", "out"):
        body = json.dumps({"name": name, "partitions": 1}).encode()
        assert ask(started.http, "POST", "/v1/hubs", data=body, kind="application/json")[0] == 201
    return started


def answers_fit(hub):
    """What is said of the app is what the document of the API says."""
    known = by_name(hub.get("/v1/openapi.json"))
    with httpx.Client(base_url=hub.http, trust_env=False, timeout=60) as client:
        for name, path, body in (
            ("listApps", "/v1/functions", None), ("showApp", "/v1/functions/app", None),
            ("readLog", "/v1/functions/app/logs?lines=5", None), ("showAppKeys", "/v1/functions/app/keys", None),
            ("renewAppKey", "/v1/functions/app/keys", {"scope": "host"}),
            ("invokeFunction", "/v1/functions/app/functions/f/invoke", {"events": [1, {"base64": "YmFk"}]}),
            ("getApp", "/apps/app/api/hello", None),
        ):  # fmt: skip
            answer = client.request(known[name].method, path, json=body).raise_for_status()
            known[name].check(answer)


def test_an_app_from_its_first_version_to_its_end(hub, write_app, until):
    directory = write_app(APP.replace("VERSION", "one"))
    told = hub.cli("fn", "deploy", str(directory)).stdout
    assert "app version 1 is running" in told
    assert "function f reads hub in" in told
    send(hub, "a")
    until(lambda: out(hub) == ["one a"])
    url = app_of(hub)["url"]
    assert urllib.request.urlopen(f"{url}/api/hello", timeout=30).read() == b"hello"

    send(hub, "b", "bad")
    until(lambda: out(hub) == ["one a", "one b"])
    until(lambda: app_of(hub)["functions"][0]["letters_waiting"] == 1)
    until(lambda: app_of(hub)["functions"][0]["last_error"] == "ValueError: cannot take it")
    assert app_of(hub)["functions"][0]["counters"]["failures"] >= 1
    listed = hub.cli("fn", "list").stdout
    assert "running" in listed
    assert "reads hub in" in listed
    assert "took bad" in hub.cli("fn", "logs", "app").stdout
    assert "dead_letters" in hub.cli("fn", "show", "app").stdout

    until(lambda: metric(hub, "gridwire_function_dead_letters_total", app="app", function="f") == 1)
    assert metric(hub, "gridwire_function_app_up", app="app") == 1
    assert metric(hub, "gridwire_function_call_seconds_count", app="app", function="f") >= 2
    assert metric(hub, "gridwire_function_call_cpu_seconds_total", app="app", function="f") > 0
    assert metric(hub, "gridwire_function_flushes_total", app="app", function="f") >= 1
    assert metric(hub, "gridwire_function_invocations_total", app="app", function="f") >= 2

    answers_fit(hub)
    write_app(APP.replace("VERSION", "two").replace('b"bad"', 'b"worse"'))
    assert "version 2 is running" in hub.cli("fn", "deploy", str(directory)).stdout
    invoked = hub.cli("fn", "invoke", "app", "f", "tried", "{not json")
    assert invoked.stdout.startswith("out  two tried\nout  two {not json\n2 events in")
    failed = hub.cli("fn", "invoke", "app", "f", "worse", check=False)
    assert failed.returncode == 1
    assert "ValueError: cannot take it" in failed.stderr
    assert hub.cli("dlq", "replay", "app.f").stdout == "1 events given to app.f again\n"
    until(lambda: out(hub) == ["one a", "one b", "two bad"])
    path = "/v1/functions/app/functions/f/replay"
    assert ask(hub.http, "POST", path, data=b"{}") == (200, '{"replayed":0}')
    assert ask(hub.http, "POST", path, data=b'{"offset":0}') == (200, '{"replayed":1}')
    assert ask(hub.http, "POST", path, data=b'{"offset":9}')[0] == 404

    assert hub.cli("fn", "start", "app", "--version", "1").stdout == "app version 1 is running\n"
    send(hub, "b2")
    until(lambda: "one b2" in out(hub))
    assert [each["version"] for each in app_of(hub)["versions"]] == [2, 1]
    gone = hub.cli("fn", "start", "app", "--version", "5", check=False)
    assert (gone.returncode, "no version 5 any more: there are 2, 1" in gone.stderr) == (1, True)
    shown = hub.cli("fn", "show", "app").stdout
    assert "deployed" in shown
    hub.cli("fn", "start", "app", "--version", "2")

    hub.cli("fn", "stop", "app")
    until(lambda: app_of(hub)["state"] == "stopped")
    send(hub, "c")
    until(lambda: app_of(hub)["functions"][0]["lag_events"] == 1)
    assert hub.cli("fn", "start", "app").stdout == "app version 2 is running\n"
    until(lambda: "two c" in out(hub))
    hub.cli("fn", "remove", "app")
    until(lambda: not (hub.data / "functions" / "app" / "versions").exists())
    assert hub.get("/v1/functions") == {"apps": []}
    assert "no app 'app' is deployed" in hub.cli("fn", "logs", "app", check=False).stderr


def test_every_problem_is_told_and_nothing_is_deployed(hub, write_app):
    directory = write_app(
        APP
        + """
@app.blob_trigger(arg_name="b", path="x", connection="C")
def g(b):
    pass

@app.timer_trigger(arg_name="t", schedule="not a time")
def h(t):
    pass
"""
    )
    (directory / "requirements.txt").write_text(
        "azure-functions==1.2.3\nno-such-package>=2  # of nobody\nmsgspec>=999\norjson\nsilent; python_version < '3'\n"
    )
    done = hub.cli("fn", "deploy", str(directory), check=False)
    assert done.returncode == 1
    for part in ("package no-such-package is not installed", "package msgspec is there in version", "must be >=999",
                 "function g: trigger 'blobTrigger' is not supported", "function h:", "--venv PATH",
                 "pip install -r requirements.txt"):  # fmt: skip
        assert part in done.stderr
    assert "orjson" not in done.stderr
    assert "silent" not in done.stderr
    assert "azure-functions" not in done.stderr
    assert hub.get("/v1/functions") == {"apps": []}
    missing = hub.cli("fn", "deploy", str(directory), "--venv", "/nowhere", check=False)
    assert "no environment at /nowhere" in missing.stderr
    assert hub.cli("fn", "deploy", str(directory), "--name", "a.b", check=False).returncode == 1
    assert "APP.FUNCTION" in hub.cli("dlq", "show", "f", check=False).stderr
    assert "no dead letters of app.f: `gridwire dlq list`" in hub.cli("dlq", "show", "app.f", check=False).stderr


def test_hosts_that_were_not_deployed_are_seen_too(hub, write_app, until):
    from gridwire.broker.local import report_app

    report_app(hub.data, {"app": "mine", "workers": 1, "functions": [{"name": "f", "trigger": "eventHubTrigger"}]})
    row = app_of(hub, "mine")
    assert (row["deployed"], row["state"], row["workers"]) == (False, "running", 1)
    assert metric(hub, "gridwire_function_workers", app="mine") == 1
    assert "no app 'mine' is deployed" in hub.cli("fn", "stop", "mine", check=False).stderr
    report_app(hub.data, {"app": "mine", "ended": True})
    assert hub.get("/v1/functions") == {"apps": []}


def test_live_frames_and_wrong_requests(hub):
    def put(kind):
        request = urllib.request.Request(f"{hub.http}/v1/functions/app", b"PK", {"content-type": kind}, method="PUT")
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(request, timeout=60)
        return told.value.code, json.load(told.value)["detail"]

    assert put("text/plain")[0] == 415
    assert put("application/zip") == (400, "the package is not a sound zip file: File is not a zip file")
    with urllib.request.urlopen(f"{hub.http}/v1/live", timeout=30) as stream:
        line = next(line for line in stream if line.startswith(b"data:"))
    assert json.loads(line[5:])["functions"] == []


def ask(url, method, path, key="", data=None, kind="application/zip"):
    headers = {"content-type": kind}
    if key:
        headers["authorization"] = "Basic " + base64.b64encode(key.encode()).decode()
    request = urllib.request.Request(url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_deploying_takes_manage_and_the_hubs_own_machine(start_hub, write_app, until):
    hub = start_hub("--amqp-port", "off", "--auth")
    root = parse_connection_string((hub.data / "root.connection-string").read_text().strip())
    manager = f"{root.name}:{root.key}"
    body = json.dumps({"name": "reader", "rights": ["Listen"]}).encode()
    reader = "reader:" + json.loads(ask(hub.http, "POST", "/v1/policies", manager, body)[1])["primary_key"]
    data = package.pack(write_app(APP))
    assert ask(hub.http, "GET", "/v1/functions")[0] == 401
    assert ask(hub.http, "PUT", "/v1/functions/app", "", data)[0] == 401
    assert ask(hub.http, "PUT", "/v1/functions/app", reader, data)[0] == 403
    assert ask(hub.http, "GET", "/v1/functions", reader) == (200, '{"apps":[]}')
    status, told = ask(hub.http, "PUT", "/v1/functions/app", manager, data)
    assert (status, json.loads(told)["deployed_by"]) == (201, root.name)
    for method, path in (
        ("GET", "/logs"), ("POST", "/stop"), ("POST", "/start"), ("DELETE", ""), ("POST", "/functions/f/invoke"),
        ("POST", "/functions/f/replay"),
    ):  # fmt: skip
        assert ask(hub.http, method, f"/v1/functions/app{path}", reader, b"{}")[0] == 403
    assert ask(hub.http, "DELETE", "/v1/functions/app", manager)[0] == 204


@pytest.mark.parametrize(
    ("client", "here", "remote", "allowed"),
    [
        ("127.0.0.1", True, False, True), ("::1", True, False, True), ("::ffff:127.0.0.1", True, False, True),
        ("192.0.2.7", True, False, False), ("192.0.2.7", True, True, True),
        ("127.0.0.1", False, False, False), ("192.0.2.7", False, True, False),
    ],
)  # fmt: skip
def test_where_apps_are_taken_from(client, here, remote, allowed):
    functions = Functions(None, None, None, deploy_here=here, deploy_remote=remote)
    call = Call({"client": (client, 1), "headers": [(b"content-type", b"application/zip")]}, None, None, ("app",))
    if allowed:
        functions.check_deploy(call)
    else:
        with pytest.raises(Forbidden, match="whoever deploys runs code"):
            functions.check_deploy(call)


def test_a_hub_without_workers_says_so(start_hub, write_app, gridwire_cli):
    hub = start_hub("--amqp-port", "off", "--no-workers")
    told = hub.cli("fn", "deploy", str(write_app(APP)), check=False)
    assert told.returncode == 1
    assert "runs no workers" in told.stderr
    refused = gridwire_cli("up", "--data", str(hub.data.parent / "other"), "--deploy-remote", check=False)
    assert "--deploy-remote takes --auth" in refused.stderr


def test_an_environment_of_its_own(hub, write_app, until, tmp_path):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=120)
    directory = write_app("import only_there\n" + APP.replace("VERSION", "apart"))
    (directory / "requirements.txt").write_text("only-there==1.5\n")
    data = package.pack(directory)
    status, told = ask(hub.http, "PUT", f"/v1/functions/app?venv={quote(str(venv))}", data=data)
    assert (status, "has no gridwire" in told) == (400, True)
    [packages] = venv.glob("lib/python*/site-packages")
    shared = [sysconfig.get_path("purelib"), str(Path(gridwire.__file__).parents[1])]
    (packages / "shared.pth").write_text("\n".join(shared))
    (packages / "only_there.py").write_text("")
    (packages / "only_there-1.5.dist-info").mkdir()
    (packages / "only_there-1.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: only-there\nVersion: 1.5\n"
    )
    status, told = ask(hub.http, "PUT", "/v1/functions/app", data=data)
    assert (status, "No module named 'only_there'" in told, "only-there is not installed" in told) == (400, True, True)
    status, told = ask(hub.http, "PUT", f"/v1/functions/app?venv={quote(str(venv))}", data=data)
    assert (status, json.loads(told).get("venv")) == (201, str(venv))
    send(hub, "a")
    until(lambda: out(hub) == ["apart a"])
    tried = ask(hub.http, "POST", "/v1/functions/app/functions/f/invoke", data=b'{"events":[{"base64":"eA=="}]}')
    assert json.loads(tried[1])["outputs"] == [{"hub": "out", "key": None, "value": "apart x"}]


# -- HTTP functions through the hub ------------------------------------------------------------------------------------

DOORS = """
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)

@app.route(route="echo/{name}", methods=["POST", "GET"])
def echo(req: func.HttpRequest) -> func.HttpResponse:
    told = [req.route_params["name"], req.params.get("q", ""), req.get_body().decode(), req.headers.get("x-mine", "")]
    return func.HttpResponse("|".join(told), status_code=201, headers={"x-said": "yes", "connection": "x-said"})

@app.route(route="open", auth_level=func.AuthLevel.ANONYMOUS)
def open(req: func.HttpRequest) -> str:
    return req.headers["x-forwarded-for"] + req.headers["x-forwarded-prefix"]

@app.route(route="boss", auth_level=func.AuthLevel.ADMIN)
def boss(req: func.HttpRequest) -> str:
    return "boss"

@app.route(route="dies", auth_level=func.AuthLevel.ANONYMOUS)
def dies(req: func.HttpRequest) -> str:
    import os
    os._exit(1)

@app.event_grid_trigger(arg_name="event")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def grid(event: func.EventGridEvent) -> str:
    return event.subject
"""


def test_http_functions_answer_through_the_hub_for_those_who_have_a_key(hub, write_app, until):
    directory = write_app(DOORS)
    told = hub.cli("fn", "deploy", str(directory)).stdout
    assert f"http {hub.http}/apps/app, with a key" in told
    keys = json.loads(hub.cli("fn", "keys", "app", "-o", "json").stdout)
    assert keys["master"] in hub.cli("fn", "keys", "app").stdout
    before = keys["functions"]["echo"]["default"]
    keys = json.loads(hub.cli("fn", "keys", "app", "--renew", "echo", "-o", "json").stdout)
    own, master = keys["functions"]["echo"]["default"], keys["master"]
    assert hub.cli("fn", "keys", "app", "--renew", "nobody", check=False).returncode == 1

    def door(path, method="GET", data=None, **headers):
        request = urllib.request.Request(f"{hub.http}/apps/app/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), error.headers

    assert door("api/echo/a", "POST", b"", **{"x-functions-key": before})[0] == 401
    status, text, headers = door("api/echo/a%20b?q=1%262", "POST", b"body", **{"x-functions-key": own, "x-mine": "me"})
    assert (status, text) == (201, "a b|1&2|body|me")
    assert headers["x-said"] is None, "the app's Connection header names it"
    assert door(f"api/echo/a?code={own}")[0] == 201
    assert door("api/echo/a")[0] == 401
    assert door("api/echo/a?code=wrong")[0] == 401
    assert door("api/open", **{"x-forwarded-prefix": "/elsewhere"})[:2] == (200, "127.0.0.1/apps/app")
    assert door(f"api/boss?code={own}")[0] == 401
    assert door(f"api/boss?code={master}")[:2] == (200, "boss")
    for closed in ("metrics", "admin/host/status", f"admin/functions?code={master}"):
        assert door(closed)[0] == 404
    assert door("api/nothing")[0] == 404
    assert door("api/dies")[0] == 500
    assert door("api/open")[:2] == (200, "127.0.0.1/apps/app"), "another worker is there"

    webhook = f"runtime/webhooks/EventGrid?functionName=grid&code={keys['system']}"
    status, _, headers = door(webhook, "OPTIONS", **{"WebHook-Request-Origin": "grid.example"})
    assert (status, headers["webhook-allowed-origin"]) == (200, "grid.example")
    event = {"id": "1", "subject": "T1", "eventType": "e", "eventTime": "2026-01-01T00:00:00Z", "dataVersion": "1",
             "data": {}}  # fmt: skip
    assert door(webhook, "POST", json.dumps([event]).encode(), **{"content-type": "application/json"})[0] == 202
    until(lambda: out(hub) == ["T1"])

    hub.cli("fn", "deploy", str(directory))
    assert door(f"api/echo/a?code={own}")[0] == 201, "a new version has the same keys"
    hub.cli("fn", "stop", "app")
    until(lambda: app_of(hub)["state"] == "stopped")
    status, text, _ = door("api/open")
    assert status == 503
    assert "`gridwire fn start app` runs it" in text
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{hub.http}/apps/nobody/api/x", timeout=30)
    assert caught.value.code == 404
    caught.value.close()
