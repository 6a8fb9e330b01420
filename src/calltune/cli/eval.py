"""`calltune eval`: what a model or run gets right, with predictions and a report."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calltune.cli.bars import Bars
from calltune.errors import InputError
from calltune.settings import EvalSettings, add_flags, resolve

if TYPE_CHECKING:
    from calltune.runs import Run

EXAMPLE = """examples:
  calltune eval runs/mine --baseline base
  calltune eval smollm2-135m --data test.jsonl --limit 50 --out before
  calltune eval runs/mine --suite bfcl:simple_python --limit 50 --baseline base
  calltune eval runs/mine --decoding both
  calltune eval runs/mine --fail-under call_exact_match=0.9,no_call_accuracy=0.9

Without --data the test rows are used that were held out when the run was trained. Written to --out (default:
RUN/eval, or evals/MODEL for a base model's benchmark): predictions.jsonl, report.html, report.json, report.md. An
interrupted command goes on where it stopped when it is given again."""
LONG = ("verdicts", "curves", "examples", "failures", "settings")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "eval",
        description="Lets a model or run answer test rows and scores its answers.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run's folder, or a model as in `train --model`")
    add_flags(parser, EvalSettings)
    parser.add_argument("--json", action="store_true", help="the figures as one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    flags = {name: value for name, value in vars(args).items() if name in EvalSettings.__dataclass_fields__}
    settings = resolve(EvalSettings, flags, "the flags", "eval")
    from calltune.caller import find_run
    from calltune.cli.score import figure_lines
    from calltune.evaluate import evaluate
    from calltune.gate import check_figures, check_thresholds
    from calltune.platform.paths import check_writable
    from calltune.report import summary_lines

    check_figures(settings.fail_under)  # before minutes are spent
    check_suite(settings)
    if settings.decoding == "both" and settings.baseline is not None:
        raise InputError("--decoding both compares free and constrained answers, --baseline other ones",
                         next_step="ask twice with --baseline, --decoding free and constrained")  # fmt: skip
    found = find_run(args.model)
    out = out_folder(settings, args.model, found)
    check_writable(out)
    with Bars() as bars:
        report = evaluate(
            found or args.model, settings.data, suite=settings.suite, benchmark=settings.benchmark,
            baseline=settings.baseline, out=out, limit=settings.limit,
            max_tokens=settings.max_tokens, batch_size=settings.batch_size, dtype=settings.dtype,
            decoding=settings.decoding, copying=settings.copying, progress=bars,
            command=shlex.join(["calltune", *sys.argv[1:]]) if sys.argv[1:2] == ["eval"] else "calltune eval",
        )  # fmt: skip
    if args.json:
        document = {key: value for key, value in report.to_dict().items() if key not in LONG}
        print(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        lines = list(summary_lines(report))
        if report.suite:
            lines += ["", "As the official tool counts:", *figure_lines(report.suite["after"])]
        print("\n".join([*lines, "", f"written: {out / 'report.html'}, {out / 'predictions.jsonl'}"]))
    check_thresholds(report.after, settings.fail_under)
    return 0


def check_suite(settings: EvalSettings) -> None:
    """Raises InputError for a suite that does not exist, before a model is loaded."""
    from calltune.data.bfcl import categories_of
    from calltune.tasks.suites import is_benchmark

    if is_benchmark(settings.suite):
        categories_of(settings.suite)
        if settings.data is not None:
            raise InputError(
                f"both --suite {settings.suite} and --data were given", next_step="leave one of them out"
            )


def out_folder(settings: EvalSettings, model: str, run: Run | None) -> Path:
    """Where the results lie; each suite has a folder of its own. Raises InputError where nothing says it."""
    name = (settings.suite or "own").replace(":", "-")
    if settings.out:
        return Path(settings.out)
    if run is not None:
        return run.folder / "eval" if name == "own" else run.folder / "eval" / name
    if name == "own":
        raise InputError("where should the results lie? A base model has no folder of its own",
                         next_step="add --out DIR")  # fmt: skip
    return Path("evals") / f"{Path(model).name}-{name}"
