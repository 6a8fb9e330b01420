"""The run folder: what training writes into it, and what everything after reads out of it (DESIGN).

`calltune.json` holds the template, format, hashes, versions, settings and results; the adapter's two files are
plain mlx-lm ones. The test rows that were held out lie beside them, so that `calltune eval RUN` finds them, and
the tools, where all rows share them, so that `calltune call RUN` offers them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from calltune._version import __version__
from calltune.checkpoints import FOLDER as CHECKPOINTS
from calltune.checkpoints import Checkpoint, drop_from, sweep, write_checkpoint
from calltune.data.copied import copied_parameters
from calltune.data.phrasing import content_key
from calltune.data.readers import load_conversations
from calltune.data.said import repeats_no_call, said_parameters
from calltune.engine.load import LoadedModel
from calltune.errors import InputError
from calltune.metrics import FILE as METRICS
from calltune.metrics import read_metrics
from calltune.platform.builtin import BUILTIN_MODELS
from calltune.platform.lock import check_unlocked, locked
from calltune.platform.machine import machine
from calltune.platform.paths import atomic_write, check_writable, disk_problem, sha256_file
from calltune.prepare import Prepared, examples_hash, row_hashes
from calltune.records import RUN_FILE, read_record
from calltune.schema import Conversation, Tool, read_tools
from calltune.settings import TrainSettings, to_dict
from calltune.template import Template
from calltune.tokenizer import TOKENIZER_FILES

VERSION = 1
LEARNT = ("copied", "said", "distinct")  # what all training rows have in common, to which replies then keep
ADAPTER_FILES = ("adapters.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class Run:
    """A finished run on disk. `record` is the content of its calltune.json."""

    folder: Path
    record: dict[str, Any]

    @property
    def base(self) -> str:
        """The plain folder of the base model, or its name where the folder is gone."""
        folder = str(self.record["model"]["folder"])
        return folder if Path(folder).is_dir() else str(self.record["model"]["name"])

    @property
    def template(self) -> Template:
        return Template(**self.record["template"])

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, in the order of the updates."""
        path = self.folder / METRICS
        return read_metrics(path) if path.exists() else []

    def tools(self) -> tuple[Tool, ...]:
        """The tools of the training rows, where all of them had the same; else none."""
        path = self.folder / "tools.json"
        return read_tools(path.read_text(encoding="utf-8")) if path.exists() else ()

    def test_rows(self) -> list[Conversation]:
        """The rows that were held out when the run was trained. Raises InputError when there are none."""
        path = self.folder / "test.jsonl"
        if not path.exists():
            raise InputError(f"the run {self.folder} held out no test rows",
                             next_step="give rows with --data FILE")  # fmt: skip
        return load_conversations(path)


def is_run(path: Path) -> bool:
    return (path / RUN_FILE).is_file()


def read_run(folder: Path) -> Run:
    """Raises InputError when the folder is not a run, or one that was not finished."""
    record = read_record(folder)
    if record["state"] != "finished":
        raise InputError(f"the run {folder} was not finished (state: {record['state']})",
                         next_step=f"go on with `calltune train --resume --out {folder}`")  # fmt: skip
    return Run(folder, record)


class RunWriter:
    """Writes one run. Nothing of an earlier run is touched before the new one's input has proved good."""

    def __init__(self, folder: Path, *, overwrite: bool, keep: int = 2) -> None:
        self.folder = folder.expanduser()
        self.overwrite, self.keep = overwrite, keep
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file", next_step="give another folder with --out")
        self.before = {} if overwrite else recorded(self.folder)
        self.record: dict[str, Any] = {}
        self.alive: Callable[[], None] = lambda: None
        check_writable(self.folder)
        check_unlocked(self.folder)
        for path in made:  # only now was it proved; input that is refused later leaves no folder behind
            path.rmdir()

    @contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[RunWriter]:
        """Hold the folder against other processes. What the disk refuses within is an InputError."""
        try:
            with locked(self.folder, say) as self.alive:
                self.before = {} if self.overwrite else recorded(self.folder)  # another process may have ended since
                sweep(self.folder)
                yield self
        except OSError as error:
            raise disk_problem(error, self.folder) from error

    def begin(self, prepared: Prepared, record: dict[str, Any]) -> None:
        """A new run; what is left of an earlier one goes, once it no longer passes for a finished one."""
        self.record = record
        self.write()
        for old in (*ADAPTER_FILES, METRICS, "test.jsonl", "tools.json"):
            (self.folder / old).unlink(missing_ok=True)
        for old in (CHECKPOINTS, "eval"):  # of the run before, which they would be taken for
            shutil.rmtree(self.folder / old, ignore_errors=True)
        parts = prepared.parts
        if parts.test:
            write_rows(self.folder / "test.jsonl", parts.test)
        if tools := shared_tools(parts.train):
            text = json.dumps([tool.to_openai() for tool in tools], ensure_ascii=False, indent=1)
            atomic_write(self.folder / "tools.json", text + "\n")

    def resume(self, prepared: Prepared, record: Mapping[str, Any], found: Checkpoint, changed: list[str]) -> None:
        """Go on with the run as it was at the checkpoint: reports of later updates go, as they will come again."""
        if changed:
            self._check_held_out(prepared)
        note = {"update": found.update, "time": now()} | ({"changed": changed} if changed else {})
        self.record = self.before | {"state": "training", "resumes": [*self.before.get("resumes", []), note]}
        if changed:
            keys = ("settings", "hashes", "row_hashes", "data", "template", "golden_prompt", *LEARNT)
            self.record |= {key: record[key] for key in keys}
        with (self.folder / METRICS).open("ab") as file:
            file.truncate(int(found.state["metrics_bytes"]))
            os.fsync(file.fileno())
        self.write()

    def _check_held_out(self, prepared: Prepared) -> None:
        """Raises InputError where rows that the run holds out for testing would be trained on."""
        path = self.folder / "test.jsonl"
        held_out = {content_key(row) for row in load_conversations(path)} if path.exists() else set()
        spoiled = held_out & {
            content_key(row) for part in (prepared.parts.train, prepared.parts.valid) for row in part
        }
        if spoiled:
            share = f"{len(spoiled)} of the {len(held_out)} rows"
            raise InputError(
                f"{share} that {self.folder} holds out for testing would be trained on",
                next_step="give the rows and the --seed of before, or --overwrite to begin anew",
            )

    def metrics(self, row: dict[str, Any]) -> None:
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def save(self, update: int, state: dict[str, Any], arrays: dict[str, Any]) -> None:
        """A checkpoint; what the metrics say so far is on the disk before it. Raises InputError: disk."""
        position = 0
        if (self.folder / METRICS).exists():
            with (self.folder / METRICS).open("ab") as file:
                os.fsync(file.fileno())
                position = file.tell()
        keys = ("settings", "hashes", "versions", "calltune")
        whole = state | {"metrics_bytes": position, "run": {key: self.record[key] for key in keys}}
        write_checkpoint(self.folder, update, whole, arrays, self.keep)
        self.alive()

    def drop_from(self, update: int) -> None:
        drop_from(self.folder, update)

    def finish(self, prepared: Prepared, summary: dict[str, Any]) -> Run:
        self.record |= {"state": "finished", "train": summary, "finished": now()}
        self.write()
        return Run(self.folder, self.record)

    def write(self) -> None:
        atomic_write(self.folder / RUN_FILE, json.dumps(self.record, indent=2, ensure_ascii=False) + "\n")


