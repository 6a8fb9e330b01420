"""A report in words: the figures as people read them, the lines for a terminal, and the Markdown text."""

from __future__ import annotations

import json
from collections.abc import Sequence

from calltune.report_breakdown import breakdown
from calltune.report_data import Case, Report, plain_json
from calltune.schema import Reply, ToolCall, shorten

# The shares of CONTRACT.md with the words that people read, in the order of importance.
FIGURES = {
    "call_exact_match": "Exact calls",
    "no_call_accuracy": "Rightly no call",
    "exact_match": "All requests",
    "schema_valid": "Valid by schema",
    "thinking_rate": "Plan given",
}


def percent(share: float | None, digits: int = 1) -> str:
    """A share as text; 100 % only when it is exactly all, 0 % only when it is none."""
    if share is None:
        return "–"
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    step = 10.0**-digits
    return f"{min(max(share * 100, step), 100 - step):.{digits}f} %"


def interval_text(interval: Sequence[float] | None) -> str:
    return f"{interval[0] * 100:.0f}–{interval[1] * 100:.0f} %" if interval else ""


def duration(seconds: float) -> str:
    """Seconds as people say them: 41 s, 4 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def p_value_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def call_text(call: ToolCall) -> str:
    """A call as a programmer writes it: set_timer(minutes=5, label="tea")."""
    arguments = ", ".join(
        f"{key}={json.dumps(plain_json(v), ensure_ascii=False)}" for key, v in call.arguments.items()
    )
    return f"{call.name}({arguments})"


def printable(text: str) -> str:
    """Model text for a terminal: no control characters, which could move the cursor or set colours."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def calls_text(calls: Sequence[ToolCall]) -> str:
    return " + ".join(call_text(call) for call in calls) or "no call"


def answer_text(reply: Reply) -> str:
    """A reply on one line: its calls, else its text, else what went wrong."""
    if reply.errors or any(call.error for call in reply.calls):
        return f"unreadable: {' '.join(reply.raw.split())}"
    if reply.calls:
        return calls_text(reply.calls)
    return f'"{" ".join(reply.content.split())}"'


def figure_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """(words, before, after, interval of after) for each share of the report."""
    rows = []
    for name, words in FIGURES.items():
        before = percent(report.before[name]) if report.before else ""
        after, interval = report.after[name], report.after["intervals"][name]
        rows.append((words, before, percent(after), interval_text(interval)))
    return rows


def headline(report: Report) -> str:
    """The one sentence that a reader takes away."""
    after, n_call = report.after, report.after["n_call"]
    right = sum(c.after.verdict.exact for c in report.cases if c.after.verdict.needs_call)
    text = f"{right} of {n_call} requests that need a call got exactly the right one"
    if n_call == 0:
        right = sum(case.after.verdict.exact for case in report.cases)
        text = f"{right} of {after['n']} requests were rightly answered without a call"
    if not report.before:
        return f"{text}."
    pairs = [first for first, _ in report.pairs if first.needs_call or n_call == 0]
    return f"{text}; before training it was {sum(v.exact for v in pairs)} of {len(pairs)}."


def summary_lines(report: Report, width: int = 100) -> list[str]:
    """Plain text for the end of a command: the figures, then three requests with both answers."""
    table = [("", "before" if report.before else "", "after", "95 % interval"), *figure_rows(report)]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    lines = [headline(report), ""]
    for words, before, after, interval in table:
        cells = [words.ljust(widths[0]), before.rjust(widths[1]), after.rjust(widths[2])]
        lines.append("  " + "  ".join([*(cell for cell in cells if cell), interval.rjust(widths[3])]).rstrip())
    for case in report.examples[:3]:
        lines += ["", *_case_lines(case, width)]
    return lines


def _case_lines(case: Case, width: int) -> list[str]:
    rows = [("request", case.request)]
    if case.before:
        rows.append(("before", answer_text(case.before.reply)))
    rows.append(("after", answer_text(case.after.reply)))
    if not case.after.verdict.exact:
        rows.append(("wrong", case.after.verdict.reason))
    return [f"  {name:<8} {shorten(printable(text), width - 11)}" for name, text in rows]


def report_markdown(report: Report) -> str:
    """A short Markdown text with the same figures."""
    lines = [f"# {report.title}", "", headline(report), ""]
    lines += ["| | before | after | 95 % interval |", "|---|---:|---:|---:|"]
    lines += [f"| {words} | {b} | {a} | {i} |" for words, b, a, i in figure_rows(report)]
    if report.change:
        c = report.change
        lines += [
            "",
            f"Of {c['n']} cases {c['gained']} were gained and {c['lost']} lost "
            f"(McNemar's exact test: {p_value_text(c['p_value'])}).",
        ]
    lines += ["", "| category | n | before | after |", "|---|---:|---:|---:|"]
    old = {row["category"]: row for row in report.before["categories"]} if report.before else {}
    for row in report.after["categories"]:
        before = percent(old[row["category"]]["exact_match"]) if row["category"] in old else ""
        lines.append(f"| {_cell(row['category'])} | {row['n']} | {before} | {percent(row['exact_match'])} |")
    lines += _breakdown_lines(report)
    if report.method:
        lines += ["", *(f"- {sentence}" for sentence in report.method)]
    if report.command:
        lines += ["", f"Made by `{report.command}`."]
    return "\n".join(lines) + "\n"


def _breakdown_lines(report: Report) -> list[str]:
    lines: list[str] = []
    found = breakdown(report)
    for table in found["breakdown"]:
        lines += [
            "",
            f"{table['title']}:",
            "",
            "| | n | before | after | 95 % interval |",
            "|---|---:|---:|---:|---:|",
        ]
        for row in table["rows"]:
            before = percent(row["before"]["exact_match"]) if row["before"] else ""
            after, sure = percent(row["exact_match"]), interval_text(row["interval"])
            lines.append(f"| {row['label']} | {row['n']} | {before} | {after} | {sure} |")
    if found["confusion"]:
        lines += ["", "| expected | called | n |", "|---|---|---:|"]
        for row in found["confusion"]:
            names = (row["expected"] or "no call", row["called"] or "no readable call")
            lines.append(f"| {_cell(shorten(names[0]))} | {_cell(shorten(names[1]))} | {row['count']} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
