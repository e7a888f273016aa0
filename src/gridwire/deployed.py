"""Apps of functions that this hub runs: from their packages in the journal to processes of the supervisor.

    package --check--> journal --on_change--> reconcile --unpack--> data/functions/APP/versions/N --> supervisor

The journal says what is to run, everything else follows from it: a hub that starts anew unpacks and runs what was
deployed. A version is another command line, so the supervisor ends the old one, which finishes its batch, before it
starts the new one; a lock that all processes of a version hold makes that true even when hub or host are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

import gridwire
from gridwire.broker.deployments import DeploymentRecord, Deployments, check_app_name
from gridwire.broker.reports import AppReport
from gridwire.core.errors import GridwireError, InvalidApp, InvalidSetting, Unavailable, Unsupported
from gridwire.core.hubs import group_of
from gridwire.core.limits import MIB
from gridwire.functions import logs, package
from gridwire.functions.check import REQUIREMENTS, Checked
from gridwire.functions.keys import KEYS_FILE, Keys, UnknownKey
from gridwire.functions.trial import Outcome, Trial
from gridwire.supervisor import Command, Supervisor

CHECK_S: Final = 120.0
"""How long an app may take to be loaded for its check, and a function to be tried."""

CHECKS_MAX: Final = 2
"""Checks and trials at a time: each is a process or two."""

ANSWER_BYTES_MAX: Final = 8 * MIB
"""What a check or a trial may answer, and what it may print."""

WORKER: Final = "fn."
"""Before an app's name, the supervisor's name of its host."""

log = structlog.get_logger("gridwire.functions")


class DeployedApps:
    """See the module.

    Args:
        directory: of the hub. reports: what hosts tell of themselves. base: a worker's command, without its name.
        unable: why this hub runs no functions, or empty.
    """

    def __init__(
        self,
        directory: Path,
        deployments: Deployments,
        supervisor: Supervisor,
        *,
        reports: Callable[[], Mapping[str, AppReport]],
        base: Callable[[str], list[str]],
        unable: str,
    ) -> None:
        self._home = directory / "functions"
        self._deployments, self._supervisor = deployments, supervisor
        self._reports, self._base, self._unable = reports, base, unable
        self._unpacked: set[Path] = set()
        self._troubles: dict[str, str] = {}
        self._checks = asyncio.Semaphore(CHECKS_MAX)

    # -- what people ask for --------------------------------------------------------------------------------------

    async def deploy(self, app: str, data: bytes, *, by: str = "", venv: str = "", port: int = 0) -> dict[str, Any]:
        """Check a package and make it the newest version of an app; it is durable, and about to run, on return.

        Args:
            by: who asks. venv: directory of the environment its code is to run in. port: of its HTTP functions.

        Raises:
            InvalidApp: with all of its problems; nothing was deployed. InvalidName, MessageTooLarge, Unsupported.
        """
        check_app_name(app)
        if self._unable:
            raise Unsupported(self._unable)
        functions = await self._checked(app, data, venv)
        record = await self._deployments.deploy(app, data, functions, by=by, venv=venv, port=port)
        log.info("app deployed", app=app, version=record.version, bytes=record.bytes, by=by)
        return self._row(app, record, self._reports().get(app))

    def apps(self) -> list[dict[str, Any]]:
        """Every deployed app, and every other one whose host talks to this hub, by name."""
        records = self._deployments.all()
        reports = {app: each for app, each in self._reports().items() if app in records or not each.version}
        return [self._row(app, records.get(app), reports.get(app)) for app in sorted({*records, *reports})]

    def app(self, name: str) -> dict[str, Any]:
        """One of them. Raises UnknownApp."""
        found = next((row for row in self.apps() if row["app"] == name), None)
        return found if found is not None else self._row(name, self._deployments.get(name), None)

    async def set_running(self, app: str, running: bool, version: int | None = None) -> dict[str, Any]:
        """Stop an app at the next batch's end, or run it again, or another version of it. Raises UnknownApp."""
        if running and self._unable:
            raise Unsupported(self._unable)
        await self._deployments.set_running(app, running, version)
        return self.app(app)

    async def remove(self, app: str) -> None:
        """Stop an app and forget it; its hubs, positions and dead letters stay. Raises UnknownApp."""
        await self._deployments.remove(app)

    def logs(self, app: str, after: int | None, lines: int) -> logs.Tail:
        """The last lines of its log, or those after a position. Raises UnknownApp."""
        self._deployments.get(app)
        return logs.read(self._home / app / "log", after, lines)

    def address(self, app: str) -> str:
        """Where the HTTP functions of a deployed app answer on this machine. Raises UnknownApp, Unavailable."""
        report = self._reports().get(app)
        if report is not None and report.version and report.url:
            return report.url
        self._deployments.get(app)
        state = self.app(app)["state"]
        raise Unavailable(f"app {app!r} is {state}: `gridwire fn list` shows it, `gridwire fn start {app}` runs it")

    def keys(self, app: str) -> dict[str, Any]:
        """Keys of its HTTP functions, see `gridwire.functions.keys`. Raises UnknownApp, Unavailable."""
        return self._keys(app).as_dict()

    def renew_key(self, app: str, scope: str, name: str, function: str) -> dict[str, Any]:
        """Make one of them anew, and tell all; a host that runs goes by it at once.

        Raises:
            UnknownApp, Unavailable, InvalidSetting.
        """
        keys = self._keys(app)
        try:
            keys.renew(scope, name, function)
        except UnknownKey as error:
            raise InvalidSetting(str(error)) from None
        return keys.as_dict()

    def _keys(self, app: str) -> Keys:
        self._deployments.get(app)
        path = self._home / app / KEYS_FILE
        if not path.exists():
            raise Unavailable(f"app {app!r} has not run here yet, and so has no keys")
        return Keys(path)

    async def try_out(self, app: str, function: str, events: list[bytes], key: bytes | None) -> Outcome:
        """Give events to a function of the deployed version, apart from what runs.

        Raises:
            UnknownApp, InvalidSetting, InvalidApp.
        """
        record = self._deployments.get(app)
        directory = await self._present(app, record)
        trial = msgspec.json.encode(Trial(function, events, key))
        told = await self._ask(record.venv, "gridwire.functions.trial", directory, trial)
        outcome = msgspec.json.decode(told, type=Outcome)
        if outcome.refused:
            raise InvalidSetting(outcome.refused)
        return outcome

    # -- what runs ------------------------------------------------------------------------------------------------

    async def commands(self) -> dict[str, Command]:
        """A worker for each app that is to run; one that cannot be unpacked says why in its list."""
        found: dict[str, Command] = {}
        self._troubles = {}
        for app, record in self._deployments.all().items():
            if not record.running:
                continue
            if self._unable:
                self._troubles[app] = self._unable
                continue
            try:
                directory = await self._present(app, record)
            except GridwireError as error:
                self._troubles[app] = str(error)
                log.error("app cannot be run", app=app, version=record.version, reason=str(error))
                continue
            groups = [group_of(app, function["name"]) for function in record.functions if function["reads"]]
            argv = [*self._base("functions"), "--app", app, "--version", str(record.version), "--path", str(directory)]
            argv += ["--port", str(record.port), *(["--python", str(_python(record.venv))] if record.venv else [])]
            found[f"{WORKER}{app}"] = (groups, argv)
        return found

    async def tidy(self) -> None:
        """Remove the files of versions and apps that are no more. Only once nothing runs from them."""
        records = self._deployments.all()
        kept = {self._place(app, record) for app, record in records.items()}
        await asyncio.to_thread(self._tidy, kept, set(records))
        self._unpacked &= kept

    def _tidy(self, kept: set[Path], apps: set[str]) -> None:
        for versions in self._home.glob("*/versions"):
            for version in versions.iterdir():
                if version not in kept:
                    shutil.rmtree(version, ignore_errors=True)
            if versions.parent.name not in apps:  # timers and keys stay: whoever deploys it again goes on
                shutil.rmtree(versions, ignore_errors=True)
                shutil.rmtree(versions.parent / "log", ignore_errors=True)

    def _place(self, app: str, record: DeploymentRecord) -> Path:
        return self._home / app / "versions" / f"{record.version}-{record.package[:8]}"

    async def _present(self, app: str, record: DeploymentRecord) -> Path:
        """The directory of a version; made anew once by each hub, for what a crash left may not be whole."""
        directory = self._place(app, record)
        if directory not in self._unpacked:
            data = self._deployments.package(app, record)
            await asyncio.to_thread(_unpack_anew, data, directory)
            self._unpacked.add(directory)
        return directory

    def _row(self, app: str, record: DeploymentRecord | None, report: AppReport | None) -> dict[str, Any]:
        """An app as lists show it: what was deployed, what its process is doing, what its host tells."""
        told = {} if report is None else {each.name: msgspec.to_builtins(each) for each in report.functions}
        known = [] if record is None else record.functions
        blank = {"state": "stopped", "counters": {}, "buckets": [], "last_error": "", "last_error_ms": 0}
        state, reason = self._state(app, record, report)
        return {
            "app": app,
            "deployed": record is not None,
            "version": 0 if record is None else record.version,
            "versions": [] if record is None else [_shown(each) for each in record.versions],
            "state": state,
            "reason": reason,
            "deployed_ms": 0 if record is None else record.deployed_ms,
            "deployed_by": "" if record is None else record.deployed_by,
            "bytes": 0 if record is None else record.bytes,
            "venv": "" if record is None else record.venv,
            "url": "" if report is None else report.url,
            "workers": 0 if report is None else report.workers,
            "cpu_s": 0.0 if report is None else report.cpu_s,
            "restarts": self._worker(app).get("restarts", 0),
            "functions": [*told.values()] or [{**each, **blank} for each in known],
        }

    def _worker(self, app: str) -> Mapping[str, Any]:
        rows = (row for row in self._supervisor.describe() if row["name"] == f"{WORKER}{app}")
        return next(rows, {})

    def _state(self, app: str, record: DeploymentRecord | None, report: AppReport | None) -> tuple[str, str]:
        """State of an app, and why where it needs saying."""
        if record is None:
            return "running", ""
        if record.running and app in self._troubles:
            return "failed", self._troubles[app]
        worker = self._worker(app)
        if not record.running:
            return ("stopping", "") if worker else ("stopped", "")
        if worker.get("state") == "restarting":
            return "restarting", "its process ended; the log says why"
        current = report is not None and report.version == record.version
        return ("running" if current and worker.get("state") == "running" else "starting"), ""

    # -- processes that look at an app ----------------------------------------------------------------------------

    async def _checked(self, app: str, data: bytes, venv: str) -> list[dict[str, Any]]:
        """The functions of a package. Raises InvalidApp with every problem."""
        self._home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".check-", dir=self._home) as scratch:
            directory = Path(scratch) / "app"
            await asyncio.to_thread(package.unpack, data, directory)
            told = await self._ask(venv, "gridwire.functions.check", directory, b"")
        checked = msgspec.json.decode(told, type=Checked)
        if checked.gridwire != gridwire.__version__:
            ours = gridwire.__version__
            raise InvalidApp(f"the environment {venv} has gridwire {checked.gridwire or '?'}, and must have {ours}")
        if checked.problems:
            problems = [*checked.problems, *_advice(checked.problems, venv)]
            raise InvalidApp("\n  ".join([f"app {app} cannot run, nothing was deployed:", *problems]))
        return checked.functions

    async def _ask(self, venv: str, module: str, directory: Path, given: bytes) -> bytes:
        """Run a module over an app in its environment. Raises InvalidApp."""
        python = _python(venv)
        async with self._checks:
            try:
                process = await asyncio.create_subprocess_exec(
                    str(python), "-m", module, str(directory), stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip
            except OSError as error:
                raise InvalidApp(f"cannot run {python}: {error.strerror or error}") from None
            try:
                async with asyncio.timeout(CHECK_S):
                    out, errors = await _talk(process, given)
            except TimeoutError:
                raise InvalidApp(f"the app was not done within {CHECK_S:.0f} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if not out:
            last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2][:500]
            raise InvalidApp(_silent(venv, last))
        return out


def _shown(version: DeploymentRecord) -> dict[str, Any]:
    """One version in the row of its app."""
    names = ("version", "deployed_ms", "deployed_by", "bytes", "venv")
    return {name: getattr(version, name) for name in names}


async def _talk(process: asyncio.subprocess.Process, given: bytes) -> tuple[bytes, bytes]:
    """Give a process its input; returns what it prints, the ends of which are bounded. Raises InvalidApp."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(given)
        await process.stdin.drain()
    process.stdin.close()
    reading = _bounded(process.stdout, keep_end=False), _bounded(process.stderr, keep_end=True)
    out, errors = await asyncio.gather(*reading)
    if len(out) > ANSWER_BYTES_MAX:
        raise InvalidApp(f"the function hands out more than {ANSWER_BYTES_MAX:,} bytes")
    return out, errors


async def _bounded(stream: asyncio.StreamReader, *, keep_end: bool) -> bytes:
    """What comes, read to its end: the first, or the last, `ANSWER_BYTES_MAX` bytes of it, and one more."""
    found = bytearray()
    while chunk := await stream.read(64 * 1024):
        found += chunk
        if len(found) > ANSWER_BYTES_MAX + 1:
            found = found[-ANSWER_BYTES_MAX - 1 :] if keep_end else found[: ANSWER_BYTES_MAX + 1]
    return bytes(found)


def _unpack_anew(data: bytes, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    package.unpack(data, directory)


def _python(venv: str) -> Path:
    """The interpreter of an environment. Raises InvalidApp."""
    if not venv:
        return Path(sys.executable)
    python = Path(venv) / "bin" / "python"
    if not Path(venv).is_absolute() or not python.is_file():
        raise InvalidApp(f"the hub finds no environment at {venv}: give the absolute path of one on its machine")
    return python


def _silent(venv: str, last: str) -> str:
    if venv and "gridwire" in last:
        return f"the environment {venv} has no gridwire: {venv}/bin/pip install 'gridwire[functions]' ({last})"
    return f"the app ended the process that loads it: {last or 'without a word'}"


def _advice(problems: list[str], venv: str) -> list[str]:
    """What to do about packages that are missing."""
    if not any(problem.startswith(f"{REQUIREMENTS}: package") for problem in problems):
        return []
    return [
        f"install them where the app runs: {_python(venv)} -m pip install -r {REQUIREMENTS}; or take them along: "
        f"pip install --target .python_packages/lib/site-packages -r {REQUIREMENTS}"
        + ("" if venv else "; or run the app in an environment of its own, which has gridwire too: --venv PATH")
    ]


def why_unable(workers: bool, kafka: bool) -> str:
    """Why a hub cannot run functions, or nothing."""
    if not workers:
        return "this hub runs no workers (--no-workers), and so no functions: deploy to one that does"
    if importlib.util.find_spec("azure") is None or importlib.util.find_spec("azure.functions") is None:
        return "this hub cannot run functions: pip install 'gridwire[functions]' where it runs, and start it again"
    if kafka and importlib.util.find_spec("confluent_kafka") is None:
        return "this gateway cannot run functions: pip install 'gridwire[kafka]' where it runs, and start it again"
    return ""
