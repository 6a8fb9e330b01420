"""Where answers are right, and which tool was called in place of which."""

from __future__ import annotations

import json
from dataclasses import replace

from report_sample import TOOLS, sample_cases, sample_report
from tiny import TOOLS as OFFERED
from tiny import weather_call, weather_rows

from calltune.cases import Trained, make_cases
from calltune.report import Answer, Case, write_report
from calltune.report_breakdown import breakdown, confusion
from calltune.schema import Reply, ToolCall
from calltune.score import score_reply
from calltune.tasks.questions import questions_of


def case_of(expected: tuple[ToolCall, ...], *calls: ToolCall, **more) -> Case:
    reply = Reply(calls=calls)
    return Case(
        "i", "c", "hi", expected, Answer(reply, score_reply(expected, reply, TOOLS, id="i", category="c")), **more
    )


def test_tables_add_up():
    cases = [replace(case, tools=(1, 4, 12)[i % 3], prompt_tokens=100 + 40 * i, seen=bool(i % 2))
             for i, case in enumerate(sample_cases(90))]  # fmt: skip
    found = breakdown(sample_report(tuple(cases)))["breakdown"]
    assert [table["name"] for table in found] == ["tools", "prompt_tokens", "seen"]
    for table in found:
        assert sum(row["n"] for row in table["rows"]) == 90
        assert sum(row["exact"] for row in table["rows"]) == sum(case.after.verdict.exact for case in cases)
        assert all(row["before"]["n"] == row["n"] for row in table["rows"])
    assert [row["label"] for row in found[0]["rows"]] == ["1", "3 to 5", "more than 10"]
    assert [row["label"] for row in found[1]["rows"]] == ["under 512", "512 to 1,023", "1,024 to 2,047",
                                                         "2,048 to 4,095"]  # fmt: skip


def test_a_table_of_one_row_is_left_out():
    cases = tuple(replace(case, tools=4) for case in sample_cases(9))
    assert breakdown(sample_report(cases))["breakdown"] == []


def test_confusion_pairs_what_is_on_one_side_only():
    a, b, c = ToolCall("a"), ToolCall("b"), ToolCall("c")
    cases = [
        case_of((a,), b),
        case_of((a,), b),
        case_of((a,), a),
        case_of((a,)),
        case_of((), c),
        case_of((a, b), b, c),
    ]
    rows = [(row["expected"], row["called"], row["count"]) for row in confusion(cases)]
    assert rows == [("a", "b", 2), ("a", None, 1), (None, "c", 1), ("a", "c", 1)]


def test_they_are_on_the_page_and_in_the_json(tmp_path):
    cases = tuple(replace(case, tools=1 + i % 2) for i, case in enumerate(sample_cases(40)))
    write_report(tmp_path, sample_report(cases))
    page, document = (tmp_path / "report.html").read_text(), json.loads((tmp_path / "report.json").read_text())
    assert "By the number of tools on offer" in page and "By the length of the prompt" not in page
    assert document["breakdown"][0]["rows"][0]["n"] == 20
    text = (tmp_path / "report.md").read_text()
    assert "By the number of tools on offer:" in text and "| 1 | 20 |" in text
    assert ("Which tool instead of which" in page) is bool(document["confusion"])


def test_seen_and_unseen_tools():
    call, chat = questions_of(weather_rows(4))[0], questions_of(weather_rows(4))[3]
    assert Trained(names=frozenset({"get_weather"})).had(call) is True
    assert Trained(names=frozenset({"get_time"})).had(call) is False
    assert Trained(held_out=frozenset({"get_weather"})).had(call) is False
    assert Trained(held_out=frozenset({"get_time"})).had(call) is True
    assert Trained(names=frozenset({"get_weather"})).had(chat) is None
    assert Trained.of(None) is None
    answer = Answer(Reply(calls=(weather_call("Paris"),)), call.verdict(Reply(calls=(weather_call("Paris"),))))
    (made,) = make_cases([call], [answer], None, [77], Trained(names=frozenset({"get_weather"})))
    assert (made.tools, made.prompt_tokens, made.seen) == (len(OFFERED), 77, True)
