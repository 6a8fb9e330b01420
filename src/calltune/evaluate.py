"""Generating and scoring: the figures before and after, on the same cases."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from calltune.answers import AnswerFile, answer_all
from calltune.caller import Caller, find_run, load, make_caller
from calltune.cases import Trained, make_cases
from calltune.data.readers import load_conversations
from calltune.data.sources import sources_of
from calltune.engine.load import Dtype
from calltune.engine.load import load as load_model
from calltune.errors import InputError
from calltune.grammar import Rules
from calltune.progress import Progress, Silent
from calltune.report import Answer, Report, write_report
from calltune.report_facts import Clock, data_facts, make_report, method_of, too_long
from calltune.runs import Run
from calltune.schema import Conversation
from calltune.tasks.few_shot import FEW_SHOT, with_examples
from calltune.tasks.questions import Question, questions_of
from calltune.tasks.results import official_figures, write_results
from calltune.tasks.suites import WALKTHROUGH, is_benchmark, suite_facts, suite_questions, walkthrough_rows


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
    copying: bool = True,
    progress: Progress | None = None,
    command: str = "",
) -> Report:
    """Let a model or run answer `rows` (None: the run's held-out test rows) and score its answers.

    `rows` is whatever `calltune.read` reads; of a source with parts, the test part. `suite="bfcl:CATEGORY"` asks a
    benchmark instead, whose files `benchmark` may name. `baseline` answers the same cases first: `"base"` is the
    run's own model without the adapter, `"few-shot"` that model after worked examples. `decoding="constrained"` lets
    only calls that fit the offered tools come, `"both"` answers freely first. `copying=False` frees
    the values that all training rows took from the conversation. With `out`, the answers are
    kept there as they come, so that an interrupted call goes on when it is made again; the report and
    predictions.jsonl replace those of an earlier evaluation when all is done. Raises InputError.
    """
    progress, clock = progress or Silent(), Clock.start()
    run, folder = _run_of(model), Path(out) if out is not None else None
    questions = load_questions(suite, rows, run, limit, benchmark)
    if decoding == "both" and baseline is not None:
        raise InputError("decoding='both' and a baseline are two comparisons",
                         next_step="ask twice with the baseline, decoding free and constrained")  # fmt: skip
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
        before = answers_before(baseline, model, run, questions, dtype, copying, **asked)
    caller = model if isinstance(model, Caller) else load(run or str(model), dtype=dtype)
    caller = caller if copying else caller.freed()
    if decoding == "both":
        free = asked | {"name": "free answers", "rules": None, "kept": files[0] if files else None}
        before = answer_all(caller, questions, **free)
    after = answer_all(caller, questions, **asked | {"name": "answers", "kept": files[1] if files else None})
    clock.evaluation = time.perf_counter() - started
    lengths = caller.lengths([(q.messages, q.tools) for q in questions])
    method = method_of(max_tokens, rows, baseline, suite, decoding)
    report = make_report(
        f"{_title(caller)} on {_asked(suite, questions)}", caller,
        make_cases(questions, after, before, lengths, Trained.of(run)),
        clock=clock, method=(*method, *too_long(caller, lengths, max_tokens)),
        command=command,
        data=suite_facts(suite, questions) if is_benchmark(suite) else data_facts(rows, run, suite),
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
    if suite == WALKTHROUGH:
        return questions_of(walkthrough_rows(rows), limit)
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
    copying: bool = True,
    **asked: Any,
) -> list[Answer]:
    """The baseline's answers. `"few-shot"`: those of the base model that was shown worked examples first."""
    if baseline != FEW_SHOT:
        caller = load_baseline(baseline, run, dtype)
        return answer_all(caller if copying else caller.freed(), questions, **asked)
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
