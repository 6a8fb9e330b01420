"""`calltune check`: what is wrong with every row of a data set, and lossless repair."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from calltune.cli.measuring import lengths_for
from calltune.data.check import Checked, Checker
from calltune.data.findings import json_line
from calltune.data.forms import FORMS
from calltune.data.leaks import read_benchmarks
from calltune.data.mixture import is_mixture, parts_of
from calltune.data.pipeline import pipeline_settings
from calltune.data.pool import Pool
from calltune.data.readers import empty
from calltune.data.sources import Source, sources_of
from calltune.errors import InputError, Problem
from calltune.platform.machine import usable_cores
from calltune.platform.paths import atomic_file

if TYPE_CHECKING:
    from calltune.lengths import Lengths

EXAMPLE = """examples:
  calltune check data.jsonl
  calltune check data.jsonl --json
  calltune check data.jsonl --repair clean.jsonl    rejected rows go to clean.rejected.jsonl
  calltune check data.jsonl --model smollm2-135m    also what is too long for the model

A row is ok, repaired (a lossless repair makes it valid: a number written as text, Python quotes in the
arguments, a comma too many, nulls in schemas) or rejected. --repair writes the ok and the repaired rows in
OpenAI's form. Only errors reject a row; warnings are told, and with --strict they reject too. Exit code 1 when
rows are repaired or rejected; with --repair only when rows are rejected."""

SHOWN = 20  # problems printed for people; --json has all


@dataclass
class Tally:
    """The counts of one run, its problems in a file (memory is not to grow with the data), and with --repair the
    files of kept and rejected rows."""

    spool: IO[bytes]
    kept: IO[bytes] | None = None
    rejected: IO[bytes] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    warnings: int = 0

    def add(self, checked: Checked, place: Mapping[str, str]) -> None:
        self.counts[checked.status] += 1
        problems = [self.note(problem, place) for problem in checked.problems]
        if checked.status != "rejected" and self.kept is not None:
            self.kept.write(checked.text)
        elif checked.status == "rejected" and self.rejected is not None:
            self.rejected.write(json_line({"row": checked.line, "problems": problems, "data": checked.value}))

    def note(self, problem: Problem, place: Mapping[str, str]) -> dict[str, Any]:
        told = problem.to_dict() | place
        self.spool.write(json_line(told))
        self.kinds[problem.kind] += 1
        self.warnings += problem.severity == "warning"
        return told

    def problems(self) -> Iterator[dict[str, Any]]:
        self.spool.seek(0)
        return (json.loads(line) for line in self.spool)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "check",
        description="Checks every row: its form, its turns, and every call against the schema of its tool.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", metavar="DATA", help="a .jsonl, .json or .parquet file, a folder, or a hub data set")
    parser.add_argument("--repair", metavar="OUT", help="write the good rows to this .jsonl file")
    parser.add_argument("--strict", action="store_true", help="warnings reject a row and set exit code 1 too")
    parser.add_argument("--format", choices=FORMS, help="the form of the rows (default: guessed for each, and told)")
    parser.add_argument("--model", metavar="M", help="a model or run: also check lengths and its chat template")
    parser.add_argument("--max-seq-length", type=int, default=2048, metavar="N", help="with --model (default: 2048)")
    told = "questions that must not be in the data (those in calltune's cache always count)"
    parser.add_argument("--benchmark", action="append", default=[], metavar="FILE", help=told)
    told = "processes that read and check (default: one a core; one for little data, and with --model)"
    parser.add_argument("--workers", type=int, metavar="N", help=told)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0: every row is valid (with --repair: or was repaired); 1: not. Raises InputError."""
    parts = _sources(args.data)
    out = Path(args.repair) if args.repair else None
    if out is not None:
        _check_output(out, parts)
    lengths = lengths_for(args.model, args.max_seq_length) if args.model else None
    benchmark = read_benchmarks(args.benchmark)
    with Pool(_workers(args)) as pool, tempfile.TemporaryFile() as spool:
        checker = Checker(args.strict, lengths, benchmark, out is not None, pool if pool.size > 1 else None)
        tally = Tally(spool)
        with ExitStack() as stack:
            if out is not None:
                tally.kept = stack.enter_context(atomic_file(out))
                tally.rejected = stack.enter_context(atomic_file(_side_file(out)))
            for source in parts.values():
                before = tally.counts.total()
                for checked in checker.check(replace(source, form=args.format or source.form)):
                    tally.add(checked, {"file": source.name} if len(parts) > 1 else {})
                if tally.counts.total() == before:
                    raise empty(source)
        for problem in [*checker.finish(), *(lengths.finish() if lengths else ())]:
            tally.note(problem, {})
        report = _report(tally, checker, lengths)
        if args.json:
            _print_json(report, tally)
        else:
            print("\n".join([*_shown(tally), *_summary(report, out)]))
    bad = report["rejected"] or (report["repaired"] and out is None) or (args.strict and tally.warnings)
    return 1 if bad else 0


