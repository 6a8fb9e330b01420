"""A damaged calltune.json is told as bad input by whoever reads it, with every place, and is never a bug of ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from cli_place import told

from calltune.cli import main
from calltune.errors import InputError
from calltune.records import _TEMPLATE, problems_of, read_record
from calltune.template import Template

SHORT = ("--max-tokens", "1")


@pytest.fixture
def run(place, tmp_path) -> Path:
    return Path(shutil.copytree(place.run, tmp_path / "run"))


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "calltune.json").read_text())
    return record


def damaged(value: Any) -> Iterator[Any]:
    """Copies of a record with one thing in it of another type, or gone."""
    if isinstance(value, dict):
        for key, inner in value.items():
            for wrong in damaged(inner):
                yield value | {key: wrong}
            yield {other: inner for other, inner in value.items() if other != key}
    yield 5 if not isinstance(value, int) else "text"


def test_what_training_writes_has_the_shape(run):
    assert problems_of(record_of(run)) == []
    assert set(_TEMPLATE["properties"]) == {item.name for item in fields(Template)}


@pytest.mark.parametrize("change", [{"train": 5}, {"hashes": 3}, {"settings": []}, {"template": {"source": 1}},
                                    {"state": 1}, {"data": {"origin": "x"}}, {"model": None}])  # fmt: skip
def test_a_damaged_record_is_bad_input(run, capsys, change):
    (run / "calltune.json").write_text(json.dumps(record_of(run) | change))
    for command in (("train", "--resume", "--out", str(run)), ("eval", str(run), *SHORT), ("watch", str(run)),
                    ("call", str(run), "hi", *SHORT)):  # fmt: skip
        said = told(capsys, 2, *command)
        assert "is damaged" in said and f"/{next(iter(change))}" in said


@pytest.mark.parametrize("text", ["{", "5", "[]", "null", "[" * 100_000, '"\ud800"'])
def test_what_is_no_record_at_all(run, capsys, text):
    (run / "calltune.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    for command in (("train", "--resume", "--out", str(run)), ("eval", str(run)), ("call", str(run), "hi")):
        assert "calltune.json" in told(capsys, 2, *command)


def test_every_place_is_told_at_once(run):
    (run / "calltune.json").write_text(json.dumps(record_of(run) | {"train": 5, "hashes": 3}))
    with pytest.raises(InputError) as error:
        read_record(run)
    assert [problem.path for problem in error.value.problems] == ["/hashes", "/train"]


@pytest.mark.slow
def test_no_damage_is_a_bug_of_ours(run, capsys):
    """Whatever is wrong in the file, `call` and `train --resume` answer, or say that it is bad input."""
    whole = record_of(run)
    kept = ("state", "model", "template", "hashes", "train", "calltune")  # what is computed with
    records = [whole | part for part in damaged({key: whole[key] for key in kept}) if isinstance(part, dict)]
    records += [{key: value for key, value in whole.items() if key != gone} for gone in whole]
    unseen = [record for record in records if not problems_of(record)]
    assert len(records) - len(unseen) > 30 and len(unseen) > 10
    for record in unseen:
        (run / "calltune.json").write_text(json.dumps(record))
        for command in (("train", "--resume", "--out", str(run)), ("call", str(run), "hi", *SHORT)):
            code = main(list(command))
            assert code in (0, 2), (command, capsys.readouterr().err, record)
