"""Settings from YAML and flags: strict, all problems at once, ranges."""

from __future__ import annotations

import argparse

import pytest

from calltune.errors import InputError
from calltune.settings import EvalSettings, TrainSettings, add_flags, read_yaml, resolve, to_dict


def parse(*flags: str) -> dict:
    parser = argparse.ArgumentParser()
    add_flags(parser, TrainSettings)
    return vars(parser.parse_args(flags))


def test_flags_that_are_not_given_are_absent():
    assert parse() == {}
    assert parse("--no-think", "--rank", "4") == {"think": False, "rank": "4"}


def test_every_field_is_a_flag_and_resolves():
    settings = resolve(TrainSettings, parse("--learning-rate", "1e-3", "--keys", "q_proj, k_proj", "--roles",
                                            "user=human", "--iters", "7", "--alpha", "none"), "flags")  # fmt: skip
    assert settings.learning_rate == 1e-3
    assert settings.keys == ("q_proj", "k_proj")
    assert settings.roles == {"user": "human"}
    assert settings.iters == 7
    assert settings.alpha is None


def test_settings_survive_a_round_trip():
    settings = TrainSettings(model="m", keys=("a", "b"), roles={"user": "human"}, iters=3)
    assert resolve(TrainSettings, to_dict(settings), "a run") == settings


def test_yaml_numbers_without_a_dot(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-5\nkeys: [q_proj]\nthink: false\n")
    settings = resolve(TrainSettings, read_yaml(tmp_path / "c.yaml"), "c.yaml")
    assert (settings.learning_rate, settings.keys, settings.think) == (1e-5, ("q_proj",), False)


def test_trap_t04_all_wrong_settings_are_told_at_once():
    given = {"learnig_rate": 1, "batch_size": 0, "epochs": "many", "think": "perhaps", "dtype": "int4", "keys": 3}
    with pytest.raises(InputError) as caught:
        resolve(TrainSettings, given, "c.yaml")
    said = str(caught.value)
    assert "learnig_rate (expected learning_rate?)" in said
    assert {p.path for p in caught.value.problems} == {f"/{key}" for key in given}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "nan"), ("learning_rate", "inf"), ("learning_rate", -1), ("learning_rate", 0),
        ("batch_size", 0), ("batch_size", 2.5), ("batch_size", True), ("test", 1), ("test", -0.1), ("rank", 0),
        ("dropout", 1.0), ("epochs", 0), ("iters", 0), ("seed", -1), ("steps_per_report", 0), ("warmup", 1.1),
        ("num_layers", -2), ("max_seq_length", 0), ("alpha", 0),
    ],
)  # fmt: skip
def test_numbers_out_of_range(name, value):
    with pytest.raises(InputError, match=f"{name}: "):
        resolve(TrainSettings, {name: value}, "flags")


def test_ranges_hold_in_python_too():
    with pytest.raises(InputError, match=r"batch_size: -3 .expected at least 1"):
        TrainSettings(batch_size=-3)
    with pytest.raises(InputError, match="calltune eval --help"):
        EvalSettings(limit=0)


@pytest.mark.parametrize(("text", "words"), [("a: [", "not valid YAML"), ("- 1", "holds list")])
def test_bad_yaml(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_yaml(tmp_path / "c.yaml")


def test_missing_yaml(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
