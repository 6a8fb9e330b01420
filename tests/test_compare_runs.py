"""`calltune compare`: better, worse, and what chance explains."""

from __future__ import annotations

import json

import pytest

from calltune.cli import main
from calltune.score import mcnemar_p


@pytest.fixture
def evaluations(tmp_path):
    """Writes a folder with a report of given verdicts; `right` is a text of 1 and 0, a case a character."""

    def make(name: str, right: str, first: int = 0, below: str = "") -> str:
        rows = [{"id": f"c{first + i}", "category": "even" if i % 2 == 0 else "odd", "before": None,
                 "after": "exact" if mark == "1" else "wrong_value"} for i, mark in enumerate(right)]  # fmt: skip
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
