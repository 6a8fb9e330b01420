"""Rows and tools for the tests of the check, and what it says of them."""

import argparse
import json

from calltune.cli import check
from calltune.data.check import check_rows
from calltune.data.sources import Source
from calltune.schema import Tool


def command(capsys, module, *words: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    args = parser.parse_args([module.__name__.rsplit(".", 1)[-1], *words])
    code = args.run(args)
    return code, capsys.readouterr().out


def report_of(capsys, *words: str) -> tuple[int, dict]:
    code, out = command(capsys, check, *words, "--json")
    return code, json.loads(out)


TOOL = Tool(
    "f",
    parameters={
        "type": "object",
        "properties": {
            "n": {"type": "integer"},
            "x": {"type": "number"},
            "b": {"type": "boolean"},
            "s": {"type": "string"},
            "l": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        },
    },
)


def row(**changes):
    call = {"function": {"name": "f", "arguments": {"n": 1}}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    return {"messages": messages, "tools": [TOOL.to_openai()]} | changes


def checked(*rows):
    return list(check_rows(Source("memory", list(rows))))


def errors_of(found):
    return [p.kind for p in found.problems if p.severity == "error"]


def say(role, content, **more):
    return {"role": role, "content": content} | more


CALLED = {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"n": 1}}}]}


def line(text: str, **more) -> str:
    return json.dumps({"id": 1, "raw_output": text} | more)
