"""Where calltune keeps things, and writing them whole or not at all (T10).

A file or folder is built under a temporary name beside its target, flushed to the disk and renamed, so
a kill, a full disk or a second process never leaves half of it under the real name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from calltune.errors import InputError

_BLOCK = 1 << 20


def cache_dir() -> Path:
    """The cache folder (not made here): `CALLTUNE_CACHE`, else the platform's own under `calltune/`."""
    named = os.environ.get("CALLTUNE_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "calltune"
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path there is invalid and is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "calltune"


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file as lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def disk_problem(error: OSError, place: Path | str | None = None) -> InputError:
    """An error of the file system in plain words, with what helps. `place`: what was being written."""
    where = str(place if place is not None else error.filename or "the disk")
    words = {
        errno.ENOSPC: ("no disk space left", "free some space, or choose another place"),
        errno.EDQUOT: ("the disk quota is used up", "free some space, or choose another place"),
        errno.EROFS: ("the file system is read-only", "choose a place that can be written"),
        errno.EACCES: ("no permission", "choose a folder that you may write, or change its permissions"),
        errno.EPERM: ("no permission", "choose a folder that you may write, or change its permissions"),
        errno.ENOENT: ("no such file or folder", "check the path"),
        errno.ENOTDIR: ("a part of the path is a file, not a folder", "check the path"),
        errno.EISDIR: ("it is a folder, not a file", "check the path"),
        errno.EEXIST: ("a file of that name is in the way", "remove it, or choose another name"),
        errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
        errno.EIO: ("the disk reports an error", "check the disk"),
    }
    known = words.get(error.errno or 0)
    what, step = known or (error.strerror or str(error), "check the path and the disk")
    if Path(where).is_relative_to(cache_dir()):
        step += "; CALLTUNE_CACHE=FOLDER moves the cache, `calltune cache clear` empties it"
    return InputError(f"{where}: {what}", next_step=step)


def check_writable(folder: Path, need_bytes: int = 0) -> None:
    """Make `folder` and prove that a file can be written there, with `need_bytes` free.

    Raises InputError: read-only, no permission, no space, a file in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise disk_problem(error, folder) from None
    if free < need_bytes:
        raise InputError(
            f"{folder}: no disk space: {need_bytes / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free",
            next_step="free some space, or choose another place (CALLTUNE_CACHE=FOLDER moves the cache)",
        )


def atomic_write(path: Path | str, data: bytes | str) -> Path:
    """Write a file whole or not at all; text is UTF-8. Raises InputError where the disk refuses."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
    return Path(path)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[IO[bytes]]:
    """Yield a file to write; it becomes `path` when the block ends without an error, else nothing is left of it.
    Raises InputError where the disk refuses; an error of the block passes through."""
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(_file_mode())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise disk_problem(error, path) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path | str) -> Iterator[Path]:
    """Yield an empty folder beside `target`; it becomes `target` when the block ends without an error.

    A `target` that is there already is replaced, and kept if the block fails. Raises InputError where
    the disk refuses; an error of the block passes through and leaves nothing behind.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        work.chmod(0o777 & ~_umask())
    except OSError as error:
        raise disk_problem(error, target) from None
    try:
        yield work
        _publish(work, target)
    except OSError as error:
        raise disk_problem(error, target) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(work: Path, target: Path) -> None:
    for path in sorted(work.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(work)
    old: Path | None = None
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        os.rename(target, old / "old")
    try:
        os.rename(work, target)
    except OSError:
        if old is not None:
            os.rename(old / "old", target)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a rename; file systems that cannot (some network mounts) are no reason to fail."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _file_mode() -> int:
    # mkstemp makes files for the owner only; a result that others may not read is a surprise.
    return 0o666 & ~_umask()
