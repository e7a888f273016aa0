"""An app as one file: a zip of its directory, packed by the command line, unpacked by the hub.

Whoever may deploy may run code, so a package is not what keeps anybody out; but a package must never write outside its
directory, fill the disk or the memory. Nothing of `zipfile`'s own extraction is used: names are checked, members that
are no plain files refused, and sizes counted as bytes come, not as the archive claims them.
"""

from __future__ import annotations

import fnmatch
import io
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from gridwire.core.errors import InvalidApp, InvalidSetting, MessageTooLarge
from gridwire.core.limits import KIB, MIB
from gridwire.log import disk

PACKAGE_BYTES_MAX: Final = 16 * MIB
"""One package: it lies in the hub's memory. Code is kilobytes; packages that come along may be megabytes."""

UNPACKED_BYTES_MAX: Final = 128 * MIB
"""Its files together: a deployment must not fill the disk."""

FILES_MAX: Final = 5_000
"""Files of a package: each costs an inode and a sync of its directory."""

PATH_CHARS_MAX: Final = 240
DEPTH_MAX: Final = 32

IGNORE_FILE: Final = ".funcignore"
"""Patterns of what stays behind, one a line, as with Azure's tools: gitignore's, without exceptions (`!`)."""

IGNORED: Final = (
    ".git", ".venv", "venv", "env", "node_modules", "__pycache__", ".vscode", ".idea", ".gridwire", ".pytest_cache",
    ".mypy_cache", ".ruff_cache", "*.pyc", ".DS_Store",
)  # fmt: skip
"""What never belongs to an app."""

_CHUNK: Final = 64 * KIB
_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""Of every member: the same files make the same package."""


def pack(directory: Path) -> bytes:
    """The package of an app's directory. Raises InvalidApp with everything that cannot go along, MessageTooLarge."""
    files, problems = [], []
    for path in _files(directory):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            problems.append(f"{name} is a symbolic link: put the file itself there, or name it in {IGNORE_FILE}")
        elif not path.is_file():
            problems.append(f"{name} is not a plain file")
        else:
            files.append((name, path))
    if problems:
        raise InvalidApp("\n  ".join([f"the app in {directory} cannot be packed:", *problems]))
    if len(files) > FILES_MAX:
        raise MessageTooLarge(f"{directory} has {len(files):,} files, above {FILES_MAX:,}: name some in {IGNORE_FILE}")
    unpacked = sum(path.stat().st_size for _, path in files)
    if unpacked > UNPACKED_BYTES_MAX:
        raise MessageTooLarge(
            f"{directory} holds {unpacked:,} bytes, above {UNPACKED_BYTES_MAX:,}: name large files in {IGNORE_FILE}"
        )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files:
            member = zipfile.ZipInfo(name, _TIME)
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED)
    data = target.getvalue()
    if len(data) > PACKAGE_BYTES_MAX:
        raise MessageTooLarge(
            f"the package of {directory} is {len(data):,} bytes, above {PACKAGE_BYTES_MAX:,}: name large files in "
            f"{IGNORE_FILE}, or install packages in an environment and deploy with --venv"
        )
    return data


def _files(directory: Path) -> Iterator[Path]:
    """What belongs to an app, in the order of names; links and devices among them, for the caller to refuse."""
    patterns = [*IGNORED, *_patterns(directory)]
    for root, directories, files in os.walk(directory):
        here = Path(root)
        linked = [name for name in directories if (here / name).is_symlink()]
        kept = (n for n in directories if n not in linked and not _ignored(here / n, directory, patterns))
        directories[:] = sorted(kept)
        for name in sorted([*files, *linked]):
            if not _ignored(here / name, directory, patterns):
                yield here / name


def _patterns(directory: Path) -> list[str]:
    try:
        text = (directory / IGNORE_FILE).read_text()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"cannot read {directory / IGNORE_FILE}: {error}") from None
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "!"))]


def _ignored(path: Path, directory: Path, patterns: list[str]) -> bool:
    name = path.relative_to(directory).as_posix()
    for pattern in patterns:
        if pattern.endswith("/") and not path.is_dir():
            continue
        bare = pattern.strip("/")
        if fnmatch.fnmatchcase(name if "/" in pattern.rstrip("/") else path.name, bare):
            return True
    return False


def unpack(package: bytes, directory: Path) -> None:
    """Write the files of a package into a directory that is not there yet: all of them, or nothing.

    Raises:
        InvalidApp: it is no zip, or has members that no app has. MessageTooLarge: it is, or becomes, too large.
        StorageFailed.
    """
    if len(package) > PACKAGE_BYTES_MAX:
        raise MessageTooLarge(f"a package is at most {PACKAGE_BYTES_MAX:,} bytes, not {len(package):,}")
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        with zipfile.ZipFile(io.BytesIO(package)) as archive:
            _write(archive, unfinished)
        unfinished.replace(directory)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error) as error:
        raise InvalidApp(f"the package is not a sound zip file: {error}") from None
    except (FileExistsError, NotADirectoryError):
        raise InvalidApp("the package has a file below a file") from None
    except OSError as error:
        raise disk.storage_error(error, "unpacking an app") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(archive: zipfile.ZipFile, root: Path) -> None:
    members = [member for member in archive.infolist() if not member.filename.endswith("/")]
    if len(members) > FILES_MAX:
        raise MessageTooLarge(f"a package has at most {FILES_MAX:,} files, not {len(members):,}")
    for member in members:
        _check_member(member)
    names = [member.filename for member in members]
    if len({name.casefold() for name in names}) != len(names):
        raise InvalidApp("the package has two files of one name")
    left = UNPACKED_BYTES_MAX
    for member in members:
        target = root.joinpath(*PurePosixPath(member.filename).parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("xb") as file:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise MessageTooLarge(f"a package unpacks to at most {UNPACKED_BYTES_MAX:,} bytes")
                file.write(chunk)


def _check_member(member: zipfile.ZipInfo) -> None:
    """Raises InvalidApp: a name that leads elsewhere, a link, a device, an encrypted file."""
    name = member.filename
    parts = name.split("/")
    shown = name[:80]
    if "\\" in name or "\0" in name or ":" in parts[0] or name != member.orig_filename:
        raise InvalidApp(f"the package has a file with the name {shown!r}")
    if any(part in ("", ".", "..") for part in parts) or len(name) > PATH_CHARS_MAX or len(parts) > DEPTH_MAX:
        raise InvalidApp(f"the package has a file outside of its directory, or too deep in it: {shown!r}")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise InvalidApp(f"the package has a member that is no plain file: {shown!r}")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidApp(f"the package has a file that is neither stored nor deflated: {shown!r}")
    if member.flag_bits & 0x1:
        raise InvalidApp(f"the package has an encrypted file: {shown!r}")
