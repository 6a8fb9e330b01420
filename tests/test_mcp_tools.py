"""Tools of a real small MCP server, over stdin and stdout and over HTTP on loopback."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mcp")

from test_agent import DONE, Script, calls
from tiny import tiny_model

from calltune import Agent
from calltune.errors import InputError
from calltune.functions import Function, execute, execute_async
from calltune.functions.mcp_tools import McpServer
from calltune.schema import Tool, ToolCall

SERVER = Path(__file__).parent / "mcp_server.py"
COMMAND = f"{sys.executable} {SERVER}"


@pytest.fixture(scope="module")
def url():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SERVER), str(port)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()
    process.wait()


@pytest.fixture(scope="module", params=["stdio", "http"])
def server(request, url):
    with McpServer(COMMAND if request.param == "stdio" else url, pure=["add"]) as server:
        yield server


def told(server: McpServer, name: str, /, **arguments):
    return execute(ToolCall(name, arguments), server.functions)


def test_names_and_schemas(server):
    by_name = {function.name: function for function in server.functions}
    assert sorted(by_name) == ["add", "die", "fail", "header", "leak", "person", "secret", "slow"]
    assert by_name["add"].tool.description == "Add two numbers."
    assert by_name["add"].tool.required == ("a", "b")
    assert by_name["add"].tool.properties["a"]["type"] == "integer"
    assert [f.name for f in server.functions if f.pure] == ["add"]
    assert server.notes == ()


def test_results_in_jsons_types(server):
    assert told(server, "add", a=2, b=3).content == "5"
    assert json.loads(told(server, "person", name="Ann", tags=["x"]).content) == {"name": "Ann", "tags": ["x"]}
    outcome = asyncio.run(execute_async(ToolCall("add", {"a": 1, "b": 1}), server.functions))
    assert outcome.content == "2"


def test_errors_are_plain(server):
    outcome = told(server, "fail", why="no luck")
    assert outcome.kind == "failed" and "no luck" in outcome.content
    assert "Traceback" not in outcome.content and "McpError" not in outcome.content
    assert told(server, "add", a="2", b=3).kind == "bad_arguments"  # found here, not sent
    assert told(server, "nothing").kind == "unknown_function"
    assert told(server, "add", a=20, b=3).content == "23"  # it goes on


def test_an_agent_with_functions_of_both_kinds(server):
    def double(n: int) -> int:
        """Double."""
        return 2 * n

    script = Script(calls(("add", {"a": 1, "b": 2}), ("double", {"n": 4}), ("person", {"name": "Ann"})), DONE)
    result = Agent(script, [double, server], confirm=lambda call, _: call.name == "double").run("x")
    assert [outcome.kind for _, outcome in result.calls] == ["ok", "ok", "refused"]
    assert [outcome.content for _, outcome in result.calls][:2] == ["3", "8"]


def test_time_limits_of_a_call():
    with McpServer(COMMAND, timeout=0.3) as server:
        outcome = told(server, "slow", seconds=2.0)
        assert (outcome.kind, "slow gave no result in 0.3 seconds" in outcome.content) == ("failed", True)
        outcome = execute(ToolCall("slow", {"seconds": 1.0}), server.functions, timeout=0.1)
        assert outcome.kind == "timeout"


def test_the_time_limit_of_a_call_is_none_of_the_start():
    with McpServer(COMMAND, timeout=0.01) as server:  # a server takes longer than that to say that it is there
        assert "slow gave no result in 0.01 seconds" in told(server, "slow", seconds=1.0).content


def test_a_server_that_dies():
    with McpServer(COMMAND) as server:
        outcome = told(server, "die")
        assert outcome.kind == "failed" and "has ended" in outcome.content and "I am going." in outcome.content
        outcome = told(server, "add", a=1, b=2)
        assert outcome.kind == "failed" and ("has ended" in outcome.content or "not running" in outcome.content)


def test_after_it_is_closed_calls_fail_in_plain_words():
    with McpServer(COMMAND) as server:
        pass
    assert "is not running" in told(server, "add", a=1, b=2).content
    assert not server._thread.is_alive()


def test_a_command_gets_only_the_variables_that_it_is_given(monkeypatch):
    monkeypatch.setenv("SECRET", "mine")
    with McpServer(COMMAND) as server:
        assert told(server, "secret").content == '"none"'
    with McpServer(COMMAND, env={"SECRET": "given"}, prefix="one_") as server:
        assert told(server, "one_secret").content == '"given"'


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("no-such-program --x", "no-such-program"),
        (f"{sys.executable} -c 'import sys; sys.exit(\"broken config\")'", "broken config"),
        (f"{sys.executable} -c 'import time; time.sleep(60)'", "no tools after 2 seconds"),
        ("http://127.0.0.1:9/mcp", "127.0.0.1:9"),
        ("'", "No closing quotation"),
        ("  ", "command is empty"),
    ],
)
def test_servers_that_are_none(target, words):
    begun = time.monotonic()
    with pytest.raises(InputError) as caught:
        McpServer(target, connect=2)
    assert words in str(caught.value) and "next:" in str(caught.value)
    assert time.monotonic() - begun < 15


TOKEN = "Bearer s3cret-token"


def test_headers_reach_a_url_and_are_never_said(url):
    with McpServer(url, headers={"Authorization": TOKEN}) as server:
        assert told(server, "header").content == f'"{TOKEN}"'
        assert "denied" in told(server, "leak").content and "s3cret" not in told(server, "leak").content
    with McpServer(url) as server:
        assert told(server, "header").content == '"none"'
    for headers, target in (({"Authorization": TOKEN + "\n"}, url), ({"": TOKEN}, url), ({"A": TOKEN}, COMMAND),
                            ({"A": TOKEN}, "http://127.0.0.1:9/mcp")):  # fmt: skip
        with pytest.raises(InputError) as caught:
            McpServer(target, headers=headers, connect=2)
        assert "next:" in str(caught.value) and "s3cret" not in str(caught.value)


class Recorded:
    """Stands for a server: what it was asked to send is kept."""

    notes = ()

    def __init__(self, seen: list, target: str, headers: dict) -> None:
        seen.append((target, headers))
        self.functions = [Function(Tool(f"tool_{len(seen)}", "", {"type": "object", "properties": {}}), lambda: 1)]

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_header_of_the_command_goes_to_the_server_before_it(url, capsys, monkeypatch, tmp_path):
    from calltune.cli import main
    from calltune.functions import mcp_tools

    seen = []

    monkeypatch.setattr(mcp_tools, "McpServer", lambda target, **given: Recorded(seen, target, given["headers"]))
    model = str(tiny_model(tmp_path / "model"))
    main(["agent", model, "x", "--mcp", "a", "--mcp", url, "--mcp-header", f"Authorization: {TOKEN}", "--mcp", "b"])
    assert seen == [("a", {}), (url, {"Authorization": TOKEN}), ("b", {})]
    for flags in (["--mcp-header", f"Authorization: {TOKEN}", "--mcp", url], ["--mcp", url, "--mcp-header", TOKEN],
                  ["--mcp-header", TOKEN]):  # fmt: skip
        capsys.readouterr()
        assert main(["agent", model, "x", *flags]) == 2
        said = capsys.readouterr().err
        assert "--mcp-header" in said and "s3cret" not in said


def test_a_list_of_tools_that_never_ends_is_cut_and_said(monkeypatch):
    from calltune.functions import mcp_tools

    monkeypatch.setattr(mcp_tools, "MOST_PAGES", 0)
    with pytest.raises(InputError, match="more than 0 pages of tools"):
        McpServer(COMMAND)


def test_a_web_page_is_no_server(url):
    with pytest.raises(InputError, match="cannot be used"):
        McpServer(url.removesuffix("/mcp") + "/nothing", connect=5)


def test_pure_names_must_exist():
    with pytest.raises(InputError, match="nothing"):
        McpServer(COMMAND, pure=["nothing"])


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(InputError, match=r"calltune\[mcp\]"):
        McpServer(COMMAND)
