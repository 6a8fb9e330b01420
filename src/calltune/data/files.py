"""Rows of JSON and JSON Lines files (also gzipped), as a stream: memory does not grow with the file.

What cannot be read is a row with a problem, never an exception: not JSON, not UTF-8, too large, too deep.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import IO, Any, cast

from calltune.errors import InputError, Problem
from calltune.formats.literals import MAX_DEPTH, is_whole_text, read_json, read_value, too_deep
from calltune.schema import shorten

MAX_ROW = 8_000_000  # bytes; a million words, which no model reads in one go
KEPT = 1000  # bytes of a row that is too large, to show which it was
BLOCK = 1 << 16
SPACE = " \t\r\n"
Text = bytes | str | Problem  # of a row that is not read yet; or why there is none
TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*"|[{}\[\],"]', re.DOTALL)


@dataclass(frozen=True)
class Row:
    """One row as it stands in its source: the value, or the problem that kept it from being read, with the text
    as value. `repair`: what reading put right without loss."""

    line: int
    value: Any = None
    problem: Problem | None = None
    repair: Problem | None = None
    file: str = ""  # where a source has several


def kind_of_file(path: Path) -> str:
    """`.jsonl` of `x.jsonl` and of `x.jsonl.gz`."""
    inner = Path(path.stem).suffix
    return inner if path.suffix == ".gz" and inner != ".parquet" else path.suffix


def file_rows(path: Path) -> Iterator[Row]:
    """JSON Lines; a `.json` file may hold one list, one object, or JSON Lines all the same. Raises InputError
    where the file cannot be read at all."""
    return starmap(read_text, file_texts(path))


def file_texts(path: Path) -> Iterator[tuple[int, Text]]:
    """The number and the text of every row, for `read_text`. Raises InputError."""
    with _open(path) as file:
        try:
            yield from _json_texts(file) if kind_of_file(path) == ".json" else _line_texts(_lines(file))
        except (OSError, EOFError) as error:
            problem = Problem("unreadable_file", f"{path}: {error}")
            raise InputError(f"{path} cannot be read", problems=[problem]) from None


def _open(path: Path) -> IO[bytes]:
    try:
        if path.suffix == ".gz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        return path.open("rb")
    except OSError as error:
        problem = Problem("unreadable_file", f"{path}: {error.strerror or error}")
        raise InputError(f"{path} cannot be read", problems=[problem]) from None


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines; of one that is too long only the beginning, the rest is skipped."""
    while line := file.readline(MAX_ROW + 2):
        rest = line
        while len(rest) > MAX_ROW and not rest.endswith(b"\n"):
            rest = file.readline(MAX_ROW + 2)
        yield line


