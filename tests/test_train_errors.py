"""Trainings that cannot be: wrong settings and rows are told, broken numbers leave no adapter."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from tiny import tiny_model
from training_place import SMALL, rows, weights

from calltune.errors import CannotFinish, InputError
from calltune.runs import read_run
from calltune.settings import TrainSettings
from calltune.train import slow_variables, train


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model"), "llama", layers=3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"iters": 0}, "iters"),
        ({"rank": 0}, "rank"),
        ({"num_layers": 9}, "num_layers"),
        ({"dropout": 1.5}, "dropout"),
        ({"keys": ("nothing",)}, "nothing"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"max_seq_length": 20}, "at most 20"),
        ({"template": "/no/such.jinja"}, "no/such.jinja"),
        ({"model": "/no/such/folder"}, "no model"),
    ],
)
def test_wrong_settings_are_input_errors_and_leave_no_run(llama, tmp_path, changes, words):
    with pytest.raises(InputError) as caught:
        train(TrainSettings(**{"model": llama, "out": str(tmp_path / "run"), **SMALL, **changes}), rows(4))
    assert words in str(caught.value)
    assert not (tmp_path / "run" / "calltune.json").exists()


@pytest.mark.parametrize("changes", [{}, {"data": "a.jsonl", "tools": "b.py"}, {"data": "builtin:nothing"}])
def test_training_needs_one_source_of_rows(llama, tmp_path, changes):
    with pytest.raises(InputError):
        train(TrainSettings(model=llama, out=str(tmp_path / "run"), **changes))


def test_calls_that_do_not_fit_their_tools_are_refused(llama, tmp_path):
    from dataclasses import replace

    bad = [replace(row, tools=()) for row in rows(4)]
    with pytest.raises(InputError, match="do not fit their tools") as caught:
        train(TrainSettings(model=llama, out=str(tmp_path / "run"), **SMALL), bad)
    assert len(caught.value.problems) == 3 and "row-0" in str(caught.value)


def test_an_earlier_run_is_not_overwritten_unless_asked(llama, tmp_path):
    settings = TrainSettings(model=llama, out=str(tmp_path / "run"), **SMALL)
    train(settings, rows(2))
    with pytest.raises(InputError, match="other settings or data"):
        train(settings, rows(3))
    train(TrainSettings(model=llama, out=str(tmp_path / "run"), overwrite=True, **SMALL), rows(2))


def test_numbers_that_break_stop_the_run_and_save_no_adapter(llama, tmp_path):
    """A rate beyond reason ends in words that name rows, not in an adapter of NaN (T05)."""
    settings = TrainSettings(
        model=llama,
        out=str(tmp_path / "run"),
        schedule="constant",
        warmup=0.0,
        clip=0.0,
        **SMALL | {"learning_rate": 1e38, "epochs": 5.0},
    )
    with pytest.raises(CannotFinish, match="row-"):
        train(settings, rows(4))
    assert not (tmp_path / "run" / "adapters.safetensors").exists()
    with pytest.raises(InputError, match="not finished"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize("valid", [0, 2])
def test_trap_t05_a_last_update_that_breaks_saves_nothing(llama, tmp_path, valid):
    """The loss was still finite; the weights after it are not, and neither is the loss on the validation rows."""
    settings = TrainSettings(
        model=llama,
        out=str(tmp_path / "run"),
        schedule="constant",
        warmup=0.0,
        clip=0.0,
        iters=1,
        fine_tune="full",
        **SMALL | {"learning_rate": 3e38},
    )
    with pytest.raises(CannotFinish):
        train(settings, {"train": rows(4), "valid": rows(valid)} if valid else rows(4))
    assert not (tmp_path / "run" / "adapters.safetensors").exists()


def test_trap_t05_rows_too_long_are_dropped_and_named(llama, tmp_path):
    from tiny import long_row

    said: list[str] = []

    class Said:
        def say(self, text: str) -> None:
            said.append(text)

        def start(self, *_: Any) -> None: ...
        def advance(self, *_: Any, **__: Any) -> None: ...
        def finish(self, *_: Any) -> None: ...

    run = train(
        TrainSettings(model=llama, out=str(tmp_path / "run"), max_seq_length=230, **SMALL),
        [*rows(4), long_row()],
        progress=Said(),
    )
    assert run.record["data"]["train_dropped"] == 1 and run.record["data"]["train_examples"] == 4
    assert any("1 of 5 examples dropped" in text and "long" in text for text in said)
    assert all(np.isfinite(a).all() for a in weights(run).values())


def test_a_variable_that_slows_the_blas_is_told_before_the_training(monkeypatch):
    """On 2 cores of an EPYC the demo's training took 696 s with it and 514 s without."""
    place = sys.modules["calltune.train"]  # the package's `train` is the function
    for library in ("OPENBLAS", "GOTO", "OMP", "MKL"):
        monkeypatch.delenv(f"{library}_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(place, "on_gpu", lambda: False)
    assert slow_variables() == []
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    (words,) = slow_variables()
    assert "OPENBLAS_CORETYPE=Prescott" in words and "`unset OPENBLAS_CORETYPE`" in words
    monkeypatch.setattr(place, "on_gpu", lambda: True)
    assert slow_variables() == []
