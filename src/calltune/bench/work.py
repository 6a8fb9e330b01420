"""What all sides of a training bench get: the same rendered rows and settings, in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calltune.builtin import DEFAULT_SIZES, builtin_data, phrase_tables
from calltune.builtin.assistant import FUNCTIONS
from calltune.data.synthesise import Splits, synthesise
from calltune.errors import InputError
from calltune.prepare import Prepared, prepare
from calltune.render import Example
from calltune.rendered import load_examples, save_examples
from calltune.settings import TrainSettings, resolve, to_dict

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_DATA = "builtin:assistant"


@dataclass(frozen=True)
class Work:
    """One side's order. `updates` is what it does, 0 for as many as its epochs need; `folder` holds the rows."""

    side: str
    folder: str
    settings: TrainSettings
    shape: str | None
    tokenizer: str
    vocabulary: int
    updates: int = 0
    warm_up: int = 0
    every: int = 0
    attention: tuple[str, ...] = ()

    def examples(self, part: str) -> list[Example]:
        return list(load_examples(Path(self.folder) / f"{part}.npz"))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self) | {"settings": to_dict(self.settings)}))


def read_work(path: Path) -> Work:
    values = json.loads(path.read_text())
    settings = resolve(TrainSettings, values.pop("settings"), "the bench")
    return Work(**values | {"settings": settings, "attention": tuple(values["attention"])})


def prepare_rows(settings: TrainSettings, tokenizer: Any, *, rows: int, valid: int, tools: int) -> Prepared:
    """Rendered rows, `rows` and `valid` of them (0: all). `tools`: of the built-in functions only the first few
    are offered. Raises InputError."""
    made: Splits | None = None
    if tools:
        if settings.data != DEFAULT_DATA or settings.tools:
            raise InputError("--built-in-tools goes with the built-in data only", next_step="leave --data out")
        sizes = (rows or DEFAULT_SIZES[0], valid or DEFAULT_SIZES[1])
        made = synthesise(list(FUNCTIONS)[:tools], seed=settings.seed, rows_train=sizes[0], rows_valid=sizes[1],
                          rows_test=8, think=settings.think, tables=phrase_tables())  # fmt: skip
    elif settings.data == DEFAULT_DATA:
        count = max(rows, valid, 16) if rows else DEFAULT_SIZES[0]
        made = builtin_data(seed=settings.seed, sizes=(count, max(valid, 16), 8), think=settings.think, results=0)
    prepared = prepare(settings, tokenizer, made)
    return replace(prepared, train=_some(prepared.train, rows), valid=_some(prepared.valid, valid))


def _some(examples: list[Example], count: int) -> list[Example]:
    """`count` of them, evenly spread, so that lengths are those of the whole."""
    if not count or count >= len(examples):
        return examples
    return [examples[i * len(examples) // count] for i in range(count)]


def write_rows(folder: Path, train: Sequence[Example], valid: Sequence[Example]) -> None:
    save_examples(folder / "train.npz", train)
    save_examples(folder / "valid.npz", valid)


def facts(train: Sequence[Example]) -> dict[str, Any]:
    """How the rows are, for the report."""
    lengths = sorted(len(e) for e in train)
    return {
        "rows": len(train), "tokens": sum(lengths), "mean_length": round(sum(lengths) / len(lengths), 1),
        "longest": lengths[-1], "loss_share": round(sum(e.trained for e in train) / sum(lengths), 4),
    }  # fmt: skip
