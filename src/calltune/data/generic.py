"""A phrase table for a function that nobody wrote phrases for: from its docstring, names and types.

Best are examples in the docstring, one line each, with a slot for every value:

    Examples:
        - what's the weather in {city}?
        - is it cold in {city} in fahrenheit? => unit=fahrenheit

Beside them the description's verb phrase ("Get the weather for a city.") makes patterns: "can you get
the weather for {city}?". Values come by type, format, enum and parameter name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from calltune.data.kinds import name_words, spoken_name, values_of
from calltune.data.parts import PARTS, Part
from calltune.data.phrases import Kind, PhraseTable, Template, read_template
from calltune.data.rephrase import clause_of
from calltune.functions import Function
from calltune.schema import Tool

# How a verb phrase becomes a request; no pattern stands in two parts.
PATTERNS: Mapping[Part, tuple[str, ...]] = {
    "train": (
        "{A}.",
        "Please {a}.",
        "Can you {a}?",
        "I need you to {a}.",
        "{a}",
        "Could you {a} for me?",
        "{A}, please.",
    ),
    "valid": ("I want you to {a}.", "Could you please {a}?"),
    "test": ("Would you {a}?", "Go ahead and {a}.", "I'd like you to {a}.", "Help me {a}."),
}
FROM = frozenset({"from", "origin", "source", "start", "departure", "since", "begin"})
TO = frozenset({"to", "destination", "target", "recipient", "end", "arrival", "until"})
CONNECTORS: Sequence[tuple[frozenset[str], str]] = (
    (FROM, "from {x}"),
    (TO, "to {x}"),
    (frozenset({"date", "day", "deadline", "birthday"}), "on {x}"),
    (frozenset({"time", "hour", "when", "datetime"}), "at {x}"),
    (frozenset({"street", "address"}), "at {x}"),
    (frozenset({"city", "town", "location", "place", "country", "language", "lang", "room"}), "in {x}"),
    (frozenset({"query", "topic", "keyword", "question", "person", "user", "customer"}), "for {x}"),
    (frozenset({"title", "label"}), "called {x}"),
    (frozenset({"minutes", "seconds", "hours", "days", "nights", "weeks"}), "for {x} {words}"),
    (frozenset({"people", "guests", "travellers", "passengers"}), "for {x} {words}"),
    (frozenset({"percent"}), "at {x} percent"),
)
VERBS = {
    "return": "get",
    "returns": "get",
    "retrieve": "get",
    "retrieves": "get",
    "fetch": "get",
    "fetches": "get",
}
UNITS = {"kg": "kg", "km": "km", "cm": "cm", "eur": "euros", "usd": "dollars", "euros": "euros", "celsius": "degrees"}
CHANGES = frozenset({"set", "change", "update", "adjust", "raise", "lower"})
FEW_EXAMPLES = 5
OWN_SHARE = 3  # requests by the user's own phrasings, to one by ours
FORMS = 0.2  # share of the numbers, dates and times that are said in other words
DEAL: Sequence[Part] = ("train", "train", "train", "test", "valid")
QUOTED = frozenset({"text", "message", "phrase"})


def table_for(function: Function, requests: Sequence[str] = ()) -> tuple[PhraseTable | None, list[str]]:
    """A phrase table for the function, with notes on what a person should add; None if none can be made. `requests`:
    examples from elsewhere than its docstring."""
    tool = function.tool
    slots, words, notes = values_of(tool)
    unknown = [name for name in tool.required if name not in slots and name not in words]
    examples, said = _examples(function, requests, slots, words)
    notes += said
    if unknown:
        notes.append(
            f"{tool.name}: no values for {', '.join(unknown)}; no requests made: give example values by hand"
        )
        return None, notes
    if not tool.description:
        notes.append(f"{tool.name}: no description; write what it does, beginning with a verb")
    if len([t for t in examples if t.missing is None]) < FEW_EXAMPLES:
        notes.append(f"{tool.name}: add `Examples:` with {FEW_EXAMPLES} or more requests such as `- {_hint(tool)}`")
    templates = _templates(tool, slots, words, examples)
    questions = {name: f"Which {spoken_name(name)} should I use?" for name in tool.required}
    return PhraseTable(tool.name, slots, words, templates, questions, forms=FORMS), notes


def _examples(
    function: Function, requests: Sequence[str], slots: Mapping[str, Any], words: Mapping[str, Any]
) -> tuple[list[Template], list[str]]:
    """The docstring's `Examples:` or `Requests:` lines, and those given; one without a required value is a case to
    ask."""
    doc = inspect.getdoc(function.call) if function.call else None
    section = re.search(r"^(?:Examples?|Requests?):[ \t]*\n((?:[ \t]+.*\n?|\n)+)", f"{doc or ''}\n", re.MULTILINE)
    lines = re.findall(r"^\s*[-*]\s+(\S.*)$", section[1], re.MULTILINE) if section else []
    templates, notes = [], []
    known = {*slots, *words}
    for i, line in enumerate([*lines, *requests]):
        template = read_template(line.strip(), f"{function.name}/example/{i}")
        names = {name for name, _ in template.slots} | {*template.fixed}
        if wrong := sorted(names - known):
            notes.append(
                f"{function.name}: example {line!r} names {', '.join(wrong)}, which is no parameter; left out"
            )
            continue
        missing = [name for name in function.tool.required if name not in names]
        if missing and template.missing is None:
            if not template.slots and not template.fixed and len(missing) == len(function.tool.required) > 0:
                notes.append(f"{function.name}: example {line!r} has no {{{missing[0]}}}; taken as one to ask back")
            template = replace(template, missing=missing[0])
        templates.append(template)
    return templates, notes


def _templates(
    tool: Tool, slots: Mapping[str, Any], words: Mapping[str, Any], examples: Sequence[Template]
) -> dict[Kind, dict[Part, tuple[Template, ...]]]:
    """The templates of all kinds: from the verb phrase, and the examples beside them."""
    kinds: tuple[Kind, ...] = ("call", "clause", "ask")
    made: dict[Kind, dict[Part, list[Template]]] = {k: {p: [] for p in PARTS} for k in kinds}
    phrases = _verb_phrases(tool, slots, words)
    dropped = [
        (name, _phrase(tool, [n for n in tool.required if n != name], slots, words, name)) for name in tool.required
    ]
    for part in PARTS:
        for i, pattern in enumerate(PATTERNS[part]):
            for j, phrase in enumerate(phrases):
                text = _apply(pattern, phrase)
                made["call"][part].append(Template(f"{tool.name}/generic/{part}/{i}/{j}", text))
            for name, phrase in dropped:
                made["ask"][part].append(
                    Template(f"{tool.name}/ask/{part}/{i}/{name}", _apply(pattern, phrase), missing=name)
                )
        for kind, own in _deal(examples, part).items():
            times = OWN_SHARE if kind == "call" and len(own) >= OWN_SHARE else 1
            made[kind][part] += own * max(1, times * len(made[kind][part]) // max(1, len(own)))
        made["clause"][part] = [Template(f"{tool.name}/clause/{part}/{i}", p) for i, p in enumerate(phrases)]
        made["clause"][part] += _clauses(_deal(examples, part)["call"], tool) * 2
    return {kind: {part: tuple(rows) for part, rows in parts.items()} for kind, parts in made.items()}


def _clauses(examples: Sequence[Template], tool: Tool) -> list[Template]:
    """The user's own phrasings that can stand in a longer sentence."""
    verb = _base_verb(tool.description.split(" ")[0])
    found = ((example, clause_of(example.text, verb)) for example in examples)
    return [replace(example, id=f"{example.id}/clause", text=clause) for example, clause in found if clause]


