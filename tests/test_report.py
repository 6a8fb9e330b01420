"""The report as JSON, page, Markdown and terminal lines: the figures agree, and nothing of a model runs."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_sample import TOOLS, sample_cases, sample_report

from calltune.errors import InputError
from calltune.report import Answer, Case, summary_lines, write_report
from calltune.report_charts import chart, curve_points, ticks
from calltune.report_page import page_html, value_text
from calltune.report_text import call_text, duration, percent, report_markdown
from calltune.schema import Reply, ToolCall
from calltune.score import score_reply

SHARES = ("exact_match", "call_exact_match", "no_call_accuracy", "schema_valid", "thinking_rate")


def case_of(reply: Reply, expected: tuple[ToolCall, ...] = (), id: str = "1", request: str = "hi") -> Case:
    verdict = score_reply(expected, reply, TOOLS, id=id, category="c")
    return Case(id, "c", request, expected, Answer(reply, verdict), None)


def text_of(html: str) -> str:
    """The page's visible text, runs of white space as one space."""
    pieces: list[str] = []

    class Reader(HTMLParser):
        skip = False

        def handle_starttag(self, tag, attrs):
            self.skip = tag == "style"

        def handle_endtag(self, tag):
            self.skip = False

        def handle_data(self, data):
            if not self.skip:
                pieces.append(data)

    Reader().feed(html)
    return " ".join("".join(pieces).split())


def test_report_json_holds_the_contract(tmp_path):
    write_report(tmp_path, sample_report())
    document = json.loads((tmp_path / "report.json").read_text("utf-8"))
    for side in ("before", "after"):
        assert all(0 <= document[side][name] <= 1 for name in SHARES)
    assert document["n"] == 140
    assert document["n_call"] == 100
    assert {"total", "train", "eval"} <= document["seconds"].keys()
    assert document["train"]["tokens_per_second"] > 0
    kept = ("model", "data", "machine", "versions", "hashes", "settings", "curves", "command", "method")
    assert all(document[name] for name in kept)
    assert len(document["verdicts"]) == 140
    right = sum(row["after"] == "exact" for row in document["verdicts"])
    assert document["after"]["exact_match"] == right / 140
    assert document["change"]["gained"] - document["change"]["lost"] == right - sum(
        row["before"] == "exact" for row in document["verdicts"]
    )


def test_the_page_shows_the_figures_of_the_json():
    report = sample_report()
    text = text_of(page_html(report))
    for name in SHARES:
        assert percent(report.before[name]) in text
        assert percent(report.after[name]) in text
    for wanted in (
        "94 of 100",
        "4 min 22 s",
        "scipy-openblas32",
        "0.32.4",
        "9f2c9f2c",
        "calltune demo --seed 0",
    ):
        assert wanted in text
    assert "split is by phrasing template" in text
    for row in report.after["categories"]:
        assert row["category"] in text
    assert text.count("right answer:") == 6 + 10


def test_the_page_draws_the_loss_by_kind_of_token():
    kinds = ("think", "name", "arguments", "syntax", "answer")
    curves = tuple({"step": step, **{f"loss_{kind}": 1 / (step + i) for i, kind in enumerate(kinds)}}
                   for step in (1, 2, 3))  # fmt: skip
    page = page_html(sample_report(curves=curves))
    assert "Training loss by kind of token" in page and "plan from 1 to 0.333 at step 3" in page
    for kind in kinds:
        assert f'<path class="line loss_{kind}"' in page and f'<span class="key loss_{kind}">' in page
    assert "Training loss by kind" not in page_html(sample_report())


def test_the_page_draws_the_lengths_of_the_training_examples():
    page = page_html(sample_report())
    assert "Lengths of the training examples in tokens: median 640, 95 % up to 655, longest 660" in page
    heights = [float(found) for found in re.findall(r'<rect class="bar"[^>]* height="([\d.]+)"', page)]
    assert len(heights) == 2 and heights[1] == pytest.approx(3 * heights[0], abs=0.2)
    assert "<title>600 to 629: 3</title>" in page
    assert "Lengths of the training" not in page_html(sample_report(lengths={}))


def test_the_page_is_self_contained_and_well_formed():
    html = page_html(sample_report())
    assert not re.search(r"https?://|<script|<iframe|<img|@import|url\(", html)
    assert "default-src 'none'" in html
    opened: list[str] = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "link"):
                opened.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Balance().feed(html)
    assert opened == []
    assert html.count('role="img"') == html.count("<svg") == html.count('aria-label="') - 1
    assert 'aria-label=""' not in html


def test_text_of_models_and_data_is_escaped_everywhere():
    bad = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    call = ToolCall(bad, {bad: bad})
    replies = [
        Reply(thinking=bad, calls=(call,), content=bad),
        Reply(raw=bad, errors=(bad,)),
        Reply(content=bad, truncated=True),
    ]
    cases = []
    for i, reply in enumerate(replies):
        expected = (ToolCall("set_timer", {"minutes": 1, "label": bad}),)
        case = case_of(reply, expected, id=f"{bad}{i}", request=bad)
        cases.append(replace(case, category=bad, before=case.after))
    mapping = {bad: bad}
    html = page_html(
        sample_report(
            tuple(cases),
            title=bad,
            model=mapping | {"name": bad},
            data=mapping,
            settings=mapping,
            method=(bad,),
            command=bad,
            created=bad,
            machine=mapping,
            train=mapping,
        )
    )
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert 'aria-label="<' not in html


def test_a_report_without_before_shows_one_side():
    cases = tuple(replace(case, before=None) for case in sample_cases(21))
    report = sample_report(cases)
    document = report.to_dict()
    assert document["before"] is None
    assert document["change"] is None
    html = page_html(report)
    assert "Before" not in html
    assert "McNemar" not in html
    assert "before" not in "\n".join(summary_lines(report))
    assert "before training" not in report_markdown(report)


