"""Where a run starts: anew, at a checkpoint, or not at all because it is finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune.checkpoints import Checkpoint, Damaged, folder_of, newest, read_checkpoint, remove
from calltune.engine import ranks
from calltune.errors import CalltuneError, InputError
from calltune.prepare import Prepared
from calltune.progress import Progress
from calltune.resuming import check_same, row_changes, told
from calltune.runs import Run, RunWriter
from calltune.settings import TrainSettings

ANEW, FINISHED, REFUSED = -1, -2, -3


@dataclass(frozen=True)
class Start:
    """A checkpoint to go on from. `changed`: differences that were forced, in words; `reset`: the parts of the data
    (train, valid) that are others now."""

    checkpoint: Checkpoint
    changed: list[str]
    reset: frozenset[str] = frozenset()


def check_asked(settings: TrainSettings, writer: RunWriter) -> None:
    """Raises InputError where `--resume` cannot be meant."""
    if settings.resume and settings.overwrite:
        raise InputError("--resume goes on with a run and --overwrite replaces it", next_step="leave one of them out")
    if settings.resume and not writer.before and not ranks.rank():
        raise InputError(f"there is no run in {writer.folder} to go on with",
                         next_step="check --out, or leave --resume out to begin one")  # fmt: skip


def find_start(
    writer: RunWriter, folder: Path, now: Mapping[str, Any], prepared: Prepared, force: bool, progress: Progress
) -> Run | Start | None:
    """The finished run that is asked for again, the checkpoint to go on from, or None to begin anew; all processes
    agree on the first one's finding. Raises InputError: another run, or another one's differences."""
    if ranks.rank():
        return _as_told(folder, now)
    try:
        found = _find(writer, now, prepared, force, progress)
    except CalltuneError:
        ranks.tell(REFUSED)
        raise
    ranks.tell(ANEW if found is None else FINISHED if isinstance(found, Run) else found.checkpoint.update)
    return found


def _find(
    writer: RunWriter, now: Mapping[str, Any], prepared: Prepared, force: bool, progress: Progress
) -> Run | Start | None:
    before = writer.before
    if not before:
        return None
    rows = row_changes(before.get("row_hashes", {}), {"data": prepared.train, "valid": prepared.valid})
    if before["state"] == "finished" and not _goes_on(before, now, force):
        check_same(before, now, force, writer.folder, rows, finished=True)
        progress.say(f"the run in {writer.folder} is finished; there is nothing to do (--overwrite trains it anew)")
        return Run(writer.folder, before)
    found, damaged = newest(writer.folder, progress.say)
    if found is None:
        progress.say(f"the run in {writer.folder} was stopped before its first checkpoint: it begins anew")
        return None
    run = found.state["run"]
    differing = check_same(run, now, force, writer.folder, rows)
    for place in damaged:
        remove(place)
    for name in ("calltune", "mlx"):
        old, new = ({"calltune": r["calltune"]} | r["versions"] for r in (run, now))
        if old.get(name) != new.get(name):
            progress.say(
                f"{name} was {old.get(name)} and is {new.get(name)}: what follows may differ in the last bits"
            )
    changed = told(differing)
    for words in changed:
        progress.say(f"changed by --force: {words}")
    progress.say(f"going on after update {found.update} ({found.folder})")
    paths = {problem.path for problem in differing}
    reset = {part for part, path in (("train", "/data"), ("valid", "/valid")) if path in paths}
    return Start(found, changed, frozenset(reset))


def _goes_on(before: Mapping[str, Any], now: Mapping[str, Any], force: bool) -> bool:
    """Whether a finished run is to be trained further: with --force and more updates than before."""
    old, new = before["settings"], now["settings"]
    if not force:
        return False
    if new["iters"] is not None:
        return bool(new["iters"] > before.get("train", {}).get("updates", 0))
    return old.get("iters") is not None or new["epochs"] > old.get("epochs", 0)


def _as_told(folder: Path, now: Mapping[str, Any]) -> Run | Start | None:
    """What the first process found. Raises InputError where it was refused there."""
    update = ranks.tell(0)
    if update == ANEW:
        return None
    if update == FINISHED:
        return Run(folder, dict(now))
    try:
        if update == REFUSED:
            raise Damaged("the first process refused")
        return Start(read_checkpoint(folder_of(folder.expanduser(), update)), [])
    except Damaged as reason:
        raise InputError(f"the run in {folder} cannot go on: {reason}") from None
