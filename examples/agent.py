"""An agent over three real functions of this machine: python examples/agent.py [RUN] [REQUEST]

It lists files, reads the beginning of a file and counts days, in the folder where it is started. RUN is a run's
folder or a model (default: demo/run, which `calltune demo` makes). That model was trained on other functions: the
grammar keeps its calls valid, not wise. A model of these functions:

    calltune train --model smollm2-135m --tools examples/agent.py --out runs/files
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

from calltune import Agent, tool

HERE = Path.cwd().resolve()


def inside(name: str) -> Path:
    """The path of a name under this folder. Raises ValueError for one that leads out of it."""
    path = (HERE / name).resolve()
    if not path.is_relative_to(HERE):
        raise ValueError(f"{name} is outside of this folder")
    return path


@tool(pure=True)
def list_files(folder: str = ".") -> list[str]:
    """List the files in a folder.

    Args:
        folder: The folder, seen from this one.

    Examples:
        - Which files are in {folder}?
        - List the files of {folder}.
        - What is in the folder {folder}?
        - Show me what {folder} holds.
        - What files do I have in {folder}?
    """
    return sorted(path.name + ("/" if path.is_dir() else "") for path in inside(folder).iterdir())[:50]


@tool  # not pure: a file may hold what is nobody's business, so each reading is asked for
def read_beginning(file: str, lines: int = 5) -> str:
    """Read the first lines of a text file.

    Args:
        file: The file, seen from this folder.
        lines: How many lines.

    Examples:
        - Read the first {lines} lines of {file}.
        - Show me the beginning of {file}.
        - How does {file} begin?
        - Open {file} and show {lines} lines.
        - What do the top {lines} lines of {file} say?
    """
    with inside(file).open(encoding="utf-8") as text:
        return "".join(line for _, line in zip(range(lines), text, strict=False))


@tool(pure=True)
def days_between(start: date, end: date) -> int:
    """Count the days from one date to another.

    Args:
        start: The first day.
        end: The last day.

    Examples:
        - How many days are there from {start} to {end}?
        - Count the days between {start} and {end}.
        - How long is it from {start} until {end}?
        - Days from {start} to {end}?
        - What is the number of days between {start} and {end}?
    """
    return (end - start).days


def main() -> int:
    run = sys.argv[1] if len(sys.argv) > 1 else "demo/run"
    request = sys.argv[2] if len(sys.argv) > 2 else "How many days are there from 2026-01-01 to 2026-03-01?"
    agent = Agent(run, [list_files, read_beginning, days_between], max_tokens=160, max_steps=4)
    result = agent.run(request)
    for call, outcome in result.calls:
        print(f"{call.name}({dict(call.arguments)}) -> {outcome.content}")
    print(result.answer or f"no answer: {result.reason}")
    result.save("traces.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
