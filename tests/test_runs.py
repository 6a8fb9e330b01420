"""The run folder: what is written, what is refused, what an unfinished run leaves."""

from __future__ import annotations

import json

import pytest
from tiny import TIME, TOOLS, WEATHER, tiny_model, weather_rows

from calltune.errors import InputError
from calltune.runs import RunWriter, is_run, read_run, shared_tools
from calltune.settings import TrainSettings
from calltune.train import train


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


def make(model, out, rows, **changes):
    settings = {"num_layers": 1, "rank": 2, "iters": 2, "batch_size": 4, "steps_per_report": 1} | changes
    return train(TrainSettings(model=str(model), out=str(out), **settings), rows)


def test_a_run_holds_what_is_needed_after_it(model, tmp_path):
    run = make(model, tmp_path / "run", weather_rows(24))
    again = read_run(tmp_path / "run")
    assert again.record == json.loads(json.dumps(run.record))
    assert again.template == run.template
    assert again.tools() == TOOLS
    assert len(again.test_rows()) == run.record["data"]["rows"]["test"] == 3
    assert [row["step"] for row in again.metrics() if "train_loss" in row] == [1, 2]
    assert {"source", "format", "stop"} <= run.record["template"].keys()
    assert set(run.record["hashes"]) == {"template", "data", "valid", "tokenizer", "model", "origin"}
    assert run.record["settings"]["rank"] == 2
    assert run.record["golden_prompt"]
    assert run.base == str(model)


def test_tools_are_stored_only_where_all_rows_share_them(model, tmp_path):
    rows = weather_rows(12) + weather_rows(12, tools=(TIME, WEATHER))
    assert make(model, tmp_path / "run", rows).tools() == ()
    assert not (tmp_path / "run" / "tools.json").exists()
    assert shared_tools([]) == ()


def test_overwriting_leaves_nothing_of_the_run_before(model, tmp_path):
    out = tmp_path / "run"
    make(model, out, weather_rows(24), save_every=1)
    (out / "eval").mkdir()
    assert (out / "checkpoints").exists()
    with pytest.raises(InputError, match="--overwrite"):
        make(model, out, weather_rows(23))
    run = make(model, out, weather_rows(8), overwrite=True, test=0, valid=0)
    assert not any((out / name).exists() for name in ("eval", "test.jsonl"))
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["step-0000000", "step-0000002"]
    assert len([row for row in run.metrics() if "train_loss" in row]) == 2
    with pytest.raises(InputError, match="held out no test rows"):
        run.test_rows()


def test_refused_input_leaves_no_folder_and_keeps_a_run(model, tmp_path):
    with pytest.raises(InputError):
        make(model, tmp_path / "a" / "b", [{"messages": "nothing"}])
    assert not (tmp_path / "a").exists()
    run = make(model, tmp_path / "run", weather_rows(24))
    with pytest.raises(InputError):
        make(model, tmp_path / "run", [{"messages": "nothing"}], overwrite=True)
    assert read_run(tmp_path / "run").record == json.loads(json.dumps(run.record))


def test_an_unfinished_run_is_refused(tmp_path):
    (tmp_path / "calltune.json").write_text('{"state": "training", "settings": {}, "hashes": {}}')
    assert is_run(tmp_path)
    with pytest.raises(InputError, match="was not finished"):
        read_run(tmp_path)
    (tmp_path / "calltune.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        read_run(tmp_path)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        RunWriter(tmp_path / "file", overwrite=False)
