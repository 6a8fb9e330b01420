"""Training from settings to a run folder, on a tiny model that learns eight rows by heart."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny import WEATHER, tiny_model, weather_rows

from calltune.caller import load
from calltune.engine import optim
from calltune.errors import CannotFinish, InputError
from calltune.runs import Run, read_run
from calltune.schedule import learning_rate, total_updates
from calltune.schema import Conversation
from calltune.settings import TrainSettings
from calltune.train import train

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import mlx_lm  # isort: skip
import numpy as np  # isort: skip
from mlx_lm.tuner.callbacks import TrainingCallback  # isort: skip

SMALL: dict[str, Any] = {"num_layers": 2, "rank": 4, "test": 0.0, "valid": 0.0, "batch_size": 2, "epochs": 1.0}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model"), "llama", layers=3))


def rows(n: int = 8) -> list[Conversation]:
    return weather_rows(n, think=False, tools=[WEATHER])


class Recorder(TrainingCallback):
    """A subclass of mlx-lm's own class, as the walk-through writes it."""

    def __init__(self) -> None:
        self.train: list[dict[str, Any]] = []
        self.valid: list[dict[str, Any]] = []

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self.train.append(train_info)

    def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
        self.valid.append(val_info)


@dataclass(frozen=True)
class Learned:
    run: Run
    callback: Recorder
    model: str


