"""A tiny model with data and a run, for the tests of the commands."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from tiny import TOOLS, tiny_model, weather_rows

from calltune.cli import main

QUICK = ("--num-layers", "2", "--rank", "2", "--iters", "2", "--batch-size", "4", "--steps-per-report", "1")


TOOL_FILE = '''
from calltune import tool

@tool(pure=True)
def get_weather(city: str, unit: str = "celsius") -> dict:
    """The weather in a city.

    Examples:
        - weather in {city}
    """
    return {"city": city, "degrees": 21}
'''


def make_place(root: Path) -> SimpleNamespace:
    """A model, rows, tools and a trained run."""
    model = tiny_model(root / "model")
    data = root / "rows.jsonl"
    data.write_text("".join(json.dumps(row.to_openai()) + "\n" for row in weather_rows(24)))
    (root / "tools.py").write_text(TOOL_FILE)
    (root / "tools.json").write_text(json.dumps([t.to_openai() for t in TOOLS]))
    run = root / "runs" / "one"
    assert main(["train", "--model", str(model), "--data", str(data), "--out", str(run), *QUICK]) == 0
    return SimpleNamespace(root=root, model=str(model), data=str(data), run=str(run), py=str(root / "tools.py"),
                           json=str(root / "tools.json"))  # fmt: skip


def told(capsys, code: int, *arguments: str) -> str:
    """What is said on standard error by a command that must end with `code` and print no result."""
    assert main(list(arguments)) == code
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    assert out.out == ""
    return out.err
