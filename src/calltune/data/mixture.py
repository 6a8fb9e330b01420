"""Several sources in one YAML file, each with its form, columns, weight and number of rows.

    sources:
      - data: rows.jsonl
      - data: xlam.json.gz
        format: xlam
        weight: 0.5
        limit: 20000
      - tools: my_tools.py
        rows: 500
        results: 0.3

A weight is how often the training rows of a source are taken: 2 is twice, 0.5 a random half. It counts after the
split, so that no row can be in two parts, and never for valid and test rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calltune.data.forms import FORMS
from calltune.data.sources import Source, sources_of
from calltune.errors import InputError, Problem
from calltune.schema import Conversation
from calltune.settings import resolve, setting

YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class SourceSettings:
    """One source of a mixture: `data`, or `tools` that rows are made from."""

    data: str | None = setting("file, folder, hub data set or builtin:assistant", None)
    tools: str | None = setting("Python file or OpenAI tools JSON", None)
    requests: str | None = setting("YAML file with example requests for the tools", None)
    format: str | None = setting("the form of the rows; guessed if not given", None)
    columns: Mapping[str, str] = setting("columns of other names, as messages=dialog", {})
    weight: float = setting("how often the training rows are taken", 1.0, low=0, high=100)
    limit: int | None = setting("at most this many rows", None, low=1)
    rows: int = setting("how many rows to make from tools", 720, low=1)
    results: float = setting(
        "share of made rows with calls that go on with results and an answer", 0.0, low=0, high=1
    )

    @property
    def name(self) -> str:
        return str(self.data or self.tools)


def is_mixture(source: Any) -> bool:
    return isinstance(source, str | Path) and Path(source).suffix in YAML


def read_source_settings(items: Any, file: str, folder: Path) -> tuple[SourceSettings, ...]:
    """The `sources` of a YAML file; paths count from its folder. Raises InputError with all problems."""
    if not isinstance(items, list) or not items:
        problem = Problem("no_sources", "none" if not items else type(items).__name__, "a list", "/sources")
        raise InputError(
            f"{file} names no sources", problems=[problem], next_step="add `sources:` with `- data: FILE`"
        )
    found, problems = [], []
    for i, item in enumerate(items):
        path = f"/sources/{i}"
        if isinstance(item, str):
            item = {"data": item}
        if not isinstance(item, Mapping):
            problems.append(Problem("bad_source", str(item), "`data: FILE` or `tools: FILE.py`", path))
            continue
        try:
            one = resolve(SourceSettings, item, file, "prepare")
        except InputError as error:
            problems += [replace(problem, path=path + problem.path) for problem in error.problems]
            continue
        if bool(one.data) == bool(one.tools):
            problems.append(
                Problem("bad_source", "both data and tools" if one.data else "neither", "one of them", path)
            )
        if one.requests and not one.tools:
            problems.append(Problem("bad_source", "requests without tools", "tools", f"{path}/requests"))
        if one.format is not None and one.format not in FORMS:
            problems.append(Problem("wrong_value", one.format, f"one of {', '.join(FORMS)}", f"{path}/format"))
        found.append(_from_folder(one, folder))
    if problems:
        raise InputError(f"the sources in {file} are not right", problems=problems,
                         next_step="docs/data.md shows the file")  # fmt: skip
    return tuple(found)


def _from_folder(one: SourceSettings, folder: Path) -> SourceSettings:
    """Relative paths count from the YAML file's folder, where there is something of that name."""

    def place(name: str | None) -> str | None:
        return str(folder / name) if name and (folder / name).exists() else name

    return replace(one, data=place(one.data), tools=place(one.tools), requests=place(one.requests))


def parts_of(one: SourceSettings) -> dict[str, Source]:
    """The parts of a source of data, read as its settings say. Raises InputError."""
    how: dict[str, Any] = {"form": one.format, "columns": one.columns or None, "limit": one.limit}
    return {part: replace(source, **how) for part, source in sources_of(one.data).items()}


@dataclass
class Weighing:
    """Rows by their weight: whole copies, and of the rest of the weight a random share. Copies get ids of their own,
    as `row 7#2`."""

    seed: int = 0
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def take(self, rows: Sequence[Conversation], weight: float) -> list[Conversation]:
        whole, share = int(weight), weight - int(weight)
        extra = set(self.rng.sample(range(len(rows)), round(share * len(rows)))) if share else set()
        return [copy for i, row in enumerate(rows) for copy in _copies(row, whole + (i in extra))]


def _copies(row: Conversation, count: int) -> Iterable[Conversation]:
    return (row if i == 0 else replace(row, id=f"{row.id}#{i + 1}") for i in range(count))