def recorded(folder: Path) -> dict[str, Any]:
    """The record of the run in the folder, finished or not; empty where there is none. Raises InputError for one
    that cannot be read."""
    return read_record(folder) if is_run(folder) else {}


def record_of(
    settings: TrainSettings, prepared: Prepared, loaded: LoadedModel, origin: Run | None = None
) -> dict[str, Any]:
    """What calltune.json says of a run that begins, with the adapter of `origin` where there is one."""
    parts, here = prepared.parts, machine()
    return {
        "version": VERSION, "calltune": __version__, "state": "training", "created": now(),
        "model": {"name": loaded.name, "folder": str(loaded.folder), "dtype": loaded.dtype},
        "template": prepared.template.to_dict(),
        "hashes": {"template": prepared.template.hash, "data": prepared.hash, "valid": examples_hash(prepared.valid),
                   "model": weights_hash(loaded.folder),
                   "origin": sha256_file(origin.folder / ADAPTER_FILES[0])[:16] if origin else "none",
                   } | tokenizer_hashes(loaded.folder),
        **({"init_from": str(origin.folder.absolute())} if origin else {}),
        "data": {"origin": parts.origin, "rows": {"train": len(parts.train), "valid": len(parts.valid),
                 "test": len(parts.test)}, **prepared.counts, "lengths": dict(prepared.lengths),
                 **({"manifest": dict(parts.manifest)} if parts.manifest else {})},
        "row_hashes": {"data": " ".join(row_hashes(prepared.train)), "valid": " ".join(row_hashes(prepared.valid))},
        "golden_prompt": list(prepared.golden_prompt), "copied": copied_parameters(parts.train),
        "said": said_parameters(parts.train), "distinct": repeats_no_call(parts.train),
        "settings": to_dict(settings) | places(settings), "machine": here.to_dict(), "versions": here.versions,
    }  # fmt: skip


def places(settings: TrainSettings) -> dict[str, str]:
    """The settings that name files or folders, from the root: a run can be taken up again from anywhere."""
    named = {name: getattr(settings, name) for name in ("model", "data", "tools", "requests", "template")}
    paths = {name: Path(value).expanduser().absolute() for name, value in named.items()
             if value and value not in BUILTIN_MODELS}  # fmt: skip
    return {name: str(path) for name, path in paths.items() if path.exists()}


def shared_tools(rows: Sequence[Conversation]) -> tuple[Tool, ...]:
    """The tools that every row offers; empty where rows differ."""
    first = rows[0].tools if rows else ()
    return first if all(row.tools == first for row in rows) else ()


def write_rows(path: Path, rows: Sequence[Conversation]) -> None:
    """Conversations as OpenAI rows, one a line, whole or not at all."""
    lines = [json.dumps(row.to_openai(), ensure_ascii=False) for row in rows]
    atomic_write(path, "\n".join(lines) + "\n")


def tokenizer_hashes(folder: Path) -> dict[str, str]:
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    return {"tokenizer": sha256_file(found[0])[:16]} if found else {}


def weights_hash(folder: Path) -> str:
    """Of the base's weights: names, sizes, and 64 blocks of each file, since gigabytes would take minutes."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for place in sorted({size * k // 64 for k in range(64)}):
                file.seek(place)
                digest.update(file.read(1 << 16))
    return digest.hexdigest()[:16]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
