"""Generating and scoring: the figures before and after, on the same cases."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune.caller import Caller, find_run, load, make_caller
from calltune.data.readers import load_conversations
from calltune.data.sources import sources_of
from calltune.engine.load import Dtype
from calltune.engine.load import load as load_model
from calltune.errors import CheckFailed, InputError, Problem
from calltune.platform.blas import blas_environment
from calltune.platform.machine import machine
from calltune.platform.paths import atomic_write
from calltune.progress import Progress, Silent
from calltune.report import Answer, Case, Report, write_report
from calltune.report_text import FIGURES
from calltune.runs import Run, now
from calltune.schema import Conversation, Message, Reply, Tool, ToolCall
from calltune.score import aggregate, score_reply


def evaluate(
    model: Caller | Run | str | Path,
    rows: Any = None,
    *,
    baseline: str | Path | Run | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    max_tokens: int = 256,
    batch_size: int = 32,
    dtype: Dtype = "auto",
    progress: Progress | None = None,
    command: str = "",
) -> Report:
    """Let a model or run answer `rows` (None: the run's held-out test rows) and score its answers.

    `rows` is whatever `calltune.read` reads; of a source with parts, the test part. `baseline` answers the same
    cases first: `"base"` is the run's own model without the adapter. With `out`, predictions.jsonl and the
    report are written there. Raises InputError.
    """
    progress, clock = progress or Silent(), Clock.start()
    run = _run_of(model)
    questions = questions_of(load_rows(rows, run), limit)
    asked = {"max_tokens": max_tokens, "batch_size": batch_size, "progress": progress}
    started = time.perf_counter()
    before = None
    if baseline is not None:  # first, so that only one model is in memory where `model` is a name
        progress.say(f"baseline: {baseline}")
        before = answer_all(load_baseline(baseline, run, dtype), questions, name="answers of baseline", **asked)
    caller = model if isinstance(model, Caller) else load(run or str(model), dtype=dtype)
    after = answer_all(caller, questions, name="answers", **asked)
    clock.evaluation = time.perf_counter() - started
    report = make_report(
        f"{_title(caller)} on {len(questions)} requests", caller, make_cases(questions, after, before),
        clock=clock, method=_method(max_tokens, rows, baseline), command=command, data=_data_facts(rows, run),
    )  # fmt: skip
    if out is not None:
        write_predictions(Path(out) / "predictions.jsonl", questions, after)
        write_report(out, report)
    return report


def load_rows(source: Any, run: Run | None = None) -> list[Conversation]:
    """The rows to score: the test part of a source with parts, else all its rows. Raises InputError."""
    if source is None:
        if run is None:
            raise InputError("a base model has no test rows of its own", next_step="give rows with --data FILE")
        return run.test_rows()
    if isinstance(source, (list, tuple)) and source and all(isinstance(row, Conversation) for row in source):
        return list(source)
    return load_conversations(source, part="test" if "test" in sources_of(source) else "train")


def load_baseline(name: str | Path | Run, run: Run | None, dtype: Dtype = "auto") -> Caller:
    """A model or run to compare with; `"base"`: the run's model without its adapter, under the run's template."""
    if name != "base":
        return load(name, dtype=dtype)
    if run is None:
        raise InputError("--baseline base needs a run: a base model has no adapter to leave out",
                         next_step="name the model to compare with")  # fmt: skip
    return make_caller(load_model(run.base, dtype), run.template)


def _run_of(model: Caller | Run | str | Path) -> Run | None:
    if isinstance(model, Caller):
        return model.run
    return model if isinstance(model, Run) else find_run(model)


def _title(caller: Caller) -> str:
    name = Path(caller.loaded.name).name
    return f"{name}, run {caller.run.folder.name}" if caller.run else name


def _method(max_tokens: int, rows: Any, baseline: Any) -> tuple[str, ...]:
    said = [] if rows is not None else ["The rows were held out when the run was trained."]
    if baseline is not None:
        said.append(f"Before: {'the same model without the adapter' if baseline == 'base' else baseline}.")
    return (*said, f"Answers are greedy (no sampling) and may be {max_tokens} tokens long.", *environment_note())


def _data_facts(rows: Any, run: Run | None) -> dict[str, Any]:
    if rows is None and run is not None:
        return {"name": f"test part of {run.folder}", "split": run.record["data"]["origin"]}
    return {"name": str(rows) if isinstance(rows, (str, Path)) else "rows in memory"}


def environment_note() -> tuple[str, ...]:
    """A sentence for every report with a speed in it: variables that change the BLAS's figures."""
    found = "; ".join(problem.found for problem in blas_environment())
    return (f"Variables that change the speed of the BLAS: {found or 'none was set'}.",)


def make_report(
    title: str,
    caller: Caller,
    cases: tuple[Case, ...],
    *,
    clock: Clock,
    method: Sequence[str] = (),
    command: str = "",
    data: dict[str, Any] | None = None,
) -> Report:
    """The report on a model's answers, with what its run recorded: curves, settings, hashes."""
    loaded, here, run = caller.loaded, machine(), caller.run
    record = run.record if run else {}
    return Report(
        title, cases,
        model={"name": loaded.name, "precision": loaded.dtype, "template": caller.template.origin}
        | ({"run": str(run.folder)} if run else {}),
        data=(data or {}) | ({"rows": record["data"]["rows"]} if run else {}),
        seconds=clock.to_dict(), train=record.get("train", {}), curves=tuple(run.metrics()) if run else (),
        machine={"system": f"{here.os} {here.arch}", "device": f"{here.device}: {here.device_name}",
                 "cores": here.cores, "memory_gb": here.memory_gb, "blas": blas_name()},
        versions=here.versions | {"python": here.python}, hashes=record.get("hashes", {}),
        settings=record.get("settings", {}), method=tuple(method), command=command, created=now(),
    )  # fmt: skip


def blas_name() -> str:
    from calltune.engine import BLAS

    return f"{BLAS.library} ({BLAS.source}), {BLAS.threads} threads"


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
    found: list[Question] = []
    seen: Counter[str] = Counter()
    for number, row in enumerate(rows, 1):
        name = row.id or f"row:{number}"
        turns = [i for i, m in enumerate(row.messages) if m.role == "assistant" and i]
        for i in (i for i in turns if row.messages[i - 1].role == "user"):
            seen[name] += 1  # ids are unique in a file of predictions (CONTRACT)
            id = name if seen[name] == 1 else f"{name}#{seen[name]}"
            category = str(row.meta.get("category") or _category(row.messages[i].calls))
            found.append(Question(id, category, row.messages[:i], row.tools, row.messages[i].calls))
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


def check_figures(wanted: Mapping[str, float]) -> None:
    """Raises InputError for thresholds of a figure that does not exist, or that are no share."""
    problems = [Problem("unknown_figure", key, ", ".join(FIGURES)) for key in wanted if key not in FIGURES]
    problems += [Problem("wrong_value", f"{key}={limit:g}", "a share from 0 to 1")
                 for key, limit in wanted.items() if not 0 <= limit <= 1]  # fmt: skip
    if problems:
        raise InputError("--fail-under is not right", problems=problems,
                         next_step="write it as call_exact_match=0.9,no_call_accuracy=0.9")  # fmt: skip


def check_thresholds(found: Mapping[str, Any], wanted: Mapping[str, float]) -> None:
    """Raises CheckFailed for the figures below their thresholds (one that could not be taken counts as 0),
    InputError as `check_figures`."""
    check_figures(wanted)
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
