"""Pages of docs/howto that begin with nothing: every command as it stands there, and what it prints."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import guide
from gridwire.cli.up import event_hubs_text

DEADLINE_S = 120.0
TESTS = Path(__file__).parents[1]
PAGES = {
    "event-hubs.md": "e2e/test_up.py",
    "five-minutes.md": "e2e/test_five_minutes.py",
    "functions.md": "functions/test_functions_cli.py",
    "grafana.md": "e2e/test_tutorials.py",
    "moving-from-azure.md": "e2e/test_tutorials.py",
    "one-box-to-three-brokers.md": "deploy/test_guide.py",
    "outage-alerts.md": "e2e/test_tutorials.py",
    "service.md": "deploy/test_service.py",
    "train-and-score.md": "e2e/test_train_and_score.py",
    "transformer-health.md": "e2e/test_train_health.py",
}
"""Which file runs a page's commands."""

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is needed; `make test` installs it as root")


def test_every_page_with_commands_is_run() -> None:
    assert {page.name for page in guide.HOWTO.glob("*.md") if guide.commands(page.name)} == PAGES.keys()
    for page, file in PAGES.items():
        assert f'"{page}"' in (TESTS / file).read_text()


def begun(page: str, *steps: tuple[str, ...]) -> list[guide.Command]:
    """The commands of a page after those that install and start a hub, which must be these."""
    found = guide.commands(page)
    assert [tuple(each.text.split()) for each in found[: len(steps)]] == list(steps)
    return found[len(steps) :]


@pytest.mark.slow
def test_outage_alerts(start_hub: Callable[..., Any], tmp_path: Path) -> None:
    page = "outage-alerts.md"
    rest = begun(page, ("pip", "install", "gridwire"), ("gridwire", "up", "--data", "gridwire-data"))
    for name, text in guide.files(page).items():
        (tmp_path / name).write_text(text)
    hub = start_hub("--amqp-port", "off", data=tmp_path / "gridwire-data")
    shell = guide.Shell(tmp_path, hub.http)
    for command in rest:
        if command.text.startswith(("gridwire alert list", "gridwire tail")):
            guide.run_until_shown(shell, command)
        else:
            command.check(shell.run(command.text))
    views = re.findall(r"<http://127\.0\.0\.1:8700/#/(\w+)>", (guide.HOWTO / page).read_text())
    routes = (TESTS.parent / "src" / "gridwire" / "web" / "ui" / "src" / "routes.ts").read_text()
    assert views == ["alerts", "grid"]
    assert all(f'section: "{view}"' in routes for view in views)


@pytest.mark.slow
def test_moving_from_azure(start_hub: Callable[..., Any], tmp_path: Path) -> None:
    page = "moving-from-azure.md"
    install = ("pip", "install", "'gridwire[functions]'", "azure-eventhub")
    rest = begun(page, install, ("gridwire", "up", "--data", "gridwire-data", "--entities", "Config.json"))
    for name, text in guide.files(page).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "examples").symlink_to(TESTS.parent / "examples")
    hub = start_hub("--entities", str(tmp_path / "Config.json"), "--amqp-port", "0", data=tmp_path / "gridwire-data")
    amqp = hub.get("/v1/status")["endpoints"]["amqp"].removeprefix("amqp://")
    printed = "Endpoint=sb://{};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true;"
    assert event_hubs_text(f"amqp://{amqp}") == printed.format(amqp)
    assert printed.format("127.0.0.1:5672") in (guide.HOWTO / page).read_text()
    shell = guide.Shell(tmp_path, hub.http, {"127.0.0.1:5672": amqp})
    for command in rest:
        if command.text.startswith("gridwire fn list"):
            guide.run_until_shown(shell, command)
        else:
            command.check(shell.run(command.text))


def test_grafana(start_hub: Callable[..., Any], tmp_path: Path) -> None:
    hub = start_hub("--auth", "--no-workers", "--amqp-port", "off")
    root = (hub.data / "root.connection-string").read_text().strip()
    shell = guide.Shell(tmp_path, hub.http, environment={"GRIDWIRE_CONNECTION_STRING": root})
    open_hub = start_hub("--no-workers", "--amqp-port", "off", data=tmp_path / "open")
    open_hub.cli("send", "readings", "1")
    for command in guide.commands("grafana.md"):
        where = guide.Shell(tmp_path, open_hub.http) if command.heading == "What there is to see" else shell
        command.check(where.run(command.text))
