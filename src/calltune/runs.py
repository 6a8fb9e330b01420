"""The run folder: what training writes into it, and what everything after reads out of it (DESIGN).

`calltune.json` holds the template, format, hashes, versions, settings and results; the adapter's two files are
plain mlx-lm ones. The test rows that were held out lie beside them, so that `calltune eval RUN` finds them, and
the tools, where all rows share them, so that `calltune call RUN` offers them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from calltune._version import __version__
from calltune.data.readers import load_conversations
from calltune.engine.adapter import save_arrays
from calltune.engine.load import LoadedModel
from calltune.errors import InputError
from calltune.platform.machine import machine
from calltune.platform.paths import atomic_write, check_writable, disk_problem, sha256_file
from calltune.prepare import Prepared
from calltune.schema import Conversation, Tool, read_tools
from calltune.settings import TrainSettings, to_dict
from calltune.template import Template
from calltune.tokenizer import TOKENIZER_FILES

RUN_FILE = "calltune.json"
VERSION = 1
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
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

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
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is not a run: {RUN_FILE} cannot be read ({error})",
                         next_step="name a folder that `calltune train` wrote") from error  # fmt: skip
    if record.get("state") != "finished":
        raise InputError(f"the run {folder} was not finished (state: {record.get('state')})",
                         next_step="train it again with --overwrite")  # fmt: skip
    return Run(folder, record)


class RunWriter:
    """Writes one run. Nothing of an earlier run is touched before the new one's input has proved good."""

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self.folder = folder.expanduser()
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file", next_step="give another folder with --out")
        if is_run(self.folder) and not overwrite:
            raise InputError(f"there is a run in {self.folder} already",
                             next_step="give another folder with --out, or --overwrite to replace it")  # fmt: skip
        self.record: dict[str, Any] = {}
        check_writable(self.folder)
        for path in made:  # only now was it proved; input that is refused later leaves no folder behind
            path.rmdir()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            raise disk_problem(error, self.folder) from error

    def begin(self, settings: TrainSettings, prepared: Prepared, loaded: LoadedModel) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in (*ADAPTER_FILES, "metrics.jsonl", "test.jsonl", "tools.json"):
            (self.folder / old).unlink(missing_ok=True)
        for old in ("checkpoints", "eval"):  # of the run before, which they would be taken for
            shutil.rmtree(self.folder / old, ignore_errors=True)
        parts = prepared.parts
        here = machine()
        self.record = {
            "version": VERSION, "calltune": __version__, "state": "training", "created": now(),
            "model": {"name": loaded.name, "folder": str(loaded.folder), "dtype": loaded.dtype},
            "template": prepared.template.to_dict(),
            "hashes": {"template": prepared.template.hash, "data": prepared.hash} | tokenizer_hashes(loaded.folder),
            "data": {"origin": parts.origin, "rows": {"train": len(parts.train), "valid": len(parts.valid),
                     "test": len(parts.test)}, **prepared.counts, "lengths": dict(prepared.lengths),
                     **({"manifest": dict(parts.manifest)} if parts.manifest else {})},
            "golden_prompt": list(prepared.golden_prompt),
            "settings": to_dict(settings), "machine": here.to_dict(), "versions": here.versions,
        }  # fmt: skip
        self.write()
        if parts.test:
            write_rows(self.folder / "test.jsonl", parts.test)
        if tools := shared_tools(parts.train):
            text = json.dumps([tool.to_openai() for tool in tools], ensure_ascii=False, indent=1)
            atomic_write(self.folder / "tools.json", text + "\n")

    def metrics(self, row: dict[str, Any]) -> None:
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def save_step(self, update: int, arrays: dict[str, Any]) -> None:
        save_arrays(self.folder / "checkpoints" / f"step-{update:07d}", arrays)

    def finish(self, prepared: Prepared, summary: dict[str, Any]) -> Run:
        self.record |= {"state": "finished", "train": summary, "finished": now()}
        self.write()
        return Run(self.folder, self.record)

    def write(self) -> None:
        atomic_write(self.folder / RUN_FILE, json.dumps(self.record, indent=2, ensure_ascii=False) + "\n")


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


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
