"""Packages of apps: what goes in, what must not come out, and logs, reports and deployments apart from a hub."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridwire.broker import deployments as kept
from gridwire.broker.control import ControlState
from gridwire.broker.deployments import Deployments
from gridwire.broker.reports import STALE_S, Reports
from gridwire.core.clock import ManualClock, SystemClock
from gridwire.core.errors import InvalidApp, InvalidName, MessageTooLarge, Unavailable, UnknownApp
from gridwire.functions import logs, package


def zipped(*members, mode=None, **options):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (mode or stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return target.getvalue()


def test_a_package_has_the_apps_files_and_is_the_same_every_time(tmp_path):
    app = tmp_path / "app"
    for name in ("function_app.py", "lib/deep/one.py", ".venv/bin/x", "__pycache__/a.pyc", "data/big.bin", "notes.txt",
                 ".git/config", "local.settings.json"):  # fmt: skip
        path = app / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (app / ".funcignore").write_text("# large\ndata/*\n*.txt\n")
    data = package.pack(app)
    package.unpack(data, tmp_path / "out")
    found = sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    assert found == [".funcignore", "function_app.py", "lib/deep/one.py", "local.settings.json"]
    assert (tmp_path / "out/lib/deep/one.py").read_text() == "lib/deep/one.py"
    os.utime(app / "function_app.py", (1, 1))
    assert package.pack(app) == data


def test_links_are_refused_when_packed(tmp_path):
    (tmp_path / "function_app.py").write_text("")
    (tmp_path / "secret").symlink_to("/etc/passwd")
    (tmp_path / "away").symlink_to("/tmp")
    with pytest.raises(InvalidApp, match=r"(?s)away is a symbolic link.*secret is a symbolic link"):
        package.pack(tmp_path)


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/../../evil", "a//b", "./a", "C:/evil", "a\\b", "x/" * 40 + "y", "n" * 300, "a/./b"]
)
def test_no_name_leads_out_of_the_directory(tmp_path, name):
    with pytest.raises(InvalidApp):
        package.unpack(zipped(("function_app.py", b""), (name, b"evil")), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK])
def test_only_plain_files_come_out(tmp_path, mode):
    with pytest.raises(InvalidApp, match="no plain file"):
        package.unpack(zipped(("link", b"/etc/passwd"), mode=mode), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_bombs_and_nonsense_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "UNPACKED_BYTES_MAX", 1_000_000)
    with pytest.raises(MessageTooLarge):
        package.unpack(zipped(("zeros", bytes(1_000_001))), tmp_path / "out")
    monkeypatch.setattr(package, "FILES_MAX", 10)
    with pytest.raises(MessageTooLarge):
        package.unpack(zipped(*((f"f{n}", b"") for n in range(11))), tmp_path / "out")
    with pytest.raises(InvalidApp, match="two files of one name"):
        package.unpack(zipped(("a.py", b"1"), ("A.py", b"2")), tmp_path / "out")
    whole = zipped(("a.py", b"x" * 5000), ("b.py", os.urandom(3000)))
    for damaged in (
        b"",
        b"PK",
        whole[:-30],
        whole[: len(whole) // 2],
        whole.replace(whole[40:60], bytes(20)),
        whole[5:],
    ):
        with pytest.raises((InvalidApp, MessageTooLarge)):
            package.unpack(damaged, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []
    lying = bytearray(whole)
    at = lying.rindex(b"PK\x01\x02")
    lying[at + 24 : at + 28] = (5).to_bytes(4, "little")  # claims five bytes
    with pytest.raises(InvalidApp):
        package.unpack(bytes(lying), tmp_path / "out")


def test_a_member_without_a_name_is_refused(tmp_path):
    nameless = zipped(("x", b"import os\n")).replace(b"x", b"\0")
    with pytest.raises(InvalidApp):
        package.unpack(nameless, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_open_member_must_be_a_directory_of_a_file(tmp_path):
    with pytest.raises(InvalidApp):
        package.unpack(zipped(("a", b"file"), ("a/b", b"below a file")), tmp_path / "out")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6), st.integers(0, 400))
def test_whatever_comes_is_unpacked_or_refused(flips, cut):
    data = bytearray(zipped(("function_app.py", b"import os\n" * 20), ("lib/a.py", b"x" * 50), ("b.bin", b"\0" * 900)))
    for at, value in flips:
        data[at % len(data)] = value
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        try:
            package.unpack(bytes(data[: len(data) - cut] if cut < 100 else data), out)
        except (InvalidApp, MessageTooLarge):
            assert list(Path(scratch).iterdir()) == []
        else:
            assert list(Path(scratch).iterdir()) == [out]


# -- logs -----------------------------------------------------------------------------------------------------------


def test_logs_are_bounded_and_read_on_from_a_position(tmp_path):
    files = logs.LogFiles(tmp_path, file_bytes=1000)
    assert logs.read(tmp_path, None, 10) == logs.Tail([], 0)
    for number in range(10):
        files.write(b"line %d\n" % number)
    page = logs.read(tmp_path, None, 3)
    assert page.lines == ["line 7", "line 8", "line 9"]
    files.write(b"more\nhalf")
    page = logs.read(tmp_path, page.next, 10)
    assert page.lines == ["more"]
    files.write(b" a line\n")
    page = logs.read(tmp_path, page.next, 10)
    assert page.lines == ["half a line"]
    assert logs.read(tmp_path, page.next, 10).lines == []
    for number in range(100):
        files.write(b"filling line number %03d\n" % number)
    assert len(list(tmp_path.iterdir())) == 2
    found, at = [], page.next
    while (page := logs.read(tmp_path, at, 7)).lines:
        assert page.skipped == 0 or not found
        found += page.lines
        at = page.next
    assert found[-1] == "filling line number 099"
    assert found == [f"filling line number {number:03}" for number in range(100 - len(found), 100)]
    files.close()
    again = logs.LogFiles(tmp_path, file_bytes=1000)
    again.write(b"after a restart\n")
    again.close()
    assert logs.read(tmp_path, at, 10).lines == ["after a restart"]


def test_lines_are_stamped_and_cut():
    at = datetime(2026, 11, 26, 17, 0, 0, 123000, UTC)
    assert logs.stamped([b"one\r", b""], at) == b"2026-11-26T17:00:00.123Z one\n2026-11-26T17:00:00.123Z \n"
    assert logs.stamped([b"x" * (logs.LINE_BYTES_MAX + 1)], at).count(b"\n") == 2


# -- reports and deployments -------------------------------------------------------------------------------------------


def test_reports_go_when_their_host_does():
    now = [0.0]
    reports = Reports(lambda: now[0])
    reports.take({"app": "a", "workers": 2})
    reports.take({"app": "b"})
    reports.take({"app": "b", "ended": True})
    assert list(reports.fresh()) == ["a"]
    now[0] = STALE_S + 1
    assert reports.fresh() == {}
    with pytest.raises(ValueError, match="Expected"):
        reports.take({"app": "a", "workers": "many"})


class Store:
    """A journal that is a dictionary; may refuse after some changes."""

    def __init__(self):
        self.state = ControlState()
        self.left = -1

    async def change(self, changes):
        if self.left == 0:
            raise Unavailable("no more")
        self.left -= 1
        self.state.apply(changes)

    async def update(self, decide):
        changes = decide()
        if changes:
            await self.change(changes)
        return bool(changes)

    def kept(self, prefix):
        return self.state.under(prefix)


async def deploy_twice(store):
    deployments = Deployments(store, SystemClock())
    data = os.urandom(3 * kept.PIECE_BYTES + 5)
    first = await deployments.deploy("app", data, [{"name": "f"}], by="me")
    assert (first.version, first.pieces, deployments.package("app", first)) == (1, 4, data)
    store.left = 2
    with pytest.raises(Unavailable):
        await deployments.deploy("app", os.urandom(2 * kept.PIECE_BYTES + 1), [])
    store.left = -1
    assert deployments.get("app") == first
    assert deployments.package("app", first) == data
    second = await deployments.deploy("app", b"small", [])
    assert second.version == 2
    assert {key.split("/")[1] for key, _ in store.kept("functionpackage/")} == {first.package, second.package}
    assert not (await deployments.set_running("app", False)).running
    third = await deployments.deploy("app", b"small", [])
    assert (third.version, third.running, deployments.package("app", third)) == (3, True, b"small")
    assert [each.version for each in third.versions] == [3, 2, 1]
    back = await deployments.set_running("app", True, 1)
    assert (back.version, back.running, deployments.package("app", back)) == (1, True, data)
    assert [each.version for each in back.versions] == [3, 2, 1]
    with pytest.raises(UnknownApp, match="no version 7 any more: there are 3, 2, 1"):
        await deployments.set_running("app", True, 7)
    for number in range(4, 9):
        await deployments.deploy("app", b"code %d" % number, [])
    last = deployments.get("app")
    assert [each.version for each in last.versions] == [8, 7, 6, 5, 4]
    assert len(list(store.kept("functionpackage/"))) == 5
    await deployments.remove("app")
    assert store.state.entries == {}
    with pytest.raises(UnknownApp):
        await deployments.remove("app")
    for name in ("a.b", "", "a/b", "x" * 81):
        with pytest.raises(InvalidName):
            await deployments.deploy(name, b"x", [])


def test_deployments_replace_each_other_whole_or_not_at_all():
    asyncio.run(deploy_twice(Store()))


def test_there_is_an_end_to_packages(monkeypatch):
    monkeypatch.setattr(kept, "PACKAGES_BYTES_MAX", 100)
    monkeypatch.setattr(kept, "APPS_MAX", 2)

    async def scenario():
        deployments = Deployments(Store(), SystemClock())
        await deployments.deploy("a", bytes(60), [])
        await deployments.deploy("a", bytes(61), [])
        with pytest.raises(MessageTooLarge, match="packages of all apps"):
            await deployments.deploy("b", bytes(40), [])
        await deployments.deploy("b", bytes(10), [])
        with pytest.raises(MessageTooLarge, match="at most 2 apps"):
            await deployments.deploy("c", b"", [])

    asyncio.run(scenario())


def test_versions_that_do_not_run_make_room(monkeypatch):
    monkeypatch.setattr(kept, "PACKAGES_BYTES_MAX", 100)
    clock = ManualClock(1_000)

    async def scenario():
        store = Store()
        deployments = Deployments(store, clock)

        async def deploy(app, size):
            clock.advance(1.0)
            return await deployments.deploy(app, os.urandom(size), [])

        await deploy("a", 30)
        await deploy("b", 20)
        await deploy("a", 31)
        assert [each.version for each in deployments.get("a").versions] == [2, 1]
        await deploy("b", 25)
        assert [each.version for each in deployments.get("a").versions] == [2], "the oldest that does not run"
        assert [each.version for each in deployments.get("b").versions] == [2, 1]
        await deploy("b", 69)
        assert [each.version for each in deployments.get("b").versions] == [3]
        assert len(list(store.kept("functionpackage/"))) == 2
        assert len(deployments.package("b", deployments.get("b"))) == 69

    asyncio.run(scenario())


def test_the_journals_snapshot_comes_in_batches_of_some_size():
    state = ControlState()
    state.apply({f"functionpackage/a/x/{n}": bytes(500_000) for n in range(30)})
    batches = list(state.snapshot(0))
    assert max(map(len, batches)) < 5_000_000
    assert len(batches) == 4
