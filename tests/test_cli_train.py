"""`calltune train` and `eval` as a user types them: what they write, say and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_place import QUICK, told
from safetensors.numpy import load_file
from tiny import weather_rows

from calltune.cli import main

SHORT = ("--max-tokens", "4")


def test_train_writes_a_run_and_says_what_it_does(place, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--model", place.model, "--data", place.data, "--out", str(out), *QUICK]) == 0
    said = capsys.readouterr()
    for words in ("trainable parameters: ", "chat template: ", "float32", "update 2: loss", "learning rate", "it/s",
                  "tokens/s", "trained tokens", "peak memory", "validation loss"):  # fmt: skip
        assert words in said.err
    assert said.err.index("trainable parameters") < said.err.index("update 1:")
    assert f"calltune eval {out}" in said.out
    assert "\x1b" not in said.out + said.err
    names = {path.name for path in out.iterdir()}
    assert names == {"adapters.safetensors", "adapter_config.json", "calltune.json", "metrics.jsonl", "test.jsonl",
                     "tools.json", "checkpoints"}  # fmt: skip


def test_train_json_and_config(place, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(f"model: {place.model}\ndata: {place.data}\nrank: 3\niters: 1\nnum_layers: 1\n")
    arguments = ["train", "--config", str(tmp_path / "c.yaml"), "--rank", "5", "--out", str(tmp_path / "r"), "--json"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == str(tmp_path / "r")
    assert document["train"]["updates"] == 1
    record = json.loads((tmp_path / "r" / "calltune.json").read_text())
    assert (record["settings"]["rank"], record["settings"]["num_layers"]) == (5, 1)  # flags win over YAML


def test_train_from_functions(place, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", "--model", place.model, "--tools", place.py, "--rows", "12", "--out", str(out)]
    assert main([*arguments, *QUICK]) == 0
    assert [t["function"]["name"] for t in json.loads((out / "tools.json").read_text())] == ["get_weather"]


def bad_row(row: object) -> str:
    good = json.dumps(weather_rows(1)[0].to_openai())
    return good + "\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n"


CALL = {"type": "function", "id": "c", "function": {"name": "fly", "arguments": "{}"}}


BAD_ROWS = [
    ("", "is empty"),
    (bad_row('{"messages": ['), "line 2: bad_json"),
    (bad_row({"messages": [{"role": "robot", "content": "x"}]}), "robot"),
    (
        bad_row({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [CALL]}]}),
        "unknown_function: fly",
    ),
]


@pytest.mark.parametrize(("text", "words"), BAD_ROWS)
def test_train_with_bad_rows(place, tmp_path, capsys, text, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    said = told(capsys, 2, "train", "--model", place.model, "--data", str(path), "--out", str(tmp_path / "new"))
    assert words in said
    if text:
        assert "line 2" in said
    assert not (tmp_path / "new").exists()  # nothing half-written


def test_train_mistakes(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bare").mkdir()
    (Path("bare") / "config.json").write_text("{}")
    Path("file").write_text("")
    start = ("train", "--model", place.model, "--data", place.data)
    cases = [
        (("train", "--data", place.data), "no model was named"),
        (("train", "--model", place.model), "neither --data nor --tools"),
        ((*start, "--tools", place.py), "both --data and --tools"),
        (("train", "--model", place.model, "--data", "none.jsonl"), "there is no none.jsonl"),
        (("train", "--model", "nothing", "--data", place.data), "there is no model 'nothing'"),
        (("train", "--model", "bare", "--data", place.data), "has no tokenizer"),
        ((*start, "--learning-rate", "-1", "--batch-size", "0", "--epochs", "nan"), "at least 1"),
        ((*start, "--keys", "no_proj", "--num-layers", "2"), "unknown_key: no_proj"),
        ((*start, "--rank", "2", "--num-layers", "99"), "num_layers: 99"),
        ((*start, "--out", place.run), "--overwrite"),
        ((*start, "--out", "file"), "file is a file"),
        ((*start, "--out", "file/run"), "is a file, not a folder"),
        ((*start, "--config", "none.yaml"), "none.yaml cannot be read"),
        ((*start, "--template", "none.jinja"), "none.jinja cannot be read"),
        ((*start, "--max-seq-length", "9"), "--max-seq-length"),
        (("train", "--model", place.model, "--tools", "none.py"), "there is no such file"),
    ]
    for arguments, words in cases:
        said = told(capsys, 2, *arguments)
        assert words in said, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "file"]  # nothing half-written


def test_train_unknown_yaml_key_suggests_the_near_one(place, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("learnig_rate: 1\n")
    said = told(capsys, 2, "train", "--model", place.model, "--config", str(tmp_path / "c.yaml"))
    assert "learnig_rate (expected learning_rate?)" in said


def test_train_resume_takes_the_settings_of_the_run(place, tmp_path, capsys):
    out = str(tmp_path / "r")
    start = ("train", "--model", place.model, "--data", place.data, "--out", out, *QUICK)
    assert main([*start]) == 0
    assert main([*start]) == 0  # again: there is nothing to do
    assert "is finished" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", out]) == 0
    assert "is finished" in capsys.readouterr().err
    assert "rank: 3 (expected 2)" in told(capsys, 2, "train", "--resume", "--out", out, "--rank", "3", "--force")
    assert main(["train", "--resume", "--out", out, "--iters", "3", "--force"]) == 0
    assert "going on after update 2" in capsys.readouterr().err
    assert "is not a run" in told(capsys, 2, "train", "--resume", "--out", str(tmp_path / "none"))
    assert "settings in the flags" in told(capsys, 2, "train", "--resume", "--out", out, "--iters", "abc")
    record = json.loads((tmp_path / "r" / "calltune.json").read_text())
    (tmp_path / "r" / "calltune.json").write_text(
        json.dumps(record | {"settings": record["settings"] | {"data": None}})
    )
    assert "were given in Python" in told(capsys, 2, "train", "--resume", "--out", out)


def test_a_run_is_taken_up_again_from_another_folder(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(place.root)
    out = tmp_path / "r"
    assert main(["train", "--model", "model", "--data", "rows.jsonl", "--out", str(out), *QUICK]) == 0
    settings = json.loads((out / "calltune.json").read_text())["settings"]
    assert (settings["model"], settings["data"]) == (place.model, place.data)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "r", "--iters", "3", "--force"]) == 0
    assert "going on after update 2" in capsys.readouterr().err


def test_train_begins_with_the_adapter_of_a_run(place, tmp_path, capsys):
    more = ("--data", place.data, "--iters", "1", "--batch-size", "4", "--learning-rate", "1e-9")
    out = tmp_path / "more"
    assert main(["train", "--model", place.run, "--out", str(out), *more]) == 0
    assert f"begins with the adapter of {place.run}" in capsys.readouterr().err
    before, after = (load_file(Path(folder) / "adapters.safetensors") for folder in (place.run, out))
    assert before.keys() == after.keys() and all(np.allclose(before[k], after[k], atol=1e-6) for k in before)
    assert any(np.abs(array).max() > 0 for name, array in before.items() if name.endswith("lora_b"))
    record = json.loads((out / "calltune.json").read_text())
    assert record["init_from"] == place.run and record["model"]["folder"] == place.model
    assert (record["settings"]["rank"], record["settings"]["num_layers"]) == (2, 2)  # the run's
    assert main(["eval", str(out), "--limit", "1", *SHORT]) == 0
    capsys.readouterr()
    said = told(capsys, 2, "train", "--model", place.run, "--out", str(tmp_path / "x"), *more, "--rank", "3")
    assert "has another form" in said and "--rank" in said and not (tmp_path / "x" / "calltune.json").exists()
    said = told(
        capsys, 2, "train", "--model", place.model, "--out", str(out), *more, "--num-layers", "2", "--rank", "2"
    )
    assert "the adapter to begin with: none" in said


def test_full_disk_is_told_plainly(place, tmp_path, capsys, monkeypatch):
    from calltune import runs

    def full(self, row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.RunWriter, "metrics", full)
    start = ("train", "--model", place.model, "--data", place.data)
    said = told(capsys, 2, *start, "--out", str(tmp_path / "r"), *QUICK)
    assert "no disk space left" in said
    said = told(capsys, 2, "call", str(tmp_path / "r"), "hello")
    assert "was not finished" in said


def test_eval_of_a_run_takes_its_held_out_rows(place, capsys):
    assert main(["eval", place.run, "--baseline", "base", *SHORT]) == 0
    out = capsys.readouterr().out
    assert "before" in out
    folder = Path(place.run) / "eval"
    assert {p.name for p in folder.iterdir()} == {
        "predictions.jsonl",
        "predictions.before.jsonl",
        "report.json",
        "report.html",
        "report.md",
    }
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    held = [json.loads(line) for line in (Path(place.run) / "test.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in held]
    assert set(rows[0]) == {"id", "category", "calls", "errors", "thinking", "content", "raw", "truncated"}
    report = json.loads((folder / "report.json").read_text())
    assert report["n"] == len(rows)
    assert report["before"]["n"] == report["after"]["n"]


def test_eval_json_of_a_base_model(place, tmp_path, capsys):
    arguments = ["eval", place.model, "--data", place.data, "--limit", "3", "--out", str(tmp_path), "--json", *SHORT]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["n"] == 3
    assert document["before"] is None
    assert "verdicts" not in document


def test_eval_fails_under_a_threshold(place, tmp_path, capsys):
    arguments = ["eval", place.run, "--out", str(tmp_path), "--fail-under", "call_exact_match=0.9", *SHORT]
    assert main(arguments) == 1
    assert "call_exact_match is 0.0 (wanted 0.9)" in capsys.readouterr().err
    assert (tmp_path / "report.json").exists()  # what was found is kept


def test_eval_mistakes(place, tmp_path, capsys):
    out = ("--out", str(tmp_path / "e"))
    (tmp_path / "empty.jsonl").write_text("")
    cases = [
        (("eval", place.model, *out), "no test rows of its own"),
        (("eval", place.model, "--data", place.data), "add --out DIR"),
        (("eval", place.run, "--fail-under", "accuracy=0.9", *out), "unknown_figure: accuracy"),
        (("eval", place.run, "--fail-under", "call_exact_match=95", *out), "a share from 0 to 1"),
        (("eval", place.run, "--fail-under", "0.9", *out), "name=value"),
        (("eval", place.run, "--limit", "0", *out), "limit: 0"),
        (("eval", place.run, "--data", str(tmp_path / "none.jsonl"), *out), "there is no"),
        (("eval", place.run, "--data", str(tmp_path / "empty.jsonl"), *out), "is empty"),
        (("eval", str(Path(place.run).parent / "two"), *out), "runs there: one"),
        (("eval", place.model, "--data", place.data, "--baseline", "base", *out), "needs a run"),
    ]
    for arguments, words in cases:
        said = told(capsys, 2, *arguments)
        assert words in said, said
