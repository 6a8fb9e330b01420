"""Requests that need no call, with short answers in words (data/no_call.yaml)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files

import yaml

from calltune.data.slots import PARTS, Part
from calltune.schema import Tool


@lru_cache(maxsize=1)
def _no_call_file() -> Mapping[str, Mapping[Part, tuple[tuple[str, str], ...]]]:
    raw = yaml.safe_load(files("calltune.data").joinpath("no_call.yaml").read_text(encoding="utf-8"))
    return {
        kind: {
            part: tuple(_request_answer(line) for line in text.strip().split("\n"))
            for part, text in parts.items()
        }
        for kind, parts in raw.items()
    }


def _request_answer(line: str) -> tuple[str, str]:
    request, _, answer = line.strip().partition(" => ")
    return request, answer


def no_call_requests(tools: Sequence[Tool], *, near: bool) -> dict[Part, list[tuple[str, str, str]]]:
    """(template id, request, answer) by part: what none of these tools serves.

    `near` adds the hard negatives of the built-in tools. For other tools a request that shares a word
    with a tool's name or description is left out, and so are all questions of knowledge when a tool
    searches or answers, since it might serve them.
    """
    words = set() if near else {word for tool in tools for word in _words(f"{tool.name} {tool.description}")}
    searches = not near and words & {
        "search",
        "find",
        "ask",
        "answer",
        "query",
        "wikipedia",
        "lookup",
        "question",
    }
    skipped = set() if near else {"near"}
    skipped |= {"knowledge"} if searches else set()
    result: dict[Part, list[tuple[str, str, str]]] = {part: [] for part in PARTS}
    for kind, parts in _no_call_file().items():
        for part in PARTS if kind not in skipped else ():
            for i, (request, answer) in enumerate(parts[part]):
                if not _words(request) & words:
                    result[part].append((f"no_call/{kind}/{part}/{i}", request, answer))
    return result


def _words(text: str) -> set[str]:
    """Content words in a plain form: lower case, without plural s."""
    parts = re.findall(r"[a-z]{4,}", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower())
    common = {
        "what",
        "that",
        "this",
        "with",
        "from",
        "your",
        "have",
        "many",
        "does",
        "when",
        "which",
        "into",
        "between",
    }
    return {part.removesuffix("s") for part in parts} - common
