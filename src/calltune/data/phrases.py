"""Phrase tables: request templates with {slots}, and how one is filled into a request and its calls.

A template is a line: `Turn off the {room} light. => on=false`. What stands after `=>` are arguments that
the wording itself decides, or `missing=NAME` for a request that leaves a required value out. `{city#2}`
belongs to a second call of the same tool, which shares everything else with the first.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from calltune.data.parts import PARTS, Part
from calltune.data.slots import draw
from calltune.data.spoken import forms
from calltune.errors import InputError, Problem
from calltune.schema import Tool

Kind = Literal["call", "clause", "pair", "ask"]
KINDS: tuple[Kind, ...] = ("call", "clause", "pair", "ask")
SLOT = re.compile(r"\{(\w+)(#2)?\}")
TRIES = 30
FIELDS = {"slots", "words", "questions", "closing", *KINDS}


@dataclass(frozen=True)
class Template:
    """`fixed` and `fixed_second`: arguments decided by the wording. `missing`: the value it leaves out."""

    id: str
    text: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    fixed_second: Mapping[str, Any] = field(default_factory=dict)
    missing: str | None = None

    @property
    def slots(self) -> list[tuple[str, bool]]:
        """(parameter, belongs to the second call) in order of the text."""
        return [(match[1], bool(match[2])) for match in SLOT.finditer(self.text)]


@dataclass(frozen=True)
class PhraseTable:
    """The templates of one tool by kind and part.

    `slots`: parameter -> kind of value (data/slots.py), or `{"by": PARAMETER, VALUE: KIND, ...}` where the
    kind depends on another argument. `words`: parameter -> value -> the words that stand for it.
    `questions`: what to ask for a missing parameter. `closing`: an answer made from arguments and result.
    `forms`: how many of the numbers, dates and times are said in other words; two dates then come in order.
    """

    tool: str
    slots: Mapping[str, str | Mapping[str, str]]
    words: Mapping[str, Mapping[Any, tuple[str, ...]]]
    templates: Mapping[Kind, Mapping[Part, tuple[Template, ...]]]
    questions: Mapping[str, str] = field(default_factory=dict)
    closing: str = ""
    forms: float = 0.0

    def of(self, kind: Kind, part: Part) -> tuple[Template, ...]:
        return self.templates.get(kind, {}).get(part, ())


@dataclass(frozen=True)
class Filled:
    """A request with the arguments of its one or two calls; `slots`: (name, text as written)."""

    text: str
    arguments: tuple[dict[str, Any], ...]
    slots: tuple[tuple[str, str], ...]
    template: Template


def read_table(text: str, tool: str) -> PhraseTable:
    """A phrase table from YAML text (see builtin/requests). Raises InputError with all its problems."""
    raw = yaml.safe_load(text)
    problems = [
        Problem("unknown_field", key, ", ".join(sorted(FIELDS)), f"/{key}") for key in raw if key not in FIELDS
    ]
    templates: dict[Kind, dict[Part, tuple[Template, ...]]] = {}
    for kind in KINDS:
        templates[kind] = {}
        for part in PARTS:
            lines = [line.strip() for line in (raw.get(kind) or {}).get(part, "").split("\n") if line.strip()]
            found = tuple(read_template(line, f"{tool}/{kind}/{part}/{i}") for i, line in enumerate(lines))
            templates[kind][part] = found
            problems += [p for t in found for p in _unknown_slots(t, raw)]
    if problems:
        raise InputError(f"the phrase table of {tool} cannot be used", problems=problems)
    words = {p: {v: tuple(w) for v, w in values.items()} for p, values in (raw.get("words") or {}).items()}
    closing, questions = raw.get("closing", ""), raw.get("questions") or {}
    return PhraseTable(tool, raw.get("slots") or {}, words, templates, questions, closing)


def read_template(line: str, template_id: str) -> Template:
    """`TEXT => name=value, name=value`; values are JSON, else plain words."""
    text, _, after = line.partition(" => ")
    fixed: dict[str, Any] = {}
    second: dict[str, Any] = {}
    missing: str | None = None
    for pair in filter(None, (p.strip() for p in after.split(","))):
        name, _, value = (p.strip() for p in pair.partition("="))
        if name == "missing":
            missing = value
        elif name.endswith("#2"):
            second[name[:-2]] = _plain_value(value)
        else:
            fixed[name] = _plain_value(value)
    return Template(template_id, text.strip(), fixed, second, missing)


def _plain_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unknown_slots(template: Template, raw: Mapping[str, Any]) -> list[Problem]:
    known = {*(raw.get("slots") or {}), *(raw.get("words") or {})}
    return [
        Problem("unknown_slot", name, ", ".join(sorted(known)), f"/{template.id}")
        for name, _ in template.slots
        if name not in known
    ]


def fill(
    template: Template,
    table: PhraseTable,
    tool: Tool,
    part: Part,
    rng: random.Random,
    used: set[str] | None = None,
) -> Filled:
    """The template with values of the part. `used` holds texts that this request already has. Nobody asks for the
    same call twice, so the second one differs where the template lets it."""
    used = set() if used is None else used
    for _ in range(TRIES):
        own = set(used)
        filled = _fill_once(template, table, tool, part, rng, own)
        if filled.arguments[0] not in filled.arguments[1:]:
            break
    used |= own
    return filled


def _fill_once(
    template: Template, table: PhraseTable, tool: Tool, part: Part, rng: random.Random, used: set[str]
) -> Filled:
    first: dict[str, Any] = dict(template.fixed)
    second: dict[str, Any] = dict(template.fixed_second)
    texts: dict[tuple[str, bool], str] = {}
    written: list[tuple[str, str]] = []
    slots = list(dict.fromkeys(template.slots))
    # words first: the kind of another slot may depend on the value that they stand for
    for name, is_second in sorted(slots, key=lambda slot: slot[0] not in table.words):
        goal = second if is_second else first
        if name in table.words:
            goal[name] = rng.choice(_choices(name, goal, table))
            texts[name, is_second] = rng.choice(table.words[name][goal[name]])
            continue
        value = draw(_kind(table.slots[name], goal, first, rng), part, rng, used)
        said = value.text
        if table.forms and rng.random() < table.forms and (others := _other_words(value.value)):
            said = rng.choice(others)
        goal[name], texts[name, is_second] = value.value, said
        written += [(name, text) for text in value.parts or (said,)]
    if table.forms:
        _in_order(first, texts, table, tool)
    text = SLOT.sub(lambda match: texts[match[1], bool(match[2])], template.text)
    arguments = [ordered(first, tool)]
    if second:
        arguments.append(ordered(first | second, tool))
    return Filled(text, tuple(arguments), tuple(written), template)


def _other_words(value: Any) -> list[str]:
    """Other forms of a date, time or small number; 48776 may be an id, and nobody writes those as 48,776."""
    large = isinstance(value, list) or (isinstance(value, int) and value >= 1000)
    return [] if large else forms(value)


def _in_order(arguments: dict[str, Any], texts: dict[tuple[str, bool], str], table: PhraseTable, tool: Tool) -> None:
    """Two dates or times of one call: the earlier one for the parameter that the tool names first."""
    for kind in ("date", "time", "datetime"):
        names = [name for name in tool.properties if table.slots.get(name) == kind and (name, False) in texts]
        if len(names) == 2 and arguments[names[0]] > arguments[names[1]]:
            one, other = names
            arguments[one], arguments[other] = arguments[other], arguments[one]
            texts[one, False], texts[other, False] = texts[other, False], texts[one, False]


def _kind(kind: str | Mapping[str, str], own: Mapping[str, Any], first: Mapping[str, Any], rng: random.Random) -> str:
    if isinstance(kind, str):
        return kind
    chosen = own.get(kind["by"], first.get(kind["by"]))
    if chosen is None:  # a request that leaves that argument out
        return rng.choice([value for key, value in kind.items() if key != "by"])
    return kind[chosen]


def _choices(name: str, own: Mapping[str, Any], table: PhraseTable) -> list[Any]:
    """Values of a closed set without those that a twin parameter has: no conversion from km to km."""
    options = list(table.words[name])
    twins = [other for other in own if other != name and list(table.words.get(other, ())) == options]
    taken = [own[other] for other in twins if not isinstance(own[other], bool)]
    return [option for option in options if option not in taken] or options


def with_defaults(arguments: Mapping[str, Any], tool: Tool) -> dict[str, Any]:
    """All that has a plain default is written, said or not: whether one more argument follows is a late decision that
    small models get wrong, and an argument that equals its default is right as well (docs/log.md)."""
    plain = {
        name: schema["default"] for name, schema in tool.properties.items()
        if isinstance(schema, Mapping) and isinstance(schema.get("default"), str | int | float)
    }  # fmt: skip
    return ordered({**plain, **arguments}, tool)


def ordered(arguments: Mapping[str, Any], tool: Tool) -> dict[str, Any]:
    """In the order of the schema: one order for all rows is easier to learn than the request's."""
    return {name: arguments[name] for name in tool.properties if name in arguments}
