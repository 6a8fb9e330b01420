"""The updates of a training: which rows, in what order, at which rate, and what is validated and kept."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from tiny import WEATHER, tiny_model, weather_rows
from training_place import SMALL, Recorder, rows, spy, weights

from calltune.engine import optim
from calltune.schedule import learning_rate, total_updates
from calltune.settings import TrainSettings
from calltune.train import train

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import numpy as np  # isort: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model"), "llama", layers=3))


@pytest.mark.parametrize(("count", "size"), [(7, 2), (3, 8)])
def test_trap_t06_every_row_is_trained_once_an_epoch(llama, tmp_path, monkeypatch, count, size):
    """A last short batch, and fewer rows than a batch."""
    seen = spy(monkeypatch)
    settings = TrainSettings(model=llama, out=str(tmp_path), **SMALL | {"epochs": 2.0, "batch_size": size})
    run = train(settings, rows(count))
    assert Counter(i for batch in seen for i in batch) == dict.fromkeys(range(count), 2)
    assert run.record["train"]["updates"] == len(seen) == 2 * -(-count // size)
    assert run.record["train"]["epochs"] == 2.0


def test_trap_t17_batches_left_over_by_accumulation_are_trained(llama, tmp_path, monkeypatch):
    seen = spy(monkeypatch)
    train(TrainSettings(model=llama, out=str(tmp_path), **SMALL | {"grad_accumulation": 3}), rows(8))
    assert len(seen) == 2 and set(range(8)) <= {i for batch in seen for i in batch}


def test_trap_t07_validation_is_the_same_whenever_it_is_taken(llama, tmp_path):
    """With weights that do not move, all figures are equal; mlx-lm's moved by one percent."""
    callback = Recorder()
    settings = TrainSettings(model=llama, out=str(tmp_path), steps_per_eval=1, **SMALL | {"learning_rate": 1e-30})
    train(settings, {"train": rows(8), "valid": weather_rows(7, tools=[WEATHER])}, callback=callback)
    figures = [info["val_loss"] for info in callback.valid]
    assert len(figures) == 5 and len(set(figures)) == 1


def test_trap_t07_validating_does_not_change_the_training(llama, tmp_path, monkeypatch):
    orders, ends = [], []
    for every in (0, 1):
        with monkeypatch.context() as patch:
            seen = spy(patch)
            run = train(
                TrainSettings(
                    model=llama, out=str(tmp_path / str(every)), steps_per_eval=every, dropout=0.1, **SMALL
                ),
                {"train": rows(8), "valid": rows(3)},
            )
        orders.append(seen)
        ends.append([m["train_loss"] for m in run.metrics() if "train_loss" in m])
    assert orders[0] == orders[1] and ends[0] == ends[1]


def test_the_seed_decides_everything(llama, tmp_path):
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        made.append(weights(train(TrainSettings(model=llama, out=str(tmp_path / name), seed=seed, **SMALL), rows(6))))
    assert all(np.array_equal(made[0][n], made[1][n]) for n in made[0])
    assert not all(np.array_equal(made[0][n], made[2][n]) for n in made[0])


def test_speed_switches_do_not_change_what_is_learned(llama, tmp_path):
    off = dict.fromkeys(("selecting_head", "shared_prefix", "frozen_trunk", "fast_cpu"), False)
    made = [
        weights(train(TrainSettings(model=llama, out=str(tmp_path / str(i)), **SMALL, **switches), rows(6)))
        for i, switches in enumerate(({}, off))
    ]
    for name, value in made[0].items():
        assert np.linalg.norm(made[1][name] - value) <= 2e-3 * np.linalg.norm(value), name


