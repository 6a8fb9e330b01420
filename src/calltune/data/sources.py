"""Where rows come from: JSON, JSON Lines (also gzipped) and Parquet files, folders of parts, memory, the hub.

A source gives raw rows with their 1-based line, in order, as a stream; what a line holds is read in
`readers.py`.
"""

from __future__ import annotations

import gzip
import importlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from calltune.data.arrow import dataset_rows, is_dataset, parquet_rows
from calltune.errors import InputError, Problem
from calltune.formats.literals import read_json
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
class Row:
    """One row as it stands in its source: the value, or the problem that kept it from being read."""

    line: int
    value: Any = None
    problem: Problem | None = None


@dataclass(frozen=True)
class Source:
    """A named stream of rows; `rows()` starts it anew. `name` is the FILE of `FILE:LINE`."""

    name: str
    items: Any

    def rows(self) -> Iterator[Row]:
        if isinstance(self.items, Path):
            if self.items.suffix != ".parquet":
                return _file_rows(self.items)
            items = parquet_rows(self.items)
        else:
            items = dataset_rows(self.items) if is_dataset(self.items) else self.items
        return (Row(i, item) for i, item in enumerate(items, start=1))


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
        if _kind(path) not in SUFFIXES and isinstance(source, str) and HUB_NAME.fullmatch(source):
            return _hub(source)
        raise _missing(path)
    if isinstance(source, Mapping):
        return _parts(source, "memory")
    if not isinstance(source, Iterable):
        problem = Problem("bad_source", shorten(source), "a file, a folder, a list of rows or a hub data set")
        raise InputError("the data cannot be read", problems=[problem])
    return {"train": Source("memory", source)}


def _kind(path: Path) -> str:
    """`.jsonl` of `x.jsonl` and of `x.jsonl.gz`."""
    inner = Path(path.stem).suffix
    return inner if path.suffix == ".gz" and inner != ".parquet" else path.suffix


def _known(path: Path) -> Path:
    if _kind(path) in SUFFIXES:
        return path
    problem = Problem(
        "unknown_file", str(path), f"a file that ends in {', '.join(SUFFIXES)} (the JSON kinds also with .gz)"
    )
    raise InputError(f"{path} is not a kind of file that is read here", problems=[problem])


def _missing(path: Path) -> InputError:
    near = sorted(p.name for p in path.parent.iterdir() if _kind(p) in SUFFIXES)[:8] if path.parent.is_dir() else []
    step = f"files there: {', '.join(near)}" if near else "check the path"
    return InputError(f"there is no {path}", problems=[Problem("missing_file", str(path))], next_step=step)


def _folder(path: Path) -> dict[str, Source]:
    found: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        part = PARTS.get(file.name.split(".")[0])
        if part and _kind(file) in SUFFIXES:
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


def _open(path: Path) -> IO[bytes]:
    try:
        if path.suffix == ".gz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        return path.open("rb")
    except OSError as error:
        problem = Problem("unreadable_file", f"{path}: {error.strerror or error}")
        raise InputError(f"{path} cannot be read", problems=[problem]) from None


def _file_rows(path: Path) -> Iterator[Row]:
    """JSON Lines are streamed; a `.json` file may hold one list, one object, or JSON Lines all the same."""
    with _open(path) as file:
        try:
            if _kind(path) == ".json":
                yield from _json_rows(file.read())
            else:
                yield from _line_rows(file)
        except (OSError, EOFError) as error:
            problem = Problem("unreadable_file", f"{path}: {error}")
            raise InputError(f"{path} cannot be read", problems=[problem]) from None


def _json_rows(content: bytes) -> Iterator[Row]:
    whole = _read_row(1, content)
    if whole.problem is None and isinstance(whole.value, list):
        yield from (Row(i, item) for i, item in enumerate(whole.value, start=1))
    elif whole.problem is not None and content.lstrip()[:1] == b"{" and b"\n" in content.strip():
        yield from _line_rows(content.split(b"\n"))
    elif content.strip():
        yield whole


def _line_rows(lines: Iterable[bytes]) -> Iterator[Row]:
    """A row a line; blank lines are skipped but counted (T13)."""
    for number, line in enumerate(lines, start=1):
        if line.strip() not in (b"", b"\xef\xbb\xbf"):
            yield _read_row(number, line)


def _read_row(number: int, line: bytes) -> Row:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        value = read_json(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # a lone half of a surrogate pair is no text
        return Row(number, value)
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is not UTF-8"
        return Row(number, problem=Problem("bad_encoding", found, "UTF-8 text", row=number))
    except UnicodeEncodeError:
        problem = Problem("bad_text", "a lone surrogate (half a character)", "Unicode text", row=number)
        return Row(number, problem=problem)
    except ValueError as error:
        return Row(number, problem=Problem("bad_json", str(error), "one JSON object a line", row=number))
