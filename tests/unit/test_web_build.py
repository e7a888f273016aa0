"""The committed page: built from the committed sources, small, and with nothing foreign or inline in it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from gridwire.web import static_directory

ROOT = Path(__file__).parents[2]
UI = ROOT / "src/gridwire/web/ui"
GZIPPED_BYTES_MAX = 200_000
MENTIONED_HOSTS = {"www.w3.org", "svelte.dev"}
"""Names of XML namespaces, and of the pages Svelte's error messages point to: text, never asked."""


@pytest.fixture(scope="module")
def build_web() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_web", ROOT / "scripts/build_web.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path: Path) -> tuple[Path, Path]:
    """Sources and build, to be spoiled."""
    ignore = shutil.ignore_patterns("node_modules")
    shutil.copytree(UI, tmp_path / "ui", ignore=ignore)
    shutil.copytree(static_directory(), tmp_path / "static")
    return tmp_path / "ui", tmp_path / "static"


def sources() -> list[Path]:
    found = [*UI.glob("*.*"), *(UI / "src").rglob("*.*"), *(UI / "public").rglob("*.*")]
    return [path for path in found if path.suffix in (".svelte", ".ts", ".js", ".html", ".css")]


def test_the_build_is_of_the_sources(build_web: ModuleType) -> None:
    assert build_web.stale(UI, static_directory()) is None, "run python scripts/build_web.py and commit the result"


def test_what_is_installed_or_cached_is_no_source(build_web: ModuleType, copy: tuple[Path, Path]) -> None:
    ui, static = copy
    (ui / "node_modules/left").mkdir(parents=True)
    (ui / "node_modules/left/pad.js").write_text("x")
    assert build_web.stale(ui, static) is None


@pytest.mark.parametrize("spoil", ["changed", "added", "renamed"])
def test_changed_sources_are_found(build_web: ModuleType, copy: tuple[Path, Path], spoil: str) -> None:
    ui, static = copy
    main = ui / "src/main.ts"
    if spoil == "changed":
        main.write_bytes(main.read_bytes() + b"\n")
    elif spoil == "added":
        (ui / "src/more.ts").write_text("")
    else:
        main.rename(ui / "src/mane.ts")
    assert "sources have changed" in build_web.stale(ui, static)


@pytest.mark.parametrize("spoil", ["changed", "missing", "added"])
def test_an_edited_build_is_found(build_web: ModuleType, copy: tuple[Path, Path], spoil: str) -> None:
    ui, static = copy
    index = static / "index.html"
    if spoil == "changed":
        index.write_bytes(index.read_bytes() + b" ")
    elif spoil == "missing":
        index.unlink()
    else:
        (static / "extra.js").write_text("")
    assert "built files are not those" in build_web.stale(ui, static)


def test_line_endings_are_no_change(build_web: ModuleType, copy: tuple[Path, Path]) -> None:
    ui, static = copy
    main = ui / "src/main.ts"
    main.write_bytes(main.read_bytes().replace(b"\n", b"\r\n"))
    assert build_web.stale(ui, static) is None


def test_a_missing_manifest_is_found(build_web: ModuleType, copy: tuple[Path, Path]) -> None:
    ui, static = copy
    (static / "manifest.json").unlink()
    assert "no readable manifest" in build_web.stale(ui, static)


def test_the_page_is_small() -> None:
    size = sum(len(gzip.compress(path.read_bytes())) for path in static_directory().rglob("*") if path.is_file())
    assert size < GZIPPED_BYTES_MAX


def test_the_build_names_no_other_host() -> None:
    for path in static_directory().rglob("*"):
        if path.is_file() and path.name != "licenses.md":
            text = path.read_text(encoding="utf-8")
            assert set(re.findall(r"(?:https?:|wss?:|[\"'(=])//([a-z0-9.-]+\.[a-z]+)", text)) <= MENTIONED_HOSTS, path
            assert "sourceMappingURL" not in text


class Inline(HTMLParser):
    """Collects what a strict policy would block, and where scripts and styles come from."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "style" or (tag == "script" and not given.get("src")):
            self.wrong.append(tag)
        self.wrong += [name for name in given if name == "style" or name.startswith("on")]
        addresses = [given.get(name) or "./" for name in ("src", "href")]
        self.wrong += [address for address in addresses if not address.startswith("./")]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given.get("content") or ""


def test_the_document_has_a_policy_and_nothing_inline() -> None:
    parser = Inline()
    parser.feed((static_directory() / "index.html").read_text(encoding="utf-8"))
    assert parser.wrong == []
    assert "default-src 'self'" in parser.policy
    assert "unsafe" not in parser.policy


def test_the_sources_never_make_markup_of_data() -> None:
    markup = r"\{@html|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\sstyle=\""
    forbidden = re.compile(markup + r"|\beval\(|new Function")
    assert len(sources()) > 30
    assert [path.name for path in sources() if forbidden.search(path.read_text(encoding="utf-8"))] == []


def test_notices_of_bundled_code_travel_with_it() -> None:
    notices = (static_directory() / "licenses.md").read_text(encoding="utf-8")
    for name in ("svelte", "uplot"):
        assert f"## {name} - " in notices
    assert "copyright notice" in notices


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((UI / "package-lock.json").read_bytes())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if "integrity" not in package] == []
