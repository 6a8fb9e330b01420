"""`calltune score`: the official verdicts through the command line, and predictions of every bad kind."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from calltune.cli import main

DATA = Path(__file__).parent / "data" / "bfcl"
VECTORS = [json.loads(line) for line in (DATA / "vectors.jsonl").read_text().splitlines()]


@pytest.fixture
def score(tmp_path, capsys):
    """The command on some lines; gives exit code, figures, verdicts, and what was said on standard error."""

    def run(suite: str, lines, *flags: str):
        given, out = tmp_path / "predictions.jsonl", tmp_path / "verdicts.jsonl"
        out.unlink(missing_ok=True)
        rows = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        given.write_bytes(b"".join(row + b"\n" for row in rows))
        code = main(["score", "--suite", suite, str(given), "--benchmark", str(DATA), "--verdicts", str(out),
                     "--json", *flags])  # fmt: skip
        told = capsys.readouterr()
        verdicts = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        return code, json.loads(told.out) if told.out else None, verdicts, told.err

    return run


def test_the_official_verdicts(score):
    """As the issue asks: files in which an id occurs once, by category and names."""
    files = defaultdict(list)
    for vector in VECTORS:
        place = 0
        while any(v["id"] == vector["id"] for v in files[vector["category"], vector["names"], place]):
            place += 1
        files[vector["category"], vector["names"], place].append(vector)
    for (category, names, _), vectors in files.items():
        lines = [{"id": v["id"], "calls": v["calls"]} for v in vectors]
        code, figures, verdicts, _ = score(f"bfcl:{category}", lines, "--names", names, "--allow-missing")
        found = {v["id"]: (v["valid"], v["error"]) for v in verdicts}
        assert found == {v["id"]: (v["valid"], v["error_type"]) for v in vectors}
        assert (code, figures["n"], figures["duplicates"]) == (0, len(vectors), 0)
        assert figures["accuracy"] == sum(v["valid"] for v in vectors) / len(vectors)


def test_missing_unknown_and_duplicate_ids(score):
    ids = [json.loads(line)["id"] for line in (DATA / "BFCL_v4_irrelevance.json").read_text().splitlines()]
    lines = [{"id": ids[0], "calls": []}, {"id": ids[0], "calls": [{"name": "f", "arguments": {}}]},
             {"id": "nowhere", "calls": []}]  # fmt: skip
    code, figures, verdicts, err = score("bfcl:irrelevance", lines)
    assert (code, figures["valid"], figures["n"]) == (0, 1, 3)
    assert [v["error"] for v in verdicts] == [None, "missing_prediction", "missing_prediction"]
    assert "no case of bfcl:irrelevance" in err and "nowhere" in err
    assert "1 further predictions" in err and "2 of 3 cases have no prediction (counted as wrong)" in err
    code, figures, verdicts, err = score("bfcl:irrelevance", lines, "--allow-missing")
    assert (figures["accuracy"], figures["n"], figures["missing"], len(verdicts)) == (1.0, 1, 2, 1)
    code, figures, _, err = score("bfcl:irrelevance", [{"id": "nowhere"}], "--allow-missing")
    assert (code, figures) == (2, None) and "no prediction for a case" in err


def test_bad_predictions_are_counted(score):
    ids = [json.loads(line)["id"] for line in (DATA / "BFCL_v4_simple_python.json").read_text().splitlines()]
    name = json.loads((DATA / "BFCL_v4_simple_python.json").read_text().splitlines()[0])["function"][0]["name"]
    calls = ["text", {"name": name}, None, 7, [{"name": name, "arguments": "text"}], [{"name": name}],
             [{"name": name, "arguments": {"x": "y" * 1_000_000}}], float("nan"),
             [{"name": name, "arguments": {"base": float("nan")}}]]  # fmt: skip
    lines = [{"id": id, "calls": item} for id, item in zip(ids, calls, strict=False)]
    code, figures, verdicts, err = score("bfcl:simple_python", [*lines, b"{bad", b'"text"'], "--allow-missing")
    assert code == 2 and "2 lines of" in err and "line 10" in err and "Traceback" not in err
    assert (figures["n"], figures["valid"], figures["unreadable"]) == (len(calls), 0, 2)
    assert all(v["error"] for v in verdicts) and len(verdicts) == len(calls)


def test_groups_and_what_is_not_covered(score, capsys):
    lines = [{"id": v["id"], "calls": v["calls"]} for v in VECTORS if v["valid"] and v["names"] == "dotted"]
    _, figures, _, _ = score("bfcl:single_turn", lines, "--allow-missing")
    assert len(figures["categories"]) > 3 and figures["n"] == sum(row["n"] for row in figures["categories"])
    for suite, words in (("bfcl:multi_turn_base", "not covered"), ("bfcl:simple_javascript", "JavaScript"),
                         ("bfcl:simple_java", "Java"), ("bfcl:simple", "no category"),
                         ("other", "no suite")):  # fmt: skip
        code, _, _, err = score(suite, lines)
        assert code == 2 and words in err and "simple_python" in err
    assert main(["score", "--suite", "bfcl:parallel", "nowhere.jsonl"]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_the_accuracy_is_on_standard_output(tmp_path, capsys):
    given = tmp_path / "p.jsonl"
    given.write_text("".join(json.dumps({"id": v["id"], "calls": v["calls"]}) + "\n" for v in VECTORS[:1]))
    arguments = ["score", "--suite", "bfcl:simple_python", str(given), "--benchmark", str(DATA), "--allow-missing"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    valid = VECTORS[0]["valid"]
    assert out.startswith(f"simple_python  accuracy {float(valid):.2%}  ({int(valid)} of 1, 95 % interval")
    assert valid or VECTORS[0]["error_type"] in out
