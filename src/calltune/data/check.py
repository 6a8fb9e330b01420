"""What is wrong with every row, and the repairs that lose nothing.

A row is `ok`, `repaired` (a lossless repair makes it valid) or `rejected`; every row is one of the three. Only
errors decide that; warnings are told. What concerns the set as a whole comes from `Checker.finish`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from calltune.acceptable import read_acceptable
from calltune.data.balance import Balance
from calltune.data.calls import judge, repair_call
from calltune.data.grounding import unsaid
from calltune.data.leaks import Benchmark
from calltune.data.likeness import Lines, like_keys, request_words
from calltune.data.readers import RowReading, readings
from calltune.data.sources import Source
from calltune.data.tool_rows import schema_problems
from calltune.data.turns import turn_problems
from calltune.errors import Problem
from calltune.schema import Conversation, Message, ToolCall

Status = Literal["ok", "repaired", "rejected"]
LINE_BITS = 40  # of a place: the line, and above it the number of the source
Measure = Callable[[Conversation], Sequence[Problem]]  # findings that need a model's tokenizer and template


@dataclass(frozen=True)
class Checked:
    """The verdict on one row. `conversation` is the repaired one where it was repaired, None if rejected;
    `value` is the row as it stood in the source, `form` one of FORMS."""

    line: int
    status: Status
    conversation: Conversation | None
    problems: tuple[Problem, ...] = ()
    value: Any = None
    form: str = ""


def check_rows(source: Source) -> Iterator[Checked]:
    """Checks every row of a source, streamed; never raises for what a row holds."""
    return Checker().check(source)


@dataclass
class Checker:
    """Checks rows of one or several sources; remembers what it must in a few bytes a row.

    `strict`: warnings reject a row too. `measure` adds findings that need a model.
    """

    strict: bool = False
    measure: Measure | None = None
    benchmark: Benchmark = field(default_factory=Benchmark)
    balance: Balance = field(default_factory=Balance)
    forms: Counter[str] = field(default_factory=Counter)
    ids: Lines = field(default_factory=Lines)
    alike: Lines = field(default_factory=Lines)
    names: list[str] = field(default_factory=list)  # of the sources
    values: int = 0  # in the calls of the rows
    unsaid: int = 0  # of these, those that stand nowhere in the dialogue

    def check(self, source: Source) -> Iterator[Checked]:
        """The verdict on every row, in order."""
        self.names.append(source.name)
        for reading in readings(source):
            checked = self._check(reading)
            if checked.conversation is not None:
                self.balance.add(checked.conversation)
            self.forms[reading.form or "none"] += 1
            yield checked

    def finish(self) -> list[Problem]:
        """Warnings on the set as a whole; their `row` is None."""
        found = self.balance.warnings()
        if self.unsaid:
            share = f"{self.unsaid / self.values:.1%} of {self.values} values of calls"
            expected = "values that the dialogue holds: others teach to make values up"
            found.append(Problem("value_not_in_dialogue", share, expected, severity="warning"))
        return found

    def _check(self, reading: RowReading) -> Checked:
        fatal, mended, warnings = list(reading.problems), list(reading.repairs), list[Problem]()
        conversation = reading.conversation
        if conversation is not None:
            found = [*self._row(conversation, reading)]
            fatal += (problem for problem in found if problem.severity == "error")
            warnings += (problem for problem in found if problem.severity == "warning")
        if conversation is not None and not fatal:  # calls are not judged by schemas that are none
            calls, repaired, hopeless = _judged(reading, conversation)
            (fatal if hopeless else mended).extend(calls)
            conversation = _with_calls(conversation, repaired)
            found = [] if hopeless else [*self._content(conversation, reading, repaired)]
            fatal += (problem for problem in found if problem.severity == "error")
            warnings += (problem for problem in found if problem.severity == "warning")
        problems = tuple(replace(p, row=reading.line) if p.row is None else p for p in (*fatal, *mended, *warnings))
        rejected = bool(fatal) or conversation is None or (self.strict and bool(warnings))
        status: Status = "rejected" if rejected else "repaired" if mended else "ok"
        kept = None if rejected else conversation
        return Checked(reading.line, status, kept, problems, reading.value, reading.form)

    def _row(self, conversation: Conversation, reading: RowReading) -> Iterator[Problem]:
        """What is wrong with the row apart from its calls."""
        yield from reading.schema
        if not reading.form:  # a conversation from memory
            yield from (p for tool in conversation.tools for p in schema_problems(tool))
        yield from _same_names(conversation)
        yield from turn_problems(conversation, reading.path)
        yield from read_acceptable(conversation)[1]
        if (first := self._first(self.ids, (len(self.names), conversation.id), reading.line)) is not None:
            found = f"{conversation.id} (also {first})"
            yield Problem("duplicate_id", found, "an id of its own", "/id")
        if self.benchmark.questions:
            yield from self.benchmark.find(conversation, reading.path)

    def _content(
        self, conversation: Conversation, reading: RowReading, repaired: Mapping[int, ToolCall]
    ) -> Iterator[Problem]:
        """What a valid row teaches: the same as another, values that nobody said, what a model cannot take."""
        asked = request_words(conversation)
        likes = [self._first(self.alike, key, reading.line) for key in like_keys(conversation, asked)]
        if like := next((first for first in likes if first is not None), None):
            found = f"the same calls and nearly the same words as {like}" if reading.calls else f"as {like}"
            yield Problem("near_duplicate", found, "a row that teaches something else", severity="warning")
        if reading.calls:
            at = {id(repaired.get(id(call), call)): path for path, call in reading.calls}
            total, problems = unsaid(conversation, at)
            self.values += total
            self.unsaid += len(problems)
            yield from problems
        if self.measure is not None:
            yield from self.measure(conversation)

    def _first(self, lines: Lines, key: object, line: int) -> str | None:
        """Where the key was seen before, in words; None, and noted, where it is new."""
        here = (len(self.names) - 1) << LINE_BITS | line
        first = lines.first(hash(key), here)
        if first == here:
            return None
        name = self.names[first >> LINE_BITS]
        return f"line {first & (1 << LINE_BITS) - 1}" + (f" of {name}" if name != self.names[-1] else "")


def _judged(reading: RowReading, conversation: Conversation) -> tuple[list[Problem], dict[int, ToolCall], bool]:
    """Problems of the calls, the calls that were repaired by `id`, and whether one cannot be."""
    problems: list[Problem] = []
    repaired: dict[int, ToolCall] = {}
    hopeless = False
    for path, call in reading.calls:
        if found := judge(call, conversation.tools, path):
            problems += found
            repaired[id(call)] = repair_call(call, conversation.tools)
            hopeless = hopeless or bool(judge(repaired[id(call)], conversation.tools, path))
    return problems, repaired, hopeless


def _same_names(conversation: Conversation) -> Iterator[Problem]:
    """Tools of one name: a call of that name could mean either."""
    names = [tool.name for tool in conversation.tools]
    if len(set(names)) == len(names):
        return
    for i, tool in enumerate(conversation.tools):
        first = names.index(tool.name)
        if first < i:
            same = conversation.tools[first] == tool
            yield Problem("duplicate_tool", f"{tool.name}, as tool {first}", "a tool once", f"/tools/{i}",
                          severity="warning" if same else "error")  # fmt: skip


def _with_calls(conversation: Conversation, repaired: Mapping[int, ToolCall]) -> Conversation:
    if not repaired:
        return conversation

    def mend(message: Message) -> Message:
        return replace(message, calls=tuple(repaired.get(id(call), call) for call in message.calls))

    return replace(conversation, messages=tuple(map(mend, conversation.messages)))
