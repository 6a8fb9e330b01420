"""Checkpoints of a run: folders that appear whole, are verified when they are read, and are pruned by a rule.

checkpoints/step-0000040/state.json              counters, metrics' position, what decided the run, checksums
                         adapters.safetensors    the trained weights
                         optimizer.safetensors   moments and steps
                         best.safetensors        the weights that were best so far, where there are any
                         trunk.safetensors       states of the frozen layers that are still needed, where they are few
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune.engine.adapter import save_arrays
from calltune.engine.state import read_arrays, write_arrays
from calltune.errors import InputError
from calltune.platform.paths import atomic_folder, atomic_write, sha256_file

FOLDER = "checkpoints"
STATE = "state.json"
VERSION = 1
PARTS = ("adapters", "optimizer", "best", "trunk")
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """What a run was after `update`: its counters and, by the names in PARTS, its arrays."""

    folder: Path
    update: int
    state: dict[str, Any]
    arrays: dict[str, Arrays]


class Damaged(Exception):
    """A checkpoint that is not what was written, and why."""


def write_checkpoint(run: Path, update: int, state: Mapping[str, Any], arrays: Mapping[str, Arrays],
                     keep: int) -> Path:  # fmt: skip
    """Write one, whole or not at all, then remove all but the newest `keep`. Raises InputError where the disk
    refuses, CannotFinish for weights that are not finite; the ones before stay then."""
    target = folder_of(run, update)
    with atomic_folder(target) as work:
        files = {}
        for name in PARTS:
            if not (part := arrays.get(name)):
                continue
            files[name] = save_arrays(work, part) if name == "adapters" else write_arrays(work / _file(name), part)
        document = {"version": VERSION, "update": update, "files": files, "state": dict(state)}
        atomic_write(work / STATE, json.dumps(document | {"sha256": _sum(document)}) + "\n")
    prune(run, keep)
    return target


def newest(run: Path, say: Callable[[str], None]) -> tuple[Checkpoint | None, list[Path]]:
    """The newest one that is whole, and the folders of damaged ones that are newer; each of those is said.
    Raises InputError where there are some and all are damaged."""
    damaged: list[Path] = []
    places = list(reversed(folders(run)))
    for place in places:
        try:
            return read_checkpoint(place), damaged
        except Damaged as reason:
            damaged.append(place)
            say(f"the checkpoint {place} is damaged ({reason}); going back to the one before it")
    if places:
        raise InputError(f"every checkpoint of {run} is damaged", next_step="train anew with --overwrite")
    return None, damaged


def read_checkpoint(folder: Path) -> Checkpoint:
    """Raises Damaged unless every file is the one that was written."""
    try:
        document = _document(folder)
        given = document.pop("sha256")
        if given != _sum(document):
            raise Damaged(f"{STATE}: the checksum differs")
        if document["version"] != VERSION:
            raise Damaged(f"{STATE}: of version {document['version']}, which this calltune does not read")
        for name, digest in document["files"].items():
            if sha256_file(folder / _file(name)) != digest:
                raise Damaged(f"{_file(name)}: the checksum differs")
        arrays = {name: read_arrays(folder / _file(name)) for name in document["files"]}
        return Checkpoint(folder, int(document["update"]), dict(document["state"]), arrays)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        at = error.filename if isinstance(error, OSError) else None
        raise Damaged(f"{Path(at).name}: {error.strerror}" if at else str(error)) from error


def _document(folder: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(f"{STATE}: {error}") from error
    return document


def folders(run: Path) -> list[Path]:
    """The folders of a run's checkpoints, the oldest first."""
    return sorted((run / FOLDER).glob("step-[0-9]*"))


def folder_of(run: Path, update: int) -> Path:
    return run / FOLDER / f"step-{update:07d}"


def prune(run: Path, keep: int) -> None:
    """The rule: the newest `keep` stay."""
    for old in folders(run)[:-keep]:
        remove(old)


def drop_from(run: Path, update: int) -> None:
    """Remove the checkpoints of this update and of later ones: their weights proved to be broken."""
    for place in folders(run):
        if int(place.name.partition("-")[2]) >= update:
            remove(place)


def sweep(run: Path) -> None:
    """Remove what a killed process had begun to write. To be called by who holds the run's lock."""
    for place in (run, run / FOLDER):
        for left in [*place.glob(".*.tmp"), *place.glob(".*.old")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """First under another name, so that no half of it passes for a checkpoint."""
    gone = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _file(name: str) -> str:
    return f"{name}.safetensors"


def _sum(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
