"""Questions of benchmarks in training data: a model that has seen them proves nothing by answering them.

Questions are looked for in files that the user names, and in calltune's cache under `benchmarks/` (where the
evaluation puts them) or in any folder there whose name begins with `bfcl`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calltune.data.files import file_rows, kind_of_file
from calltune.data.likeness import text_key, words
from calltune.errors import InputError, Problem
from calltune.platform.paths import cache_dir
from calltune.schema import Conversation, shorten

FEWEST = 4  # words; a shorter question ("What is it?") proves no leak
SUFFIXES = (".json", ".jsonl")


@dataclass
class Benchmark:
    """The questions by the hash of their words, with the place that each is from."""

    places: list[str] = field(default_factory=list)
    questions: dict[int, int] = field(default_factory=dict)  # text_key -> index in `places`

    def add(self, text: str, place: int) -> None:
        if key := _key(text):
            self.questions.setdefault(key, place)

    def find(self, conversation: Conversation, path: Callable[[int], str]) -> list[Problem]:
        """An error for every user turn that is a question of the benchmark."""
        problems = []
        for i, message in enumerate(conversation.messages):
            if message.role != "user" or not (key := _key(message.content)):
                continue
            if (place := self.questions.get(key)) is not None:
                found = f"{shorten(message.content, 60)} (in {self.places[place]})"
                expected = "no question of a benchmark in training data"
                problems.append(Problem("benchmark_question", found, expected, path(i)))
        return problems


def _key(text: str) -> int:
    found = words(text)
    return text_key(" ".join(found)) if len(found) >= FEWEST else 0


def read_benchmarks(named: Iterable[str] = ()) -> Benchmark:
    """The questions of the files and folders named, and of those in the cache. Raises InputError for a place that
    was named and holds none."""
    benchmark = Benchmark()
    for name in named:
        path = Path(name).expanduser()
        if not path.exists():
            problem = Problem("missing_file", str(path), "a file or folder of questions")
            raise InputError("the benchmark cannot be read", problems=[problem], next_step="check --benchmark")
        before = len(benchmark.questions)
        _read(path, benchmark)
        if len(benchmark.questions) == before:
            problem = Problem("no_question", str(path), "rows with `question`, `messages` or `prompt`")
            raise InputError("the benchmark cannot be read", problems=[problem], next_step="check --benchmark")
    for folder in cached():
        _read(folder, benchmark)
    return benchmark


def cached() -> list[Path]:
    """Folders of benchmarks in calltune's cache."""
    root = cache_dir()
    places = [root / "benchmarks", *sorted(root.glob("bfcl*"))]
    return [place for place in places if place.is_dir()]


def _read(path: Path, benchmark: Benchmark) -> None:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if kind_of_file(p) in SUFFIXES)
    for file in files:
        if "possible_answer" in file.parts:
            continue
        benchmark.places.append(file.name)
        for row in file_rows(file):
            for text in questions_of(row.value):
                benchmark.add(text, len(benchmark.places) - 1)


def questions_of(row: Any) -> Iterator[str]:
    """The user's texts of a row: BFCL's `question` (a list of turns, each a list of messages), `messages`, or a
    plain text."""
    if not isinstance(row, Mapping):
        return
    for key in ("question", "messages", "conversations", "prompt", "query"):
        yield from _texts(row.get(key))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Mapping) and str(value.get("role", value.get("from", "user"))) in ("user", "human"):
        content = value.get("content", value.get("value"))
        yield content if isinstance(content, str) else json.dumps(content)
