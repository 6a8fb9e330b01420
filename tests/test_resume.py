"""A run that is broken off and taken up again ends as one that was not: the same bits, the same metrics (T09)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import CITIES, TIME, WEATHER, long_row, tiny_model, weather_rows

from calltune import loop
from calltune.checkpoints import folders
from calltune.errors import InputError
from calltune.progress import Silent
from calltune.runs import Run, read_run
from calltune.settings import TrainSettings
from calltune.train import train

TIMES = {"seconds", "tokens_per_second", "trained_tokens_per_second", "updates_per_second", "valid_seconds",
         "accuracy_seconds", "peak_memory_gb"}  # fmt: skip


class Broken(Exception):
    """What stops a run in these tests."""


class Breaking(Silent):
    """Breaks a run off in update number `at`; keeps what was said."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.done, self.said = at, 0, list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, name: str, total: int) -> None:
        self.done = 0

    def advance(self, name: str, done: int = 1, **shown: Any) -> None:
        self.done += done if name == "training" else 0
        if name == "training" and done == 1 and self.done == self.at:
            raise Broken


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model"), layers=3))


def settings_of(model: str, out: Path, **changes: Any) -> TrainSettings:
    settings: dict[str, Any] = {
        "num_layers": 2, "rank": 4, "batch_size": 2, "epochs": 3.0, "learning_rate": 1e-2, "save_every": 1,
        "steps_per_eval": 5, "steps_per_accuracy": 0, "steps_per_report": 4, "accuracy_rows": 3, "keys": ("all",),
        "dropout": 0.0, "test": 0.0,
    }  # fmt: skip
    return TrainSettings(model=model, out=str(out), **settings | changes)


def data(n: int = 9) -> dict[str, Any]:
    rows = weather_rows(n + 4, tools=[WEATHER, TIME])
    return {"train": rows[:n], "valid": rows[n:]}


def weights(run: Run | Path) -> dict[str, Any]:
    return load_file((run if isinstance(run, Path) else run.folder) / "adapters.safetensors")


