"""Practising on the built-in functions before the user's own: once, kept, and where the run begins."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cli_place import QUICK

from calltune import practice
from calltune.builtin import builtin_data
from calltune.cli import main
from calltune.errors import InputError
from calltune.practice import is_practised, practice_settings
from calltune.settings import TrainSettings


@pytest.fixture
def command(place, tmp_path, monkeypatch):
    """The words of a training on functions with a practice of few rows, in a cache of its own."""
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(practice, "builtin_data", lambda **kwargs: builtin_data(sizes=(8, 2, 2), **kwargs))
    rows = ("--rows", "12", "--practice", "--max-seq-length", "20000")
    return ["train", "--model", place.model, "--tools", place.py, *rows, *QUICK]


def record(out: Path) -> dict:
    return json.loads((out / "calltune.json").read_text())


def test_the_run_begins_with_what_was_practised_once(command, place, tmp_path, capsys):
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    assert "first it practises on the built-in functions" in capsys.readouterr().err
    first = record(tmp_path / "a")
    home = Path(first["init_from"])
    assert home.parent == tmp_path / "cache" / "practice"
    assert "get_weather" in (home / "test.jsonl").read_text() and record(home)["settings"]["practice"] is False
    adapter = hashlib.sha256((home / "adapters.safetensors").read_bytes()).hexdigest()
    assert first["hashes"]["origin"] == adapter[:16]
    assert (tmp_path / "a" / "test.jsonl").read_text().count("set_timer") == 0  # its own rows are the user's alone

    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    said = capsys.readouterr().err
    assert "practises" not in said and f"begins with the adapter of {home}" in said
    assert record(tmp_path / "b")["hashes"]["origin"] == first["hashes"]["origin"]

    assert main([*command, "--out", str(tmp_path / "c"), "--no-practice"]) == 0
    assert "init_from" not in record(tmp_path / "c")
    assert not (home / "checkpoints").exists()
    assert main(["cache", "list"]) == 0 and f"practice/{home.name}" in capsys.readouterr().out
    assert main(["cache", "clear", "--yes"]) == 0 and not home.exists()


def test_a_run_goes_on_without_its_practice_in_the_cache(command, tmp_path, capsys, monkeypatch):
    out = ["--out", str(tmp_path / "a")]
    assert main([*command, *out]) == 0
    assert main(["cache", "clear", "--yes"]) == 0
    monkeypatch.setattr(practice, "builtin_data", lambda **_: pytest.fail("it practised"))
    capsys.readouterr()
    assert main([*command, *out]) == 0
    assert "is finished; there is nothing to do" in capsys.readouterr().err
    assert main([*command, *out, "--iters", "4", "--force"]) == 0
    assert "going on after update 2" in capsys.readouterr().err
    assert record(tmp_path / "a")["hashes"]["origin"] != "none"
    assert main([*command, *out, "--rank", "3"]) == 2  # another run: refused before any practice


def test_a_practice_that_was_stopped_or_damaged_is_made_good(command, tmp_path, capsys):
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    home = Path(record(tmp_path / "a")["init_from"])
    (home / "adapters.safetensors").unlink()
    for name in ("b", "c"):
        capsys.readouterr()
        assert main([*command, "--out", str(tmp_path / name)]) == 0
        assert "first it practises" in capsys.readouterr().err
        (home / "calltune.json").write_text("{")


def test_a_practice_that_fails_is_told_as_one(command, tmp_path, capsys, monkeypatch):
    def none(**_: object) -> None:
        raise InputError("no row is short enough", next_step="offer fewer tools")

    monkeypatch.setattr(practice, "builtin_data", none)
    assert main([*command, "--out", str(tmp_path / "a")]) == 2
    said = capsys.readouterr().err
    assert "while practising on the built-in functions: no row is short enough" in said
    assert "--no-practice leaves this out; or: offer fewer tools" in said
    assert not (tmp_path / "a").exists()


def test_what_is_wrong_with_the_functions_is_said_before(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(practice, "builtin_data", lambda **_: pytest.fail("it practised"))
    words = [str(tmp_path / "none.py") if word.endswith(".py") else word for word in command]
    assert main([*words, "--out", str(tmp_path / "a")]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_a_run_is_not_practised_again(command, place, tmp_path, capsys):
    words = [place.run if word == place.model else word for word in command]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    assert "practises" not in capsys.readouterr().err
    assert record(tmp_path / "a")["init_from"] == place.run


def test_another_form_is_another_practice(place, tmp_path):
    settings = TrainSettings(model=place.model, tools="f.py", out="runs/a", num_layers=2)
    folder = Path(place.model)
    plain = practice_settings(settings, folder, "float32")
    assert plain.tools is None and not is_practised(plain)
    same = practice_settings(TrainSettings(model=place.model, tools="g.py", out="b", num_layers=2), folder, "float32")
    assert same == plain
    exact = TrainSettings(model=place.model, num_layers=2, logits_mb=64, fast_cpu=False)
    assert practice_settings(exact, folder, "float32").out == plain.out
    others = [practice_settings(TrainSettings(model=place.model, num_layers=1), folder, "float32"),
              practice_settings(settings, folder, "bfloat16")]  # fmt: skip
    assert len({one.out for one in (plain, *others)}) == 3


def test_a_practice_that_was_stopped_is_not_done(place, tmp_path):
    chosen = TrainSettings(model=place.model, out=str(tmp_path))
    found = record(Path(place.run))
    (tmp_path / "adapters.safetensors").write_bytes(b"")
    for state, done in (("finished", True), ("training", False)):
        (tmp_path / "calltune.json").write_text(json.dumps(found | {"state": state}))
        assert is_practised(chosen) is done
