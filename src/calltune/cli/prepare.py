"""`calltune prepare`: sources to parts that train, from one YAML file, with a record of every row."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calltune.cli.measuring import lengths_for
from calltune.data.check import Checked
from calltune.data.manifest import FILE, manifest_of, write_rows
from calltune.data.pipeline import NAMES, PrepareSettings, pipeline_settings, run_pipeline
from calltune.errors import InputError, Problem
from calltune.platform.paths import atomic_folder, check_writable
from calltune.settings import add_flags

if TYPE_CHECKING:
    from calltune.lengths import Lengths

EXAMPLE = """examples:
  calltune prepare mix.yaml
  calltune prepare mix.yaml --model smollm2-135m --out data/mine --split-by tool
  calltune prepare rows.jsonl --out data/mine --shuffle-tools 1 --remove-tool 0.1
  calltune train --model smollm2-135m --data data/mine

mix.yaml:
  sources:
    - data: rows.jsonl
    - {data: xlam.json.gz, format: xlam, weight: 0.5}
    - {tools: my_tools.py, rows: 500}
  test: 0.1
  combine: 0.05

The folder gets train.jsonl, valid.jsonl, test.jsonl, rejected.jsonl (with reasons), manifest.json (what came from
where, what was lost and why, hashes) and report.html. Training on the folder keeps the manifest in the run."""
HOLDS = (*(f"{name}.jsonl" for name in NAMES), "rejected.jsonl", FILE, "report.html")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "prepare",
        description="Reads, checks, repairs, splits, weighs and changes the rows of one or several sources.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", metavar="FILE.yaml", help="sources and settings; or one source of data")
    add_flags(parser, PrepareSettings)
    parser.add_argument("--overwrite", action="store_true", help="replace prepared data that is in the folder")
    parser.add_argument("--json", action="store_true", help="the manifest as one JSON document on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0: there are rows to train on. Raises InputError."""
    flags = {name: value for name, value in vars(args).items() if name in PrepareSettings.__dataclass_fields__}
    settings, sources = pipeline_settings(args.sources, flags)
    out = Path(settings.out).expanduser()
    _check_out(out, args.overwrite)
    check_writable(out.parent)
    lengths = lengths_for(settings.model, settings.max_seq_length) if settings.model else None
    with atomic_folder(out) as work:
        with (work / "rejected.jsonl").open("wb") as side:

            def rejected(source: str, checked: Checked) -> None:
                problems = [problem.to_dict() for problem in checked.problems]
                row = {"source": source, "row": checked.line, "problems": problems, "data": checked.value}
                side.write(f"{json.dumps(row, default=_plain)}\n".encode())

            pipeline = run_pipeline(settings, sources, lengths, rejected)
        hashes = {name: write_rows(work / f"{name}.jsonl", rows) for name, rows in pipeline.parts().items() if rows}
        measured = _train_lengths(lengths, pipeline.split.train) if lengths else None
        told = lengths.finish() if lengths else []
        pipeline = replace(pipeline, set_problems=(*pipeline.set_problems, *told))
        manifest = manifest_of(pipeline, settings, sources, hashes, measured)
        _write_pages(work, manifest)
    if args.json:
        print(json.dumps(manifest, ensure_ascii=False, indent=1))
    else:
        from calltune.report_rows import table_lines

        print("\n".join([*table_lines(manifest), f"written: {out}", f"next: calltune train --model M --data {out}"]))
    return 0


def _check_out(out: Path, overwrite: bool) -> None:
    """Raises InputError where the folder holds something else, or prepared data that is to stay."""
    if out.is_file():
        raise InputError(f"{out} is a file", next_step="give a folder with --out")
    if not out.is_dir():
        return
    other = sorted(path.name for path in out.iterdir() if path.name not in HOLDS)
    if other:
        problem = Problem("other_files", ", ".join(other[:5]), "a folder of its own")
        raise InputError(f"{out} holds other files", problems=[problem], next_step="give another folder with --out")
    if not overwrite and any(out.iterdir()):
        raise InputError(f"there is prepared data in {out}", next_step="give another --out, or --overwrite")


def _train_lengths(lengths: Lengths, rows: Any) -> dict[str, Any]:
    """Lengths of what will be trained; the first measuring was of what came in."""
    lengths.start()
    for row in rows:
        lengths(row)
    return lengths.summary()


def _plain(value: Any) -> Any:
    return value.to_openai() if hasattr(value, "to_openai") else str(value)


def _write_pages(folder: Path, manifest: dict[str, Any]) -> None:
    from calltune.report_rows import rows_page

    (folder / FILE).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(rows_page(manifest), encoding="utf-8")
