"""`calltune check`: what is wrong with every row of a data set, and lossless repair."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calltune.data.balance import Balance
from calltune.data.check import Checked, check_rows
from calltune.data.readers import empty
from calltune.data.sources import Source, sources_of
from calltune.errors import InputError, Problem
from calltune.platform.paths import atomic_write

EXAMPLE = """examples:
  calltune check data.jsonl
  calltune check data.jsonl --json
  calltune check data.jsonl --repair clean.jsonl    rejected rows go to clean.rejected.jsonl

A row is ok, repaired (a lossless repair makes it valid: a number written as text, Python quotes in the
arguments) or rejected. --repair writes the ok and the repaired rows in OpenAI's form. Exit code 1 when
rows are repaired or rejected; with --repair only when rows are rejected."""

SHOWN = 20  # problems printed for people; --json has all


@dataclass
class Tally:
    """The counts of one run, and with --repair the lines to write."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)
    balance: Balance = field(default_factory=Balance)
    kept: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def add(self, checked: Checked, place: Mapping[str, str], keep_lines: bool) -> None:
        problems = [{**p.to_dict(), "severity": "error", **place} for p in checked.problems]
        self.counts[checked.status] += 1
        self.problems += problems
        if checked.conversation is not None:
            self.balance.add(checked.conversation)
        if keep_lines and checked.conversation is not None:
            self.kept.append(_line(checked.conversation.to_openai()))
        elif keep_lines:
            self.rejected.append(_line({"row": checked.line, "problems": problems, "data": checked.value}))

    def to_dict(self) -> dict[str, Any]:
        """CONTRACT's document; findings on the set as a whole are warnings, with `row` null."""
        numbers = {name: self.counts[name] for name in ("ok", "repaired", "rejected")}
        warnings = [{**p.to_dict(), "severity": "warning"} for p in self.balance.warnings()]
        return {"rows": self.counts.total(), **numbers, "problems": self.problems + warnings}


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) + "\n"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "check",
        description="Checks every row: its form, its turns, and every call against the schema of its tool.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", metavar="DATA", help="a .jsonl or .json file, a folder, or a hub data set")
    parser.add_argument("--repair", metavar="OUT", help="write the good rows to this .jsonl file")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0: every row is valid (with --repair: or was repaired); 1: not. Raises InputError."""
    parts = sources_of(args.data)
    out = Path(args.repair) if args.repair else None
    if out is not None:
        _check_output(out, parts)
    tally = Tally()
    for source in parts.values():
        rows = 0
        for checked in check_rows(source):
            rows += 1
            tally.add(checked, {"file": source.name} if len(parts) > 1 else {}, out is not None)
        if not rows:
            raise empty(source)
    if out is not None:
        atomic_write(out, "".join(tally.kept))
        atomic_write(_side_file(out), "".join(tally.rejected))
    report = tally.to_dict()
    print(json.dumps(report, indent=1) if args.json else _text(report, out))
    return 1 if report["rejected"] or (report["repaired"] and out is None) else 0


def _side_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}.rejected.jsonl")


def _check_output(out: Path, parts: Mapping[str, Source]) -> None:
    """Raises InputError where --repair cannot be done, before any work is."""
    inputs = {s.items.resolve() for s in parts.values() if isinstance(s.items, Path)}
    problems = []
    if out.suffix != ".jsonl":
        problems.append(Problem("unknown_file", str(out), "a name that ends in .jsonl"))
    if inputs & {out.resolve(), _side_file(out).resolve()}:
        problems.append(Problem("same_file", str(out), "another file than DATA"))
    if len(parts) > 1:
        problems.append(Problem("several_files", ", ".join(parts), "one file as DATA with --repair"))
    if problems:
        raise InputError(f"{out} cannot be written", problems=problems)


def _text(report: Mapping[str, Any], out: Path | None) -> str:
    keys = ("kind", "found", "expected", "path", "row")
    lines = []
    for item in report["problems"]:
        words = str(Problem(**{key: item[key] for key in keys}))
        place = f"{item['file']} " if "file" in item else ""
        lines.append(f"{item['severity']}: {place}{words}")
    more = len(lines) - SHOWN
    if more > 0:
        kinds = Counter(item["kind"] for item in report["problems"])
        every = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        lines = [*lines[:SHOWN], f"... and {more} more (--json lists all): {every}"]
    verb = "repairable" if out is None else "repaired"
    ok, repaired, rejected = report["ok"], report["repaired"], report["rejected"]
    lines.append(f"{report['rows']} rows: {ok} ok, {repaired} {verb}, {rejected} rejected")
    if out is not None:
        lines.append(f"written: {out} ({ok + repaired} rows), {_side_file(out)} ({rejected} rows)")
    elif repaired:
        lines.append("next: calltune check DATA --repair OUT.jsonl")
    return "\n".join(lines)
