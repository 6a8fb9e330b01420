"""The report of a run: what was asked, what was answered before and after, and how sure the figures are.

A `Report` is a value; `write_report` writes it as `report.json` (the figures of CONTRACT.md, for
scripts), `report.html` (one self-contained page, for people) and `report.md` (for a chat or a pull
request); `summary_lines` are for the end of a command.
"""

from __future__ import annotations

import json
from pathlib import Path

from calltune.platform.paths import atomic_write
from calltune.report_breakdown import breakdown
from calltune.report_data import Answer, Case, Report
from calltune.report_page import page_html
from calltune.report_text import report_markdown, summary_lines

__all__ = ["Answer", "Case", "Report", "summary_lines", "write_report"]


def write_report(folder: Path | str, report: Report) -> tuple[Path, Path, Path]:
    """Write report.json, report.html and report.md there. Raises InputError where the disk refuses."""
    folder = Path(folder)
    document = json.dumps(report.to_dict() | breakdown(report), ensure_ascii=False, indent=2, allow_nan=False)
    html, markdown = page_html(report), report_markdown(report)
    return (
        atomic_write(folder / "report.json", _encodable(document) + "\n"),
        atomic_write(folder / "report.html", _encodable(html)),
        atomic_write(folder / "report.md", _encodable(markdown)),
    )


def _encodable(text: str) -> str:
    """Lone surrogates, which a model's JSON escapes can make, have no UTF-8: shown as U+FFFD."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
