"""Requests that need no call, with short answers in words (data/no_call.yaml)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files

import yaml

from calltune.data.parts import PARTS, Part
from calltune.schema import Tool


@lru_cache(maxsize=1)
def _no_call_file() -> Mapping[str, Mapping[Part, tuple[str, ...]]]:
    raw = yaml.safe_load(files("calltune.data").joinpath("no_call.yaml").read_text(encoding="utf-8"))
    return {
        kind: {part: tuple(line.strip() for line in text.strip().split("\n")) for part, text in parts.items()}
        for kind, parts in raw.items()
    }


# One answer a kind, on purpose: an answer of its own for each request would be a fact to learn by heart, and
# these few rows would then make up most of the loss (docs/log.md).
NO_TOOL = "I have no tool for that."
ANSWERS = {"smalltalk": "I am here to help. What can I do for you?"}
# Hard negatives of the built-in tools with values in them, so that a value alone does not mean a call.
SLOTTED: dict[Part, tuple[str, ...]] = {
    "train": (
        "Can you cook {grocery}?",
        "Buy two tickets for {artist}.",
        "Send a parcel to {person}.",
        "What is {city} famous for?",
        "Sell my {grocery}.",
        "Lock the door of the {room}.",
        "Do you like {artist}?",
        "Print the {label} photos.",
        "Who was the first mayor of {city}?",
        "Pay {person} back.",
        "How is {person} doing?",
        "Which {grocery} is the best?",
        "Invite {person} to the game.",
        "Is {country} bigger than {country}?",
        "Is {grocery} healthy?",
        "Which songs did {artist} write?",
        "Get me a taxi in {city}.",
        "Reserve a hotel in {city}.",
        "Is somebody in the {room}?",
        "Vacuum the {room}.",
        "Order {grocery} online.",
        "Where can I buy {grocery}?",
        "How many people live in {city}?",
        "Tell me about {artist}.",
        "How do I cook {grocery}?",
        "Which currency do they use in {country}?",
        "What did {person} write to me?",
        "Open the window in the {room}.",
        "Rent a car in {city}.",
        "Check my train ticket to {city}.",
        "Clean the {room}.",
        "How much does {grocery} cost?",
        "Book a flight to {city}.",
        "Do you know {person}?",
        "Who is {artist}?",
    ),
    "valid": (
        "How old is {city}?",
        "Paint the {room} blue.",
        "Find a cheap hotel in {city}.",
        "What is the phone number of {person}?",
        "What does {person} do for work?",
    ),
    "test": (
        "Where was {artist} born?",
        "Delete all messages from {person}.",
        "What language do people speak in {country}?",
        "Call {person}.",
        "Is {person} at home?",
        "Give me the history of {city}.",
        "Is {artist} still alive?",
        "What is the capital of {country}?",
        "When was {artist} founded?",
    ),
}


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
            for i, request in enumerate(parts[part]):
                if not _words(request) & words:
                    result[part].append((f"no_call/{kind}/{part}/{i}", request, ANSWERS.get(kind, NO_TOOL)))
    for part in PARTS if near else ():
        result[part] += [(f"no_call/slotted/{part}/{i}", text, NO_TOOL) for i, text in enumerate(SLOTTED[part])]
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
