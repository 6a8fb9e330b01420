"""What the tests of the server ask of it: bodies, functions, and how an error of OpenAI's form is read."""

from __future__ import annotations

from typing import Any

import httpx

from calltune.functions import tool

USER = {"role": "user", "content": "Hello"}
CHAT = "/v1/chat/completions"
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def called(calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": calls}


def with_schema(schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@tool(pure=True)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def send(text: str) -> str:
    """Send a text."""
    raise ValueError(f"no line for {text}")


def body(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [USER], "max_tokens": 2} | more


def error_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"] and len(error["message"]) > 10
    return error
