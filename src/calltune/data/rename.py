"""Other names for the tools and parameters of a row, the same ones in schemas, calls, results and plans.

A model that has seen one tool under several names learns to read the list of tools rather than to remember it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from calltune.data.kinds import name_words
from calltune.data.plans import call_plan
from calltune.data.tool_rows import plain_schema
from calltune.schema import Conversation, Message, Tool, ToolCall

# Words of names, each with others that may stand for it.
_SYNONYMS = """
get: fetch retrieve read | fetch: get retrieve | retrieve: get fetch | find: search locate | search: find look_up
create: make add | add: create insert | make: create | delete: remove | remove: delete | update: change modify
set: change update | send: submit deliver | show: display list | list: show | calculate: compute determine
compute: calculate | convert: transform change | check: verify inspect | book: reserve | play: start
city: town city_name | location: place location_name | place: location | date: day on_date | time: at_time clock_time
name: title full_name | text: content message | message: text body | query: question search_text | id: identifier key
number: count amount | amount: quantity sum | type: kind category | user: person | start: begin first | end: stop last
unit: units measure | language: lang | title: heading name | email: mail email_address | country: nation | price: cost
"""
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    word.strip(): tuple(others.split())
    for word, _, others in (pair.partition(":") for pair in re.split(r"[|\n]", _SYNONYMS.strip()))
}


def renamed(conversation: Conversation, rng: random.Random) -> Conversation | None:
    """The row under other names; None where no name has another one, or two would meet."""
    tools = {tool.name: other_name(tool.name, rng) for tool in conversation.tools}
    if len(set(tools.values())) < len(tools):
        return None
    parameters = {tool.name: _parameter_names(tool, rng) for tool in conversation.tools}
    if all(a == b for a, b in tools.items()) and not any(parameters.values()):
        return None
    words = {**tools, **{a: b for names in parameters.values() for a, b in names.items() if len(a) > 3}}
    called = {call.name for m in conversation.messages for call in m.calls}
    if not called <= set(tools):
        return None
    return replace(
        conversation,
        tools=tuple(_tool(tool, tools[tool.name], parameters[tool.name]) for tool in conversation.tools),
        messages=tuple(_message(message, tools, parameters, words) for message in conversation.messages),
    )


def other_name(name: str, rng: random.Random) -> str:
    """A name of the same meaning: words for words, written the other way (`getWeather`, `fetch_weather`)."""
    parts = [rng.choice((word, *SYNONYMS.get(word, ()))) for word in name_words(name)]
    if not parts or not re.fullmatch(r"\w+", name):
        return name
    joined = "_".join(parts).split("_")
    if rng.random() < 0.5:
        return "_".join(joined)
    return joined[0] + "".join(part.capitalize() for part in joined[1:])


def _parameter_names(tool: Tool, rng: random.Random) -> dict[str, str]:
    """Old name -> new of a tool's own parameters; empty where its schema says more than names can follow."""
    if not plain_schema(tool.parameters):
        return {}
    names = {name: other_name(name, rng) for name in tool.properties}
    if len(set(names.values())) < len(names):
        return {}
    return {old: new for old, new in names.items() if old != new}


def _tool(tool: Tool, name: str, names: Mapping[str, str]) -> Tool:
    parameters: dict[str, Any] = dict(tool.parameters)
    if names:
        parameters["properties"] = {names.get(key, key): value for key, value in tool.properties.items()}
        if "required" in parameters:
            parameters["required"] = [names.get(key, key) for key in tool.required]
    return Tool(name, _in_words(tool.description, {tool.name: name, **names}), parameters)


def _message(
    message: Message, tools: Mapping[str, str], parameters: Mapping[str, Mapping[str, str]], words: Mapping[str, str]
) -> Message:
    calls = tuple(
        replace(
            call,
            name=tools[call.name],
            arguments={parameters[call.name].get(key, key): value for key, value in call.arguments.items()},
        )
        for call in message.calls
    )
    return replace(
        message,
        calls=calls,
        name=tools.get(message.name, message.name) if message.name else message.name,
        thinking=_plan(message, calls, tools, words),
    )


def _plan(
    message: Message, calls: Sequence[ToolCall], tools: Mapping[str, str], words: Mapping[str, str]
) -> str | None:
    """The thinking under the new names: a plan names tools that are on offer, even where a name is a plain word."""
    if message.thinking is None:
        return None
    if calls and message.thinking == call_plan(message.calls):
        return call_plan(calls)
    return _in_words(message.thinking, {**words, **tools}, always=tools)


def _in_words(text: str, names: Mapping[str, str], always: Collection[str] = ()) -> str:
    """A text with whole names put in place of others; only names that look like one, not common words, and those of
    `always`."""
    named = [name for name in names if name in always or "_" in name or re.search(r"[a-z][A-Z]", name)]
    if not named:
        return text
    pattern = "|".join(re.escape(name) for name in sorted(named, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", lambda match: names[match[0]], text)
