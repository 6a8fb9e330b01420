"""What is wrong with every row, and the repairs that lose nothing.

A row is `ok`, `repaired` (a lossless repair makes it valid) or `rejected`; every row is one of the three. Only
errors decide that; warnings are told. What a row shows by itself comes from `findings.py`, in other processes where a
pool of them is given; what it takes to compare rows is done here, in their order. What concerns the set as a whole
comes from `Checker.finish`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from calltune.data.balance import Balance
from calltune.data.findings import Findings, Look, LookAtPiece, pieces
from calltune.data.leaks import Benchmark
from calltune.data.likeness import Lines
from calltune.data.pool import Pool
from calltune.data.readers import reading_of
from calltune.data.sources import Source
from calltune.errors import Problem
from calltune.schema import Conversation

Status = Literal["ok", "repaired", "rejected"]
LINE_BITS = 40  # of a place: the line, and above it the number of the source
Measure = Callable[[Conversation], Sequence[Problem]]  # findings that need a model's tokenizer and template


@dataclass(frozen=True)
class Checked:
    """The verdict on one row. `conversation` is the repaired one where it was repaired, None if rejected or from
    another process; `value` is the row as it stood in the source, `form` one of FORMS, `text` its line as OpenAI's
    form has it, where such lines are written."""

    line: int
    status: Status
    conversation: Conversation | None
    problems: tuple[Problem, ...] = ()
    value: Any = None
    form: str = ""
    text: bytes = b""


def check_rows(source: Source) -> Iterator[Checked]:
    """Checks every row of a source, streamed; never raises for what a row holds."""
    return Checker().check(source)


@dataclass
class Checker:
    """Checks rows of one or several sources; remembers what it must in a few bytes a row.

    `strict`: warnings reject a row too. `measure` adds findings that need a model. `write`: the verdicts bring what
    is written of each row. `pool`: processes that look at the rows; the verdicts bring no conversation then.
    """

    strict: bool = False
    measure: Measure | None = None
    benchmark: Benchmark = field(default_factory=Benchmark)
    write: bool = False
    pool: Pool | None = None
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
        for findings, unread in self._looked_at(source):
            checked = self._verdict(findings)
            if checked.status != "rejected":
                self.balance.count(findings.traits)
            elif self.write and checked.value is None:  # it stayed in the other process
                checked = replace(checked, value=source.read(findings.line, unread).value)
            self.forms[findings.form or "none"] += 1
            yield checked

    def finish(self) -> list[Problem]:
        """Warnings on the set as a whole; their `row` is None."""
        found = self.balance.warnings()
        if self.unsaid:
            share = f"{self.unsaid / self.values:.1%} of {self.values} values of calls"
            expected = "values that the dialogue holds: others teach to make values up"
            found.append(Problem("value_not_in_dialogue", share, expected, severity="warning"))
        return found

    def _looked_at(self, source: Source) -> Iterator[tuple[Findings, Any]]:
        """What every row shows by itself, and the row as `Source.read` takes it."""
        look = Look(self.benchmark, self.write)
        if self.pool is None:
            for number, unread in source.unread():
                yield look(reading_of(source, number, unread)), unread
            return
        for piece, found in self.pool.map(LookAtPiece(look), pieces(source)):
            yield from zip(found, (unread for _, unread in piece.rows), strict=True)

    def _verdict(self, seen: Findings) -> Checked:
        fatal, mended, warnings = list(seen.problems), list(seen.repairs), list[Problem]()

        def add(found: Iterator[Problem]) -> None:
            for problem in found:
                (fatal if problem.severity == "error" else warnings).append(problem)

        if seen.id is not None:
            add(self._row(seen))
            if not fatal:
                (fatal if seen.hopeless else mended).extend(seen.calls)
            if not fatal:
                add(self._content(seen))
        problems = tuple(replace(p, row=seen.line) if p.row is None else p for p in (*fatal, *mended, *warnings))
        rejected = bool(fatal) or seen.id is None or (self.strict and bool(warnings))
        status: Status = "rejected" if rejected else "repaired" if mended else "ok"
        kept = None if rejected else seen.conversation
        return Checked(seen.line, status, kept, problems, seen.value, seen.form, seen.text)

    def _row(self, seen: Findings) -> Iterator[Problem]:
        """What is wrong with the row apart from its calls."""
        yield from seen.row
        if (first := self._first(self.ids, hash((len(self.names), seen.id)), seen.line)) is not None:
            yield Problem("duplicate_id", f"{seen.id} (also {first})", "an id of its own", "/id")
        yield from seen.leaks

    def _content(self, seen: Findings) -> Iterator[Problem]:
        """What a valid row teaches: the same as another, values that nobody said, what a model cannot take."""
        likes = [self._first(self.alike, key, seen.line) for key in seen.likes]
        if like := next((first for first in likes if first is not None), None):
            found = f"the same calls and nearly the same words as {like}" if seen.called else f"as {like}"
            yield Problem("near_duplicate", found, "a row that teaches something else", severity="warning")
        self.values += seen.values
        self.unsaid += len(seen.unsaid)
        yield from seen.unsaid
        if self.measure is not None and seen.conversation is not None:
            yield from self.measure(seen.conversation)

    def _first(self, lines: Lines, key: int, line: int) -> str | None:
        """Where the key was seen before, in words; None, and noted, where it is new."""
        here = (len(self.names) - 1) << LINE_BITS | line
        first = lines.first(key, here)
        if first == here:
            return None
        name = self.names[first >> LINE_BITS]
        return f"line {first & (1 << LINE_BITS) - 1}" + (f" of {name}" if name != self.names[-1] else "")