def test_a_before_of_fewer_cases_is_compared_on_these_and_said():
    cases = sample_cases(28)
    report = sample_report(tuple(c if i < 14 else replace(c, before=None) for i, c in enumerate(cases)))
    assert report.before["n"] == report.change["n"] == 14
    assert report.after["n"] == 28
    assert "The answers before cover 14 of the 28 requests" in text_of(page_html(report))


def test_reports_with_almost_nothing_in_them(tmp_path):
    bare = {
        "curves": (),
        "lengths": {},
        "seconds": {},
        "train": {},
        "model": {},
        "data": {},
        "machine": {},
        "hashes": {},
    }
    for cases in ((), (case_of(Reply(content="hello")),), (case_of(Reply(calls=(ToolCall("x"),))),)):
        report = sample_report(cases, **bare, versions={}, settings={}, method=(), command="", created="")
        write_report(tmp_path, report)
        assert json.loads((tmp_path / "report.json").read_text("utf-8"))["n"] == len(cases)
        assert summary_lines(report)


def test_hard_text_and_numbers_are_written(tmp_path):
    reply = Reply(calls=(ToolCall("set_timer", {"minutes": float("nan"), "label": "\ud83d lone"}),), raw="x" * 10**6)
    long = case_of(Reply(content="y" * 10**6), id="2")
    curves = ({"step": 1, "train_loss": float("nan")}, {"step": 2, "train_loss": float("inf")})
    write_report(tmp_path, sample_report((case_of(reply), long), curves=curves))
    document = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert document["curves"] == [{"step": 1, "train_loss": None}, {"step": 2, "train_loss": None}]
    html = (tmp_path / "report.html").read_text("utf-8")
    assert len(html) < 100_000
    assert "more characters" in html


def test_same_report_same_bytes(tmp_path):
    first = [path.read_bytes() for path in write_report(tmp_path / "a", sample_report())]
    second = [path.read_bytes() for path in write_report(tmp_path / "b", sample_report())]
    assert first == second


@pytest.mark.skipif(os.geteuid() == 0 and os.name == "posix", reason="root may write everywhere")
def test_a_read_only_folder_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError):
        write_report(tmp_path / "out", sample_report())


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError) as caught:
        write_report(tmp_path / "out", sample_report())
    assert caught.value.next_step


def test_examples_go_round_the_categories_and_failures_are_the_first():
    report = sample_report()
    assert [case.id for case in report.examples] == [f"test-{i}" for i in range(6)]
    assert len({case.category for case in report.examples}) == 6
    few = sample_report(tuple(c for c in sample_cases() if c.category in ("timer", "weather")))
    assert [case.category for case in few.examples] == ["weather", "timer"] * 3
    wrong = [case.id for case in report.cases if not case.after.verdict.exact]
    assert [case.id for case in report.failures] == wrong[:10]


def test_summary_lines_end_with_three_requests():
    lines = summary_lines(sample_report(), width=80)
    assert lines[0].startswith("94 of 100 requests")
    assert any(re.search(r"Exact calls +0 % +94\.0 % +88–97 %", line) for line in lines)
    assert sum(line.startswith("  request ") for line in lines) == 3
    assert '  after    set_timer(minutes=25, label="bread")' in lines
    assert all(len(line) <= 80 for line in lines[2:])


def test_summary_lines_pass_no_control_characters_to_the_terminal():
    case = case_of(Reply(content="\x1b[2J\x1b]0;gone\x07 hi\r\nthere"), request="\x1b[31mred")
    text = "\n".join(summary_lines(sample_report((case,))))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "hi there" in text


def test_words_for_figures():
    assert [percent(x) for x in (0.0, 0.0001, 0.5, 0.99999, 1.0, None)] == [
        "0 %",
        "0.1 %",
        "50.0 %",
        "99.9 %",
        "100 %",
        "–",
    ]
    assert percent(0.996, 0) == "99 %"
    assert [duration(s) for s in (0.42, 9.96, 59.4, 59.6, 245, 3599.7, 7810)] == [
        "0.4 s",
        "10.0 s",
        "59 s",
        "1 min 00 s",
        "4 min 05 s",
        "1 h 00 min",
        "2 h 10 min",
    ]
    call = ToolCall("set_timer", {"minutes": 5, "label": "té", "loud": True})
    assert call_text(call) == 'set_timer(minutes=5, label="té", loud=true)'
    values = (None, True, 134515008, 0.002, 3182.5, [1, 2], {"a": 1})
    assert [value_text(v) for v in values] == ["–", "yes", "134,515,008", "0.002", "3,182", "1, 2", "a 1"]


def test_ticks_are_round_and_reach_the_top():
    assert ticks(1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(60) == pytest.approx([0, 20, 40, 60])
    for top in (1e-9, 0.037, 2.4, 7, 99, 1234567):
        marks = ticks(top)
        assert marks[0] == 0
        assert marks[-1] >= top * (1 - 1e-6)
        assert 3 <= len(marks) <= 7


def test_curves_are_thinned_and_keep_the_last_point():
    rows = [{"step": step, "train_loss": 1 / (step + 1)} for step in range(10_001)]
    points = curve_points(rows, "train_loss")
    assert len(points) <= 402
    assert points[0] == (0.0, 1.0)
    assert points[-1][0] == 10_000
    assert curve_points([{"step": 1}, {"step": 2, "train_loss": None}], "train_loss") == []
    drawn = chart({"train_loss": [(0, 2.0), (10, 0.0)]}, "falling")
    assert 'd="M0.000 0.000L100.000 100.000"' in drawn["svg"]
