"""`calltune serve` as a process: its words, its refusals, its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from tiny import tiny_model

from calltune.cli import main
from calltune.cli.serve import KEY

HELLO = '''def hello(name: str) -> str:
    """Greets somebody.

    Args:
        name: whom
    """
    return f"Hello {name}"
'''


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("m") / "tiny", layers=2))


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)


def refusal(capsys, *arguments: str) -> str:
    assert main(["serve", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "next:" in told.err and "Traceback" not in told.err
    return told.err


def test_wrong_use_is_told_before_a_model_is_loaded(capsys, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    for arguments, words in [
        (["--host", "0.0.0.0"], "no API key"),
        (["--host", "::"], "no API key"),
        (["--mcp", "false"], "a request brings its own tools"),
        (["--port", "70000"], "--port is 70000"),
        (["--max-queue", "0", "--batch-size", "-1"], "--batch-size is -1 (at least 1)"),
        (["--allow-origin", "https://a.example/x"], "--allow-origin"),
        (["--allow-origin", "*"], "--allow-origin"),
        (["--api-key-file", str(tmp_path / "none")], "cannot be read"),
        (["--api-key-file", str(tmp_path / "empty.txt")], "is empty"),
        (["--api-key", "a b"], "space"),
        (["--api-key", "a", "--api-key-file", "b"], "both"),
        (["--host", "192.0.2.1", "--api-key", "k", "--port", "0"], "cannot be listened on"),
    ]:
        assert words in refusal(capsys, "smollm2-135m", *arguments), words


def test_a_port_that_is_taken(capsys, model):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"port {port} of 127.0.0.1 is taken" in refusal(capsys, model, "--port", port)


def start(model: str, *arguments: str, env: dict[str, str] | None = None) -> tuple[subprocess.Popen[str], str, str]:
    """The process, its address, and what it printed."""
    command = [sys.executable, "-m", "calltune", "serve", model, "--port", "0", *arguments]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=os.environ | (env or {}))  # fmt: skip
    assert process.stdout
    lines = ""
    while "Ctrl-C ends it" not in lines:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        lines += line
    return process, re.search(r"page: +(\S+)/", lines)[1], lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_printed_command_works_and_the_end_is_clean(model, tmp_path, number):
    key = {KEY: "s3cret"} if number == signal.SIGTERM else {}
    process, address, lines = start(model, "--max-tokens", "5", env=key)
    try:
        assert "models: tiny\n" in lines
        command = re.search(r"^try: +(curl.*)$", lines, re.MULTILINE)[1]
        done = subprocess.run(["sh", "-c", f"{command} -s"], capture_output=True, text=True, env=os.environ | key)
        assert json.loads(done.stdout)["usage"]["completion_tokens"] <= 5
        long = {"type": "object", "properties": {"x": {"type": "string", "minLength": 50_000}}, "required": ["x"]}
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3500,
                "response_format": {"type": "json_schema", "json_schema": {"schema": long}}}  # fmt: skip
        headers = {"Authorization": "Bearer s3cret"}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body | {"stream": True}, headers=headers,
                          timeout=30) as answer:  # fmt: skip
            coming = answer.iter_lines()
            while '"content":"{' not in next(coming):
                pass
            process.send_signal(number)
            last = [line for line in coming if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 128 + number, err
    assert "1 reply under way given up" in err and "Traceback" not in err


def test_the_runs_functions_and_a_files_are_offered(model, tmp_path):
    (tmp_path / "mine.py").write_text(HELLO)
    process, address, _ = start(model, "--tools", str(tmp_path / "mine.py"), "--yes", "--name", "my model")
    try:
        assert [tool["function"]["name"] for tool in httpx.get(f"{address}/api/tools").json()["tools"]] == ["hello"]
        done = httpx.post(f"{address}/api/execute", json={"name": "hello", "arguments": {"name": "Ada"}})
        assert done.json() == {"content": '"Hello Ada"', "error": False}  # --yes: not confirmed
        assert httpx.get(f"{address}/v1/models").json()["data"][0]["id"] == "my model"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_ctrl_c_while_nothing_runs(model):
    process, address, _ = start(model)
    httpx.get(f"{address}/health")  # it answers, so that Ctrl-C is its own
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err.rstrip().endswith("stopping")
    assert time.monotonic() - begun < 10
