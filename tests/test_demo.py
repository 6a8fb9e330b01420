"""The demo's course and its folder, on a tiny random model (the real one: tests marked slow)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny import tiny_model

from calltune import demo
from calltune.cli import main
from calltune.errors import InputError
from calltune.runs import read_run


@pytest.fixture
def tiny_demo(tmp_path_factory, monkeypatch):
    model = tiny_model(tmp_path_factory.mktemp("model"))
    settings = replace(demo.DEMO_SETTINGS, model=str(model), iters=2, num_layers=2, rank=2, batch_size=4)
    monkeypatch.setattr(demo, "DEMO_SETTINGS", settings)
    monkeypatch.setattr(demo, "QUICK_SIZES", (16, 4, 8))
    monkeypatch.setattr(demo, "BEFORE_TOKENS", 4)
    monkeypatch.setattr(demo, "AFTER_TOKENS", 4)


def test_demo_from_start_to_report(tiny_demo, tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--quick", "--out", str(out)]) == 0
    said = capsys.readouterr()
    document = json.loads((out / "report.json").read_text())
    for side in ("before", "after"):
        assert {"exact_match", "call_exact_match", "no_call_accuracy", "schema_valid", "thinking_rate"} <= set(
            document[side]
        )
    assert document["n"] == 8
    assert document["n_call"] > 0
    assert set(document["seconds"]) == {"total", "train", "eval"}
    assert document["train"]["tokens_per_second"] > 0
    assert document["curves"]
    lengths = document["lengths"]
    assert sum(count for _, _, count in lengths["histogram"]) == lengths["examples"] > 0
    assert {"machine", "versions", "hashes", "settings"} <= document.keys()
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 8
    assert (out / "report.html").stat().st_size > 1000
    assert read_run(out / "run").record["settings"]["out"] == str(out / "run")
    assert said.out.count("request  ") == 3
    for words in (f"calltune call {out / 'run'}", "calltune chat", "calltune eval", "my_tools.py"):
        assert words in said.out
    for step in ("loading the model", "answers before", "training", "answers after"):
        assert f"{step}: done in" in said.err
    assert main(["call", str(out / "run"), "Set a timer", "--max-tokens", "2"]) == 0


def test_demo_json_leaves_the_long_lists_out(tiny_demo, tmp_path, capsys):
    assert main(["demo", "--quick", "--no-think", "--json", "--out", str(tmp_path / "demo")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["n"] == 8
    assert "verdicts" not in document
    template = read_run(tmp_path / "demo" / "run").template
    assert template.think_instruction is None


def test_demo_keeps_off_other_folders(tiny_demo, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("important")
    assert main(["demo", "--quick", "--out", str(tmp_path / "mine")]) == 2
    assert "which are not touched" in capsys.readouterr().err
    assert main(["demo", "--quick", "--out", str(tmp_path / "mine" / "thesis.txt")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main(["demo", "--seed", "x"]) == 2


def test_a_former_demo_is_replaced_only_by_a_finished_one(tiny_demo, tmp_path, monkeypatch):
    out = tmp_path / "demo"
    demo.run_demo(out, quick=True)
    first = json.loads((out / "report.json").read_text())

    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "train", broken)
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(out, seed=1, quick=True)
    assert json.loads((out / "report.json").read_text()) == first
    demo.run_demo(out, seed=1, quick=True)
    second = json.loads((out / "report.json").read_text())
    assert second["settings"]["seed"] == 1
    assert second["settings"]["out"] == str(out / "run")
    assert second["curves"]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_an_interrupted_first_demo_keeps_what_was_finished(tiny_demo, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    out = tmp_path / "demo"
    with monkeypatch.context() as patch:
        patch.setattr(demo, "write_report", broken)
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(out, quick=True)
    assert read_run(out / "run")
    demo.run_demo(out, quick=True)  # and a later demo knows the folder as its own
    assert (out / "report.html").exists()


def test_same_seed_same_figures(tiny_demo, tmp_path):
    first = demo.run_demo(tmp_path / "a", quick=True)
    second = demo.run_demo(tmp_path / "b", quick=True)
    assert [case.after.reply.raw for case in first.cases] == [case.after.reply.raw for case in second.cases]
    with pytest.raises(InputError):
        demo.run_demo(tmp_path, quick=True)


@pytest.mark.nightly
def test_the_whole_demo_teaches_the_real_model(tmp_path):
    """10 minutes on 2 cores. The bounds lie below what was measured (README, Figures); the goal is 0.95."""
    report = demo.run_demo(tmp_path / "demo")
    assert report.before["call_exact_match"] < 0.05
    assert report.after["call_exact_match"] >= 0.6
    assert report.after["schema_valid"] >= 0.9
    assert report.after["thinking_rate"] >= 0.95
    assert len(report.cases) >= 100
