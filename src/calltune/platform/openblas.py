"""The package index's OpenBLAS (`scipy-openblas32`) made usable for MLX.

Its symbols carry the prefix `scipy_`, so that MLX, which looks for `cblas_sgemm`, does not see them. A copy
with the `scipy_cblas_*` names renamed is made once (0.2 s of work, 0.5 s to import lief) and cached by the
SHA-256 of the library that it was made from.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import util
from pathlib import Path

from calltune.errors import InputError
from calltune.platform.paths import atomic_write, cache_dir, sha256_file

PACKAGE = "scipy_openblas32"
PREFIX = "scipy_cblas_"
_MAKE = 1  # counts changes in how the copy is made; part of its name


class Unusable(Exception):
    """The copy could not be made here; the text says why. The caller tries the next library."""


def find_library() -> Path | None:
    """The installed package's library, without importing the package."""
    spec = util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted((Path(place) / "lib").glob("libscipy_openblas*.so*")):
            return path
    return None


@contextmanager
def renamed_copy(source: Path) -> Iterator[Path]:
    """Yield the copy of `source` with plain names, from the cache or made now. Raises Unusable.

    Where the cache cannot be written the copy lies in a private temporary folder (never at a name in a
    shared folder that somebody else could have put there) and goes when the block ends: a library that was
    loaded inside it stays in the process.
    """
    folder = cache_dir() / "blas"
    target = folder / f"openblas-{_digest(source, folder)[:32]}-{_MAKE}.so"
    if target.is_file():
        yield target
        return
    try:
        _make(source, target)
    except (OSError, InputError):
        with tempfile.TemporaryDirectory(prefix="calltune-blas-") as private:
            temporary = Path(private) / "openblas.so"
            try:
                _make(source, temporary)
            except (OSError, InputError) as error:
                raise Unusable(f"no place to write a copy: {error}") from None
            yield temporary
        return
    yield target


def _digest(source: Path, folder: Path) -> str:
    """SHA-256 of the library; remembered by size and time, as reading 25 MB at every start costs 35 ms."""
    stat = source.stat()
    key = [str(source), stat.st_size, stat.st_mtime_ns]
    memo = folder / f"source-{hashlib.sha256(str(source).encode()).hexdigest()[:16]}.json"
    try:
        seen = json.loads(memo.read_text())
        if seen["key"] == key:
            return str(seen["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = sha256_file(source)
    with suppress(InputError):  # a read-only cache only costs the time
        atomic_write(memo, json.dumps({"key": key, "sha256": digest}))
    return digest


def _make(source: Path, target: Path) -> None:
    """Write the renamed copy under a temporary name, prove it in another process, then rename it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(target.parent).free < 2 * source.stat().st_size:
        # lief does not report a full disk, and loading what it then leaves ends the process (SIGBUS)
        raise OSError(errno.ENOSPC, "no space left", str(target.parent))
    handle, name = tempfile.mkstemp(prefix=".openblas-", suffix=".so.tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        _rename_symbols(source, temporary)
        _prove(temporary)
        temporary.chmod(0o755)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _rename_symbols(source: Path, target: Path) -> None:
    try:
        import lief
    except ImportError:
        raise Unusable("lief is not installed (`pip install lief`)") from None
    library = lief.ELF.parse(str(source))
    if library is None:
        raise Unusable(f"{source} is not a library that lief can read")
    count = 0
    for symbol in library.dynamic_symbols:
        name = str(symbol.name)
        if name.startswith(PREFIX):
            symbol.name = name.removeprefix("scipy_")
            count += 1
    if not count:
        raise Unusable(f"{source} has no symbol that begins with {PREFIX}")
    library.write(str(target))


def _prove(path: Path) -> None:
    """A wrong library may end the process that loads it, so the first time that process is another one."""
    code = "import sys; from calltune.platform.blas import prove; sys.exit(prove(sys.argv[1]) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise Unusable(f"the renamed copy failed its test ({lines[-1] if lines else done.returncode})")
