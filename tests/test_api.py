"""The public names, and the short example of the README on a tiny model."""

from __future__ import annotations

import pytest
from tiny import tiny_model, weather_rows

import calltune

TOOLS = '''
def set_timer(minutes: int, label: str = "") -> str:
    """Start a countdown timer.

    Examples:
        - set a timer for {minutes} minutes
    """
    return f"{minutes} minutes {label}"
'''


def test_every_public_name_is_there():
    for name in calltune.__all__:
        assert getattr(calltune, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        calltune.nothing  # noqa: B018
    assert set(calltune.__all__) == set(dir(calltune))


def test_functions_are_not_hidden_by_modules_of_their_name():
    import calltune.evaluate
    import calltune.train
    from calltune.train import Loop

    assert Loop
    assert callable(calltune.train)
    assert callable(calltune.evaluate)


def test_the_short_example(tmp_path):
    """What the README shows, on a model that learns nothing in two updates."""
    (tmp_path / "my_tools.py").write_text(TOOLS)
    model = str(tiny_model(tmp_path / "model"))

    data = calltune.synthesise(tmp_path / "my_tools.py", rows_train=16, rows_valid=2, rows_test=4)
    out = tmp_path / "runs" / "mine"
    run = calltune.train(model=model, data=data, out=out, iters=2, num_layers=2)
    report = calltune.evaluate(run, baseline="base", max_tokens=4)
    assert report.before["n"] == report.after["n"] == 4
    caller = calltune.load(out)
    reply = caller("Set a timer for five minutes", max_tokens=4)
    assert isinstance(reply, calltune.Reply)
    assert [tool.name for tool in caller.tools] == ["set_timer"]


def test_train_takes_keywords_settings_and_data(tmp_path):
    model = str(tiny_model(tmp_path / "model"))
    settings = calltune.TrainSettings(model=model, iters=1, num_layers=1, rank=2, test=0, valid=0)
    rows = [row.to_openai() for row in weather_rows(8)]
    run = calltune.train(settings, rows, out=str(tmp_path / "a"), rank=3)
    assert (run.record["settings"]["rank"], run.record["settings"]["num_layers"]) == (3, 1)
    with pytest.raises(calltune.InputError, match=r"bach_size .expected batch_size"):
        calltune.train(model=model, data=rows, bach_size=3)
    with pytest.raises(calltune.InputError, match="no model was named"):
        calltune.train(data=rows)


def test_train_works_with_mlx_lms_callback(tmp_path):
    from calltune import engine  # noqa: F401, I001  (the BLAS before MLX)
    from mlx_lm.tuner.callbacks import TrainingCallback

    seen = []

    class Mine(TrainingCallback):
        def on_train_loss_report(self, train_info):
            seen.append(train_info)

    calltune.train(model=str(tiny_model(tmp_path / "model")), data=weather_rows(12), out=tmp_path / "a", iters=2,
                   num_layers=1, rank=2, callback=Mine(), steps_per_report=1)  # fmt: skip
    keys = {"iteration", "train_loss", "learning_rate", "iterations_per_second", "tokens_per_second",
            "trained_tokens", "peak_memory"}  # fmt: skip
    assert [info["iteration"] for info in seen] == [1, 2]
    assert set(seen[0]) >= keys