@pytest.fixture(scope="module")
def learned(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Eight rows learned by heart: about 5 seconds."""
    settings = TrainSettings(
        model=llama,
        out=str(tmp_path_factory.mktemp("runs") / "run"),
        num_layers=-1,
        keys=("all",),
        rank=16,
        scale=4.0,
        learning_rate=5e-3,
        epochs=60,
        batch_size=8,
        steps_per_report=10,
        steps_per_eval=30,
        test=0.0,
        valid=0.0,
    )
    callback = Recorder()
    return Learned(train(settings, {"train": rows(), "valid": rows()}, callback=callback), callback, llama)


def test_the_loss_falls_to_nearly_nothing(learned):
    losses = [info["train_loss"] for info in learned.callback.train]
    assert losses[0] > 1.0 and losses[-1] < 0.03
    assert learned.run.record["train"]["valid_loss"] < 0.03


def test_the_calls_come_back_exactly(learned):
    caller = load(learned.run.folder)
    assert caller.template == learned.run.template
    replies = caller.batch([(r.messages[:1], r.tools) for r in rows()], max_tokens=60)
    for row, reply in zip(rows(), replies, strict=True):
        expected = row.messages[-1]
        assert [c.to_dict() for c in reply.calls] == [c.to_dict() for c in expected.calls]
        assert reply.content == expected.content and not reply.errors and not reply.truncated
        assert caller(row.messages[:1], row.tools, max_tokens=60) == reply


def test_the_base_model_knew_none_of_it(learned):
    replies = load(learned.model).batch([(r.messages[:1], r.tools) for r in rows()], max_tokens=40)
    assert not any(reply.calls for reply in replies)


def test_walkthrough_row_13_plain_mlx_lm_loads_the_run_with_equal_logits(learned):
    theirs, _ = mlx_lm.load(learned.model, adapter_path=str(learned.run.folder))
    base, _ = mlx_lm.load(learned.model)
    ours = load(learned.run.folder)
    ids = mx.array([ours.loaded.tokenizer.encode("What is the weather in Paris?")])
    expected = theirs(ids)
    assert mx.allclose(ours.loaded.model(ids), expected, rtol=1e-4, atol=1e-4).item()
    assert not mx.allclose(base(ids), expected, rtol=1e-2, atol=1e-2).item()
    assert json.loads((learned.run.folder / "adapter_config.json").read_text())["model"] == learned.model


def test_walkthrough_row_10_mlx_lms_callback_is_told_what_mlx_lm_tells(learned):
    assert [info["iteration"] for info in learned.callback.train] == [10, 20, 30, 40, 50, 60]
    assert [info["iteration"] for info in learned.callback.valid] == [0, 30, 60]
    for info in learned.callback.train:
        assert info.keys() >= {
            "iteration",
            "train_loss",
            "learning_rate",
            "iterations_per_second",
            "tokens_per_second",
            "trained_tokens",
            "peak_memory",
        }
    assert all(info.keys() >= {"iteration", "val_loss", "val_time"} for info in learned.callback.valid)


def test_trap_t15_the_run_keeps_template_hashes_versions_and_settings(learned):
    record = read_run(learned.run.folder).record
    assert record["template"]["source"] and record["template"]["stop"] == "<|im_end|>"
    assert set(record["hashes"]) >= {"template", "data", "tokenizer"}
    assert record["versions"]["mlx"] and record["settings"]["rank"] == 16
    caller = load(learned.run.folder)
    first = rows()[0]
    assert (
        caller.loaded.tokenizer.encode(caller.template.text(first.messages[:1], first.tools, prompt=True))
        == (record["golden_prompt"])
    )


def test_trap_t15_a_template_of_ones_own_comes_back_with_the_run(llama, tmp_path):
    from chat_templates import QWEN3_KEEPS

    (tmp_path / "mine.jinja").write_text(QWEN3_KEEPS)
    run = train(
        TrainSettings(model=llama, out=str(tmp_path / "run"), template=str(tmp_path / "mine.jinja"), **SMALL), rows(2)
    )
    (tmp_path / "mine.jinja").unlink()
    template = load(run.folder).template
    assert template.source == QWEN3_KEEPS and template.origin == "mine.jinja" and template.style


def test_metrics_say_what_happened(learned):
    metrics = learned.run.metrics()
    trained = [m for m in metrics if "train_loss" in m]
    assert trained[-1]["trained_tokens"] == 60 * learned.run.record["data"]["trained_tokens"]
    kinds = {key for key in trained[0] if key.startswith("loss_")}
    assert kinds == {"loss_name", "loss_arguments", "loss_syntax", "loss_answer"}
    assert all(m["tokens_per_second"] > 0 and 0 <= m["padding"] < 1 and m["seconds"] > 0 for m in trained)


# ---- order, validation, updates ---------------------------------------------------------------------------------


def spy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The rows of every update, as they are trained."""
    seen: list[tuple[int, ...]] = []
    plain = optim.Stepper.__call__

    def told(self: optim.Stepper, batches: Any, rate: float, **more: Any) -> optim.Result:
        result = plain(self, batches, rate, **more)
        seen.append(result.indices)
        return result

    monkeypatch.setattr(optim.Stepper, "__call__", told)
    return seen


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


def weights(run: Run) -> dict[str, np.ndarray]:
    return {name: np.array(a) for name, a in mx.load(str(run.folder / "adapters.safetensors")).items()}


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


# ---- what goes wrong --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", ["dora", "full"])
def test_the_other_kinds_train_and_load(llama, tmp_path, kind):
    run = train(TrainSettings(model=llama, out=str(tmp_path / "run"), fine_tune=kind, **SMALL), rows(4))
    theirs, _ = mlx_lm.load(llama, adapter_path=str(run.folder))
    ids = mx.array([[1, 7, 42]])
    assert mx.allclose(load(run.folder).loaded.model(ids), theirs(ids), rtol=1e-4, atol=1e-4).item()


def test_saved_steps_load_as_adapters(llama, tmp_path):
    run = train(TrainSettings(model=llama, out=str(tmp_path / "run"), save_every=2, **SMALL), rows(8))
    saved = sorted(p.parent.name for p in run.folder.glob("checkpoints/*/adapters.safetensors"))
    assert saved == ["step-0000002", "step-0000004"]
    last = mx.load(str(run.folder / "checkpoints" / saved[-1] / "adapters.safetensors"))
    assert all(np.array_equal(np.array(last[n]), a) for n, a in weights(run).items())


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


def test_the_folder_of_a_run_can_be_moved(learned, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in learned.run.folder.iterdir():
        if file.is_file():
            (moved / file.name).write_bytes(file.read_bytes())
    row = rows(1)[0]
    assert load(Path(moved))(row.messages[:1], row.tools, max_tokens=60).calls[0].arguments == {"city": "Paris"}


@pytest.mark.parametrize("more", [{"batches": "length"}, {"max_tokens_per_batch": 700}])
def test_batches_of_rows_of_one_length_train_every_row(tmp_path, llama, more):
    settings = TrainSettings(model=llama, out=str(tmp_path / "run"), epochs=2, batch_size=4, test=0, valid=0,
                             shared_prefix=False, learning_rate=5e-3, num_layers=2, rank=4, **more)  # fmt: skip
    run = train(settings, weather_rows(10))
    rows = [row for row in run.metrics() if "rows" in row]
    assert sum(row["rows"] for row in rows) == 20 and run.record["train"]["epochs"] == 2.0
