"""Which turns are scored, predictions, thresholds, and the report of an evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny import TOOLS, long_row, tiny_model, weather_call, weather_rows

from calltune.answers import answer_all, prediction
from calltune.caller import load
from calltune.errors import CheckFailed, InputError
from calltune.evaluate import evaluate, load_rows
from calltune.gate import check_thresholds
from calltune.schema import Conversation, Message, Reply, ToolCall
from calltune.score import aggregate
from calltune.tasks.questions import questions_of


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    return load(tiny_model(tmp_path_factory.mktemp("model")))


def counted(answers):
    return aggregate([answer.verdict for answer in answers])


class Always:
    """A caller that gives the right answer to every question it was made with, or a wrong one."""

    def __init__(self, rows, right: bool = True) -> None:
        self.replies = {row.messages[:-1]: row.messages[-1] for row in rows}
        self.right = right

    def batch(self, requests, *, on_reply, **_):
        made = []
        for i, (messages, _tools) in enumerate(requests):
            message = self.replies[tuple(messages)]
            reply = Reply("plan", message.calls, message.content) if self.right else Reply(None, (), "no")
            on_reply(i, reply)
            made.append(reply)
        return made


def test_every_turn_after_a_user_is_a_question():
    questions = questions_of([long_row()])
    assert [(q.id, q.category, len(q.messages)) for q in questions] == [("long", "call", 2), ("long#2", "no_call", 6)]
    assert questions[0].expected == (weather_call("Paris"),)


def test_ids_are_unique_even_where_rows_are_not():
    row = weather_rows(1)[0]
    assert [q.id for q in questions_of([row, row, replace(row, id=None)])] == ["row-0", "row-0#2", "row:3"]
    twice, other = replace(long_row(), id="a"), replace(row, id="a#2")
    assert [q.id for q in questions_of([twice, other])] == ["a", "a#2", "a#2#2"]
    assert [q.id for q in questions_of([other, twice, twice])] == ["a#2", "a", "a#3", "a#4", "a#5"]


def test_limit_and_nothing_to_score():
    assert len(questions_of(weather_rows(9), 4)) == 4
    with pytest.raises(InputError, match="nothing to score"):
        questions_of([Conversation((Message("user", "hi"),))])


def test_right_and_wrong_answers_are_counted():
    rows = weather_rows(8)
    questions = questions_of(rows)
    right = counted(answer_all(Always(rows), questions))
    assert (right["call_exact_match"], right["no_call_accuracy"], right["thinking_rate"]) == (1.0, 1.0, 1.0)
    wrong = counted(answer_all(Always(rows, right=False), questions))
    assert (wrong["call_exact_match"], wrong["no_call_accuracy"], wrong["schema_valid"]) == (0.0, 1.0, None)


def test_predictions_tell_no_call_from_an_unreadable_one():
    question = questions_of(weather_rows(1))[0]
    assert prediction(question, Reply(content="hi"))["calls"] == []
    bad = Reply(calls=(ToolCall("", raw="{", error="no JSON"),), errors=("no JSON",), raw="{")
    line = prediction(question, bad)
    assert line["calls"] is None
    assert (line["errors"], line["raw"]) == (["no JSON"], "{")
    good = Reply(calls=(weather_call("Oslo"), ToolCall("", error="x")))
    assert prediction(question, good)["calls"] == [{"name": "get_weather", "arguments": {"city": "Oslo"}}]


def test_thresholds():
    found = {"call_exact_match": 0.8, "no_call_accuracy": None}
    check_thresholds(found, {"call_exact_match": 0.8})
    with pytest.raises(CheckFailed, match=r"call_exact_match is 0.8 .wanted 0.9"):
        check_thresholds(found, {"call_exact_match": 0.9})
    with pytest.raises(CheckFailed, match="no_call_accuracy is None"):
        check_thresholds(found, {"no_call_accuracy": 0.1})
    with pytest.raises(InputError, match="unknown_figure: n"):
        check_thresholds(found, {"n": 1})


def test_evaluate_gives_a_report_and_writes_it(caller, tmp_path):
    report = evaluate(caller, weather_rows(6), baseline=caller.loaded.name, out=tmp_path, limit=5, max_tokens=4)
    assert len(report.cases) == 5
    assert report.before == report.after  # the same model
    assert report.change["p_value"] == 1.0
    assert report.seconds["eval"] <= report.seconds["total"]
    assert any("greedy" in sentence for sentence in report.method)
    assert any("speed of the BLAS" in sentence for sentence in report.method)
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [case.id for case in report.cases]
    assert json.loads((tmp_path / "report.json").read_text())["n"] == 5


def test_blas_variables_are_named_beside_the_figures(caller, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    report = evaluate(caller, weather_rows(1), max_tokens=1)
    assert any("OPENBLAS_CORETYPE=Haswell" in sentence for sentence in report.method)


def test_rows_come_from_the_test_part(tmp_path):
    for name, count in (("train", 3), ("test", 2)):
        rows = [json.dumps(row.to_openai()) for row in weather_rows(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    assert len(load_rows(tmp_path)) == 2
    assert len(load_rows(tmp_path / "train.jsonl")) == 3
    assert len(load_rows([row.to_openai() for row in weather_rows(4)])) == 4
    assert load_rows(weather_rows(4))[0].tools == TOOLS


def test_a_base_model_has_no_rows_and_no_base(caller):
    with pytest.raises(InputError, match="no test rows of its own"):
        evaluate(caller)
    with pytest.raises(InputError, match="needs a run"):
        evaluate(caller, weather_rows(1), baseline="base")


def test_free_and_constrained_answers_are_both_reported(caller, tmp_path):
    rows = weather_rows(6, no_call=0)
    report = evaluate(caller, rows, decoding="both", out=tmp_path, max_tokens=40)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["before"] is not None and found["after"] is not None
    assert any("decoding freely" in text for text in report.method)
    free = evaluate(caller, rows, max_tokens=40)
    assert free.before is None and free.after == report.before
    bound = evaluate(caller, rows, decoding="constrained", max_tokens=40)
    assert bound.after == report.after
    with pytest.raises(InputError, match="two comparisons"):
        evaluate(caller, rows, decoding="both", baseline="base")
