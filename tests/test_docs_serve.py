"""docs/serve.md runs: its Python with OpenAI's client, its commands, its tables."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from serving import serving, worker_of
from tiny import tiny_model

from calltune.caller import load
from calltune.cli import make_parser
from calltune.formats.literals import MAX_DEPTH
from calltune.serve import guards, protocol
from calltune.serve.openapi import STATUSES

PAGE = (Path(__file__).parent.parent / "docs" / "serve.md").read_text("utf-8")
SHOWN = "http://127.0.0.1:8080"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    caller = load(tiny_model(tmp_path_factory.mktemp("m") / "model", layers=1), think=False)
    with serving(worker_of(caller, "run")) as found:
        yield found.address


@pytest.mark.parametrize("i", range(2))
def test_the_pages_python_runs(address, capsys, i):
    code = blocks("python")[i]
    assert SHOWN in code and 'model="run", messages=' in code
    exec(code.replace(SHOWN, address).replace('model="run", ', 'model="run", max_tokens=20, '), {})
    assert i == 0 or re.search(r"^\d+ tokens$", capsys.readouterr().out, re.MULTILINE)


def test_the_pages_curl_lines_run(address):
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl ")]
    said = [subprocess.run(["sh", "-c", f"{line.replace(SHOWN, address)} -s"], capture_output=True, text=True).stdout
            for line in lines]  # fmt: skip
    assert '"chat.completion"' in said[0] and '"run"' in said[1]
    assert "messages[0].tool_call_id" in said[2] and "n: 2 is not supported" in said[2]


def test_the_pages_commands_and_flags_exist():
    parser, _ = make_parser("serve")
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("calltune ")]
    assert len(lines) == 2
    for line in lines:
        assert parser.parse_known_args(shlex.split(line)[1:])[1] == []
    with contextlib.suppress(SystemExit):
        parser.parse_args(["serve", "--help"])
    known = {flag for action in parser._subparsers._group_actions[0].choices["serve"]._actions
             for flag in action.option_strings}  # fmt: skip
    assert set(re.findall(r"--[a-z]+(?:-[a-z]+)*", PAGE)) <= known


def test_the_figures_and_fields_of_the_page_are_those_of_the_code():
    assert f"above {guards.MAX_BODY / 1e6:g} MB" in PAGE
    assert f"above {guards.MAX_HEADERS // 1000} kB" in PAGE
    assert f"deeper than {MAX_DEPTH} levels" in PAGE
    for status in STATUSES:
        assert re.search(rf"^\| (\d+, )*{status}\b", PAGE, re.MULTILINE), status
    fields = PAGE.partition("## What a request may hold")[2].partition("\n## ")[0]
    for name in protocol.ChatRequest.model_fields:
        assert f"`{name}" in fields, name
