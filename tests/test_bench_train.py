"""`calltune bench train`: every side runs in its process, and the figures are what they are called."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import WEATHER, tiny_tokenizer, weather_rows

from calltune.bench import training
from calltune.bench.training import BenchSettings, compare, later_epochs, valid_count
from calltune.bench.work import Work, prepare_rows
from calltune.cli import main
from calltune.engine.measured import Measured, Update
from calltune.platform import allocator
from calltune.settings import TrainSettings
from calltune.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    tiny_tokenizer(folder / "tokenizer")
    rows = [json.dumps(row.to_openai()) for row in weather_rows(12, tools=[WEATHER])]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def bench(place: Path, capsys: Any, *more: str) -> dict[str, Any]:
    code = main([
        "bench", "train", "--tokenizer", str(place / "tokenizer"), "--data", str(place / "rows.jsonl"), "--rows", "8",
        "--valid-rows", "2", "--valid", "0.2", "--batch-size", "4", "--num-layers", "2", "--warm-up", "1",
        "--json", *more,
    ])  # fmt: skip
    assert code == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_both_sides_run_the_same_rows(place, capsys, monkeypatch, compiled):
    if not compiled:  # a compiler of C++ takes most of the time
        monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    report = bench(place, capsys, "--shape", "tiny-llama", "--epochs", "2", "--learning-rate", "0.01")
    ours, peer = report["ours"], report["sides"]["mlx-lm"]
    assert (ours["updates"], ours["rows"]) == (peer["updates"], peer["rows"]) == (4, 16)
    assert ours["tokens"] == peer["tokens"] == 2 * report["data"]["tokens"]
    assert ours["trainable"] == peer["trainable"] > 0
    assert report["ratio"]["tokens_per_second"] == pytest.approx(
        ours["tokens_per_second"] / peer["tokens_per_second"], rel=1e-2
    )
    assert len(ours["epochs"]) == 2 and ours["peak_memory_gb"] > 0
    # the same start, seen by the same measure, and both learn
    assert ours["curve"][0][2] == pytest.approx(peer["curve"][0][2], rel=1e-3)
    assert ours["curve"][-1][2] < ours["curve"][0][2] and peer["curve"][-1][2] < peer["curve"][0][2]


def test_a_side_that_cannot_run_is_told_and_the_others_go_on(place, capsys):
    if importlib.util.find_spec("torch") and importlib.util.find_spec("peft"):
        pytest.skip("torch and peft are here")
    report = bench(place, capsys, "--shape", "tiny-qwen3", "--epochs", "1", "--against", "transformers")
    assert "pip install torch peft" in report["sides"]["transformers"]["error"]
    assert report["ratio"] is None and report["ours"]["updates"] == 2


def test_peers_run_without_our_settings_of_the_allocator(monkeypatch, tmp_path):
    given = {}

    def run(command, *, env, **_):
        order = json.loads(Path(command[3]).read_text())
        given[order["side"]] = env
        Path(command[4]).write_text("{}")
        return SimpleNamespace(returncode=0)

    monkeypatch.delenv(allocator.VARIABLE, raising=False)
    monkeypatch.setattr(training.subprocess, "run", run)
    for side in ("calltune", "mlx-lm"):
        work = Work(side, str(tmp_path), TrainSettings(model="x"), None, "x", 1)
        training._in_process(work, tmp_path, 1.0)
    assert allocator.VARIABLE not in given["calltune"] and given["mlx-lm"][allocator.VARIABLE] == "none"


@pytest.mark.torch
@pytest.mark.parametrize("shape", ["tiny-llama", "tiny-gemma2"])
def test_transformers_and_peft_are_a_side(place, capsys, shape):
    report = bench(place, capsys, "--shape", shape, "--epochs", "1", "--against", "transformers", "--attention",
                   "eager", "--dtype", "float32")  # fmt: skip
    side = report["sides"]["transformers"]
    assert side.get("error") is None and side["trainable"] == report["ours"]["trainable"]
    assert side["rows"] == 8 and side["tokens"] == report["data"]["tokens"] and side["tokens_per_second"] > 0
    assert len(side["curve"]) == 2


@pytest.mark.parametrize(("flags", "said"), [
    (("--against", "mlx"), "there is no side mlx"),
    (("--shape", "gemma-9"), "there is no shape"),
    (("--rows", "-1"), "at least 0"),
    (("--built-in-tools", "3", "--data", "x.jsonl"), "built-in data only"),
    (("--learning-rate", "fast"), "a number"),
])  # fmt: skip
def test_wrong_use_is_told_before_anything_runs(place, capsys, flags, said):
    tokenizer = str(place / "tokenizer")
    assert main(["bench", "train", "--shape", "tiny-llama", "--tokenizer", tokenizer, *flags]) == 2
    assert said in capsys.readouterr().err


def test_rates_count_all_tokens_and_the_set_up(place):
    updates = [Update(1.0, 2, 100, 60, 80), Update(3.0, 2, 300, 200, 200)]
    found = Measured(updates=updates, setup_seconds=1.0).summary(updates_per_epoch=1)
    assert (found["tokens_per_second"], found["rows_per_second"], found["updates"]) == (80.0, 0.8, 2)
    assert found["padding"] == pytest.approx(1 - 260 / 280, abs=1e-4)
    assert [e["tokens_per_second"] for e in found["epochs"]] == [50.0, 100.0]
    assert later_epochs(found) == 2.0


def test_the_time_to_a_loss_is_that_of_the_first_validation_below_it():
    def side(*curve: tuple[int, float, float]) -> dict[str, Any]:
        return Measured(updates=[Update(2.0, 1, 10, 9, 9)], curve=list(curve)).summary(1) | {"peak_memory_gb": 0.0}

    ours, peer = side((0, 0.0, 3.0), (1, 1.0, 1.0), (2, 2.0, 0.5)), side((0, 0.0, 3.0), (1, 10.0, 1.2))
    assert compare(ours, peer)["time_to_loss"] == {"loss": 1.2, "ours_seconds": 1.0, "peer_seconds": 10.0}


def test_validation_rows_are_fewer_where_rows_are():
    given = ({"rows": 8}, {"rows": 2}, {"rows": 640}, {"rows": 0}, {"rows": 8, "valid_rows": 5})
    assert [valid_count(BenchSettings(**settings)) for settings in given] == [2, 1, 16, 16, 5]


def test_the_first_built_in_tools_make_a_shorter_prefix(place):
    tokenizer = load_tokenizer(place / "tokenizer")
    settings = TrainSettings(data="builtin:assistant", max_seq_length=8000)
    found = [prepare_rows(settings, tokenizer, rows=8, valid=4, tools=n) for n in (0, 3)]
    assert [len(p.train) for p in found] == [8, 8] and [len(p.valid) for p in found] == [4, 4]
    assert max(map(len, found[1].train)) < min(map(len, found[0].train))
