"""Generating and scoring: the figures before and after, on the same cases."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune.caller import Caller
from calltune.errors import CheckFailed, InputError
from calltune.platform.paths import atomic_write
from calltune.progress import Progress, Silent
from calltune.report import Answer, Case
from calltune.schema import Conversation, Message, Reply, Tool, ToolCall
from calltune.score import aggregate, score_reply


@dataclass(frozen=True)
class Question:
    """One turn to be scored: what the model is given and the calls that would be right."""

    id: str
    category: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    expected: tuple[ToolCall, ...]


def questions_of(rows: Sequence[Conversation], limit: int | None = None) -> list[Question]:
    """The decisions in the rows: every assistant turn that answers a user's message, with the true turns
    before it. Answers in words after a tool's result are not scored. Raises InputError when none is there."""
    found = []
    for number, row in enumerate(rows, 1):
        turns = [i for i, m in enumerate(row.messages) if m.role == "assistant" and i and row.messages[i - 1].role == "user"]
        for i in turns:
            name = row.id or f"row:{number}"
            category = str(row.meta.get("category") or _category(row.messages[i].calls))
            found.append(Question(name if i == turns[0] else f"{name}#{i}", category,
                                  row.messages[:i], row.tools, row.messages[i].calls))  # fmt: skip
    if not found:
        raise InputError("the rows hold nothing to score: no assistant turn answers a user's message",
                         next_step="give rows with the right answer as the last turn")  # fmt: skip
    return found[:limit]


def _category(calls: Sequence[ToolCall]) -> str:
    return "no_call" if not calls else "call" if len(calls) == 1 else "parallel"


def answer_all(
    caller: Caller,
    questions: Sequence[Question],
    *,
    name: str = "evaluating",
    max_tokens: int = 256,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[Answer]:
    """A scored reply to every question, in order (greedy, so the same every time)."""
    progress = progress or Silent()
    progress.start(name, len(questions))
    requests = [(q.messages, q.tools) for q in questions]
    replies = caller.batch(requests, max_tokens=max_tokens, batch_size=batch_size,
                           on_reply=lambda *_: progress.advance(name))  # fmt: skip
    progress.finish(name)
    return [Answer(r, score_reply(q.expected, r, q.tools, id=q.id, category=q.category))
            for q, r in zip(questions, replies, strict=True)]  # fmt: skip


def make_cases(
    questions: Sequence[Question], after: Sequence[Answer], before: Sequence[Answer] | None = None
) -> tuple[Case, ...]:
    """Questions with the answers after and, on the same cases, before."""
    return tuple(
        Case(q.id, q.category, _request(q), q.expected, a, before[i] if before else None)
        for i, (q, a) in enumerate(zip(questions, after, strict=True))
    )


def _request(question: Question) -> str:
    return next(m.content for m in reversed(question.messages) if m.role == "user")


def figures(answers: Sequence[Answer]) -> dict[str, Any]:
    return aggregate([answer.verdict for answer in answers])


def prediction(question: Question, reply: Reply) -> dict[str, Any]:
    """A line of predictions.jsonl (CONTRACT): `calls` is null when it tried and none could be read."""
    calls = [call.to_dict() for call in reply.calls if not call.error]
    unread = not calls and any(call.error for call in reply.calls)
    return {
        "id": question.id, "category": question.category, "calls": None if unread else calls,
        "errors": list(reply.errors), "thinking": reply.thinking, "content": reply.content, "raw": reply.raw,
    }  # fmt: skip


def write_predictions(path: Path, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
    lines = [json.dumps(prediction(q, a.reply), ensure_ascii=False) for q, a in zip(questions, answers, strict=True)]
    atomic_write(path, "\n".join(lines) + "\n")


def check_thresholds(found: dict[str, Any], wanted: dict[str, float]) -> None:
    """Raises CheckFailed for every figure below its threshold, InputError for a figure that does not exist."""
    known = [key for key, value in found.items() if isinstance(value, (int, float)) or value is None]
    unknown = [key for key in wanted if key not in known]
    if unknown:
        raise InputError(f"--fail-under names no such figure: {', '.join(unknown)}",
                         next_step=f"take one of: {', '.join(known)}")  # fmt: skip
    low = [f"{key} is {found[key]} (wanted {limit})" for key, limit in wanted.items() if (found[key] or 0.0) < limit]
    if low:
        raise CheckFailed("below the threshold: " + "; ".join(low))


@dataclass
class Clock:
    """Seconds by what they were spent on."""

    started: float
    train: float = 0.0
    evaluation: float = 0.0

    @staticmethod
    def start() -> Clock:
        return Clock(time.perf_counter())

    def to_dict(self) -> dict[str, float]:
        total = time.perf_counter() - self.started
        return {"total": round(total, 1), "train": round(self.train, 1), "eval": round(self.evaluation, 1)}
