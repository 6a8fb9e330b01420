"""`calltune compare`: better, worse, and what chance explains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import weather_rows

from calltune.cases import make_cases
from calltune.cli import main
from calltune.report_data import Answer, Report
from calltune.schema import Message, Reply
from calltune.score import mcnemar_p
from calltune.tasks.questions import question_hash, questions_of


@pytest.fixture
def evaluations(tmp_path):
    """Writes a folder with a report of given verdicts; `right` is a text of 1 and 0, a case a character."""

    def make(name: str, right: str, first: int = 0, below: str = "", asked: str = "") -> str:
        rows = [{"id": f"c{first + i}", "category": "even" if i % 2 == 0 else "odd", "before": None,
                 "after": "exact" if mark == "1" else "wrong_value"} for i, mark in enumerate(right)]  # fmt: skip
        for row, letter in zip(rows, asked, strict=False):  # a question a character
            row["question"] = letter
        folder = tmp_path / name / below
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps({"verdicts": rows}))
        return str(tmp_path / name)

    return make


def test_worse_beyond_noise_is_exit_code_1(evaluations, capsys):
    good, bad = evaluations("a", "1" * 10), evaluations("b", "1" + "0" * 9, below="eval")
    assert main(["compare", good, bad]) == 1
    told = capsys.readouterr()
    assert "is worse than" in told.err and "9 lost" in told.err and "B is worse than A" in told.out
    assert main(["compare", bad, good, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"], found["gained"], found["lost"]) == (0.1, 1.0, 9, 0)
    assert found["p_value"] == pytest.approx(2 / 2**9)
    assert [(row["category"], row["n"]) for row in found["categories"]] == [("even", 5), ("odd", 5)]


def test_noise_passes(evaluations, capsys):
    a, b = evaluations("a", "1111100000"), evaluations("b", "1111000000")
    assert main(["compare", a, b]) == 0
    assert "no difference beyond noise" in capsys.readouterr().out
    worse = evaluations("c", "0000000000")  # five lost: p = 0.0625
    assert main(["compare", a, worse]) == 0
    assert main(["compare", a, worse, "--level", "0.1"]) == 1


def test_only_common_cases_count(evaluations, capsys):
    a, b = evaluations("a", "1111"), evaluations("b", "0011", first=2)
    assert main(["compare", a, b, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["only_a"], found["only_b"], found["lost"]) == (2, 2, 2, 2)
    other = evaluations("c", "1", first=50)
    assert main(["compare", a, other]) == 2
    assert "no case in common" in capsys.readouterr().err


def test_one_id_may_mean_two_questions(evaluations, capsys):
    a, b = evaluations("a", "11110", asked="abcd"), evaluations("b", "10010", asked="abxy")
    assert main(["compare", a, b, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["lost"], found["other_question"], found["only_a"]) == (
        3,
        1,
        2,
        0,
    )  # the last: an old report
    assert main(["compare", a, b]) == 0
    assert "2 cases of the same id were left out: they are not the same question" in capsys.readouterr().out
    assert main(["compare", a, evaluations("c", "1111", asked="wxyz")]) == 2
    assert "4 ids that mean another question" in capsys.readouterr().err
    assert main(["compare", a, evaluations("old", "11110")]) == 0


def test_which_report_of_a_run_was_taken_is_told(evaluations, capsys):
    a, b = evaluations("a", "1", below="eval"), evaluations("b", "1")
    evaluations("a", "0", below="eval/bfcl-live")
    assert main(["compare", a, b]) == 0
    said = capsys.readouterr().out
    assert f"A: {Path(a, 'eval', 'report.json')} was taken; there also: {Path(a, 'eval', 'bfcl-live')}" in said
    assert "B:" not in said


def test_a_question_is_told_by_what_is_asked_and_right():
    one, two = weather_rows(2)
    first, again = questions_of([one]), questions_of([replace(one, id="other", meta={"category": "x"})])
    assert question_hash(first[0]) == question_hash(again[0])
    others = [replace(one, tools=()), replace(one, messages=(*one.messages[:-1], Message("assistant", "No."))), two]
    assert len({question_hash(questions_of([row])[0]) for row in (one, *others)}) == 4
    (case,) = make_cases(first, [Answer(Reply(), first[0].verdict(Reply()))])
    assert Report("t", (case,)).to_dict()["verdicts"][0]["question"] == question_hash(first[0])


def test_a_run_that_was_asked_benchmarks_only(evaluations, capsys):
    a, b = evaluations("a", "1", below="eval/bfcl-live"), evaluations("b", "1")
    assert main(["compare", a, b]) == 0
    evaluations("a", "1", below="eval/bfcl-parallel")
    assert main(["compare", a, b]) == 2
    said = capsys.readouterr().err
    assert "several suites" in said and "bfcl-live" in said and "bfcl-parallel" in said


def test_what_is_no_evaluation(evaluations, tmp_path, capsys):
    a = evaluations("a", "1")
    (tmp_path / "bad.json").write_text('{"verdicts": [7]}')
    for other, words in ((str(tmp_path), "holds no report.json"), (str(tmp_path / "bad.json"), "cannot be read"),
                         (str(tmp_path / "none"), "holds no report.json")):  # fmt: skip
        assert main(["compare", a, other]) == 2
        assert words in capsys.readouterr().err
    assert main(["compare", a, a, "--level", "2"]) == 2


def test_p_of_many_cases():
    assert mcnemar_p(0, 0) == 1.0 and mcnemar_p(3, 3) == 1.0
    assert mcnemar_p(1, 9) == pytest.approx(2 * 11 / 1024)
    assert 0 < mcnemar_p(700, 900) < 1e-6
    assert mcnemar_p(0, 3000) >= 0.0
