"""The page of a report: one HTML file without scripts, network or other files.

The template is `templates_html/report.html.j2`; everything that comes from a model or a data set passes
Jinja2's escaping, and the page forbids scripts and requests by its own Content-Security-Policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from calltune import report_text
from calltune.metrics import marks
from calltune.report_breakdown import breakdown
from calltune.report_charts import category_rows, chart, curve_points, error_rows, lengths_drawing
from calltune.report_data import Answer, Report
from calltune.score import ERROR_KINDS

_FOLDER = Path(__file__).parent / "templates_html"
_LONGEST = 700  # characters of a text on the page; report.json has all of it
_CURVES = {"train_loss": "training loss", "valid_loss": "validation loss", "call_exact_match": "exact calls"}
_KINDS = {"loss_think": "plan", "loss_name": "name", "loss_arguments": "arguments", "loss_syntax": "syntax",
          "loss_answer": "answer"}  # fmt: skip
KIND_WORDS = {
    "exact": "exact",
    "no_call": "no call made",
    "truncated": "cut off at the token limit",
    "format": "unreadable call",
    "over_call": "call where none was right",
    "wrong_tool": "wrong tool",
    "missing_call": "a call is missing",
    "extra_call": "a call too many",
    "missing_argument": "an argument is missing",
    "extra_argument": "an argument too many",
    "wrong_type": "argument of the wrong type",
    "wrong_value": "argument with the wrong value",
}


def page_html(report: Report) -> str:
    """The whole page as text."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda *arguments: unbroken(report_text.percent(*arguments)),
        "interval": lambda ends: unbroken(report_text.interval_text(ends)),
        "duration": report_text.duration,
        "call": report_text.call_text,
        "value": value_text,
        "cut": cut,
    }
    style = Markup((_FOLDER / "report.css").read_text("utf-8"))
    return environment.get_template("report.html.j2").render(style=style, **page_values(report))


def page_values(report: Report) -> dict[str, Any]:
    """What the template shows, under the names that it uses."""
    before, after = report.before, report.after
    kinds: dict[str, str] = {kind: KIND_WORDS[kind] for kind in ERROR_KINDS}
    return {
        "report": report,
        "before": before,
        "after": after,
        "change": report.change,
        "p_value": report_text.p_value_text(report.change["p_value"]) if report.change else "",
        "headline": report_text.headline(report),
        "lead": "call_exact_match" if after["n_call"] else "no_call_accuracy",
        "figures": report_text.FIGURES,
        "kind_words": KIND_WORDS,
        "categories": category_rows(before["categories"] if before else [], after["categories"]),
        "errors": error_rows(before["errors"] if before else None, after["errors"], kinds),
        "charts": charts(report.curves, marks(report.curves, {"train": report.train, "resumes": report.resumes})),
        "lengths": lengths_drawing(report.lengths),
        "wrong_after": sum(after["errors"].values()),
        "examples": report.examples,
        "failures": report.failures,
        "facts": facts(report),
        "raw_of": raw_of,
        **breakdown(report),
    }


def charts(rows: Sequence[Mapping[str, Any]], marks: Sequence[tuple[int, str]] = ()) -> list[dict[str, Any]]:
    """The training curves that the rows allow: losses together, those of each kind of token, the share of exact
    calls; `marks` as `chart` has them."""
    lines = {key: curve_points(rows, key) for key in (*_CURVES, *_KINDS)}
    made = []
    losses = {key: lines[key] for key in ("train_loss", "valid_loss") if lines[key]}
    if losses:
        alt = "; ".join(_curve_words(_CURVES[key], line) for key, line in losses.items())
        made.append({"title": "Loss", "lines": _legend(losses), **chart(losses, alt, marks=marks)})
    kinds = {key: lines[key] for key in _KINDS if lines[key]}
    if kinds:
        alt = "; ".join(_curve_words(_KINDS[key], line) for key, line in kinds.items())
        made.append(
            {"title": "Training loss by kind of token", "lines": _legend(kinds), **chart(kinds, alt, marks=marks)}
        )
    calls = {"call_exact_match": lines["call_exact_match"]}
    if calls["call_exact_match"]:
        alt = _curve_words("exact calls", calls["call_exact_match"], share=True)
        made.append(
            {"title": "Exact calls while training", "lines": _legend(calls), **chart(calls, alt, top=1, marks=marks)}
        )
    return made


def _legend(lines: Mapping[str, Sequence[tuple[float, float]]]) -> list[dict[str, str]]:
    return [{"colour": key, "text": (_CURVES | _KINDS)[key]} for key in lines]


def _curve_words(name: str, line: Sequence[tuple[float, float]], share: bool = False) -> str:
    show = report_text.percent if share else (lambda value: f"{value:.3g}")
    return f"{name} from {show(line[0][1])} to {show(line[-1][1])} at step {line[-1][0]:g}"


def facts(report: Report) -> list[tuple[str, Mapping[str, Any]]]:
    """The titled lists at the end of the page, without the empty ones."""
    seconds = {name: report_text.duration(value) for name, value in report.seconds.items()}
    lists = {
        "Model": report.model,
        "Data": report.data,
        "Training": report.train,
        "Time": seconds,
        "Machine": report.machine,
        "Settings": report.settings,
        "Versions": report.versions,
        "Hashes": report.hashes,
    }
    return [(title, mapping) for title, mapping in lists.items() if mapping]


def value_text(value: Any) -> str:
    """A setting or measurement as a reader writes it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {value_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(value_text(item) for item in value)
    return str(value)


def cut(text: str, limit: int = _LONGEST) -> str:
    more = len(text) - limit
    return text if more <= 0 else f"{text[:limit]}… ({more:,} more characters)"


def unbroken(text: str) -> Markup:
    """The same text, kept on one line."""
    return Markup('<span class="fit">{}</span>').format(text)


def raw_of(answer: Answer) -> str:
    """The text as generated, where reading it failed; else nothing."""
    broken = answer.reply.errors or any(call.error for call in answer.reply.calls)
    return answer.reply.raw if broken else ""
