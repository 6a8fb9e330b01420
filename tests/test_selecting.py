"""Call accuracy while training: which weights are kept, when it is measured, when training ends early."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from test_resume import Breaking, broken_off, data, same_bits, settings_of, story, weights
from tiny import TIME, WEATHER, tiny_model, weather_rows

from calltune.caller import load
from calltune.evaluate import evaluate
from calltune.loop import Loop
from calltune.render import Example, Span
from calltune.schema import Message, Reply, ToolCall
from calltune.selecting import (
    MOST,
    accuracy_every,
    accuracy_points,
    figures,
    is_asked,
    make_selector,
    span_tokens,
)
from calltune.settings import TrainSettings
from calltune.tasks.questions import questions_of
from calltune.train import train


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("model"), layers=3))


@pytest.fixture(scope="module")
def learned(model, tmp_path_factory):
    """Eight rows by heart, with validation on them."""
    rows = weather_rows(8, think=False, tools=[WEATHER])
    settings = settings_of(
        model, tmp_path_factory.mktemp("runs") / "run", num_layers=-1, rank=16, scale=4.0, learning_rate=5e-3,
        epochs=60.0, batch_size=8, steps_per_report=10, steps_per_eval=20, steps_per_accuracy=20, accuracy_rows=8,
        save_every=0,
    )  # fmt: skip
    return train(settings, {"train": rows, "valid": rows})


def test_accuracy_is_measured_and_is_what_evaluate_finds(learned):
    measured = [row for row in learned.metrics() if "exact_match" in row]
    assert [row["step"] for row in measured] == [20, 40, 60]
    assert learned.record["train"]["accuracy"] == max(row["exact_match"] for row in measured) == 1.0
    best = next(row for row in measured if row["step"] == learned.record["train"]["best_update"])
    report = evaluate(load(learned.folder), weather_rows(8, think=False, tools=[WEATHER]), max_tokens=60)
    for name in ("exact_match", "call_exact_match", "no_call_accuracy"):
        assert report.after[name] == best[name]
    assert best["name_match"] == best["arguments_match"] == 1.0 and best["accuracy_seconds"] > 0
    assert all("valid_loss" in row for row in measured)


def test_the_test_rows_are_never_asked(model, tmp_path, monkeypatch):
    import sys

    module, asked = sys.modules["calltune.train"], []
    plain = module.make_selector

    def watched(loaded, template, rows, *rest):
        asked.extend(rows)
        return plain(loaded, template, rows, *rest)

    monkeypatch.setattr(module, "make_selector", watched)
    run = train(
        settings_of(model, tmp_path / "run", iters=1, steps_per_accuracy=1, test=0.25, valid=0.25), weather_rows(16)
    )
    held = {row.id for row in run.test_rows()}
    assert held and asked and not held & {row.id for row in asked}


def loop_of(values, losses, **changes):
    """A loop whose measurements are given; what it keeps is what matters."""
    loop = object.__new__(Loop)
    loop.settings = replace(TrainSettings(steps_per_eval=1), **changes)
    loop.best_loss, loop.best_accuracy, loop.best_update, loop.worse = math.inf, -1.0, 0, 0
    from calltune.quarantine import Health

    loop.health = Health()
    return loop


def test_the_best_goes_by_accuracy_then_by_loss(monkeypatch):
    from calltune.engine import optim

    loop = loop_of([], [])
    monkeypatch.setattr(optim, "snapshot", lambda model: {"of": loop.update})
    loop.plan = type("Plan", (), {"model": None})
    kept = []
    for update, (loss, accuracy) in enumerate(
        [(0.9, 0.1), (0.5, 0.1), (0.7, 0.6), (0.1, 0.5), (0.8, 0.6), (0.6, 0.6), (math.inf, 0.9)], 1
    ):
        loop.update = update
        loop.compare(loss, accuracy)
        kept.append(loop.best_update)
    assert kept == [1, 2, 3, 3, 3, 6, 6]
    assert loop.worse == 1 and loop.best_arrays == {"of": 6}


def test_the_last_measurement_is_the_end_and_short_runs_have_none():
    assert accuracy_points(100, 50) == {50, 100}
    assert accuracy_points(130, 50) == {65, 130}
    assert accuracy_points(49, 50) == accuracy_points(60, 0) == frozenset()


def test_by_default_the_interval_follows_from_what_a_measurement_costs():
    settings = TrainSettings(steps_per_eval=50)

    def every(replies, training, gpu=False, **changes):
        return accuracy_every(replace(settings, **changes), replies, 1000.0, training, gpu=gpu)

    assert every(16 * 141, 3700.0) == 50  # long updates: as often as the loss
    assert every(32 * 141, 400.0) == 589  # short ones: 589 * 400 tokens are ten times 32 * 141 * 5 + 1000
    assert every(32 * 141, 400.0, gpu=True) > 2000
    assert every(32 * 141, 400.0, steps_per_accuracy=7) == 7
    assert is_asked(settings) and not is_asked(replace(settings, steps_per_accuracy=0))
    assert not is_asked(replace(settings, steps_per_eval=0))  # as the demo has it
    assert is_asked(replace(settings, steps_per_eval=0, steps_per_accuracy=5))


def test_no_better_one_ends_the_run_and_a_resumed_run_ends_there_too(model, tmp_path):
    settings = settings_of(model, tmp_path / "straight", patience=2, steps_per_accuracy=2, steps_per_eval=2,
                           learning_rate=1e-30, epochs=9.0)  # fmt: skip
    said = Breaking()
    straight = train(settings, data(), progress=said)
    assert straight.record["train"]["updates"] == 6  # the first is the best, then two that are no better
    assert any("stopped after update 6" in text for text in said.said)
    settings = replace(settings, out=str(tmp_path / "run"))
    for at in (3, 6):
        broken_off(settings, data(), at)
    run = train(settings, data())
    assert same_bits(weights(run), weights(straight)) and story(run) == story(straight)


def test_figures_of_names_and_arguments_apart():
    rows = weather_rows(4, think=False, tools=[WEATHER, TIME], no_call=4)
    right = [Reply(None, row.messages[-1].calls, row.messages[-1].content, "") for row in rows]
    found = figures(questions_of(rows), right)
    assert set(found.values()) == {1.0}
    wrong = [
        replace(right[0], calls=(ToolCall("get_weather", {"city": "Nowhere"}),)),
        replace(right[1], calls=(ToolCall("get_time", {"city": "London"}),)),
        *right[2:],
    ]
    found = figures(questions_of(rows), wrong)
    assert found["name_match"] == pytest.approx(2 / 3) and found["arguments_match"] == 0.5
    assert found["call_exact_match"] == pytest.approx(1 / 3) and found["no_call_accuracy"] == 1.0
    only = [rows[3]]
    assert figures(questions_of(only), [right[3]])["name_match"] is None


def test_how_long_a_reply_may_be():
    spans = (Span(3, 5, "name"), Span(5, 9, "arguments"), Span(20, 23, "answer"))
    assert span_tokens(Example(tuple(range(30)), spans)) == 6
    assert span_tokens(Example((), ())) == 0 and MOST == 256


def test_rows_without_a_decision_have_no_selector(learned):
    caller = load(learned.folder)
    silent = [replace(row, messages=(Message("user", "x"),)) for row in weather_rows(2)]
    assert make_selector(caller.loaded, caller.template, silent, [], 8) is None
    examples = [Example(tuple(range(30)), (Span(3, 9, "answer"),), f"row-{i}") for i in range(21) if i != 19]
    chosen = make_selector(caller.loaded, caller.template, weather_rows(21), examples, 5)
    assert chosen.limit == 15
    assert [q.id for q in chosen.questions] == ["row-0", "row-4", "row-8", "row-12", "row-16"]  # spread evenly
