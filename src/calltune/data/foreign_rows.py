"""Rows of other sets that need no text to be taken apart: xLAM, BFCL's questions, ShareGPT, prompt and completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calltune.data.foreign_tools import as_text, foreign_tools, unreadable
from calltune.data.forms import CALL_ROLES, PAIR, Turns, message_column
from calltune.data.messages import Reading
from calltune.formats.literals import read_value


def xlam(value: Mapping[str, Any], reading: Reading) -> Turns | None:
    """`{"query": text, "tools": [...], "answers": [{"name", "arguments"}]}`, the last two often as JSON text.
    Source: Salesforce/xlam-function-calling-60k."""
    if "query" not in value or "answers" not in value:
        return None
    calls = _read(value["answers"], "/answers", reading)
    if calls is not None and not isinstance(calls, list):
        calls = [calls]
    reply: dict[str, Any] = {"role": "assistant", "tool_calls": calls or []}
    if not calls and isinstance(value.get("response"), str):
        reply["content"] = value["response"]
    places = [("/messages/0/content", "/query"), ("/messages/1/tool_calls", "/answers")]
    tools = foreign_tools(value.get("tools"), "/tools", reading) if value.get("tools") is not None else None
    messages = [{"role": "user", "content": value["query"]}, reply]
    return Turns(messages, tools, {"query", "answers", "tools"}, places)


def bfcl(value: Mapping[str, Any], reading: Reading) -> Turns | None:
    """`{"question": [[{"role", "content"}]], "function": [...]}`, perhaps with `ground_truth`
    (`[{"name": {"argument": [accepted values]}}]`, of which the first is taken). For questions to ask a model; to
    train on a benchmark is to spoil it. Source: the Berkeley Function-Calling Leaderboard."""
    question = value.get("question")
    if question is None or "function" not in value:
        return None
    turns = [{"role": "user", "content": question}] if isinstance(question, str) else question
    if isinstance(turns, list) and turns and isinstance(turns[0], list):
        turns = turns[0]
    if not isinstance(turns, list):
        reading.problem("bad_content", question, "a list of turns", "/question")
        turns = []
    tools = foreign_tools(value["function"], "/function", reading)
    truth = value.get("ground_truth")
    messages = list(turns)
    places = [("/tools", "/function"), (f"/messages/{len(turns)}/tool_calls", "/ground_truth")]
    if isinstance(truth, list) and truth:
        messages.append({"role": "assistant", "tool_calls": [_accepted(item) for item in truth]})
    places.append(("/messages", "/question/0" if isinstance(question, list) else "/question"))
    return Turns(messages, tools, {"question", "function", "ground_truth"}, places)


def _accepted(item: Any) -> Any:
    """BFCL's answer as a call: the first value that is accepted for each argument; "" means left out."""
    if not isinstance(item, Mapping) or len(item) != 1:
        return unreadable(as_text(item), "one function with its arguments is expected")
    ((name, given),) = item.items()
    if not isinstance(given, Mapping):
        return unreadable(as_text(item), "arguments are expected")
    first = {key: next(iter(v), None) if isinstance(v, list) else v for key, v in given.items()}
    return {"name": name, "arguments": {key: v for key, v in first.items() if v != ""}}


def sharegpt(value: Mapping[str, Any], reading: Reading) -> Turns | None:
    """`from`/`value` turns; a turn of `function_call` holds a call (or a list) as JSON, one of `observation` the
    result; `system` may be a column. Source: LLaMA-Factory's form, Salesforce/APIGen-MT-5k."""
    column = message_column(value)
    if column is None or not isinstance(value[column], list):
        return None
    messages: list[Any] = []
    places: list[tuple[str, str]] = []
    used = {column}
    if isinstance(value.get("system"), str):
        used.add("system")
        if value["system"].strip():
            messages.append({"role": "system", "content": value["system"]})
            places.append(("/messages/0", "/system"))
    for i, item in enumerate(value[column]):
        ours, place = f"/messages/{len(messages)}", f"/{column}/{i}"
        name = item.get("from", item.get("role")) if isinstance(item, Mapping) else None
        if name in CALL_ROLES:
            text = item.get("value", item.get("content"))
            places.append((f"{ours}/tool_calls", f"{place}/{'value' if 'value' in item else 'content'}"))
            messages.append({"role": "assistant", "tool_calls": _json_calls(text)})
        else:
            messages.append(item)
        places.append((ours, place))
    return Turns(messages, None, used, places)


def _json_calls(text: Any) -> list[Any]:
    try:
        value = read_value(text) if isinstance(text, str) else text
    except ValueError as error:
        return [unreadable(text, str(error))]
    return value if isinstance(value, list) else [value]


def pair(value: Mapping[str, Any], reading: Reading) -> Turns | None:
    """`{"prompt": text, "completion": text}`; the completion may hold plans and calls in Hermes tags."""
    if any(value.get(name) is None for name in PAIR):
        return None
    for name in PAIR:
        if not isinstance(value[name], str):
            reading.problem("bad_content", value[name], "text", f"/{name}")
    messages = [{"role": role, "content": value[name]} for name, role in PAIR.items()]
    places = [(f"/messages/{i}{end}", f"/{name}") for i, name in enumerate(PAIR) for end in ("/content", "")]
    return Turns(messages, None, set(PAIR), places)


def _read(value: Any, path: str, reading: Reading) -> Any:
    """A value, or the value that its text spells."""
    if not isinstance(value, str):
        return value
    try:
        return read_value(value) if value.strip() else None
    except ValueError as error:
        reading.problem("unreadable_call", value, f"calls as JSON; they are {error}", path)
        return None
