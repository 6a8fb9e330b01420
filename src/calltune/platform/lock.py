"""One process a run: a file `.lock` in its folder, held by the system's own lock, which ends with the process.

The file tells who holds it. On file systems that processes of several machines share, where such locks may not reach,
one of another machine counts as held while it shows signs of life.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calltune.errors import InputError

NAME = ".lock"
ALIVE = 600.0  # seconds for which a lock of another machine counts after its last sign of life


def check_unlocked(folder: Path) -> None:
    """Raises InputError while another process holds the folder. Early word only: `locked` is what decides."""
    try:
        handle = os.open(folder / NAME, os.O_RDWR)
    except OSError:
        return
    try:
        if not _take(handle) or _alive_elsewhere(handle):
            raise _held(folder, handle)
    finally:
        os.close(handle)


def owner_of(folder: Path) -> dict[str, Any]:
    """Who holds the folder: `pid`, `host`, `since`; empty where nobody does."""
    try:
        handle = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return {}
    try:
        return _owner(handle) if not _take(handle) or _alive_elsewhere(handle) else {}
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the folder, which is made if need be and removed again if nothing came into it. Yields a function to call
    now and then as a sign of life. A lock that a dead process left is taken over, and that is said. Raises
    InputError with the holder's pid and the lock's age."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    handle = _open(folder, path, say)
    try:
        yield lambda: os.utime(handle)
    finally:
        path.unlink(missing_ok=True)  # before it is let go: who waits would get a file without a name
        os.close(handle)
        for place in made:
            try:
                place.rmdir()
            except OSError:
                break


def _open(folder: Path, path: Path, say: Callable[[str], None]) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _take(handle) or _alive_elsewhere(handle):
                raise _held(folder, handle)
            if _same_file(handle, path):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed it meanwhile
    if owner := _owner(handle):
        say(f"the lock of process {owner.get('pid')}, which is gone, is taken over (it was {_age(handle)} old)")
    os.ftruncate(handle, 0)
    os.pwrite(
        handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}).encode(), 0
    )
    return handle


def _take(handle: int) -> bool:
    """Whether the system's lock is ours now."""
    import fcntl  # POSIX, as everything that calltune runs on

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: only what the file tells is left
        return not _alive_here(_owner(handle))
    return True


def _alive_here(owner: dict[str, Any]) -> bool:
    if owner.get("host") != socket.gethostname() or owner.get("pid") == os.getpid():
        return False
    try:
        os.kill(int(owner["pid"]), 0)
    except PermissionError:
        return True
    except (OSError, KeyError, ValueError):
        return False
    return True


def _alive_elsewhere(handle: int) -> bool:
    owner = _owner(handle)
    return bool(owner) and owner.get("host") != socket.gethostname() and _seconds(handle) < ALIVE


def _owner(handle: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _seconds(handle: int) -> float:
    """Since the last sign of life."""
    return max(0.0, time.time() - os.fstat(handle).st_mtime)


def _age(handle: int) -> str:
    since = _owner(handle).get("since")
    seconds = max(0.0, time.time() - since) if isinstance(since, (int, float)) else _seconds(handle)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _held(folder: Path, handle: int) -> InputError:
    owner = _owner(handle)
    return InputError(
        f"{folder} is in use: process {owner.get('pid', 'unknown')} on {owner.get('host', 'this machine')} has been "
        f"training there for {_age(handle)}",
        next_step="wait for it or stop it, or give another folder with --out",
    )