def _workers(args: argparse.Namespace) -> int:
    """Raises InputError. With a model all rows go through its one tokenizer, which has threads of its own."""
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers is {args.workers}: at least one process has to do it",
                         next_step="give 1 or more, or leave it out: all cores are used")  # fmt: skip
    return 1 if args.model else args.workers or usable_cores()


def _sources(data: str) -> dict[str, Source]:
    """The parts of DATA; of a YAML file those of all its sources of rows, weights aside. Raises InputError."""
    if not is_mixture(data):
        return sources_of(data)
    _, found = pipeline_settings(data)
    rows = [one for one in found if one.data and not one.data.startswith("builtin:")]
    parts = {f"{one.name}/{part}": source for one in rows for part, source in parts_of(one).items()}
    if not parts:
        raise InputError(f"{data} names no rows to check", next_step="`calltune prepare` makes and checks them")
    return parts


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


def _report(tally: Tally, checker: Checker, lengths: Lengths | None) -> dict[str, Any]:
    """CONTRACT's document without the problems, and what else was counted."""
    numbers = {name: tally.counts[name] for name in ("ok", "repaired", "rejected")}
    report: dict[str, Any] = {"rows": tally.counts.total(), **numbers, "forms": dict(checker.forms.most_common())}
    report |= {"kinds": dict(tally.kinds.most_common()), "warnings": tally.warnings}
    return report | ({"lengths": lengths.summary()} if lengths else {})


def _print_json(report: Mapping[str, Any], tally: Tally) -> None:
    """The document, its problems one a line as they come from the spool."""
    write = sys.stdout.write
    write(json.dumps(report, indent=1)[:-2] + ',\n "problems": [')
    for i, problem in enumerate(tally.problems()):
        write((",\n  " if i else "\n  ") + json.dumps(problem))
    write("\n ]\n}\n")


def _shown(tally: Tally) -> Iterator[str]:
    """The first problems in words, errors before warnings."""
    keys = ("kind", "found", "expected", "path", "row")
    chosen: dict[str, list[str]] = {"error": [], "warning": []}
    for item in tally.problems():
        words = str(Problem(**{key: item[key] for key in keys}))
        lines = chosen[item["severity"]]
        if len(lines) < SHOWN:
            lines.append(f"{item['severity']}: {item['file'] + ' ' if 'file' in item else ''}{words}")
    shown = [*chosen["error"], *chosen["warning"]][:SHOWN]
    yield from shown
    if (more := tally.kinds.total() - len(shown)) > 0:
        every = ", ".join(f"{kind} {count}" for kind, count in tally.kinds.most_common())
        yield f"... and {more} more (--json lists all): {every}"


def _summary(report: Mapping[str, Any], out: Path | None) -> Iterator[str]:
    yield "format: " + ", ".join(f"{form} ({count} rows)" for form, count in report["forms"].items())
    if lengths := report.get("lengths"):
        numbers = ", ".join(f"{name} {lengths[name]}" for name in ("p50", "p95", "max") if name in lengths)
        yield f"tokens: {numbers}; {lengths.get('loss_share', 0):.1%} of them carry loss"
    verb = "repairable" if out is None else "repaired"
    ok, repaired, rejected = report["ok"], report["repaired"], report["rejected"]
    yield f"{report['rows']} rows: {ok} ok, {repaired} {verb}, {rejected} rejected"
    if out is not None:
        yield f"written: {out} ({ok + repaired} rows), {_side_file(out)} ({rejected} rows)"
    elif repaired:
        yield "next: calltune check DATA --repair OUT.jsonl"