def same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def story(run: Run) -> list[dict[str, Any]]:
    """The metrics without what clocks say."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in run.metrics()]


def broken_off(settings: TrainSettings, rows: Any, at: int) -> None:
    with pytest.raises(Broken):
        train(settings, rows, progress=Breaking(at))


FULL = {"trunk_memory_gb": 3e-5, "trunk_disk_gb": 3e-5}  # the frozen trunk's store is full
FORMS = [  # one by one in `make test-all`
    {},
    FULL,
    {"dropout": 0.3, "optimizer": "muon", "grad_accumulation": 2, "batches": "length", "save_every": 3},
    *(pytest.param(form, marks=pytest.mark.slow) for form in (
        {"trunk_bytes": 0},
        {"dropout": 0.3},
        {"optimizer": "muon", "grad_accumulation": 2},
        {"fine_tune": "full", "optimizer": "adam", "keys": ("q_proj",)},
        {"batches": "length", "save_every": 3},
    )),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form) or "default")
def test_trap_t09_a_run_that_goes_on_ends_bit_for_bit_as_one_that_was_not_broken_off(
    model, tmp_path, monkeypatch, form
):
    if form.get("trunk_bytes") == 0:  # states that are too many to be saved are computed again
        form = {}
        monkeypatch.setattr(loop, "TRUNK_BYTES", 0)
    form = form | {"steps_per_accuracy": 5}
    straight = train(settings_of(model, tmp_path / "straight", **form), data())
    settings = settings_of(model, tmp_path / "run", **form)
    for at in (2, 4, 6) if "grad_accumulation" in form else (4, 7, 11):
        broken_off(settings, data(), at)
    run = train(settings, data())
    assert same_bits(weights(run), weights(straight))
    assert story(run) == story(straight)
    ours, theirs = ({k: v for k, v in r.record["train"].items() if "second" not in k and k != "peak_memory_gb"}
                    for r in (run, straight))  # fmt: skip
    assert ours == theirs
    assert [note["update"] for note in run.record["resumes"]]
    last = [load_file(folders(r.folder)[-1] / "optimizer.safetensors") for r in (run, straight)]
    assert same_bits(*last)


@pytest.mark.parametrize("kept", [pytest.param(64 << 20, marks=pytest.mark.slow), 0])
def test_conversations_that_share_tokens_go_on_bit_for_bit(model, tmp_path, monkeypatch, kept):
    """Their states in the frozen layers were computed as trees, and are again where they were not saved."""
    from chat_templates import QWEN3

    from calltune.engine import trunk_states

    grown, plain = [], trunk_states.tree_states

    def counted(*given: Any, **more: Any) -> Any:
        grown.append(given)
        return plain(*given, **more)

    monkeypatch.setattr(trunk_states, "tree_states", counted)
    monkeypatch.setattr(loop, "TRUNK_BYTES", kept)
    (tmp_path / "t.jinja").write_text(QWEN3)
    rows = weather_rows(7)
    for city in CITIES[:4]:  # long requests, which the three turns of a conversation share
        system, question, *rest = long_row(city).messages
        question = replace(question, content=f"{city}: {question.content} " + "I ask for a friend of mine. " * 6)
        rows.append(replace(long_row(city), messages=(system, question, *rest), id=city))
    form = {"template": str(tmp_path / "t.jinja"), "epochs": 4.0, "batch_size": 3}
    straight = train(settings_of(model, tmp_path / "straight", **form), rows)
    trees = len(grown)
    settings = settings_of(model, tmp_path / "run", **form)
    for at in (3, 6):
        broken_off(settings, rows, at)
    run = train(settings, rows)
    assert trees and same_bits(weights(run), weights(straight)) and story(run) == story(straight)


def test_the_store_of_the_trunk_is_really_full_there(model, tmp_path):
    said = Breaking()
    train(settings_of(model, tmp_path, **FULL), data(), progress=said)
    assert any("runs anew each epoch" in text for text in said.said)


def test_a_finished_run_is_not_trained_again_and_another_is_refused(model, tmp_path):
    settings, said = settings_of(model, tmp_path / "run", iters=2), Breaking()
    first = train(settings, data())
    stamp = (first.folder / "adapters.safetensors").stat().st_mtime_ns
    again = train(replace(settings, resume=True, save_every=9), data(), progress=said)
    assert again.record == json.loads(json.dumps(first.record))
    assert any("is finished" in text for text in said.said)
    assert (first.folder / "adapters.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match=r"learning_rate: 0.1 \(expected 0.01\)"):
        train(replace(settings, learning_rate=0.1), data())
    with pytest.raises(InputError, match="the training rows"):
        train(settings, data(8))
    assert (
        train(replace(settings, learning_rate=0.1, overwrite=True), data()).record["settings"]["learning_rate"] == 0.1
    )


def test_a_checkpoint_of_other_settings_or_data_is_refused_and_may_be_forced(model, tmp_path):
    settings = settings_of(model, tmp_path / "run")
    broken_off(settings, data(), 4)
    for changed, rows, words in (
        (replace(settings, learning_rate=0.1), data(), "learning_rate"),
        (settings, data(8), "the training rows"),
        (settings, data() | {"valid": weather_rows(2)}, "the validation rows"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            train(changed, rows)
        assert "--force" in str(caught.value)
        said = Breaking()
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        run = train(replace(changed, force=True, out=str(tmp_path / "copy")), rows, progress=said)
        note = run.record["resumes"][0]
        assert note["update"] == 3 and words in note["changed"][0] and run.record["train"]["updates"] > 3
        assert any("changed by --force" in text for text in said.said)
        shutil.rmtree(tmp_path / "copy")


def test_all_differences_are_told_at_once_and_changed_rows_by_name(model, tmp_path):
    settings = settings_of(model, tmp_path / "run")
    broken_off(settings, data(), 2)
    rows = data()
    turns = rows["train"][2].messages
    rows["train"][2] = replace(rows["train"][2], messages=(replace(turns[0], content="Weather?"), *turns[1:]))
    with pytest.raises(InputError) as caught:
        train(replace(settings, rank=5, learning_rate=0.1), rows)
    text = str(caught.value)
    assert "fixed: rank: 5 (expected 4)" in text and "changed: learning_rate: 0.1" in text
    assert "1 of 9 were not there before, the first is row-2, 1 of before are gone" in text
    with pytest.raises(InputError, match="in another order"):
        train(settings, data() | {"train": data()["train"][::-1]})


def test_changed_rows_decide_anew_which_values_are_copied(model, tmp_path):
    settings = settings_of(model, tmp_path / "run")
    rows = data(16)
    broken_off(settings, rows, 3)
    assert json.loads((tmp_path / "run" / "calltune.json").read_text())["copied"] == {"get_weather": ["city"]}
    turns = rows["train"][0].messages
    rows["train"][0] = replace(rows["train"][0], messages=(replace(turns[0], content="Weather?"), *turns[1:]))
    assert train(replace(settings, force=True), rows).record["copied"] == {}


def test_force_is_not_advised_to_who_gave_it(model, tmp_path):
    settings = settings_of(model, tmp_path / "run", iters=2)
    train(settings, data())
    with pytest.raises(InputError, match="--force with more --epochs or --iters"):
        train(replace(settings, learning_rate=0.1, force=True), data())


@pytest.mark.parametrize("changes", [{"rank": 5}, {"optimizer": "muon"}, {"num_layers": 1}, {"scale": 3.0}])
def test_what_gives_the_weights_their_meaning_cannot_be_forced(model, tmp_path, changes):
    settings = settings_of(model, tmp_path / "run")
    broken_off(settings, data(), 2)
    with pytest.raises(InputError, match=next(iter(changes))) as caught:
        train(replace(settings, force=True, **changes), data())
    assert "--force" not in str(caught.value) and "--overwrite" in str(caught.value)


def test_another_model_or_template_is_named(model, tmp_path):
    from chat_templates import QWEN3_KEEPS

    settings = settings_of(model, tmp_path / "run")
    broken_off(settings, data(), 2)
    other = tiny_model(tmp_path / "other", layers=3, seed=1)
    with pytest.raises(InputError, match="the base model"):
        train(replace(settings, model=str(other), force=True), data())
    (tmp_path / "t.jinja").write_text(QWEN3_KEEPS)
    with pytest.raises(InputError, match="the template"):
        train(replace(settings, template=str(tmp_path / "t.jinja")), data())


def test_the_same_rows_and_model_by_another_path_are_the_same(model, tmp_path):
    settings = settings_of(model, tmp_path / "run")
    broken_off(settings, data(), 2)
    shutil.copytree(model, tmp_path / "moved")
    run = train(replace(settings, model=str(tmp_path / "moved")), data())
    assert run.record["resumes"][0].keys() == {"update", "time"}


def test_resume_wants_a_run_and_not_overwrite(model, tmp_path):
    with pytest.raises(InputError, match="there is no run"):
        train(settings_of(model, tmp_path / "run", resume=True), data())
    with pytest.raises(InputError, match="leave one of them out"):
        train(settings_of(model, tmp_path / "run", resume=True, overwrite=True), data())
    assert not (tmp_path / "run").exists()


def test_a_run_stopped_before_its_first_checkpoint_begins_anew(model, tmp_path):
    settings, said = settings_of(model, tmp_path / "run", iters=2), Breaking()
    broken_off(settings, data(), 1)
    for folder in folders(tmp_path / "run"):
        shutil.rmtree(folder)
    run = train(settings, data(), progress=said)
    assert "resumes" not in run.record and any("begins anew" in text for text in said.said)


def test_more_epochs_of_a_finished_run(model, tmp_path):
    settings = settings_of(model, tmp_path / "run", iters=3)
    train(settings, data())
    run = train(replace(settings, iters=5, force=True), data())
    assert run.record["train"]["updates"] == 5 and run.record["resumes"][0]["update"] == 3
    assert read_run(run.folder).record["state"] == "finished"


def test_a_finished_run_is_not_made_shorter(model, tmp_path):
    settings, said = settings_of(model, tmp_path / "run", iters=3), Breaking()
    before = train(settings, data()).record
    run = train(replace(settings, iters=3, force=True), data(), progress=said)
    assert run.record == before and any("is finished" in text for text in said.said)
    with pytest.raises(InputError, match="iters"):
        train(replace(settings, iters=2, force=True), data())
    assert read_run(tmp_path / "run").record == before


def test_rows_held_out_for_testing_are_not_trained_on_by_force(model, tmp_path):
    rows = weather_rows(12)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row.to_openai()) + "\n" for row in rows))
    settings = settings_of(model, tmp_path / "run", data=str(tmp_path / "rows.jsonl"), test=0.4, valid=0.2, iters=6)
    broken_off(settings, None, 4)
    held_out = (tmp_path / "run" / "test.jsonl").read_text()
    with pytest.raises(InputError, match="holds out for testing would be trained on"):
        train(replace(settings, seed=5, force=True))
    assert (tmp_path / "run" / "test.jsonl").read_text() == held_out
    assert train(settings).record["state"] == "finished"


def test_patience_without_validation_rows_is_an_error(model, tmp_path):
    with pytest.raises(InputError, match="--patience needs validation rows"):
        train(settings_of(model, tmp_path / "run", patience=2, valid=0.0), {"train": data()["train"]})
