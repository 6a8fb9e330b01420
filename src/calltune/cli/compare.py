"""`calltune compare`: two evaluations on the same cases, and whether the second is worse beyond noise."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from calltune.errors import CheckFailed, InputError

EXAMPLE = """examples:
  calltune compare runs/old runs/new
  calltune compare before/report.json after/report.json --level 0.01 --json

A and B are folders that `calltune eval` or `calltune demo` wrote, runs that were evaluated, or report.json files.
They are compared on the cases that both answered (McNemar's exact test). Exit code 1 when B is worse and p is below
--level; a difference that chance explains is told and passes."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "compare",
        description="Compares two evaluations case by case.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A", type=Path, help="the one to compare with")
    parser.add_argument("b", metavar="B", type=Path, help="the one that must not be worse")
    parser.add_argument(
        "--level", type=float, default=0.05, metavar="P", help="a p below it is no noise (default: 0.05)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from calltune.comparison import compare_reports, comparison_lines, find_report, read_verdicts

    if not 0 < args.level < 1:
        raise InputError(f"--level is {args.level:g} (above 0, below 1)", next_step="0.05 is usual")
    (a, more_a), (b, more_b) = find_report(args.a), find_report(args.b)
    found = compare_reports(read_verdicts(a), read_verdicts(b))
    if args.json:
        print(json.dumps({"reports": [str(a), str(b)], **found}, indent=2))
    else:
        for name, taken, left in (("A", a, more_a), ("B", b, more_b)):
            if left:
                print(f"{name}: {taken} was taken; there also: {', '.join(str(path.parent) for path in left)}")
        print("\n".join(comparison_lines(found, args.level)))
    if found["p_value"] < args.level and found["lost"] > found["gained"]:
        raise CheckFailed(f"{args.b} is worse than {args.a}: {found['gained']} cases gained, {found['lost']} lost, "
                          f"p = {found['p_value']:.2g}")  # fmt: skip
    return 0
