"""What is asked and how it is judged: questions of rows, and of benchmarks."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from calltune.acceptable import Acceptable, fitted, read_acceptable
from calltune.errors import InputError, Problem
from calltune.schema import Conversation, Message, Reply, Tool, ToolCall
from calltune.score import Verdict, score_reply
from calltune.score_bfcl import BfclCase
from calltune.tasks.bfcl import expected_calls, judge, messages_of, tools_of


@dataclass(frozen=True)
class Question:
    """One turn to be scored: what the model is given and the calls that would be right. A question of BFCL carries
    its `case`, whose rules then judge; its `expected` are calls that it accepts, among others."""

    id: str
    category: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    expected: tuple[ToolCall, ...]
    case: BfclCase | None = field(default=None, compare=False)
    acceptable: Acceptable = ()

    def verdict(self, reply: Reply) -> Verdict:
        if self.case is not None:
            return judge(self.case, reply, self.tools)
        readable = [call for call in reply.calls if not call.error]
        expected = fitted(self.expected, self.acceptable, readable, self.tools)
        return score_reply(expected, reply, self.tools, id=self.id, category=self.category)


def questions_of(rows: Sequence[Conversation], limit: int | None = None) -> list[Question]:
    """The decisions in the rows: every assistant turn that answers a user's message, with the true turns
    before it. An answer to a tool's result is not scored: its words cannot be compared. Raises InputError."""
    seen: Counter[str] = Counter()
    found, bad = [], list[Problem]()
    for number, row in enumerate(rows, 1):
        name = row.id or f"row:{number}"
        acceptable, problems = read_acceptable(row)
        bad += (replace(problem, found=f"{name}: {problem.found}") for problem in problems)
        turns = [i for i, m in enumerate(row.messages) if m.role == "assistant" and i]
        for i in (i for i in turns if row.messages[i - 1].role == "user"):
            id = _free(name, seen)  # ids are unique in a file of predictions (CONTRACT)
            category = str(row.meta.get("category") or _category(row.messages[i].calls))
            calls = row.messages[i].calls
            also = acceptable if i == turns[-1] else ()
            found.append(Question(id, category, row.messages[:i], row.tools, calls, acceptable=also))
    if bad:
        raise InputError("acceptable values of rows cannot be read", problems=bad,
                         next_step="`calltune check` names the lines")  # fmt: skip
    if not found:
        raise InputError("the rows hold nothing to score: no assistant turn answers a user's message",
                         next_step="give rows with the right answer as the last turn")  # fmt: skip
    return found[:limit]


def _free(name: str, seen: Counter[str]) -> str:
    """The name, or with a number that makes it one that was not seen: a row may be called `a#2` itself."""
    seen[name] += 1
    if seen[name] == 1:
        return name
    while seen[id := f"{name}#{seen[name]}"]:
        seen[name] += 1
    seen[id] += 1
    return id


def _category(calls: Sequence[ToolCall]) -> str:
    return "no_call" if not calls else "call" if len(calls) == 1 else "parallel"


def bfcl_questions(cases: Sequence[BfclCase], limit: int | None = None) -> list[Question]:
    """The questions of BFCL's cases. `limit` is taken in turn from each category, so that none is left out."""
    return [
        Question(case.id, case.category, messages_of(case), tools_of(case), expected_calls(case), case)
        for case in _limited(cases, limit)
    ]


def _limited(cases: Sequence[BfclCase], limit: int | None) -> list[BfclCase]:
    if limit is None or limit >= len(cases):
        return list(cases)
    turn: Counter[str] = Counter()
    ranked: list[tuple[int, int]] = []
    for i, case in enumerate(cases):
        ranked.append((turn[case.category], i))
        turn[case.category] += 1
    return [cases[i] for i in sorted(i for _, i in sorted(ranked)[:limit])]


def question_hash(question: Question) -> str:
    """What is asked and what is right, in a few letters; the id is no part of it: every data set has a first row."""
    said = [[m.role, m.content, m.thinking, [call.to_dict() for call in m.calls], m.name] for m in question.messages]
    asked = [said, [tool.to_openai() for tool in question.tools], [call.to_dict() for call in question.expected]]
    return hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()[:16]


def request_of(question: Question) -> str:
    return next((m.content for m in reversed(question.messages) if m.role == "user"), "")


def facts_of(questions: Sequence[Question]) -> dict[str, Any]:
    """What a report says of a set of questions."""
    return {"cases": len(questions), "categories": dict(Counter(q.category for q in questions))}
