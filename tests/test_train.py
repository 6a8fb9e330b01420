"""Training from settings to a run folder, on a tiny model that learns eight rows by heart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import tiny_model
from training_place import SMALL, Recorder, rows, weights

from calltune.caller import load
from calltune.runs import Run, read_run
from calltune.settings import TrainSettings
from calltune.train import train

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)
import mlx_lm  # isort: skip
import numpy as np  # isort: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model"), "llama", layers=3))


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


def test_the_folder_of_a_run_can_be_moved(learned, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in learned.run.folder.iterdir():
        if file.is_file():
            (moved / file.name).write_bytes(file.read_bytes())
    row = rows(1)[0]
    assert load(Path(moved))(row.messages[:1], row.tools, max_tokens=60).calls[0].arguments == {"city": "Paris"}
