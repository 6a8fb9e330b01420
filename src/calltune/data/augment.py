"""More rows of what is there, seeded: each change has a share of the rows, and is written only where it stays valid.

A row's changes depend on the seed and on what it says alone, so they stay the same when other rows are added.
In-place changes (order, distractors, names, defaults, forms of numbers) replace the row; `remove_tool` and `combine`
add rows.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from calltune.data.calls import judge
from calltune.data.kinds import name_words
from calltune.data.likeness import words
from calltune.data.phrasing import content_key, rank
from calltune.data.plans import ANSWER_PLAN, call_plan
from calltune.data.rename import SYNONYMS, renamed
from calltune.data.spoken import other_form, values_of_calls
from calltune.errors import Problem
from calltune.schema import Conversation, Message, Tool, ToolCall, find_tool
from calltune.settings import setting

REFUSALS = (
    "I have no tool for that.",
    "None of my tools can do that, sorry.",
    "I cannot do that with the tools I have.",
    "Sorry, that is not something I have a tool for.",
    "There is no tool here that does that.",
)
JOINS = (
    "{A} {B}",
    "{A} Also: {B}",
    "{A} And then: {B}",
    "Two things. {A} {B}",
    "{A} Besides, {B}",
    "First: {A} Then: {B}",
)
MOST_DISTRACTORS = 3
OTHER_VERBS = frozenset(["delete", "archive", "export", "schedule", "cancel", "approve", "share", "rate"])
Measure = Callable[[Conversation], Sequence[Problem]]
Change = Callable[[Conversation, random.Random], Conversation | None]


@dataclass(frozen=True)
class AugmentSettings:
    """The share of the training rows that each change is made to."""

    shuffle_tools: float = setting("rows with their tools in another order", 0.0, low=0, high=1)
    add_distractors: float = setting("rows that get one to three tools of other rows", 0.0, low=0, high=1)
    add_twin: float = setting("rows that get a tool which does another thing with the same words", 0.0, low=0, high=1)
    remove_tool: float = setting("rows added whose right tool is gone, answered without a call", 0.0, low=0, high=1)
    rename: float = setting("rows with other names for tools and parameters", 0.0, low=0, high=1)
    drop_defaults: float = setting("rows without arguments that equal their default", 0.0, low=0, high=1)
    vary_values: float = setting("rows with a number or date in another form", 0.0, low=0, high=1)
    combine: float = setting("rows added that are two rows of one call at once", 0.0, low=0, high=1)


@dataclass
class Augmented:
    """The rows, how often each change was made, and how often it was given up: it did not apply to the row, or what
    came of it did not fit the schemas."""

    rows: list[Conversation]
    measure: Measure | None = None
    made: Counter[str] = field(default_factory=Counter)
    given_up: Counter[str] = field(default_factory=Counter)

    def passes(self, name: str, row: Conversation | None) -> bool:
        """Counts a change; whether what came of it may be written."""
        good = row is not None and is_valid(row)
        if good and self.measure is not None and row is not None:
            good = not any(problem.severity == "error" for problem in self.measure(row))
        (self.made if good else self.given_up)[name] += 1
        return good


def augment(
    rows: Sequence[Conversation], settings: AugmentSettings, seed: int = 0, measure: Measure | None = None
) -> Augmented:
    """The rows with the changes of `settings`. Every row that comes of it is valid by its schemas, and passes
    `measure` (findings that need a model, such as its length)."""
    pool = {tool.name: tool for row in rows for tool in row.tools}
    changes: Mapping[str, Change] = {
        "add_distractors": lambda row, rng: with_distractors(row, pool, rng),  # before names change
        "add_twin": with_twin,
        "rename": renamed,
        "drop_defaults": without_defaults,
        "vary_values": varied,
        "shuffle_tools": shuffled,
    }
    done = Augmented([], measure)
    for row in rows:
        key = content_key(row)
        for name, change in changes.items():
            if rank(seed, f"{name}/{key}") < getattr(settings, name):
                row = _changed(row, change, name, random.Random(f"{seed}/{name}/{key}"), done)
        done.rows.append(row)
    done.rows += _without_tool(rows, settings.remove_tool, seed, done)
    done.rows += _combined(rows, settings.combine, seed, done)
    return done


def any_change(settings: AugmentSettings) -> bool:
    return any(getattr(settings, item.name) for item in fields(settings))


def _changed(row: Conversation, change: Change, name: str, rng: random.Random, done: Augmented) -> Conversation:
    made = change(row, rng)
    if not done.passes(name, made) or made is None:
        return row
    return replace(made, meta={**row.meta, "augmented": [*row.meta.get("augmented", ()), name]})


def is_valid(row: Conversation) -> bool:
    """Whether every call fits its tool and no two tools share a name."""
    if len({tool.name for tool in row.tools}) < len(row.tools):
        return False
    return not any(judge(call, row.tools, "") for message in row.messages for call in message.calls)


# ---- changes of one row -----------------------------------------------------------------------------------------


def shuffled(row: Conversation, rng: random.Random) -> Conversation | None:
    """The tools in another order (trap T22)."""
    if len(row.tools) < 2:
        return None
    return replace(row, tools=tuple(rng.sample(row.tools, len(row.tools))))


def with_distractors(row: Conversation, pool: Mapping[str, Tool], rng: random.Random) -> Conversation | None:
    """With up to three tools of other rows at any place. Rows that were answered without a call get none, since one
    of those might have served."""
    own = {tool.name for tool in row.tools}
    if not row.tools or not any(message.calls for message in row.messages) or len(pool) <= len(own):
        return None
    names = list(pool)
    called = [find_tool(row.tools, call.name) for message in row.messages for call in message.calls]
    wanted, tools = rng.randint(1, MOST_DISTRACTORS), list(row.tools)
    for _ in range(20):
        name = rng.choice(names)
        if wanted and name not in own and not any(_alike(tool, pool[name]) for tool in called):
            own.add(name)
            tools.insert(rng.randint(0, len(tools)), pool[name])
            wanted -= 1
    return replace(row, tools=tuple(tools)) if len(tools) > len(row.tools) else None


def with_twin(row: Conversation, rng: random.Random) -> Conversation | None:
    """With a near-twin of a called tool: the same parameters, another verb in name and description."""
    called = [tool for m in row.messages for call in m.calls if (tool := find_tool(row.tools, call.name))]
    for tool in rng.sample(called, len(called)):
        verb, *rest = name_words(tool.name) or [""]
        other = rng.choice(sorted(OTHER_VERBS - {verb, *SYNONYMS.get(verb, ())}))
        name = "_".join([other, *rest]) if "_" in tool.name else other + "".join(map(str.capitalize, rest))
        if not rest or verb not in SYNONYMS or find_tool(row.tools, name):
            continue
        first, _, after = tool.description.partition(" ")
        described = first.lower().removesuffix("s").rstrip(".") in SYNONYMS
        said = after if described and after else f"{' '.join(rest)}."
        twin = Tool(name, f"{other.capitalize()} {said}", tool.parameters)
        tools = list(row.tools)
        tools.insert(rng.randint(0, len(tools)), twin)
        return replace(row, tools=tuple(tools))
    return None


def without_defaults(row: Conversation, rng: random.Random) -> Conversation | None:
    """Without arguments that equal their default and need not be given."""
    changed = False

    def shorter(call: ToolCall) -> ToolCall:
        nonlocal changed
        tool = find_tool(row.tools, call.name)
        if tool is None:
            return call
        properties, required = tool.properties, tool.required
        kept = {k: v for k, v in call.arguments.items() if k in required or not _is_default(v, properties.get(k))}
        changed = changed or len(kept) < len(call.arguments)
        return replace(call, arguments=kept)

    messages = tuple(replace(m, calls=tuple(map(shorter, m.calls))) for m in row.messages)
    return replace(row, messages=messages) if changed else None


def _is_default(value: Any, schema: Any) -> bool:
    if not isinstance(schema, Mapping) or "default" not in schema:
        return False
    default = schema["default"]
    return bool(default == value) and isinstance(default, bool) == isinstance(value, bool)


def varied(row: Conversation, rng: random.Random) -> Conversation | None:
    """With one number or date of a call said in another form by the user."""
    values = values_of_calls(row)
    rng.shuffle(values)
    for value in values:
        for i, message in enumerate(row.messages):
            text = other_form(value, message.content, rng) if message.role == "user" else None
            if text is not None:
                return replace(
                    row, messages=(*row.messages[:i], replace(message, content=text), *row.messages[i + 1 :])
                )
    return None


# ---- rows that are added ----------------------------------------------------------------------------------------


def _chosen(rows: Sequence[Conversation], name: str, share: float, seed: int) -> Iterator[tuple[Conversation, str]]:
    for row in rows:
        key = content_key(row)
        if rank(seed, f"{name}/{key}") < share:
            yield row, key


def _without_tool(rows: Sequence[Conversation], share: float, seed: int, done: Augmented) -> list[Conversation]:
    made = []
    for row, key in _chosen(rows, "remove_tool", share, seed):
        added = refused(row, random.Random(f"{seed}/remove_tool/{key}"))
        if done.passes("remove_tool", added) and added is not None:
            made.append(added)
    return made


def refused(row: Conversation, rng: random.Random) -> Conversation | None:
    """The row's first request without the tools that it calls, answered in words (trap T23); None where no other tool
    is left, or another one has the same words in its name and might serve."""
    turn = next((i for i, m in enumerate(row.messages) if m.role == "assistant"), None)
    if turn is None or not row.messages[turn].calls:
        return None
    called = {call.name for call in row.messages[turn].calls}
    left = tuple(tool for tool in row.tools if tool.name not in called)
    if not left or any(_alike(find_tool(row.tools, name), tool) for name in called for tool in left):
        return None
    plan = None if row.messages[turn].thinking is None else ANSWER_PLAN
    answer = Message("assistant", rng.choice(REFUSALS), plan)
    meta = {**row.meta, "category": "no_call", "augmented": ["remove_tool"]}
    return Conversation((*row.messages[:turn], answer), left, f"{row.id}#without", meta)


def _alike(tool: Tool | None, other: Tool) -> bool:
    """Whether another tool may do as well: its description is nearly the same."""
    if tool is None:
        return False
    first, second = (set(words(t.description)) for t in (tool, other))
    return bool(first | second) and len(first & second) >= 0.6 * len(first | second)


def _combined(rows: Sequence[Conversation], share: float, seed: int, done: Augmented) -> list[Conversation]:
    """Neighbours in the order of rank, two at a time, until the share of the rows is reached."""
    single = [row for row in rows if _is_single(row)]
    single.sort(key=lambda row: rank(seed, f"combine/{content_key(row)}"))
    made: list[Conversation] = []
    for first, second in zip(single[::2], single[1::2], strict=False):
        if len(made) >= round(share * len(rows)):
            break
        added = combined(first, second, random.Random(f"{seed}/combine/{content_key(first)}"))
        if done.passes("combine", added) and added is not None:
            made.append(added)
    return made


def _is_single(row: Conversation) -> bool:
    """One request and one call; a system text may stand before."""
    turns = [m for m in row.messages if m.role != "system"]
    return [m.role for m in turns] == ["user", "assistant"] and len(turns[1].calls) == 1 and not turns[1].content


def combined(first: Conversation, second: Conversation, rng: random.Random) -> Conversation | None:
    """Both requests in one, with both calls; None where their system texts or tools of one name differ."""
    if first.messages[:-2] != second.messages[:-2]:
        return None
    tools = {tool.name: tool for tool in first.tools}
    if any(tools.setdefault(tool.name, tool) != tool for tool in second.tools):
        return None
    calls = tuple(replace(row.messages[-1].calls[0], id=None) for row in (first, second))
    asked = [_sentence(row.messages[-2].content) for row in (first, second)]
    if calls[0] == calls[1]:
        return None
    request = Message("user", rng.choice(JOINS).format(A=asked[0], B=asked[1]))
    listed = tuple(tools.values())
    plan = None if first.messages[-1].thinking is None else call_plan(calls)
    meta = {"category": "parallel", "augmented": ["combine"]}
    messages = (*first.messages[:-2], request, Message("assistant", "", plan, calls))
    return Conversation(messages, listed, f"{first.id}+{second.id}", meta)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text[-1:] in ".?!" else f"{text}."
