"""Where rows come from: JSON, JSON Lines (also gzipped) and Parquet files, folders of parts, memory, the hub.

A source gives raw rows with their 1-based line, in order, as a stream; files are read in `files.py`, what a
row holds in `readers.py`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from calltune.data.arrow import dataset_rows, is_dataset, parquet_rows
from calltune.data.files import Row, file_texts, kind_of_file, memory_row, read_text
from calltune.errors import InputError, Problem
from calltune.schema import shorten

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
PARTS = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """A named stream of rows; `unread()` starts it anew. `name` is the FILE of `FILE:LINE`. The rest says how its
    rows are read: their form (None: guessed), columns of other names, and how many."""

    name: str
    items: Any
    form: str | None = None
    columns: Mapping[str, str] | None = None
    limit: int | None = None

    @property
    def is_text(self) -> bool:
        return isinstance(self.items, Path) and self.items.suffix != ".parquet"

    def unread(self) -> Iterator[tuple[int, Any]]:
        """The rows by their number as they stand there, up to the limit: texts, or values from elsewhere. What takes
        time is `read`, which another process may do. Raises InputError where a file cannot be read at all."""
        if isinstance(self.items, Path):
            rows = file_texts(self.items) if self.is_text else enumerate(parquet_rows(self.items), start=1)
        else:
            rows = enumerate(dataset_rows(self.items) if is_dataset(self.items) else self.items, start=1)
        return islice(rows, self.limit)

    def read(self, number: int, unread: Any) -> Row:
        return read_text(number, unread) if self.is_text else memory_row(number, unread)


def sources_of(source: Any) -> dict[str, Source]:
    """The parts (`train`, `valid`, `test`) of a source; a single file or list is the part `train`.

    `source` is a path to a file or a folder, a list of rows, a `datasets` object, a mapping of parts to
    any of the latter, or the name of a hub data set (`org/name`). Raises InputError.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return {"train": Source(path.name, _known(path))}
        if kind_of_file(path) not in SUFFIXES and isinstance(source, str) and HUB_NAME.fullmatch(source):
            return _hub(source)
        raise _missing(path)
    if isinstance(source, Mapping):
        return _parts(source, "memory")
    if not isinstance(source, Iterable):
        problem = Problem("bad_source", shorten(source), "a file, a folder, a list of rows or a hub data set")
        raise InputError("the data cannot be read", problems=[problem])
    return {"train": Source("memory", source)}


def _known(path: Path) -> Path:
    if kind_of_file(path) in SUFFIXES:
        return path
    problem = Problem(
        "unknown_file", str(path), f"a file that ends in {', '.join(SUFFIXES)} (the JSON kinds also with .gz)"
    )
    raise InputError(f"{path} is not a kind of file that is read here", problems=[problem])


def _missing(path: Path) -> InputError:
    near = (
        sorted(p.name for p in path.parent.iterdir() if kind_of_file(p) in SUFFIXES)[:8]
        if path.parent.is_dir()
        else []
    )
    step = f"files there: {', '.join(near)}" if near else "check the path"
    return InputError(f"there is no {path}", problems=[Problem("missing_file", str(path))], next_step=step)


def _folder(path: Path) -> dict[str, Source]:
    found: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        part = PARTS.get(file.name.split(".")[0])
        if part and kind_of_file(file) in SUFFIXES:
            found.setdefault(part, []).append(file)
    problems = [
        Problem("two_files_for_one_part", ", ".join(f.name for f in files), f"one file for {part}")
        for part, files in found.items()
        if len(files) > 1
    ]
    if "train" not in found and "test" not in found:
        problems.append(
            Problem("missing_file", f"{path} has no train.jsonl", "train, valid and test as .jsonl or .parquet")
        )
    if problems:
        raise InputError(f"the folder {path} cannot be read", problems=problems)
    return {part: Source(found[part][0].name, found[part][0]) for part in ("train", "valid", "test") if part in found}


def _parts(parts: Mapping[Any, Any], name: str) -> dict[str, Source]:
    unknown = [str(key) for key in parts if str(key) not in PARTS]
    if unknown or not parts:
        problem = Problem("unknown_part", ", ".join(unknown) or "nothing", f"parts named {', '.join(PARTS)}")
        raise InputError("the data cannot be read", problems=[problem])
    return {PARTS[str(key)]: Source(f"{name}/{PARTS[str(key)]}", rows) for key, rows in parts.items()}


def _hub(name: str) -> dict[str, Source]:
    """A hub data set through the optional package `datasets`."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        step = "pip install 'calltune[hub]', or give a file"
        raise InputError(
            f"{name} is no file here, and hub data sets need the package `datasets`", next_step=step
        ) from None
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:
        why = f"{type(error).__name__}: {shorten(str(error), 200)}"
        step = "check the name and the network, or download the rows and give the file"
        raise InputError(f"the hub data set {name} could not be fetched ({why})", next_step=step) from error
    if isinstance(loaded, Mapping):
        known = {key: rows for key, rows in loaded.items() if str(key) in PARTS}
        return {part: Source(name, s.items) for part, s in _parts(known or loaded, name).items()}
    return {"train": Source(name, loaded)}
