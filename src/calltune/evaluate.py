"""Generating and scoring: the figures before and after, on the same cases."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from calltune.answers import AnswerFile, answer_all, prediction, write_predictions
from calltune.caller import Caller, find_run, load, make_caller
from calltune.data.readers import load_conversations
from calltune.data.sources import sources_of
from calltune.engine.load import Dtype
from calltune.engine.load import load as load_model
from calltune.errors import CheckFailed, InputError, Problem
from calltune.grammar import Rules
from calltune.platform.blas import blas_environment
from calltune.platform.machine import machine
from calltune.progress import Progress, Silent
from calltune.report import Answer, Case, Report, write_report
from calltune.report_text import FIGURES
from calltune.runs import Run, now
from calltune.schema import Conversation
from calltune.score import aggregate
from calltune.tasks.few_shot import FEW_SHOT, with_examples
from calltune.tasks.questions import Question, question_hash, questions_of, request_of
from calltune.tasks.results import official_figures, write_results
from calltune.tasks.suites import SUITE_NOTES, is_benchmark, suite_facts, suite_questions

__all__ = [
    "Clock", "Question", "answer_all", "check_figures", "check_thresholds", "environment_note", "evaluate", "figures",
    "load_baseline", "load_rows", "make_cases", "make_report", "prediction", "questions_of", "write_predictions",
]  # fmt: skip


def evaluate(
    model: Caller | Run | str | Path,
    rows: Any = None,
    *,
    suite: str | None = None,
    benchmark: str | Path | None = None,
    baseline: str | Path | Run | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    max_tokens: int = 256,
    batch_size: int = 32,
    dtype: Dtype = "auto",
    decoding: Literal["free", "constrained", "both"] = "free",
    progress: Progress | None = None,
    command: str = "",
) -> Report:
    """Let a model or run answer `rows` (None: the run's held-out test rows) and score its answers.

    `rows` is whatever `calltune.read` reads; of a source with parts, the test part. `suite="bfcl:CATEGORY"` asks a
    benchmark instead, whose files `benchmark` may name. `baseline` answers the same cases first: `"base"` is the
    run's own model without the adapter, `"few-shot"` that model after worked examples. `decoding="constrained"` lets
    only calls that fit the offered tools come, `"both"` answers freely first. With `out`, the answers are
    kept there as they come, so that an interrupted call goes on when it is made again; the report and
    predictions.jsonl replace those of an earlier evaluation when all is done. Raises InputError.
    """
    progress, clock = progress or Silent(), Clock.start()
    run, folder = _run_of(model), Path(out) if out is not None else None
    questions = load_questions(suite, rows, run, limit, benchmark)
    if decoding == "both" and baseline is not None:
        raise InputError("decoding='both' and a baseline are two comparisons", next_step="leave one of them out")
    rules = None if decoding == "free" else Rules()
    asked: dict[str, Any] = {"max_tokens": max_tokens, "batch_size": batch_size, "progress": progress, "rules": rules}
    started = time.perf_counter()
    files = (
        [AnswerFile(folder / name) for name in ("predictions.before.jsonl", "predictions.jsonl")] if folder else []
    )
    before = None
    if baseline is not None:  # first, so that only one model is in memory where `model` is a name
        progress.say(f"baseline: {baseline}")
        asked |= {"name": "answers of baseline", "kept": files[0] if files else None}
        before = answers_before(baseline, model, run, questions, dtype, **asked)
    caller = model if isinstance(model, Caller) else load(run or str(model), dtype=dtype)
    if decoding == "both":
        free = asked | {"name": "free answers", "rules": None, "kept": files[0] if files else None}
        before = answer_all(caller, questions, **free)
    after = answer_all(caller, questions, **asked | {"name": "answers", "kept": files[1] if files else None})
    clock.evaluation = time.perf_counter() - started
    lengths = caller.lengths([(q.messages, q.tools) for q in questions])
    method = _method(max_tokens, rows, baseline, suite, decoding)
    report = make_report(
        f"{_title(caller)} on {_asked(suite, questions)}", caller,
        make_cases(questions, after, before, lengths, Trained.of(run)),
        clock=clock, method=(*method, *_too_long(caller, lengths, max_tokens)),
        command=command,
        data=suite_facts(suite, questions) if is_benchmark(suite) else _data_facts(rows, run),
    )  # fmt: skip
    if is_benchmark(suite):
        report = replace(report, suite=_official(suite, questions, after, before))
    if folder is not None:
        replies = [answer.reply for answer in after]
        made = write_results(folder / "bfcl_result", questions, replies) if is_benchmark(suite) else []
        _drop_results(folder / "bfcl_result", made)
        write_report(folder, report)
    for file in files:
        file.done()
    return report


def _drop_results(folder: Path, made: Sequence[Path]) -> None:
    """Removes the results of an earlier evaluation, which would pass for this one's."""
    for path in folder.glob("*/BFCL_v4_*_result.json"):
        if path not in made:
            path.unlink()
    for place in (*folder.glob("*/"), folder):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def _official(
    suite: str, questions: Sequence[Question], after: Sequence[Answer], before: Sequence[Answer] | None
) -> dict[str, Any]:
    """The figures as the official tool counts, for `report.json`."""
    found = {name: official_figures(suite, questions, [answer.reply for answer in answers])
             for name, answers in (("before", before), ("after", after)) if answers is not None}  # fmt: skip
    return {"name": suite, "before": None} | found


def load_questions(
    suite: str | None, rows: Any, run: Run | None, limit: int | None, benchmark: str | Path | None = None
) -> list[Question]:
    """The questions of a suite, or of rows (`own`, which is also meant without a suite). Raises InputError."""
    if not is_benchmark(suite):
        return questions_of(load_rows(rows, run), limit)
    if rows is not None:
        raise InputError(f"both the suite {suite} and rows were given", next_step="leave one of them out")
    return suite_questions(suite, limit, Path(benchmark) if benchmark else None)


def load_rows(source: Any, run: Run | None = None) -> list[Conversation]:
    """The rows to score: the test part of a source with parts, else all its rows. Raises InputError."""
    if source is None:
        if run is None:
            raise InputError("a base model has no test rows of its own", next_step="give rows with --data FILE")
        return run.test_rows()
    if isinstance(source, (list, tuple)) and source and all(isinstance(row, Conversation) for row in source):
        return list(source)
    return load_conversations(source, part="test" if "test" in sources_of(source) else "train")


def answers_before(
    baseline: str | Path | Run,
    model: Caller | Run | str | Path,
    run: Run | None,
    questions: Sequence[Question],
    dtype: Dtype,
    **asked: Any,
) -> list[Answer]:
    """The baseline's answers. `"few-shot"`: those of the base model that was shown worked examples first."""
    if baseline != FEW_SHOT:
        return answer_all(load_baseline(baseline, run, dtype), questions, **asked)
    base = (
        load_baseline("base", run, dtype) if run else model if isinstance(model, Caller) else load(model, dtype=dtype)
    )
    answers = answer_all(base, with_examples(questions), **asked)
    return [Answer(a.reply, q.verdict(a.reply)) for q, a in zip(questions, answers, strict=True)]


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


def _asked(suite: str | None, questions: Sequence[Question]) -> str:
    return f"{len(questions)} requests" + (f" of {suite}" if is_benchmark(suite) else "")


def _method(
    max_tokens: int, rows: Any, baseline: Any, suite: str | None = None, decoding: str = "free"
) -> tuple[str, ...]:
    said = list(SUITE_NOTES) if is_benchmark(suite) else (
        [] if rows is not None else ["The rows were held out when the run was trained."])  # fmt: skip
    if baseline is not None:
        words = {"base": "the same model without the adapter", FEW_SHOT: "the base model after three worked examples"}
        said.append(f"Before: {words.get(str(baseline), baseline)}.")
    if decoding != "free":
        said.append(
            "Answers are constrained: after a free plan, only offered tools and arguments that fit their schemas."
        )
    if decoding == "both":
        said.append("Before: the same model, decoding freely.")
    return (*said, f"Answers are greedy (no sampling) and may be {max_tokens} tokens long.", *environment_note())


def _too_long(caller: Caller, lengths: Sequence[int], max_tokens: int) -> list[str]:
    """A sentence about prompts that leave no room in the model's context. They are asked all the same."""
    config = json.loads((caller.loaded.folder / "config.json").read_text(encoding="utf-8"))
    context = (config.get("text_config") or config).get("max_position_embeddings")
    count = sum(length + max_tokens > context for length in lengths) if isinstance(context, int) else 0
    if not count:
        return []
    return [f"{count} of {len(lengths)} prompts with their answers are longer than the {context:,} tokens that the "
            "model was made for; they were asked all the same."]  # fmt: skip


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


def make_cases(
    questions: Sequence[Question],
    after: Sequence[Answer],
    before: Sequence[Answer] | None = None,
    lengths: Sequence[int] | None = None,
    trained: Trained | None = None,
) -> tuple[Case, ...]:
    """Questions with the answers after and, on the same cases, before. `lengths`: of the prompts in tokens."""
    return tuple(
        Case(q.id, q.category, request_of(q), q.expected, a, before[i] if before else None, len(q.tools),
             lengths[i] if lengths else None, trained.had(q) if trained else None, question_hash(q))
        for i, (q, a) in enumerate(zip(questions, after, strict=True))
    )  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """Which tools training had: those that all its rows offered, or all but those that were held out."""

    names: frozenset[str] = frozenset()
    held_out: frozenset[str] = frozenset()

    @staticmethod
    def of(run: Run | None) -> Trained | None:
        if run is None:
            return None
        manifest = run.record.get("data", {}).get("manifest") or {}
        found = Trained(frozenset(tool.name for tool in run.tools()), frozenset(manifest.get("held_out_tools", ())))
        return found if found.names or found.held_out else None

    def had(self, question: Question) -> bool | None:
        """Whether training had all tools that are right; None where no call is, or where it cannot be known."""
        names = {call.name for call in question.expected}
        if not names or (question.case is not None and not self.names):
            return None
        return not names & self.held_out if self.held_out else names <= self.names


def figures(answers: Sequence[Answer]) -> dict[str, Any]:
    return aggregate([answer.verdict for answer in answers])


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