def _line_texts(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """A row a line; blank lines are skipped but counted (T13)."""
    for number, line in enumerate(lines, start=1):
        if line.strip() not in (b"", b"\xef\xbb\xbf"):
            yield number, line


def _json_texts(file: IO[bytes]) -> Iterator[tuple[int, Text]]:
    """A list is read item by item; everything else is one object, or lines all the same."""
    start = file.read(BLOCK)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        yield from _items(Decoded(file, start.removeprefix(b"\xef\xbb\xbf")))
        return
    whole = start + file.read(MAX_ROW)
    if not file.read(1):  # that was all of it
        row = read_row(1, whole)
        if (
            row.problem is None
            or whole.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"{"
            or b"\n" not in whole.strip()
        ):
            yield from [(1, whole)] if whole.strip() else []
            return
    file.seek(0)
    yield from _line_texts(_lines(file))


def _items(text: Decoded) -> Iterator[tuple[int, Text]]:
    """The items of a JSON list. One that does not end is the last that is read."""
    line = 1
    try:
        text.skip("[")
        while (first := text.peek()) not in ("", "]"):
            end = text.item_end()
            if end is None or (end == 0 and first == "}"):
                where = f"does not end within {MAX_ROW} bytes" if end is None else "stands where an item should"
                found = f"{shorten(text.buffer[:60], 60)} {where}"
                yield line, Problem("bad_json", found, "JSON; what follows cannot be read", row=line)
                return
            yield line, text.take(end)
            line += 1
            if text.peek() == ",":
                text.skip(",")
        text.skip("]")
        rest = text.buffer[:60] if first and text.peek() else ""
    except UnicodeDecodeError as error:
        found = f"{error.reason}; what follows cannot be read"
        yield line, Problem("bad_encoding", found, "UTF-8 text", row=line)
        return
    if first != "]":
        yield line, Problem("bad_json", "the list does not end", "a ] at the end", row=line)
    elif rest:
        found = f"text after the end of the list; it was not read: {shorten(rest, 60)}"
        yield line, Problem("bad_json", found, "one list and nothing after it", row=line)


def read_text(number: int, text: Text) -> Row:
    return Row(number, problem=text) if isinstance(text, Problem) else read_row(number, text)


def read_row(number: int, line: bytes | str) -> Row:
    """One row: JSON, or what a lossless repair makes JSON (Python's quotes, None and True, a comma too many)."""
    if len(line) > MAX_ROW:
        problem = Problem("too_large", f"more than {MAX_ROW:,} bytes", "a row that a model can read")
        return _refused(number, line[:KEPT], problem)
    try:
        text = line if isinstance(line, str) else line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        return _refused(number, line, Problem("bad_encoding", f"byte {error.start} is not UTF-8", "UTF-8 text"))
    repair = None
    try:
        value = read_json(text)
    except ValueError as error:
        literal = text.strip().removesuffix(",")
        try:
            value = read_value(literal) if literal.startswith("{") else None
        except ValueError:
            value = None
        if value is None:
            return _refused(number, text, Problem("bad_json", str(error), "one JSON object a line"))
        repair = Problem("not_json", shorten(text), f"JSON: {error}")
    if ("\\ud" in text or "\\uD" in text) and not is_whole_text(value):
        return _refused(number, text, Problem("bad_text", "a lone surrogate (half a character)", "Unicode text"))
    return Row(number, value, repair=repair)


def _refused(number: int, line: bytes | str, problem: Problem) -> Row:
    """A row that cannot be read; its text stays its value, so that nothing is lost."""
    text = line if isinstance(line, str) else line.decode("utf-8", "backslashreplace")
    return Row(number, text.rstrip("\r\n"), replace(problem, row=number))


def memory_row(number: int, value: Any) -> Row:
    """A row that no text was read for; it may hold what JSON cannot say."""
    if not isinstance(value, Mapping):
        return Row(number, value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
        if len(text) > MAX_ROW:
            problem = Problem("too_large", f"{len(text):,} characters", "a row that a model can read", row=number)
            return Row(number, problem=problem)
        text.encode()
        if too_deep(value):
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    except UnicodeEncodeError:
        found = "a lone surrogate (half a character)"
        return Row(number, problem=Problem("bad_text", found, "Unicode text", row=number))
    except (ValueError, TypeError, RecursionError) as error:  # NaN, an object inside itself, a key that is no text
        return Row(number, problem=Problem("bad_json", shorten(str(error)), "what JSON can say", row=number))
    return Row(number, value)


class Decoded:
    """The text of a file, as much of it as an item needs."""

    def __init__(self, file: IO[bytes], start: bytes) -> None:
        self.file, self.start = file, start  # decoded by `more` like the rest: it may be no UTF-8 either
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.buffer = ""
        self.broken: UnicodeDecodeError | None = None

    def more(self, size: int = BLOCK) -> bool:
        """Raises UnicodeDecodeError, but only when all that stands before the broken byte was given."""
        if self.broken:
            raise self.broken
        block, self.start = self.start or self.file.read(size), b""
        try:
            self.buffer += self.decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            self.buffer += error.object[: error.start].decode()
            self.broken = error
            return True
        return bool(block)

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            self.buffer = self.buffer.lstrip(SPACE)
            if self.buffer or not self.more():
                return self.buffer[:1]

    def skip(self, character: str) -> None:
        self.peek()
        self.buffer = self.buffer.removeprefix(character)

    def take(self, end: int) -> str:
        taken, self.buffer = self.buffer[:end], self.buffer[end:]
        return taken

    def item_end(self) -> int | None:
        """Where the item at the beginning ends: at a comma or bracket outside of its own; None if nowhere."""
        while (end := _item_end(self.buffer)) is None:
            if len(self.buffer) > MAX_ROW or not self.more(max(BLOCK, len(self.buffer))):
                return None
        return end


def _item_end(text: str) -> int | None:
    depth = 0
    for match in TOKEN.finditer(text):
        token = match[0][0]
        if token in "{[":
            depth += 1
        elif token in "]}" or token == ",":
            if depth == 0:
                return match.start()
            depth -= token != ","
        elif len(match[0]) == 1:
            return None  # a string that the text does not end
    return None
