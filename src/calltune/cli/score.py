"""`calltune score`: verdicts on calls that somebody made already, no model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calltune.errors import InputError

if TYPE_CHECKING:
    from calltune.tasks.bfcl import Scored
    from calltune.tasks.predictions import Predictions

EXAMPLE = """examples:
  calltune score --suite bfcl:simple_python predictions.jsonl
  calltune score --suite bfcl:single_turn predictions.jsonl --allow-missing --verdicts verdicts.jsonl
  calltune score --suite own --data test.jsonl predictions.jsonl

PREDICTIONS.jsonl has a line a case: {"id": ..., "calls": [{"name": ..., "arguments": {...}}]}; `calls` is [] for an
answer without a call and null where none could be read. Scored by the rules of the official BFCL v4 checker
(docs/evaluation.md). The cases are fetched once from the package index (2 MB, data only) and kept in the cache.
Of an id that occurs twice the first line counts; whatever is not scored is told on standard error."""
SHOWN = 5  # ids of a warning


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "score",
        description="Scores given calls against a benchmark's answers.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("predictions", metavar="PREDICTIONS.jsonl", type=Path, help="a line a case")
    parser.add_argument("--suite", required=True, metavar="S", help="bfcl:CATEGORY, bfcl:GROUP or own")
    parser.add_argument("--data", metavar="F", help="with --suite own: the rows that hold the right answers")
    parser.add_argument("--names", choices=("dotted", "underscored"), default="dotted",
                        help="how the model was shown names with dots in them (default: dotted)")  # fmt: skip
    parser.add_argument("--allow-missing", action="store_true",
                        help="leave cases without a prediction out (default: they are wrong)")  # fmt: skip
    parser.add_argument("--verdicts", type=Path, metavar="OUT", help="write {id, valid, error, reason} a case there")
    parser.add_argument("--benchmark", type=Path, metavar="PATH",
                        help="a folder with BFCL's files, or its wheel (default: the cache)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the figures as one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises InputError, after everything else was scored, for lines that could not be read."""
    from calltune.platform.paths import atomic_write

    predictions, scored, count = scored_predictions(args)
    _warn(f"predictions for ids that are no case of {args.suite}, not scored", scored.unknown)
    _warn("further predictions for an id that had one already, not scored", list(predictions.duplicates.elements()))
    if scored.missing:
        how = "left out" if args.allow_missing else "counted as wrong"
        print(f"warning: {scored.missing} of {count} cases have no prediction ({how})", file=sys.stderr)
    if args.verdicts:
        lines = [json.dumps(verdict.to_dict()) for verdict in scored.verdicts]
        atomic_write(args.verdicts, "".join(f"{line}\n" for line in lines))
    figures = {"suite": args.suite, "names": args.names, **scored.to_dict(),
               "duplicates": predictions.duplicates.total(), "unreadable": len(predictions.problems)}  # fmt: skip
    if not scored.verdicts and not predictions.problems:
        raise InputError(f"{args.predictions} holds no prediction for a case of {args.suite}",
                         next_step="check --suite and the ids")  # fmt: skip
    print(json.dumps(figures, indent=2) if args.json else "\n".join(figure_lines(figures)))
    if predictions.problems:
        count = len(predictions.problems)
        step = 'each line is {"id": ..., "calls": [...]}'
        raise InputError(f"{count} lines of {args.predictions} could not be read; the others were scored",
                         problems=predictions.problems, next_step=step)  # fmt: skip
    return 0


def scored_predictions(args: argparse.Namespace) -> tuple[Predictions, Scored, int]:
    """The predictions, the verdicts on them, and how many cases there are. Raises InputError."""
    from calltune.data.bfcl import categories_of, read_cases
    from calltune.tasks.bfcl import score_predictions
    from calltune.tasks.predictions import read_predictions

    if args.suite == "own":
        from calltune.data.readers import load_conversations
        from calltune.data.sources import sources_of
        from calltune.tasks.own import score_own
        from calltune.tasks.questions import questions_of

        if args.data is None:
            raise InputError("--suite own needs the rows with the right answers", next_step="add --data F")
        predictions = read_predictions(args.predictions)
        part = "test" if "test" in sources_of(args.data) else "train"
        questions = questions_of(load_conversations(args.data, part=part))
        return predictions, score_own(questions, predictions, allow_missing=args.allow_missing), len(questions)
    categories = categories_of(args.suite)
    predictions = read_predictions(args.predictions)
    cases = read_cases(categories, args.benchmark)
    scored = score_predictions(cases, predictions, args.names, allow_missing=args.allow_missing)
    return predictions, scored, len(cases)


def _warn(text: str, ids: Sequence[str]) -> None:
    if ids:
        shown = ", ".join([id if len(id) <= 60 else f"{id[:59]}…" for id in ids[:SHOWN]])
        more = ", ..." if len(ids) > SHOWN else ""
        print(f"warning: {len(ids)} {text}: {shown}{more}", file=sys.stderr)


def figure_lines(figures: dict[str, Any]) -> list[str]:
    """Accuracy with its 95 % interval, a line a category, and what was wrong."""
    rows = figures["categories"]
    if len(rows) != 1:
        rows = [*rows, {"category": figures["suite"], **figures}]
    width = max(len(row["category"]) for row in rows)
    lines = []
    for row in rows:
        name, (low, high) = row["category"].ljust(width), row["interval"] or (0, 1)
        share = "–" if row["accuracy"] is None else f"{row['accuracy']:.2%}"
        lines.append(
            f"{name}  accuracy {share}  ({row['valid']} of {row['n']}, 95 % interval {low:.1%} to {high:.1%})"
        )
    if figures["errors"]:
        lines += ["", "what was wrong:", *(f"  {count:6}  {error}" for error, count in figures["errors"].items())]
    return lines
