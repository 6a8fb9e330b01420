"""docs/agent.md and examples/agent.py run, on a tiny model."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_model

from calltune import Agent
from calltune.cli import main, make_parser
from calltune.data.synthesise import synthesise
from calltune.functions import execute, functions_from
from calltune.grammar import Rules
from calltune.schema import ToolCall

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "agent.md").read_text("utf-8")
EXAMPLE = ROOT / "examples" / "agent.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("m") / "model", layers=2))


def test_the_pages_agent_runs(model, capsys):
    code, _ = blocks("python")
    shown = '"runs/mine"'
    assert shown in code
    exec(code.replace(shown, repr(model)).replace("confirm=", "max_steps=2, max_tokens=40, confirm="), {})
    assert capsys.readouterr().out.strip()


def test_the_pages_mcp_block_runs(model, tmp_path, monkeypatch, capsys):
    pytest.importorskip("mcp")
    _, code = blocks("python")
    changes = {
        '"runs/mine"': repr(model),
        "python my_server.py": f"{sys.executable} {tmp_path / 's.py'}",
        '"my_tools.py"': repr(str(EXAMPLE)),
        "confirm=True": "confirm=True, max_steps=1, max_tokens=20",
    }
    for old, new in changes.items():
        assert old in code
        code = code.replace(old, new)
    server = (Path(__file__).parent / "mcp_server.py").read_text("utf-8")
    (tmp_path / "s.py").write_text(server.replace("def person(", "def search("))
    exec(code, {})


def test_the_pages_commands_have_their_flags():
    parser, _ = make_parser("agent")
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("calltune agent")]
    assert len(lines) == 7
    for line in lines:
        _, extra = parser.parse_known_args(shlex.split(line, comments=True)[1:])
        assert extra == []


def test_the_pages_mixture_makes_rows_that_go_on(tmp_path):
    (mixture,) = blocks("yaml")
    for old, new in [("my_tools.py", str(EXAMPLE)), ("1600", "60"), ("out: prepared", f"out: {tmp_path / 'made'}")]:
        assert old in mixture
        mixture = mixture.replace(old, new)
    (tmp_path / "mix.yaml").write_text(mixture)
    assert main(["prepare", str(tmp_path / "mix.yaml")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "made" / "train.jsonl").open()]
    assert 0 < sum(row["messages"][-2]["role"] == "tool" for row in rows) < len(rows)


def test_the_defaults_of_the_page_are_those_of_the_code():
    from calltune.agent import MAX_STEPS, MAX_TOKENS
    from calltune.functions import MAX_OUTPUT, TIMEOUT
    from calltune.functions.execute import MOST_LEFT

    for words in (f"`--max-steps` | {MAX_STEPS} |", f"`--max-tokens` | {MAX_TOKENS} |", f"| {TIMEOUT:g} s |",
                  f"| {MAX_OUTPUT:,} characters |", f"When {MOST_LEFT} of them"):  # fmt: skip
        assert words in PAGE, words


def run_example(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(EXAMPLE), *arguments], cwd=folder, env=dict(os.environ), text=True,
                          capture_output=True, check=False, stdin=subprocess.DEVNULL)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_example_runs_and_its_trace_is_a_row(model, tmp_path, capsys):
    assert run_example(tmp_path, model, "List the files").strip()
    (row,) = map(json.loads, (tmp_path / "traces.jsonl").open())
    assert [tool["function"]["name"] for tool in row["tools"]] == ["list_files", "read_beginning", "days_between"]


def test_the_examples_functions_are_real(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "sub").mkdir()
    functions = functions_from(EXAMPLE)

    def told(name: str, **arguments: object) -> object:
        return json.loads(execute(ToolCall(name, arguments), functions).content)

    assert told("list_files") == ["a.txt", "sub/"]
    assert told("read_beginning", file="a.txt", lines=2) == "one\ntwo\n"
    assert told("days_between", start="2026-01-01", end="2026-03-01") == 59
    assert "outside" in told("read_beginning", file="../secret")["error"]
    assert "outside" in told("list_files", folder="/etc")["error"]
    assert [f.pure for f in functions] == [True, False, True]


def test_the_examples_functions_can_be_trained():
    made = synthesise(EXAMPLE, rows_train=40)
    assert {tool.name for tool in made.tools} == {"list_files", "read_beginning", "days_between"}


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CALLTUNE_TEST_RUN"), reason="needs the demo's run")
def test_the_example_on_the_demos_run(tmp_path):
    run = str(Path(os.environ["CALLTUNE_TEST_RUN"]).resolve())
    agent = Agent(run, EXAMPLE, rules=Rules("required"), confirm=True)
    made = agent.run("How many days from 2026-01-01 to 2026-03-01?")
    assert made.calls[0][0].name in ("list_files", "read_beginning", "days_between")  # trained on other functions
    assert run_example(tmp_path, run).strip()
    row = json.loads((tmp_path / "traces.jsonl").read_text())
    assert row["messages"][0]["role"] == "user"
    assert main(
        [
            "agent",
            run,
            "Set a timer for 25 minutes",
            "--yes",
            "--trace",
            str(tmp_path / "t.jsonl"),
            "--max-tokens",
            "96",
        ]
    ) in (0, 3)  # it was not trained to go on after a result
    (row,) = map(json.loads, (tmp_path / "t.jsonl").open())
    (call,) = row["messages"][1]["tool_calls"]
    assert call["function"]["name"] == "set_timer"
    assert row["messages"][2]["role"] == "tool"