def _deal(examples: Sequence[Template], part: Part) -> dict[Kind, list[Template]]:
    """The examples of a part: 3:1:1 over train, test and valid when there are enough, else all train."""
    dealt: dict[Kind, list[Template]] = {}
    groups: tuple[tuple[Kind, list[Template]], ...] = (
        ("call", [e for e in examples if e.missing is None]),
        ("ask", [e for e in examples if e.missing]),
    )
    for kind, group in groups:
        few = len(group) < FEW_EXAMPLES
        dealt[kind] = [e for i, e in enumerate(group) if ("train" if few else DEAL[i % 5]) == part]
    return dealt


def _verb_phrases(tool: Tool, slots: Mapping[str, Any], words: Mapping[str, Any]) -> list[str]:
    """Verb phrases with slots: required values alone, and with each optional one."""
    base = _phrase(tool, [n for n in tool.required if n in slots or n in words], slots, words)
    optional = [n for n in tool.properties if n not in tool.required and (n in slots or n in words)]
    return [base, *(f"{base} {_connector(name, slots, words)}" for name in optional)]


def _phrase(
    tool: Tool, names: Sequence[str], slots: Mapping[str, Any], words: Mapping[str, Any], without: str = ""
) -> str:
    """The description's first sentence with a slot where it names a parameter, connectors for the rest.

    `without`: a parameter that the request leaves out; what the sentence says of it goes.
    """
    sentence = re.split(r"[.\n;(,]", tool.description.strip() or spoken_name(tool.name))[0].strip()
    verb, _, rest = sentence.partition(" ")
    text = f"{_base_verb(verb)} {rest}".strip()
    text = re.sub(r"^(tell|show|give) (?!me\b)", r"\1 me ", text)
    if without:
        text = " ".join(_mention(without).sub("", text, count=1).split())
    after = []
    for name in names:
        found = None if name in words else _mention(name).search(text)
        if found:
            text = f"{text[: found.start()]}{found[1] or ''}{_quoted(name, slots)}{text[found.end() :]}"
        else:
            after.append(_connector(name, slots, words, changes=text.split(" ")[0] in CHANGES and len(names) < 3))
    return " ".join([text, *_with_once(after)])


