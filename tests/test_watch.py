"""`calltune watch` and reports to other places: what is read from a run's folder while it grows."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
from test_resume import broken_off, data, settings_of
from tiny import tiny_model

from calltune.cli import main
from calltune.errors import InputError
from calltune.metrics import best_update, marks, read_metrics
from calltune.train import train
from calltune.watching import look, mark_line, spark, view_lines, watch_page


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("model"), layers=3))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A run that was broken off and taken up again, with a quarantine written by hand."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = settings_of(model, folder, steps_per_report=2)
    broken_off(settings, data(), 6)
    train(settings, data())
    with (folder / "metrics.jsonl").open("a") as file:
        row = {"step": 7, "event": "quarantined", "text": "training rows <b>row-3</b> left out", "rows": ["row-3"]}
        file.write(json.dumps(row) + "\n" + '{"step": 9, "train')  # the last line is being written
    return folder


def test_marks_of_best_resumes_and_quarantines(folder):
    view = look(folder)
    best = view.record["train"]["best_update"]
    assert set(view.marks) == {(5, "resumed"), (7, "quarantined"), (best, "best")}
    assert view.finished and view.state == "finished" and view.step == 15


def test_a_line_that_is_being_written_is_left_out(folder):
    assert all("step" in row for row in read_metrics(folder / "metrics.jsonl"))


def test_the_terminal_shows_curves_and_marks(folder, capsys):
    assert main(["watch", str(folder)]) == 0  # no terminal: one look
    out = capsys.readouterr().out
    for words in ("training loss", "validation loss", "B best", "R taken up again", "Q rows left out", "tokens/s",
                  "with loss", "padding", "learning rate", "row-3"):  # fmt: skip
        assert words in out
    assert "\x1b" not in out


def test_json(folder, capsys):
    assert main(["watch", str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["state"] == "finished" and not document["alive"]
    assert {"step": 5, "kind": "resumed"} in document["marks"] and document["last"]["step"] == 15
    assert document["events"][0]["rows"] == ["row-3"]


def test_the_page_reloads_while_it_trains_and_escapes(folder, tmp_path):
    assert main(["watch", str(folder), "--html", str(tmp_path / "w.html")]) == 0  # finished: once
    page = (tmp_path / "w.html").read_text()
    assert "<svg" in page and 'class="mark best"' in page and 'class="mark quarantined"' in page
    assert 'http-equiv="refresh"' not in page and "&lt;b&gt;row-3" in page and "<b>row-3" not in page
    view = look(folder)
    view.record["state"] = "training"
    assert '<meta http-equiv="refresh" content="3">' in watch_page(view, 3.0)
    assert "calltune train --resume" in "\n".join(view_lines(view))


def test_watching_nothing_is_an_error(tmp_path, capsys):
    assert main(["watch", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert main(["watch", str(tmp_path), "--every", "0"]) == 2


@pytest.mark.parametrize("line", ["{broken", "5", '{"train_loss": 1.0}', "\\xff"])
def test_a_broken_line_of_metrics_is_named(tmp_path, capsys, line):
    (tmp_path / "calltune.json").write_text(json.dumps({"state": "training", "settings": {}, "hashes": {}}))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train_loss": 1.0}\n' + line + "\n")
    assert main(["watch", str(tmp_path)]) == 2
    assert "line 2" in capsys.readouterr().err


def test_a_page_of_a_run_that_nobody_trains_is_written_once(tmp_path, capsys):
    (tmp_path / "calltune.json").write_text(json.dumps({"state": "training", "settings": {}, "hashes": {}}))
    page = tmp_path / "w.html"
    assert main(["watch", str(tmp_path), "--html", str(page), "--json"]) == 2 and not page.exists()
    capsys.readouterr()
    assert main(["watch", str(tmp_path), "--html", str(page)]) == 0 and page.exists()
    assert "stopped; go on with" in capsys.readouterr().out


def test_a_run_without_reports_yet(tmp_path):
    (tmp_path / "calltune.json").write_text(json.dumps({"state": "training", "settings": {}, "hashes": {}}))
    assert "no report yet" in "\n".join(view_lines(look(tmp_path)))
    assert "No report yet" in watch_page(look(tmp_path), 5.0)


def test_a_curve_in_blocks():
    assert spark([(1, 0.0), (10, 1.0)], 10, 10) == "·▁·······█"
    assert mark_line([(10, "best")], 10, 10) == " " * 9 + "B"
    assert mark_line([], 10, 10) == ""


def test_the_best_so_far_goes_by_accuracy_where_it_is_measured():
    rows = [{"step": 0, "valid_loss": 0.1}, {"step": 2, "valid_loss": 0.5, "exact_match": 0.5},
            {"step": 3, "valid_loss": 0.2}, {"step": 4, "valid_loss": 0.6, "exact_match": 0.7}]  # fmt: skip
    assert best_update(rows, {}) == 4 and best_update(rows[:1], {}) is None
    assert best_update([rows[0], rows[2]], {}) == 3
    assert marks(rows, {"train": {"best_update": 2}}) == [(2, "best")]


# ---- other places -----------------------------------------------------------------------------------------------


BOARDS = []


class Board:
    def __init__(self, folder: str) -> None:
        self.folder, self.scalars = folder, []
        BOARDS.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None: ...


def test_tensorboard_and_wandb_are_told_by_callbacks(model, tmp_path, monkeypatch):
    import importlib.machinery

    from mlx_lm.tuner import callbacks
    from training_place import Recorder

    logged = []
    for name in ("tensorboardX", "wandb"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["tensorboardX"].SummaryWriter = Board
    fake = types.SimpleNamespace(init=lambda **given: logged.append(given),
                                 log=lambda info, step: logged.append(info | {"at": step}))  # fmt: skip
    monkeypatch.setattr(callbacks, "wandb", fake)
    own = Recorder()
    settings = settings_of(model, tmp_path / "run", iters=4, report_to=("tensorboard", "wandb"))
    run = train(settings, data(), callback=own)
    assert [info["iteration"] for info in own.train] == [4]  # ours is told as before
    names = {name for name, _, _ in BOARDS[-1].scalars}
    assert {"train/train_loss", "train/loss_arguments", "train/gradient_norm", "valid/val_loss"} <= names
    assert BOARDS[-1].folder == str(run.folder / "tensorboard")
    assert logged[0]["project"] == "calltune" and logged[0]["config"]["rank"] == 4
    assert [row["at"] for row in logged[1:] if "train_loss" in row] == [4]


def test_a_tracker_that_is_missing_is_told_before_anything_is_done(model, tmp_path, monkeypatch):
    monkeypatch.setattr("calltune.engine.reporting.WRITERS", ("no_such_writer",))  # torch brings one
    settings = settings_of(model, tmp_path / "run", report_to=("tensorboard", "nothing", "swanlab"))
    with pytest.raises(InputError) as caught:
        train(settings, data())
    said = str(caught.value)
    assert "unknown_tracker: nothing" in said and "pip install tensorboardX" in said and "pip install swanlab" in said
    assert not Path(settings.out).exists()
