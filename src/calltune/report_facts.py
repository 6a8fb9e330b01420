"""What a report says beside its figures: how was measured, on which machine, with which run, in what time."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune.caller import Caller
from calltune.platform.blas import blas_environment
from calltune.platform.machine import machine
from calltune.report import Case, Report
from calltune.runs import Run, now
from calltune.tasks.few_shot import FEW_SHOT
from calltune.tasks.suites import SUITE_NOTES, WALKTHROUGH, WALKTHROUGH_DATA, WALKTHROUGH_NOTE, is_benchmark

CONSTRAINED_NOTE = (
    "Answers are constrained: after a free plan, only offered tools and arguments that fit their schemas."
)


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
        resumes=tuple(record.get("resumes", ())), lengths=record.get("data", {}).get("lengths", {}),
        machine={"system": f"{here.os} {here.arch}", "device": f"{here.device}: {here.device_name}",
                 "cores": here.cores, "memory_gb": here.memory_gb, "blas": blas_name()},
        versions=here.versions | {"python": here.python}, hashes=record.get("hashes", {}),
        settings=record.get("settings", {}), method=(*method, *copying_note(caller)), command=command, created=now(),
    )  # fmt: skip


def copying_note(caller: Caller) -> list[str]:
    """Sentences about what the run's replies keep to as all training rows do."""
    notes, copied = list[str](), sum(map(len, caller.copied.values()))
    if copied:
        notes.append(f"For {copied} parameter{'s' if copied > 1 else ''} every training row took the value word for "
                     "word from the conversation; the run's answers, not a base model's, could only say words of "
                     "it (--no-copying measures without).")  # fmt: skip
    said = sum(map(len, caller.said.values()))
    if said and caller.template.think_instruction is not None:
        notes.append(f"For {said} parameter{'s' if said > 1 else ''} every training row's number, date or time was "
                     "said; the run's plans asked for one that nobody said (--no-copying measures "
                     "without).")  # fmt: skip
    if caller.distinct:
        notes.append("No training row makes the same call twice in a reply; the run's answers made such a call once "
                     "(--no-copying measures without).")  # fmt: skip
    return notes


def method_of(
    max_tokens: int, rows: Any, baseline: Any, suite: str | None = None, decoding: str = "free"
) -> tuple[str, ...]:
    said = list(SUITE_NOTES) if is_benchmark(suite) else [WALKTHROUGH_NOTE] if suite == WALKTHROUGH else (
        [] if rows is not None else ["The rows were held out when the run was trained."])  # fmt: skip
    if baseline is not None:
        words = {"base": "the same model without the adapter", FEW_SHOT: "the base model after three worked examples"}
        said.append(f"Before: {words.get(str(baseline), baseline)}.")
    if decoding != "free":
        said.append(CONSTRAINED_NOTE)
    if decoding == "both":
        said.append("Before: the same model, decoding freely.")
    return (*said, f"Answers are greedy (no sampling) and may be {max_tokens} tokens long.", *environment_note())


def too_long(caller: Caller, lengths: Sequence[int], max_tokens: int) -> list[str]:
    """A sentence about prompts that leave no room in the model's context. They are asked all the same."""
    config = json.loads((caller.loaded.folder / "config.json").read_text(encoding="utf-8"))
    context = (config.get("text_config") or config).get("max_position_embeddings")
    count = sum(length + max_tokens > context for length in lengths) if isinstance(context, int) else 0
    if not count:
        return []
    return [f"{count} of {len(lengths)} prompts with their answers are longer than the {context:,} tokens that the "
            "model was made for; they were asked all the same."]  # fmt: skip


def data_facts(rows: Any, run: Run | None, suite: str | None = None) -> dict[str, Any]:
    if suite == WALKTHROUGH:
        source = (
            str(rows) if isinstance(rows, (str, Path)) else WALKTHROUGH_DATA if rows is None else "rows in memory"
        )
        return {"name": f"test split of {source}", "split": "split by row: test 0.1, valid 0, seed 0"}
    if rows is None and run is not None:
        return {"name": f"test part of {run.folder}", "split": run.record["data"]["origin"]}
    return {"name": str(rows) if isinstance(rows, (str, Path)) else "rows in memory"}


def environment_note() -> tuple[str, ...]:
    """A sentence for every report with a speed in it: variables that change the BLAS's figures."""
    found = "; ".join(problem.found for problem in blas_environment())
    return (f"Variables that change the speed of the BLAS: {found or 'none was set'}.",)


def blas_name() -> str:
    from calltune.engine import BLAS

    return f"{BLAS.library} ({BLAS.source}), {BLAS.threads} threads"