def _base_verb(verb: str) -> str:
    """`Sets` -> `set`, `Searches` -> `search`, `Returns` -> `get`."""
    plain = VERBS.get(verb.lower(), verb.lower())
    if plain.endswith(("shes", "ches", "sses", "xes")):
        return plain[:-2]
    return plain[:-1] if plain.endswith("s") and not plain.endswith("ss") else plain


def _mention(name: str) -> re.Pattern[str]:
    """Where a sentence speaks of a parameter: `for a city`, `the given text`; not `meeting room` for room."""
    article = r"(?:(?:a|an|the|some|given|specified|certain|their|its|his|your)\s+)"
    spoken = r"percentage" if name_words(name)[0] == "percent" else re.escape(spoken_name(name))
    before = r"\b((?:for|in|of|to|from|at|on|by|into|about|with)\s+)"
    after = r"(?=\s*$|\s*,|\s+(?:for|in|to|from|at|on|by|into|about|with|and|or|is|that)\b)"
    return re.compile(
        rf"(?:{before}{article}*|\b{article}+){spoken}(?:\s+(?:address|name|number))?{after}", re.IGNORECASE
    )


def _quoted(name: str, slots: Mapping[str, Any]) -> str:
    return f'"{{{name}}}"' if slots.get(name) in QUOTED else f"{{{name}}}"


def _connector(name: str, slots: Mapping[str, Any], words: Mapping[str, Any], changes: bool = False) -> str:
    """How a value is added to a verb phrase. `changes`: the verb sets something to it."""
    if name in words and set(words[name]) <= {True, False}:
        return f"{{{name}}}"
    kind, spoken = str(slots.get(name)), name_words(name)
    by_kind = {"date": "on", "time": "at", "datetime": "at"}.get(kind)
    if len(spoken) == 1 and name in FROM | TO:
        return f"{'from' if name in FROM else 'to'} {_quoted(name, slots)}"
    if by_kind:
        return f"{by_kind} {{{name}}}"
    for keys, pattern in CONNECTORS:
        counted = "{words}" in pattern and kind.split(" ")[0] not in ("int", "count")
        if keys & set(spoken) and spoken[0] not in ("max", "min") and not counted:
            return pattern.replace("{x}", _quoted(name, slots)).replace("{words}", spoken[-1])
    numeric = kind.split(" ")[0] in ("int", "count", "amount", "decimal", "degrees")
    if numeric and changes:
        return f"to {{{name}}}"
    if numeric and spoken[-1] in UNITS:
        return " ".join(["with", *spoken[:-1], f"{{{name}}}", UNITS[spoken[-1]]])
    if kind.split(" ")[0] in ("int", "count") and len(spoken) == 1 and name.endswith("s"):
        return f"with {{{name}}} {name}"
    return f"with {spoken_name(name)} {_quoted(name, slots)}"


def _with_once(phrases: Sequence[str]) -> list[str]:
    """`with a 1 and b 2` where two phrases with `with` follow each other."""
    texts: list[str] = []
    for i, phrase in enumerate(phrases):
        again = i > 0 and phrase.startswith("with ") and phrases[i - 1].startswith("with ")
        texts.append(f"and {phrase.removeprefix('with ')}" if again else phrase)
    return texts


def _apply(pattern: str, phrase: str) -> str:
    return pattern.replace("{A}", phrase[:1].upper() + phrase[1:]).replace("{a}", phrase)


def _hint(tool: Tool) -> str:
    return " ".join([spoken_name(tool.name), *(f"{{{name}}}" for name in tool.required)])
