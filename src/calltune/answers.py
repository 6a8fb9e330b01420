"""Answers to questions, kept as they come: predictions.part.jsonl grows while the model generates, and takes the
place of predictions.jsonl when the evaluation is done, so that the old one lies beside its report until then.

What was interrupted goes on where it stopped, if everything that decides an answer is the same as before: model,
adapter, template, precision, limit of tokens, and the question itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from calltune._version import __version__
from calltune.caller import Caller, identity
from calltune.grammar import Rules
from calltune.platform.paths import atomic_write, check_writable
from calltune.progress import Progress, Silent
from calltune.report import Answer
from calltune.schema import Reply
from calltune.tasks.questions import Question, question_hash
from calltune.tasks.results import readable_calls


def answer_all(
    caller: Caller,
    questions: Sequence[Question],
    *,
    name: str = "evaluating",
    max_tokens: int = 256,
    batch_size: int = 32,
    progress: Progress | None = None,
    kept: AnswerFile | None = None,
    rules: Rules | None = None,
) -> list[Answer]:
    """A scored reply to every question, in order (greedy, so the same every time; bound to the offered tools with
    `rules`). `kept` holds those of an
    interrupted run, which are not asked again, and is given the others as they come."""
    progress = progress or Silent()
    replies = kept.open(caller, questions, max_tokens, rules) if kept else {}
    todo = [q for q in questions if q.id not in replies]
    if replies:
        progress.say(f"{name}: {len(replies)} of {len(questions)} were there already")
    progress.start(name, len(questions))
    progress.advance(name, len(replies))

    def done(index: int, reply: Reply) -> None:
        replies[todo[index].id] = reply
        if kept:
            kept.add(todo[index], reply)
        progress.advance(name)

    try:
        requests = [(q.messages, q.tools) for q in todo]
        made = caller.batch(requests, max_tokens=max_tokens, batch_size=batch_size, rules=rules, on_reply=done)
        replies |= {q.id: reply for q, reply in zip(todo, made, strict=True)}
        if kept:
            kept.finish(questions, [replies[q.id] for q in questions])
    finally:
        if kept:
            kept.close()
    progress.finish(name)
    return [Answer(replies[q.id], q.verdict(replies[q.id])) for q in questions]


def prediction(question: Question, reply: Reply) -> dict[str, Any]:
    """A line of predictions.jsonl (CONTRACT): `calls` is null when it tried and none could be read."""
    return {
        "id": question.id, "category": question.category, "calls": readable_calls(reply),
        "errors": list(reply.errors), "thinking": reply.thinking, "content": reply.content, "raw": reply.raw,
        "truncated": reply.truncated, **({"notes": list(reply.notes)} if reply.notes else {}),
    }  # fmt: skip


def write_predictions(path: Path, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
    """Every prediction in the order of the questions, whole or not at all."""
    _write(path, questions, [answer.reply for answer in answers])


def _write(path: Path, questions: Sequence[Question], replies: Sequence[Reply]) -> None:
    rows = [prediction(q, reply) for q, reply in zip(questions, replies, strict=True)]
    atomic_write(path, "".join(map(_line, rows)))


def _line(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which a model's escapes can make
        text = json.dumps(row)
    return text + "\n"


class AnswerFile:
    """A file of predictions that is being written (`NAME.part.jsonl`), and beside it what decides its answers
    (`NAME.state.json`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_suffix(".part.jsonl")
        self.state = path.with_suffix(".state.json")
        self.file: IO[str] | None = None
        self.finished = False

    def open(
        self, caller: Caller, questions: Sequence[Question], max_tokens: int, rules: Rules | None = None
    ) -> dict[str, Reply]:
        """The replies that an interrupted run left; the file is open for more. Raises InputError: disk."""
        check_writable(self.path.parent)
        state = {
            "key": answer_key(caller, max_tokens, rules),
            "questions": {q.id: question_hash(q) for q in questions},
        }
        rows = self._left(state)
        # Written anew: the last line of a killed run may be half a line. Before the state, which tells what it holds.
        atomic_write(self.part, "".join(map(_line, rows.values())))
        atomic_write(self.state, json.dumps(state, indent=1) + "\n")
        self.file = self.part.open("a", encoding="utf-8")
        left = {q.id: (q.messages, q.tools) for q in questions if q.id in rows}
        return {id: replace(caller.read_again(left[id], row["raw"], row["truncated"]),
                            notes=tuple(row.get("notes", ()))) for id, row in rows.items()}  # fmt: skip

    def _left(self, state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The rows of the questions that are asked again in the same way."""
        try:
            before = json.loads(self.state.read_text(encoding="utf-8"))
            same = dict(before["questions"].items() & state["questions"].items())
            if before["key"] != state["key"]:
                return {}
            lines = self.part.read_bytes().split(b"\n")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        rows = {}
        for line in lines:
            try:
                row = json.loads(line)
                if row["id"] in same and isinstance(row["raw"], str) and isinstance(row["truncated"], bool):
                    rows[row["id"]] = row
            except (ValueError, KeyError, TypeError):  # half a line; that question is asked again
                continue
        return rows

    def add(self, question: Question, reply: Reply) -> None:
        if self.file is not None:
            self.file.write(_line(prediction(question, reply)))
            self.file.flush()

    def finish(self, questions: Sequence[Question], replies: Sequence[Reply]) -> None:
        """All answers, in the order of the questions. They are still taken up if what follows is interrupted."""
        self.close()
        _write(self.part, questions, replies)
        self.finished = True

    def done(self) -> None:
        """The whole evaluation is done: its answers take their place (where it has none, those of an earlier one
        go), and the same command asks anew."""
        if self.finished:
            self.part.replace(self.path)
        else:
            self.part.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def answer_key(caller: Caller, max_tokens: int, rules: Rules | None = None) -> dict[str, Any]:
    """Everything that decides the answers apart from the questions, as JSON."""
    return identity(caller) | {
        "calltune": __version__, "max_tokens": max_tokens, "template": caller.template.hash,
        "rules": [rules.choice, rules.parallel] if rules else None,
        "copied": {tool: list(names) for tool, names in caller.copied.items()}, "said": caller.said,
        "distinct": caller.distinct,
    }  # fmt: skip
