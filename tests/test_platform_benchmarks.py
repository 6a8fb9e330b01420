"""A benchmark out of its wheel: only data, only with the right hash, whole or not at all."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from calltune.cli import main
from calltune.data.leaks import read_benchmarks
from calltune.errors import InputError
from calltune.platform import benchmarks
from calltune.platform.benchmarks import BFCL, fetch_benchmark, is_fetched
from calltune.platform.builtin import clear_cache, list_cached
from calltune.platform.paths import sha256_file

DATA = Path(__file__).parent / "data" / "bfcl"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel of the real form, with code in it, which must not be taken."""
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "wheels").mkdir()
    path = tmp_path / "wheels" / "bfcl_eval-2026.3.23-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(DATA.rglob("*.json")):
            archive.write(file, f"bfcl_eval/data/{file.relative_to(DATA)}")
        archive.writestr("bfcl_eval/__init__.py", "raise SystemExit")
        archive.writestr("bfcl_eval/data/unused_datasets/question/BFCL_v4_sql.json", "{}")
        archive.writestr("bfcl_eval/data/../../../BFCL_v4_evil.json", "{}")
    return path


@pytest.fixture
def small(wheel, monkeypatch):
    benchmark = replace(BFCL, sha256=sha256_file(wheel), size=wheel.stat().st_size)
    monkeypatch.setitem(benchmarks.BENCHMARKS, "bfcl", benchmark)
    monkeypatch.setattr("calltune.data.bfcl.BFCL", benchmark)
    return benchmark


@pytest.mark.parametrize("by", ["folder", "file"])
def test_the_data_files_are_taken_and_nothing_else(small, wheel, by, capsys):
    folder = fetch_benchmark(small, wheel if by == "file" else wheel.parent)
    taken = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert taken == sorted([*(str(f.relative_to(DATA)) for f in DATA.rglob("*.json")), "calltune-cache.json"])
    assert is_fetched(small) and "Apache-2.0" in capsys.readouterr().err
    assert fetch_benchmark(small, Path("nowhere")) == folder and capsys.readouterr().err == ""
    (item,) = list_cached()
    assert (item.kind, item.licence, item.origin) == ("benchmarks", "Apache-2.0", "bfcl-eval==2026.3.23")
    # The leak check finds the questions, and no more files than those of questions.
    found = read_benchmarks()
    assert sum("BFCL" in place for place in found.places) == 11 and found.questions
    assert clear_cache() > 0 and not folder.exists()


def test_a_wheel_with_another_hash_is_refused(wheel, capsys):
    with pytest.raises(InputError, match="another content than expected") as caught:
        fetch_benchmark(BFCL, wheel)
    assert caught.value.problems[0].kind == "wrong_sha256" and caught.value.problems[0].expected == BFCL.sha256
    assert not BFCL.folder.exists() and list(BFCL.folder.parent.iterdir()) == []
    arguments = ["score", "--suite", "bfcl:parallel", "--benchmark", str(wheel), str(DATA / "vectors.jsonl")]
    assert main(arguments) == 2 and "another content" in capsys.readouterr().err


def test_a_damaged_wheel_leaves_nothing(small, wheel):
    wheel.write_bytes(wheel.read_bytes()[:2000])
    cut = replace(small, sha256=sha256_file(wheel))
    with pytest.raises(InputError, match="is damaged"):
        fetch_benchmark(cut, wheel)
    assert not is_fetched(cut) and not cut.folder.exists()


def test_what_was_changed_in_the_cache_is_fetched_anew(small, wheel):
    folder = fetch_benchmark(small, wheel)
    file = folder / "BFCL_v4_parallel.json"
    good = file.read_bytes()
    file.write_bytes(good.replace(b'"', b"'", 1))
    assert not is_fetched(small)
    fetch_benchmark(small, wheel)
    assert file.read_bytes() == good
    (folder / "possible_answer" / "BFCL_v4_parallel.json").unlink()
    assert not is_fetched(small)


def test_without_an_index_the_command_that_helps_is_named(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(InputError) as caught:
        fetch_benchmark(small, progress=False)
    assert "calltune fetch bfcl --from WHEELS" in caught.value.next_step
    assert list(small.folder.parent.iterdir()) == []
    with pytest.raises(InputError, match="is not in"):
        fetch_benchmark(small, tmp_path)


def test_the_command_fetches_it(small, wheel, capsys):
    assert main(["fetch", "bfcl", "--from", str(wheel.parent), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fetched"] is True and Path(told["path"]) == small.folder
    assert main(["fetch", "bfcl"]) == 0
    assert "already in the cache" in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_wheel_comes_from_the_index(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path))
    from calltune.data.bfcl import GROUPS, read_cases

    assert len(read_cases(GROUPS["single_turn"])) == 3491
    assert is_fetched(BFCL)
