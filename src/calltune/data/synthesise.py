"""Training conversations made from tools, offline and seeded: requests, short plans, calls.

Train, valid and test differ by phrasing template and by slot value: no test template and no value of a
test request occurs in training. (Enum words, such as "by train", stand for a closed set and are shared.)
Categories: `call` (one call), `parallel` (two), `dependent` (two, the second with a value of the first one's
result; only where the tools have such pairs, data/dependent.py), `no_call` (no tool serves the request: answered in
words), `ask` (a required value is missing: asked for).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from calltune.data.dependent import Link, linked_result, links_of, spoken_of
from calltune.data.generic import table_for
from calltune.data.no_call import no_call_requests
from calltune.data.parts import PARTS, Part
from calltune.data.patterns import JOINS, WRAPS
from calltune.data.phrases import TRIES, Filled, Kind, PhraseTable, Template, fill, ordered, with_defaults
from calltune.data.plans import ANSWER_PLAN, ask_plan, call_plan, first_plan
from calltune.data.rephrase import LINKS, dressed, linked
from calltune.data.requests import read_requests
from calltune.data.shares import TRAINING_SHARES, Shares, counts_of
from calltune.data.slots import draw
from calltune.errors import InputError, Problem
from calltune.functions import functions_from
from calltune.schema import Conversation, Message, Tool, ToolCall, validate_call

SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Splits:
    """Made rows by part. `notes`: what a person could add so that the requests get better."""

    train: tuple[Conversation, ...]
    valid: tuple[Conversation, ...]
    test: tuple[Conversation, ...]
    notes: tuple[str, ...] = ()

    @property
    def tools(self) -> tuple[Tool, ...]:
        return next((rows[0].tools for rows in (self.train, self.valid, self.test) if rows), ())


def synthesise(
    source: Any,
    *,
    seed: int = 0,
    rows_train: int = 720,
    rows_valid: int = 48,
    rows_test: int = 160,
    think: bool = True,
    shares: Shares | None = None,
    tables: Mapping[str, PhraseTable] | None = None,
    requests: str | Path | None = None,
) -> Splits:
    """Conversations for the tools of `source` (whatever `functions.functions_from` reads).

    Tools without a table in `tables` get one from their docstring's examples, names and types
    (data/generic.py); `requests` is a YAML file with more examples (data/requests.py). No function is executed.
    Raises InputError if no request can be made for any tool.
    """
    functions = functions_from(source)
    tools = tuple(function.tool for function in functions)
    more = read_requests(requests, [tool.name for tool in tools]) if requests else {}
    given, notes = dict(tables or {}), []
    for function in functions:
        if function.name not in given:
            table, said = table_for(function, more.get(function.name, ()))
            notes += said
            if table is not None:
                given[function.name] = table
    usable = [given[tool.name] for tool in tools if tool.name in given and given[tool.name].of("call", "train")]
    if not usable:
        problems = [Problem("no_requests", note) for note in notes]
        step = "add an `Examples:` section with requests such as `- weather in {city}` to the docstrings"
        raise InputError("no request can be made for these tools", problems=problems, next_step=step)
    by_hand = all(tool.name in (tables or {}) for tool in tools)
    links = [] if by_hand else links_of(functions, given)
    answers = no_call_requests(tools, near=by_hand)
    sizes: dict[Part, int] = {"train": rows_train, "valid": rows_valid, "test": rows_test}
    made = {}
    unfit: set[str] = set()
    for part in PARTS:
        maker = _Maker(tools, usable, part, random.Random(f"{seed}/{part}"), think, answers[part], not by_hand, links)
        made[part] = maker.rows(sizes[part], shares or (TRAINING_SHARES if part == "train" else Shares()))
        unfit |= maker.unfit
        if len(made[part]) < sizes[part]:
            notes.append(f"{part}: only {len(made[part])} of {sizes[part]} different requests could be made")
    notes += [f"{name}: some made values do not fit its schema; their rows were left out" for name in sorted(unfit)]
    return Splits(made["train"], made["valid"], made["test"], tuple(notes))


class _Maker:
    """Makes the rows of one part; keeps the places in the template lists and the requests made so far."""

    def __init__(
        self,
        tools: Sequence[Tool],
        tables: Sequence[PhraseTable],
        part: Part,
        rng: random.Random,
        think: bool,
        answers: Sequence[tuple[str, str, str]],
        dress: bool = False,
        links: Sequence[Link] = (),
    ) -> None:
        self.tools = tuple(tools)
        self.by_name = {tool.name: tool for tool in tools}
        self.tables = tables
        self.part = part
        self.rng = rng
        self.think = think
        self.seen: set[str] = set()
        self.unfit: set[str] = set()  # tools for which a value was made that their schema refuses
        self.cycles: dict[str, Iterator[Any]] = {}
        self.answers = answers
        self.links = links
        self.by_tool = {table.tool: table for table in tables}
        self.dress = dress  # tables by hand hold enough wordings of their own, and write all arguments

    def rows(self, count: int, shares: Shares) -> tuple[Conversation, ...]:
        """`count` rows with different requests in mixed order, fewer when the templates give no more."""
        makers: dict[str, Callable[[], Conversation | None]] = {
            "call": self.single,
            "parallel": self.parallel,
            "no_call": self.no_call,
            "ask": self.ask,
            "dependent": self.dependent,
        }
        rows: list[Conversation] = []
        for category, wanted in counts_of(count, shares if self.links else replace(shares, dependent=0)).items():
            rows += filter(None, (self._new(makers[category]) for _ in range(wanted)))
        for _ in range(count - len(rows)):  # a category that ran dry is made up for by single calls
            row = self._new(makers["call"])
            rows += [row] if row else []
        self.rng.shuffle(rows)
        return tuple(
            Conversation(row.messages, row.tools, f"{self.part}:{i}", {**row.meta, "part": self.part})
            for i, row in enumerate(rows)
        )

    def _new(self, make: Callable[[], Conversation | None]) -> Conversation | None:
        for _ in range(TRIES):
            row = make()
            if row is None:
                return None
            wrong = [call.name for m in row.messages for call in m.calls if validate_call(call, self.tools)]
            if wrong:
                self.unfit.update(wrong)
                continue
            request = row.messages[0].content.lower().rstrip(".?!")
            if request not in self.seen:
                self.seen.add(request)
                return row
        return None

    def _next(self, key: str, items: Sequence[Any]) -> Any:
        """The items in turn, in a shuffled order that is kept: each is used as often as the others."""
        if key not in self.cycles:
            self.cycles[key] = cycle(self.rng.sample(items, len(items)))
        return next(self.cycles[key])

    def _template(self, table: PhraseTable, kind: Kind) -> Template:
        template: Template = self._next(f"{table.tool}/{kind}", table.of(kind, self.part))
        return template

    def _fill(self, table: PhraseTable, kind: Kind, used: set[str] | None = None) -> Filled:
        return self._filled(self._template(table, kind), table, used)

    def _filled(self, template: Template, table: PhraseTable, used: set[str] | None) -> Filled:
        tool = self.by_name[table.tool]
        filled = fill(template, table, tool, self.part, self.rng, used)
        if not self.dress:
            return filled
        return replace(filled, arguments=tuple(with_defaults(arguments, tool) for arguments in filled.arguments))

    def _having(self, kind: Kind) -> list[PhraseTable]:
        return [table for table in self.tables if table.of(kind, self.part)]

    def single(self) -> Conversation | None:
        tables = self._having("call")
        if not tables:
            return None
        table = self._next("call", tables)
        if table.of("clause", self.part) and self.rng.random() < 0.35:
            wrap = self._next("wrap", WRAPS[self.part])
            filled = self._fill(table, "clause")
            text, ids = _join(wrap, filled.text), [wrap, filled.template.id]
        else:
            filled = self._fill(table, "call")
            text, ids = filled.text, [filled.template.id]
        calls = [ToolCall(table.tool, arguments) for arguments in filled.arguments]
        return self._row("call", self._style(text, filled.template), calls, ids, filled.slots)

    def parallel(self) -> Conversation | None:
        if self.dress and self.rng.random() < 0.5 and len(self._having("call")) > 1:
            return self._linked()
        pairs, clauses = self._having("pair"), self._having("clause")
        if pairs and (not clauses or self.rng.random() < 0.35):
            table = self._next("pair", pairs)
            filled = self._fill(table, "pair")
            calls = [ToolCall(table.tool, arguments) for arguments in filled.arguments]
            return self._row("parallel", filled.text, calls, [filled.template.id], filled.slots)
        if not clauses:
            return None
        tables = self.rng.sample(clauses, 2) if len(clauses) > 1 else [clauses[0], clauses[0]]
        used: set[str] = set()
        parts = [self._fill(table, "clause", used) for table in tables]
        join = self._next("join", JOINS[self.part])
        calls = [ToolCall(t.tool, f.arguments[0]) for t, f in zip(tables, parts, strict=True)]
        ids = [join, *(f.template.id for f in parts)]
        text = self._style(_join(join, parts[0].text, parts[1].text), None)
        return self._row("parallel", text, calls, ids, parts[0].slots + parts[1].slots)

    def _linked(self) -> Conversation:
        """Two requests as they are, one after the other."""
        used: set[str] = set()
        tables = self.rng.sample(self._having("call"), 2)
        parts = [self._fill(table, "call", used) for table in tables]
        link = self._next("link", LINKS[self.part])
        calls = [ToolCall(t.tool, f.arguments[0]) for t, f in zip(tables, parts, strict=True)]
        ids = [link, *(f.template.id for f in parts)]
        text = self._style(linked(parts[0].text, parts[1].text, link), parts[0].template)
        return self._row("parallel", text, calls, ids, parts[0].slots + parts[1].slots)

    def dependent(self) -> Conversation | None:
        """One call, its result, and the call that needs it."""
        for _ in range(TRIES):
            link = self._next("link/dependent", self.links)
            one, other = self.by_tool.get(link.first.name), self.by_tool.get(link.second.name)
            then = spoken_of(link, other, self.part, self.rng) if one and other else None
            if one is None or other is None or then is None or not one.of("clause", self.part):
                continue
            used: set[str] = set()
            before = self._fill(one, "clause", used)
            after = self._filled(then, other, used)
            call = ToolCall(one.tool, before.arguments[0], "call_0")
            found = linked_result(link, call, self.part, self.rng)
            if found is None:
                continue
            result, value = found
            last = ToolCall(other.tool, ordered({**after.arguments[0], link.name: value}, link.second.tool), "call_1")
            join = self._next("join", JOINS[self.part])
            text = self._style(_join(join, before.text, after.text), None)
            ids = [join, before.template.id, after.template.id]
            plan = first_plan(one.tool, other.tool, link.name)
            row = self._row("dependent", text, [call], ids, before.slots + after.slots, plan)
            reply = Message("assistant", "", call_plan([last]) if self.think else None, (last,))
            told = Message("tool", result, name=one.tool, call_id="call_0")
            meta = {**row.meta, "tool": f"{one.tool}>{other.tool}"}
            return replace(row, messages=(*row.messages, told, reply), meta=meta)
        return None

    def ask(self) -> Conversation | None:
        tables = self._having("ask")
        if not tables:
            return None
        table = self._next("ask", tables)
        filled = self._fill(table, "ask")
        missing = filled.template.missing or ""
        question = table.questions.get(missing) or f"Which {missing.replace('_', ' ')}?"
        plan = ask_plan(table.tool, missing)
        text = self._style(filled.text, filled.template)
        return self._row("ask", text, [], [filled.template.id], filled.slots, plan, question, table.tool)

    def no_call(self) -> Conversation | None:
        if not self.answers:
            return None
        template, request, answer = self._next("no_call", self.answers)
        used: set[str] = set()
        written = [(kind, draw(kind, self.part, self.rng, used).text) for kind in SLOT.findall(request)]
        for kind, text in written:
            request = request.replace(f"{{{kind}}}", text, 1)
        return self._row("no_call", self._style(request, None), [], [template], written, ANSWER_PLAN, answer)

    def _style(self, text: str, template: Template | None) -> str:
        """Sometimes without the last mark or the first capital, as people type."""
        value_first = template is not None and template.text.startswith("{")
        if not value_first and self.rng.random() < 0.15 and re.match(r"[A-Z][a-z]", text):
            text = text[0].lower() + text[1:]
        if text[-1] in ".?!" and self.rng.random() < 0.2:
            text = text[:-1]
        return dressed(text, self.part, self.rng) if self.dress else text

    def _row(
        self,
        category: str,
        request: str,
        calls: Sequence[ToolCall],
        templates: Sequence[str],
        slots: Sequence[tuple[str, str]],
        plan: str = "",
        answer: str = "",
        tool: str | None = None,
    ) -> Conversation:
        plan = plan or call_plan(calls)
        reply = Message("assistant", answer, plan if self.think else None, tuple(calls))
        names = "+".join(call.name for call in calls) or tool
        meta: dict[str, Any] = {"category": category, "tool": names, "template": " ".join(templates)}
        meta |= {"templates": list(templates), "slots": [list(slot) for slot in slots]}
        return Conversation((Message("user", request), reply), self.tools, None, meta)


def _join(pattern: str, first: str, second: str = "") -> str:
    """Fills {A}, {a}, {B}, {b}: capital for a clause that begins a sentence."""
    words = {
        "a": first,
        "A": first[:1].upper() + first[1:],
        "b": second,
        "B": second[:1].upper() + second[1:],
    }
    return re.sub(r"\{([aAbB])\}", lambda match: words[match[1]], pattern)
