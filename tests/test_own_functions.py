"""The functions that the generator was not written for, and their requests by hand (bench/own_functions.py)."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from tiny import tiny_model

from calltune.data.check import Checker
from calltune.data.readers import load_conversations
from calltune.data.sources import Source
from calltune.data.synthesise import synthesise
from calltune.functions import functions_from
from calltune.tasks.questions import questions_of

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "functions"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("own_functions", ROOT / "bench" / "own_functions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_twenty_requests_each_need_calls_that_fit_the_functions_as_they_are(name):
    path = FOLDER / f"{name}.requests.jsonl"
    checked = list(Checker().check(Source(path.name, path)))
    assert [one.status for one in checked] == ["ok"] * 20, "`python bench/own_functions.py --renew` after a change"
    tools = tuple(function.tool for function in functions_from(FOLDER / f"{name}.py"))
    questions = questions_of(load_conversations(path))
    assert len(questions) == 20 and all(q.expected and q.tools == tools for q in questions)
    assert {call.name for q in questions for call in q.expected} == {tool.name for tool in tools}


@pytest.mark.parametrize("name", NAMES)
def test_no_request_by_hand_is_one_that_the_generator_makes(name):
    made = synthesise(FOLDER / f"{name}.py", rows_train=400)
    texts = {row.messages[0].content.lower() for part in (made.train, made.valid, made.test) for row in part}
    asked = {
        q.messages[0].content.lower() for q in questions_of(load_conversations(FOLDER / f"{name}.requests.jsonl"))
    }
    assert not asked & texts


def test_functions_without_examples_are_named_with_what_to_add():
    notes = synthesise(FOLDER / "travel.py", rows_train=20).notes
    said = [note for note in notes if "Examples:" in note]
    assert len(said) == 1 and said[0].startswith("change_address: add `Examples:`") and "{street}" in said[0]


@pytest.mark.slow
def test_the_bench_trains_and_asks(tmp_path, bench, capfd, monkeypatch):
    for kind in ("py", "requests.jsonl"):
        shutil.copy(FOLDER / f"travel.{kind}", tmp_path / f"travel.{kind}")
    rows = (tmp_path / "travel.requests.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    (tmp_path / "travel.requests.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    model = str(tiny_model(tmp_path / "model"))
    given = ["travel", "--model", model, "--out", str(tmp_path / "runs"), "--max-tokens", "4"]
    result = bench.main(
        [*given, "--", "--rows", "8", "--iters", "1", "--num-layers", "-1", "--max-seq-length", "8192"]
    )
    assert json.loads(capfd.readouterr().out) == result
    assert result["files"]["travel"]["call_exact_match"] == result["mean"] == 0
    wrong = result["files"]["travel"]["wrong"]
    assert [one["id"] for one in wrong] == ["travel-01", "travel-02", "travel-03"]
    assert all(one["request"] and "kind" in one for one in wrong)


def test_renew_writes_the_schemas_of_the_functions(tmp_path, bench, monkeypatch):
    for kind in ("py", "requests.jsonl"):
        shutil.copy(FOLDER / f"travel.{kind}", tmp_path / f"travel.{kind}")
    before = (tmp_path / "travel.requests.jsonl").read_text(encoding="utf-8")
    text = (tmp_path / "travel.py").read_text(encoding="utf-8")
    (tmp_path / "travel.py").write_text(text.replace("Tell where a parcel is.", "Track it."), encoding="utf-8")
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    bench.main(["travel", "--renew"])
    after = (tmp_path / "travel.requests.jsonl").read_text(encoding="utf-8")
    assert after == before.replace("Tell where a parcel is.", "Track it.") != before


def test_an_unknown_name_is_told(bench, capfd):
    with pytest.raises(SystemExit):
        bench.main(["nothing"])
    assert "there are bookshop, smart_home, travel" in capfd.readouterr().err
