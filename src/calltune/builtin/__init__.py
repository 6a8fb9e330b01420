"""Built-in data: `builtin:assistant` and, in the walk-through's raw form, `builtin:assistant-hermes`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

from calltune.builtin.assistant import FUNCTIONS
from calltune.data.phrases import PhraseTable, read_table
from calltune.data.results import with_results
from calltune.data.synthesise import Splits, synthesise
from calltune.errors import InputError, Problem
from calltune.functions import functions_from
from calltune.schema import ToolCall

NAMES = ("builtin:assistant", "builtin:assistant-hermes")
# Enough for over 100 unseen requests that need a call in the test part.
DEFAULT_SIZES = (1600, 16, 144)
RESULTS = 0.15  # share of the training rows with calls that go on with the results and an answer


@lru_cache(maxsize=1)
def phrase_tables() -> dict[str, PhraseTable]:
    """Tool name -> its hand-written phrases (builtin/requests/NAME.yaml)."""
    folder = files("calltune.builtin").joinpath("requests")
    names = [function.__name__ for function in FUNCTIONS]
    return {n: read_table(folder.joinpath(f"{n}.yaml").read_text(encoding="utf-8"), n) for n in names}


def builtin_data(
    name: str = "builtin:assistant",
    *,
    seed: int = 0,
    sizes: tuple[int, int, int] = DEFAULT_SIZES,
    think: bool = True,
    results: float = RESULTS,
) -> Splits:
    """Rows of the built-in tools, `sizes` = (train, valid, test). Raises InputError for an unknown name.

    `results`: the share of the training rows with calls that go on with the functions' results and an answer.
    `builtin:assistant-hermes` has other rows in another form: see `assistant_hermes_rows`.
    """
    if name != "builtin:assistant":
        problem = Problem("unknown_source", name, ", ".join(NAMES))
        step = "use builtin:assistant (assistant-hermes gives raw rows: calltune.builtin.hermes)"
        raise InputError("there is no such built-in data", problems=[problem], next_step=step)
    train, valid, test = sizes
    made = synthesise(
        list(FUNCTIONS),
        seed=seed,
        rows_train=train,
        rows_valid=valid,
        rows_test=test,
        think=think,
        tables=phrase_tables(),
    )
    # The functions compute and change nothing, so their own results are taken.
    functions = [replace(function, pure=True) for function in functions_from(list(FUNCTIONS))]
    return replace(made, train=tuple(with_results(made.train, functions, results, seed, tell_results).rows))


def tell_results(calls: Sequence[ToolCall], results: Sequence[Any], rng: random.Random | None = None) -> str:
    """The results in the words of the tools' tables."""
    tables = phrase_tables()
    return " ".join(
        tables[call.name].closing.format(**{**call.arguments, **result})
        for call, result in zip(calls, results, strict=True)
    )


def assistant_hermes_rows(n: int = 400, seed: int = 0) -> list[dict[str, Any]]:
    """`n` rows with one column `conversations` in the walk-through's raw form (see builtin/hermes.py)."""
    from calltune.builtin.hermes import hermes_rows

    return hermes_rows(n, seed)