def test_the_best_weights_on_the_validation_rows_are_kept(llama, tmp_path):
    """The rate is so high that later updates do harm: what is saved is not the last."""
    callback = Recorder()
    settings = TrainSettings(
        model=llama,
        out=str(tmp_path),
        steps_per_eval=1,
        schedule="constant",
        warmup=0.0,
        clip=0.0,
        **SMALL | {"learning_rate": 0.5, "epochs": 3.0, "scale": 20.0},
    )
    run = train(settings, {"train": rows(4), "valid": rows(4)}, callback=callback)
    after = {info["iteration"]: info["val_loss"] for info in callback.valid if info["iteration"]}
    best = min(after, key=lambda i: after[i])
    assert run.record["train"]["best_update"] == best
    assert run.record["train"]["valid_loss"] == pytest.approx(after[best])


def test_trap_t21_the_first_steps_are_no_larger_than_the_rate():
    """Adam's first step is the rate itself once it is corrected for its bias; mlx's default is 3.2 times that."""
    import mlx.nn as nn

    for name in ("adam", "adamw"):
        model = nn.Linear(4, 4, bias=False)
        before = model.weight + 0
        optimizer = optim.make(name, 0.0)
        optimizer.learning_rate = 1e-3
        gradient = {"weight": mx.random.normal((4, 4), key=mx.random.key(0))}
        steps = []
        for _ in range(4):
            optimizer.update(model, gradient)
            mx.eval(model.parameters())
            steps.append(float(mx.abs(model.weight - before).max()))
            before = model.weight + 0
        assert all(step == pytest.approx(1e-3, rel=0.02) for step in steps)


def test_rates_warm_up_and_fall():
    settings = TrainSettings(learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(i, 100, settings) for i in range(100)]
    assert 0 < rates[0] < 0.2 and max(rates) == rates[10] == 1.0
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01
    assert all(
        learning_rate(i, 100, TrainSettings(learning_rate=1.0, warmup=0.0, schedule="constant")) == 1.0
        for i in (0, 99)
    )


def test_updates_are_counted_from_rows():
    assert total_updates(10, TrainSettings(batch_size=4, epochs=1.0)) == 3
    assert total_updates(10, TrainSettings(batch_size=4, epochs=2.0, grad_accumulation=2)) == 3
    assert total_updates(10, TrainSettings(batch_size=4, iters=1)) == 1
    assert total_updates(10, TrainSettings(batch_size=4, epochs=0.01)) == 1


def test_walkthrough_row_9_its_arguments_by_their_names(llama, tmp_path):
    """iters 1, steps_per_eval 50, Adam 1e-5, batches of 4, the LoRA of row 7 (with the layers there are)."""
    settings = TrainSettings(
        model=llama,
        out=str(tmp_path / "run"),
        iters=1,
        steps_per_eval=50,
        optimizer="adam",
        learning_rate=1e-5,
        batch_size=4,
        num_layers=3,
        rank=16,
        scale=64.0,
        dropout=0.05,
        keys=("q_proj", "v_proj"),
        test=0.1,
        valid=0.0,
    )
    run = train(settings, weather_rows(20, tools=[WEATHER]))
    assert run.record["train"]["updates"] == 1
    assert run.record["data"]["rows"] == {"train": 18, "valid": 0, "test": 2}
    config = json.loads((run.folder / "adapter_config.json").read_text())["lora_parameters"]
    assert (config["rank"], config["scale"], config["dropout"]) == (16, 64.0, 0.05)
    assert sorted(config["keys"]) == ["self_attn.q_proj", "self_attn.v_proj"]
    assert len(run.test_rows()) == 2


@pytest.mark.parametrize("more", [{"batches": "length"}, {"max_tokens_per_batch": 700}])
def test_batches_of_rows_of_one_length_train_every_row(tmp_path, llama, more):
    settings = TrainSettings(model=llama, out=str(tmp_path / "run"), epochs=2, batch_size=4, test=0, valid=0,
                             shared_prefix=False, learning_rate=5e-3, num_layers=2, rank=4, **more)  # fmt: skip
    run = train(settings, weather_rows(10))
    rows = [row for row in run.metrics() if "rows" in row]
    assert sum(row["rows"] for row in rows) == 20 and run.record["train"]["epochs"] == 2.0
