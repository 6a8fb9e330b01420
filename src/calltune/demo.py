"""The demo: a real small model learns the built-in tools, with its answers before and after on the same requests.

    model -> answers before -> training -> answers after -> report

Nothing here is special to the demo but its settings: it goes through the same functions as `train` and `eval`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from calltune.answers import answer_all, write_predictions
from calltune.builtin import DEFAULT_SIZES, builtin_data
from calltune.caller import make_caller
from calltune.cases import make_cases
from calltune.engine.load import LoadedModel, load
from calltune.errors import InputError
from calltune.grammar import Rules
from calltune.platform.paths import atomic_folder, atomic_write, check_writable
from calltune.prepare import template_for
from calltune.progress import Progress, Silent
from calltune.report import Answer, Report, write_report
from calltune.report_facts import CONSTRAINED_NOTE, Clock, environment_note, make_report
from calltune.runs import Run
from calltune.settings import TrainSettings
from calltune.tasks.questions import Question, questions_of
from calltune.train import train

DEMO_SETTINGS = TrainSettings(
    model="smollm2-135m", data="builtin:assistant", epochs=1, batch_size=16, num_layers=12, rank=16, scale=4.0,
    keys=("all",), optimizer="muon", learning_rate=3.5e-3, warmup=0.1, steps_per_eval=0, steps_per_report=5,
    val_batches=1,
)  # fmt: skip
QUICK_SIZES = (640, 16, 64)  # train, valid, test rows
QUICK_RATE = 5e-3  # fewer updates need a higher rate, at some cost in copying (docs/log.md)
BEFORE_TOKENS = 64  # the untrained model rambles: longer answers cost minutes and change no verdict
AFTER_TOKENS = 160
BATCH_SIZE = 48
MARK = ".calltune-demo"  # says that a folder is a demo's, so that a later demo may replace it


def run_demo(
    out: str | Path = "demo",
    seed: int = 0,
    *,
    quick: bool = False,
    think: bool = True,
    progress: Progress | None = None,
    command: str = "calltune demo",
) -> Report:
    """Train and measure; `out` gets report.html, report.json, report.md, predictions.jsonl and the run in `run/`.

    A former demo in `out` is replaced when the new one is finished. Raises InputError for a folder with other
    things in it and where the disk refuses.
    """
    progress, clock, out = progress or Silent(), Clock.start(), Path(out).expanduser()
    with _workplace(out) as folder:
        data = builtin_data(seed=seed, sizes=QUICK_SIZES if quick else DEFAULT_SIZES, think=think)
        rate = QUICK_RATE if quick else DEMO_SETTINGS.learning_rate
        settings = replace(
            DEMO_SETTINGS, learning_rate=rate, seed=seed, think=think, out=str(folder / "run"), overwrite=True
        )
        loaded = _load(settings, progress)
        questions = questions_of(data.test)
        caller = make_caller(loaded, template_for(settings, loaded.tokenizer))
        before = _timed_answers(caller, questions, "answers before", BEFORE_TOKENS, clock, progress)
        started = time.perf_counter()
        run = train(settings, data, progress=progress, loaded=loaded)
        clock.train = time.perf_counter() - started
        caller = make_caller(loaded, run.template, run)
        after = _timed_answers(caller, questions, "answers after", AFTER_TOKENS, clock, progress)
        run = _at_home(run, out / "run")
        report = make_report(
            f"{settings.model} learns {len(data.tools)} functions of an assistant", replace(caller, run=run),
            make_cases(questions, after, before), clock=clock, method=_method(settings, quick), command=command,
            data={"name": settings.data, "seed": seed, "split": "by phrasing and slot value", "quick": quick},
        )  # fmt: skip
        report = replace(report, curves=tuple(Run(folder / "run", run.record).metrics()))
        write_predictions(folder / "predictions.jsonl", questions, after)
        write_report(folder, report)
    return report


def _load(settings: TrainSettings, progress: Progress) -> LoadedModel:
    name = "loading the model"  # the first time it is converted too: some seconds
    progress.start(name, 1)
    loaded = load(settings.model, settings.dtype)
    progress.advance(name)
    progress.finish(name)
    return loaded


def _timed_answers(
    caller: Any, questions: list[Question], name: str, limit: int, clock: Clock, progress: Progress
) -> list[Answer]:
    started = time.perf_counter()
    answers = answer_all(caller, questions, name=name, max_tokens=limit, batch_size=BATCH_SIZE, progress=progress,
                         rules=Rules())  # fmt: skip
    clock.evaluation += time.perf_counter() - started
    return answers


def _method(settings: TrainSettings, quick: bool) -> tuple[str, ...]:
    plan = "Training replies carry a short plan in <think>." if settings.think else "Trained without plans."
    size = f"the short form (--quick) with {QUICK_SIZES[0]} training rows." if quick else "the whole form."
    return (
        "Phrasings and slot values of the test requests do not occur in training: the split is by phrasing template.",
        "Before and after got the same prompts with the same tools, in the same order.",
        f"{CONSTRAINED_NOTE} So `agent` and `serve` answer; before training as after.",
        f"Answers are greedy; before they were cut at {BEFORE_TOKENS} tokens, after at {AFTER_TOKENS}.",
        plan,
        f"Data, order and adapter come from seed {settings.seed}; {size}",
        *environment_note(),
    )  # fmt: skip


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """Where the demo is built: `out` itself where that is free, so that what is finished stays when it is
    interrupted; else a folder beside it that takes the place of the former demo at the end."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file", next_step="give another folder with --out")
    if not out.exists() or not any(out.iterdir()):
        check_writable(out)
        atomic_write(out / MARK, json.dumps({"folder": "made by calltune demo"}) + "\n")
        yield out
        return
    if not (out / MARK).is_file():
        raise InputError(f"{out} has other things in it than a former demo, which are not touched",
                         next_step="give another folder with --out")  # fmt: skip
    with atomic_folder(out) as folder:
        atomic_write(folder / MARK, (out / MARK).read_text())
        yield folder


def _at_home(run: Run, home: Path) -> Run:
    """The run as it will lie in `home`: its record names the folder in which users find it."""
    record = run.record | {"settings": run.record["settings"] | {"out": str(home)}}
    atomic_write(run.folder / "calltune.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return Run(home, record)
