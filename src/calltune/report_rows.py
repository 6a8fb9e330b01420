"""What came of prepared data as tables: for the terminal, and as a page with a histogram of the lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from calltune.errors import Problem
from calltune.report_charts import lengths_drawing

_FOLDER = Path(__file__).parent / "templates_html"
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def tables_of(manifest: Mapping[str, Any]) -> list[Table]:
    """(title, head, rows) of everything that was counted."""
    sources = [
        (Path(s["source"]).name, f"{s['weight']:g}", _words(s["forms"]), s["rows"],
         *(s["status"].get(name, 0) for name in ("ok", "repaired", "rejected")), sum(s["lost"].values()))
        for s in manifest["sources"]
    ]  # fmt: skip
    head = ("source", "weight", "format", "rows", "ok", "repaired", "rejected", "lost")
    found: list[Table] = [("What came in", head, _text(sources))]
    if manifest["lost"]:
        lost = [
            (Path(s["source"]).name, kind, count) for s in manifest["sources"] for kind, count in s["lost"].items()
        ]
        found.append(("What was lost, and why", ("source", "reason", "rows"), _text(lost)))
    mended = [
        (Path(s["source"]).name, kind, count) for s in manifest["sources"] for kind, count in s["kinds"].items()
    ]
    if mended:
        found.append(("What was found", ("source", "kind", "rows"), _text(mended)))
    if manifest["changes"]:
        made, given_up = manifest["changes"]["made"], manifest["changes"]["given_up"]
        names = dict.fromkeys([*made, *given_up])
        changed = [(name, made.get(name, 0), given_up.get(name, 0)) for name in names]
        found.append(("Changes to the training rows", ("change", "made", "given up"), _text(changed)))
    parts = [(name, part["rows"], part.get("sha256", "")[:16]) for name, part in manifest["parts"].items()]
    found.append(("What came out", ("part", "rows", "sha256"), _text(parts)))
    found.append(("What the training rows teach", ("kind", "rows"), _text(manifest["categories"].items())))
    if lengths := manifest["lengths"]:
        kinds = ("p50", "p95", "max", "tokens", "trained_tokens")
        rows = [(name.replace("_", " "), lengths.get(name, 0)) for name in kinds]
        share = ("share of tokens with loss", f"{lengths.get('loss_share', 0):.1%}")
        found.append(("Lengths of the training rows", ("tokens", ""), [*_text(rows), share]))
    return found


def _by_source(manifest: Mapping[str, Any], counts: str) -> list[tuple[str, ...]]:
    return _text((Path(s["source"]).name, kind, n) for s in manifest["sources"] for kind, n in s[counts].items())


def _text(rows: Any) -> list[tuple[str, ...]]:
    return [tuple(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) for row in rows]


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(counts)


def table_lines(manifest: Mapping[str, Any]) -> list[str]:
    """The tables for a terminal."""
    lines = []
    for title, head, rows in tables_of(manifest):
        cells = [tuple(head), *rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        lines += [title, *("  " + "  ".join(_aligned(row, widths)).rstrip() for row in cells), ""]
    return [*lines, *(f"warning: {text}" for text in findings(manifest))]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    numeric = [cell.replace(",", "").replace("%", "").replace(".", "").isdecimal() for cell in row]
    return [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)]


def findings(manifest: Mapping[str, Any]) -> list[str]:
    keys = ("kind", "found", "expected", "path", "row")
    told = [str(Problem(**{key: item[key] for key in keys})) for item in manifest["findings"]]
    return told + [f"{Path(s['source']).name}: {note}" for s in manifest["sources"] for note in s["notes"]]


def rows_page(manifest: Mapping[str, Any]) -> str:
    """The page as HTML, without scripts or other files."""
    options: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True}
    environment = Environment(loader=FileSystemLoader(_FOLDER), lstrip_blocks=True, **options)
    rows = ", ".join(f"{part['rows']:,} {name}" for name, part in manifest["parts"].items())
    values = {
        "style": Markup((_FOLDER / "report.css").read_text("utf-8")),
        "headline": f"{rows} rows; calltune {manifest['calltune']}",
        "tables": tables_of(manifest),
        "lengths": lengths_drawing(manifest["lengths"]),
        "findings": findings(manifest),
    }
    return environment.get_template("data.html.j2").render(values)
