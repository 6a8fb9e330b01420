"""Requests from a larger model: any OpenAI-compatible endpoint writes requests with arguments for our tools.

The prompts are ours; every answer is parsed, validated against the schema, checked for values that the request does
not say, and deduplicated. Answers are kept in a file as they come, so that a broken run goes on where it stopped and
asks nothing twice. The key, if the endpoint wants one, comes from the environment (CALLTUNE_TEACHER_KEY).
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from calltune.data.calls import judge, repair_call
from calltune.data.grounding import is_said, squeeze, values_of
from calltune.data.likeness import like_keys, request_words
from calltune.data.plans import call_plan
from calltune.errors import InputError, Problem
from calltune.formats.literals import balanced_end, read_value
from calltune.schema import Conversation, Message, Tool, ToolCall, shorten

KEY = "CALLTUNE_TEACHER_KEY"
EACH = 8  # requests in one answer
TRIES = 4  # of one question, when the endpoint is busy or fails
MOST_REPLY = 4_000_000  # bytes
STYLES = (
    "short and plain, as people type",
    "polite, in a whole sentence",
    "with a reason or some words around it",
    "in unusual words, without the words of the description",
)
PROMPT = """You write test requests for a function calling assistant.

Function:
{function}

Write {each} different requests of users that this one function serves ({style}), each with the arguments of the call.
Say every value that you use in the request itself, except those that the schema lists in an enum. Use varied values.
Answer with nothing but a JSON list: [{{"request": "...", "arguments": {{...}}}}, ...]
Variant {number}."""


@dataclass(frozen=True)
class Teacher:
    """Where to ask, and how much: at most `budget` questions, `per_minute` of them a minute."""

    url: str
    model: str
    budget: int = 100
    per_minute: float = 60.0
    timeout: float = 120.0


@dataclass
class Taught:
    """The rows, how many questions were asked (`kept`: answered from the file), and what was refused, by reason."""

    rows: list[Conversation] = field(default_factory=list)
    asked: int = 0
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def teach(
    teacher: Teacher,
    tools: Sequence[Tool],
    rows: int,
    record: Path,
    *,
    think: bool = True,
    sleep: Callable[[float], None] = time.sleep,
) -> Taught:
    """Up to `rows` rows for the tools, as many of each; `record` keeps the answers. Raises InputError where the
    endpoint cannot be reached or refuses, or the URL is no address."""
    _address(teacher.url)
    found, seen = Taught(), set[int]()
    answers = _read_record(record)
    left = {tool.name: -(-rows // len(tools)) for tool in tools} if tools else {}
    for number, tool in _questions(tools, teacher.budget):
        if left[tool.name] <= 0 or len(found.rows) >= rows:
            continue
        question = prompt_for(tool, number)
        key = hashlib.sha256(f"{teacher.model}\n{question}".encode()).hexdigest()[:24]
        if key in answers:
            found.kept += 1
        else:
            if found.asked:
                sleep(60 / teacher.per_minute)
            answers[key] = ask(teacher, question, sleep)
            found.asked += 1
            _note(record, key, answers[key])
        for row in read_answer(answers[key], tool, tools, think, found.refused):
            keys = set(like_keys(row, request_words(row)))
            if keys & seen:
                found.refused["near_duplicate"] += 1
            elif left[tool.name] > 0:
                left[tool.name] -= 1
                seen |= keys  # of rows that were taken only: what was refused is like nothing that is there
                found.rows.append(_numbered(row, len(found.rows)))
            else:
                found.refused["enough"] += 1
    return found


def _questions(tools: Sequence[Tool], budget: int) -> Iterator[tuple[int, Tool]]:
    """The tools in turn, as often as the budget lets."""
    return ((i // len(tools), tools[i % len(tools)]) for i in range(budget if tools else 0))


def prompt_for(tool: Tool, number: int) -> str:
    function = json.dumps(tool.to_openai()["function"], ensure_ascii=False, indent=1)
    return PROMPT.format(function=function, each=EACH, style=STYLES[number % len(STYLES)], number=number + 1)


def _numbered(row: Conversation, number: int) -> Conversation:
    return Conversation(row.messages, row.tools, f"teacher:{number}", row.meta)


# ---- answers ----------------------------------------------------------------------------------------------------


def read_answer(
    text: str, tool: Tool, tools: Sequence[Tool], think: bool, refused: Counter[str]
) -> Iterator[Conversation]:
    """The rows in an answer; what is not one is counted in `refused`."""
    begin = text.find("[")
    try:
        end = balanced_end(text, begin) if begin >= 0 else None
        items = read_value(text[begin:end]) if end else None
    except ValueError:
        items = None
    if not isinstance(items, list):
        refused["unreadable_answer"] += 1
        return
    for item in items:
        row = _row(item, tool, tools, think)
        if isinstance(row, str):
            refused[row] += 1
        else:
            yield row


def _row(item: Any, tool: Tool, tools: Sequence[Tool], think: bool) -> Conversation | str:
    """A row, or the kind of problem that it has."""
    if not isinstance(item, Mapping) or not isinstance(item.get("request"), str) or not item["request"].strip():
        return "no_request"
    if not isinstance(item.get("arguments"), Mapping):
        return "unreadable_call"
    call = repair_call(ToolCall(tool.name, dict(item["arguments"])), tools)
    if problems := judge(call, tools, ""):
        return problems[0].kind
    request = item["request"].strip()
    squeezed = squeeze(request)
    if not all(is_said(value, squeezed) for _, value in values_of(call.arguments, tool.parameters, "")):
        return "value_not_in_dialogue"
    plan = call_plan([call]) if think else None
    messages = (Message("user", request), Message("assistant", "", plan, (call,)))
    return Conversation(messages, tuple(tools), None, {"category": "call", "tool": tool.name, "teacher": True})


# ---- the endpoint -----------------------------------------------------------------------------------------------


def ask(teacher: Teacher, question: str, sleep: Callable[[float], None] = time.sleep) -> str:
    """The text of one answer. A busy or failing endpoint is asked again after a while. Raises InputError."""
    body = {"model": teacher.model, "messages": [{"role": "user", "content": question}], "temperature": 0.9}
    why = ""
    for number in range(TRIES):
        if number:
            sleep(2.0**number)
        try:
            return _text(_post(teacher, body))
        except urllib.error.HTTPError as error:
            why = f"status {error.code}: {shorten(error.read(400).decode('utf-8', 'replace'))}"
            if error.code not in (408, 409, 425, 429) and error.code < 500:
                break
        except http.client.InvalidURL:  # its words could hold a password
            raise _no_address(teacher.url) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = f"{type(error).__name__}: {shorten(str(error))}"
    problem = Problem("teacher", why, "an OpenAI-compatible answer")
    raise InputError(f"the teacher at {_shown(teacher.url)} gave no answer", problems=[problem],
                     next_step=f"check --teacher, --teacher-model and {KEY}; what was answered is kept")  # fmt: skip


def _address(url: str) -> str:
    """Where the questions go. Raises InputError where that is no address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0  # raises: no number
    except ValueError:
        good = False
    if not good or any(c.isspace() for c in url) or not url.isprintable():
        raise _no_address(url)
    url = url.rstrip("/")
    return url if url.endswith("/chat/completions") else f"{url}/chat/completions"


def _no_address(url: str) -> InputError:
    return InputError(f"{_shown(url)} is no address", next_step="give --teacher as http://HOST:PORT/v1")


def _post(teacher: Teacher, body: Mapping[str, Any]) -> Any:
    url = _address(teacher.url)
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=teacher.timeout) as reply:
        return json.loads(reply.read(MOST_REPLY))


def _text(reply: Any) -> str:
    """The content of the first choice. Raises ValueError."""
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ValueError("no text in choices[0].message.content")
    return text


def _shown(url: str) -> str:
    """The address without a password that it may hold."""
    scheme, sign, rest = url.partition("://")
    return f"{scheme}{sign}{rest.rpartition('@')[2]}"


# ---- the record -------------------------------------------------------------------------------------------------


def _read_record(path: Path) -> dict[str, str]:
    """The answers so far; a last line that a kill left half-written is not one."""
    if not path.is_file():
        return {}
    answers = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            item = json.loads(line)
            answers[str(item["key"])] = str(item["answer"])
        except (ValueError, KeyError, TypeError):
            continue
    return answers


def _note(path: Path, key: str, answer: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.is_file() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8", errors="replace") as file:
        file.write(("\n" if begun else "") + json.dumps({"key": key, "answer": answer}) + "\n")
