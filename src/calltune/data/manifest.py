"""The record that lies beside prepared data: where every row came from, what was lost and why, and hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calltune._version import __version__
from calltune.data.mixture import SourceSettings
from calltune.data.pipeline import NAMES, Pipeline, PrepareSettings
from calltune.errors import InputError, Problem
from calltune.platform.paths import atomic_file, sha256_file
from calltune.schema import Conversation
from calltune.settings import to_dict

FILE = "manifest.json"
VERSION = 1


def write_rows(path: Path, rows: Iterable[Conversation]) -> str:
    """Rows in OpenAI's form, one a line, whole or not at all; returns the SHA-256. Raises InputError."""
    with atomic_file(path) as file:
        for row in rows:
            file.write(f"{json.dumps(row.to_openai(), ensure_ascii=False)}\n".encode())
    return sha256_file(path)


def manifest_of(
    pipeline: Pipeline,
    settings: PrepareSettings,
    sources: Sequence[SourceSettings],
    hashes: Mapping[str, str] | None = None,
    lengths: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that was counted. `hashes`: SHA-256 of each part's file."""
    parts = pipeline.parts()
    lost: dict[str, int] = {}
    for came in pipeline.came:
        for reason, count in came.lost.items():
            lost[reason] = lost.get(reason, 0) + count
    files = {name: {"rows": len(rows)} | ({"sha256": hashes[name]} if hashes and name in hashes else {})
             for name, rows in parts.items() if rows}  # fmt: skip
    return {
        "version": VERSION,
        "calltune": __version__,
        "parts": files,
        "sources": [came.to_dict() for came in pipeline.came],
        "lost": lost,
        "categories": categories(parts["train"]),
        "held_out_tools": list(pipeline.split.held_out),
        "train_before_changes": pipeline.weighed,
        "changes": dict(pipeline.changes),
        "leaks": dict(pipeline.leaks),
        "findings": [problem.to_dict() for problem in pipeline.set_problems],
        "lengths": dict(lengths or {}),
        "settings": to_dict(settings) | {"sources": [to_dict(source) for source in sources]},
    }


def categories(rows: Iterable[Conversation]) -> dict[str, int]:
    """Training rows by what is to be learnt: one call, several, none, or calls over several turns."""
    counts: dict[str, int] = {}
    for row in rows:
        turns = [len(m.calls) for m in row.messages if m.role == "assistant"]
        calling = [n for n in turns if n]
        kind = "no call" if not calling else "several turns" if len(calling) > 1 else (
            "one call" if calling[0] == 1 else "several calls")  # fmt: skip
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items()))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder of prepared data, None where there is none or another program's. Raises InputError
    where a file is not the one that it was made with."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not {"calltune", "version"} <= manifest.keys():
            return None  # another tool's file, as web pages and exporters have them
        hashes = {name: part["sha256"] for name, part in manifest["parts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = Problem("bad_manifest", f"{path}: {type(error).__name__}", "what `calltune prepare` wrote")
        raise InputError(f"{path} cannot be read", problems=[problem], next_step="prepare the data again") from None
    changed = [
        f"{name}.jsonl" for name in NAMES if name in hashes and not _is(folder / f"{name}.jsonl", hashes[name])
    ]
    if changed:
        problem = Problem("changed_file", ", ".join(changed), "the files that the manifest was written for")
        raise InputError(f"{folder} was changed since it was prepared", problems=[problem],
                         next_step=f"prepare it again, or remove {path} to train without its record")  # fmt: skip
    return manifest


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest
