"""Rows and rates that break numbers: bad rows are found, named and left out, the others trained (T05)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_resume import Breaking, broken_off, data, same_bits, settings_of, story, weights
from tiny import tiny_model, weather_rows

from calltune.checkpoints import folders
from calltune.errors import CannotFinish
from calltune.quarantine import LIMIT, Health, rows_to_blame
from calltune.schema import Conversation, Message
from calltune.train import train

import mlx.core as mx  # isort: skip  (after the engine: it loads the BLAS)

BAD = "Zażółć gęślą jaźń"  # its bytes' tokens occur in no other row


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose embedding of one byte's token is NaN, as of a broken file: rows with that byte give NaN."""
    folder = tiny_model(tmp_path_factory.mktemp("model"), layers=3, tied=False)
    from tokenizers import Tokenizer

    (token, *_) = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("ż").ids
    arrays = dict(mx.load(str(folder / "model.safetensors")).items())
    table = np.array(arrays["model.embed_tokens.weight"])
    table[token] = np.nan
    mx.save_safetensors(str(folder / "model.safetensors"),
                        arrays | {"model.embed_tokens.weight": mx.array(table)}, {"format": "mlx"})  # fmt: skip
    return str(folder)


def bad(row: Conversation, id: str) -> Conversation:
    question = Message("user", f"{row.messages[0].content} {BAD}")
    return Conversation((question, *row.messages[1:]), row.tools, id, row.meta)


def with_bad(where: dict[str, tuple[int, ...]], n: int = 12) -> dict[str, Any]:
    parts = data(n)
    return {name: [bad(row, f"bad-{name}-{i}") if i in where.get(name, ()) else row for i, row in enumerate(rows)]
            for name, rows in parts.items()}  # fmt: skip


def trained_rows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from calltune.engine import optim

    seen: list[Any] = []
    plain = optim.Stepper.__call__

    def told(self: Any, batches: Any, rate: float, **more: Any) -> Any:
        result = plain(self, batches, rate, **more)
        if result.finite:
            seen.extend(result.indices)
        return result

    monkeypatch.setattr(optim.Stepper, "__call__", told)
    return seen


@pytest.mark.parametrize("form", [{}, {"frozen_trunk": False, "shared_prefix": False, "fast_cpu": False},
                                  {"grad_accumulation": 2}])  # fmt: skip
def test_trap_t05_bad_rows_are_found_and_named_and_the_others_trained(model, tmp_path, monkeypatch, form):
    seen, said = trained_rows(monkeypatch), Breaking()
    rows = with_bad({"train": (3, 4, 9), "valid": (1,)})
    settings = settings_of(model, tmp_path / "run", batch_size=4, epochs=2.0, **form)
    run = train(settings, rows, progress=said)
    assert sorted(run.record["train"]["quarantined"]) == ["bad-train-3", "bad-train-4", "bad-train-9"]
    good = [i for i in range(12) if i not in (3, 4, 9)]
    assert all(seen.count(i) == 2 for i in good) and not set(seen) & {3, 4, 9}  # others once an epoch, all the same
    told = [row for row in run.metrics() if row.get("event") == "quarantined"]
    assert {id for row in told for id in row["rows"]} == {"bad-train-3", "bad-train-4", "bad-train-9", "bad-valid-1"}
    assert any("bad-train-3" in text and "left out" in text for text in said.said)
    assert all(np.isfinite(array).all() for array in weights(run).values())
    assert all(np.isfinite(row["valid_loss"]) for row in run.metrics() if "valid_loss" in row)


def test_quarantine_changes_nothing_else(model, tmp_path):
    """With the bad row alone in its batch, what the others are taught is what they are taught without it."""
    rows = with_bad({"train": (0,)}, 4)
    settings = settings_of(model, tmp_path / "a", batch_size=1, epochs=1.0, schedule="constant", warmup=0.0)
    first = train(settings, rows)
    from calltune.batching import plan_epoch

    order = [batch[0] for batch in plan_epoch([1, 1, 1, 1], 1, seed=0)]
    assert sorted(order) == [0, 1, 2, 3] and first.record["train"]["quarantined"] == ["bad-train-0"]
    lines = [row["event"] for row in first.metrics() if "event" in row]
    assert lines == ["quarantined"]
    moments = load_file(folders(first.folder)[-1] / "optimizer.safetensors")
    assert int(moments["step"]) == 3  # updates that were made: the state was not touched by the fourth


def test_a_run_with_bad_rows_goes_on_as_it_would_have(model, tmp_path):
    rows = with_bad({"train": (3, 4, 9), "valid": (1,)})
    straight = train(settings_of(model, tmp_path / "straight"), rows)
    settings = settings_of(model, tmp_path / "run")
    for at in (3, 8, 12):
        broken_off(settings, rows, at)
    run = train(settings, rows)
    assert same_bits(weights(run), weights(straight)) and story(run) == story(straight)


def test_weights_that_break_are_taken_back_and_too_many_end_the_run(tmp_path):
    good, said = str(tiny_model(tmp_path / "model", layers=3)), Breaking()
    settings = settings_of(good, tmp_path / "run", learning_rate=1e38, schedule="constant", warmup=0.0, clip=0.0)
    with pytest.raises(CannotFinish, match=f"{LIMIT} of the last updates") as caught:
        train(settings, data(), progress=said)
    assert "row-" in str(caught.value) and "--learning-rate 2.5e+37" in str(caught.value)
    assert not (tmp_path / "run" / "adapters.safetensors").exists()
    assert len([text for text in said.said if "left out" in text]) == LIMIT
    for folder in folders(tmp_path / "run"):  # what is left is of before
        assert all(np.isfinite(a).all() and np.abs(a).max() < 1e3 for a in weights(folder).values())
    from dataclasses import replace

    run = train(replace(settings, resume=True, force=True, learning_rate=1e-3), data())
    assert run.record["train"]["updates"] and run.record["resumes"][0]["changed"]


def test_rows_to_blame_by_halves():
    asked: list[list[int]] = []

    def finite(rows: Any) -> bool:
        asked.append(list(rows))
        return not set(rows) & {5, 6, 19}

    assert rows_to_blame(list(range(32)), finite, 40) == [5, 6, 19]
    assert len(asked) <= 3 * 2 * 5
    assert rows_to_blame([5], finite, 40) == [5]
    assert rows_to_blame([5, 6], finite, 19) == []  # the witness fails too: the weights
    assert rows_to_blame([5, 6], finite, None) == []
    assert rows_to_blame([1, 2], finite, None) == []  # the sum overflowed, no row alone


def test_a_loss_that_explodes_is_said_once():
    health = Health()
    words = [health.good(i, loss) for i, loss in enumerate([3.0] * 5 + [0.2] * 15 + [2.0] * 15 + [0.2] * 15, 1)]
    said = [i for i, text in enumerate(words, 1) if text]
    assert len(said) == 1 and 20 < said[0] < 32 and "explodes" in words[said[0] - 1]
    calm = Health()
    assert not any(calm.good(i, 0.02 + 0.02 * (i % 7)) for i in range(200))


def test_health_counts_broken_updates_of_the_last_ten():
    health = Health()
    assert [health.bad(u) for u in (1, 2, 3, 20, 22, 24, 26)] == [False] * 7
    assert health.bad(28) and health.ill
    health.good(29, 1.0)
    assert not health.ill
    assert Health(**json.loads(json.dumps(health.to_dict()))) == health


def test_an_exploding_run_says_so(tmp_path):
    good, said = str(tiny_model(tmp_path / "model", layers=3)), Breaking()
    settings = settings_of(good, tmp_path / "run", learning_rate=1.0, fine_tune="full", num_layers=-1, epochs=8.0)
    rows = {"train": weather_rows(8), "valid": weather_rows(2)}
    train(settings, rows, progress=said)
    lines = [json.loads(line) for line in Path(tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in lines if row.get("event") == "exploded"]
    assert len(found) >= 1 and any("explodes" in text for text in said.said)


def test_trap_t19_the_last_partial_report_is_over_its_own_updates(tmp_path):
    good = str(tiny_model(tmp_path / "model", layers=3))
    run = train(settings_of(good, tmp_path / "run", steps_per_report=4, iters=6), data())
    reports = [row for row in run.metrics() if "train_loss" in row]
    assert [(row["step"], row["rows"]) for row in reports] == [(4, 8), (6, 3)]
    for row, updates in zip(reports, (4, 2), strict=True):
        assert row["updates_per_second"] * row["seconds"] == pytest.approx(updates)
        assert row["tokens_per_second"] * row["seconds"] == pytest.approx(row["tokens"])
    assert run.record["train"]["tokens"] == sum(row["tokens"] for row in reports)
