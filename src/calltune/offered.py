"""The functions that are offered to a model: those of sources that somebody names, or the run's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calltune.errors import InputError
from calltune.functions import Function, functions_from

if TYPE_CHECKING:
    from calltune.runs import Run

BUILTIN = "builtin:assistant"


def offered(source: Any, run: Run | None) -> list[Function]:
    """The functions of `source`, else the run's own (the built-in ones with their code). Raises InputError.

    `source`: all that `functions_from` reads, an object with `functions` (an MCP server), or a list of these.
    """
    if source is None and run is not None and run.record["settings"].get("data") == BUILTIN:
        source = BUILTIN
    if source is not None:
        parts = source if isinstance(source, (list, tuple)) else [source]
        return functions_from([function for part in parts for function in _of_part(part)])
    tools = run.tools() if run else ()
    if not tools:
        raise InputError("no tools to offer: " + ("the rows of the run had different tools" if run else
                         "a base model has none of its own"), next_step="add --tools FILE")  # fmt: skip
    return [Function(tool) for tool in tools]


def _of_part(part: Any) -> Sequence[Any]:
    if part == BUILTIN:
        from calltune.builtin.assistant import FUNCTIONS

        return FUNCTIONS
    if isinstance(part, (str, Path)):
        return functions_from(part)
    functions = getattr(part, "functions", None)
    return functions if isinstance(functions, (list, tuple)) else [part]


def check_executable(functions: Sequence[Function], run: Run | None) -> None:
    """Raises InputError where calls could not be run, before a model is loaded for them."""
    if any(function.call is not None for function in functions):
        return
    trained = run.record["settings"].get("tools") if run else None
    hint = f" (the run was trained on {trained})" if trained and Path(str(trained)).suffix == ".py" else ""
    raise InputError("only the schemas of these tools are known, not their code",
                     next_step=f"name the Python file with --tools FILE.py{hint}")  # fmt: skip
