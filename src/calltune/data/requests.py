"""Example requests in a YAML file of their own: for tools that have no docstrings, as lists in JSON.

get_weather:
  - What is the weather in {city}?
  - Is it cold in {city} in fahrenheit? => unit=fahrenheit
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from calltune.errors import InputError, Problem
from calltune.schema import shorten
from calltune.settings import read_yaml


def read_requests(path: str | Path, tools: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Name of a tool -> its requests. `tools`: the names that there are. Raises InputError with all problems."""
    found, problems = dict[str, tuple[str, ...]](), []
    for name, lines in read_yaml(Path(path).expanduser(), "--requests").items():
        if name not in tools:
            problems.append(Problem("unknown_tool", str(name), f"one of: {', '.join(tools)}", f"/{name}"))
        elif not isinstance(lines, list) or not lines:
            problems.append(Problem("bad_requests", shorten(lines), "a list of requests", f"/{name}"))
        else:
            for i, line in enumerate(lines):
                if not isinstance(line, str) or not line.strip():
                    expected = "a text, in quotes where it holds a colon or begins with a brace"
                    problems.append(Problem("bad_requests", shorten(line), expected, f"/{name}/{i}"))
            found[str(name)] = tuple(line for line in lines if isinstance(line, str))
    if problems:
        raise InputError(f"the requests in {path} cannot be used", problems=problems,
                         next_step="write `TOOL:` and below it lines such as `  - weather in {city}`")  # fmt: skip
    return found
