"""Signals, the lock of a run's folder, a full disk, damaged files: what ends a run must not harm it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
from test_resume import Breaking, broken_off, data, same_bits, settings_of, story, weights
from tiny import tiny_model

from calltune.checkpoints import folders, newest, read_checkpoint
from calltune.cli import main
from calltune.errors import InputError
from calltune.metrics import read_metrics
from calltune.platform import paths
from calltune.platform.lock import NAME, check_unlocked, locked, owner_of
from calltune.runs import Run, read_run
from calltune.settings import TrainSettings, to_dict
from calltune.train import train


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model"), layers=3))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, part in data().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row.to_openai()) + "\n" for row in part))
    return folder


@pytest.fixture(scope="module")
def straight(model: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing disturbs."""
    return train(settings_of(model, tmp_path_factory.mktemp("straight") / "run"), data())


@pytest.fixture(scope="module")
def straight_of_files(model: str, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same, its rows read from files."""
    return train(settings_of(model, tmp_path_factory.mktemp("straight") / "run", data=str(rows)))


@pytest.fixture(scope="module")
def broken(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run broken off in update 8, for copies that are harmed."""
    folder = tmp_path_factory.mktemp("broken") / "run"
    broken_off(settings_of(model, folder), data(), 8)
    return folder


def command(settings: TrainSettings, folder: Path) -> list[str]:
    """`calltune train` with these settings, given in a file."""
    config = folder / "settings.yaml"
    config.write_text(json.dumps({k: v for k, v in to_dict(settings).items() if v is not None}))
    return [sys.executable, "-m", "calltune", "train", "--config", str(config)]


def started(settings: TrainSettings, folder: Path) -> subprocess.Popen[str]:
    """The command in a process, once it trains."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(command(settings, folder), stderr=subprocess.PIPE, text=True, env=environment)
    until(lambda: reported(Path(settings.out)) >= 1, process)
    return process


def reported(run: Path) -> int:
    """How many updates its reports tell of."""
    path = run / "metrics.jsonl"
    return max((row["step"] for row in read_metrics(path)), default=0) if path.exists() else 0


def until(condition: Any, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.stderr.read() if process.stderr else ""
        time.sleep(0.01)


# ---- signals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_update_saves_and_says_how_to_go_on(model, rows, tmp_path, capsys, number, code):
    settings = settings_of(model, tmp_path / "run", data=str(rows), epochs=200.0, steps_per_report=1, save_every=0)
    process = started(settings, tmp_path)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    last = folders(tmp_path / "run")[-1]
    update = read_checkpoint(last).update
    assert update >= 1 and f"saved after update {update} of" in said and "Traceback" not in said
    assert f"go on with: calltune train --resume --out {tmp_path / 'run'}" in said
    assert not (tmp_path / "run" / NAME).exists()
    # What it says is what works, and it ends like a run that was not stopped. Fewer updates, to be quick: forced.
    again = ["train", "--resume", "--out", str(tmp_path / "run"), "--iters", str(update + 2), "--force"]
    assert main(again) == 0
    err = capsys.readouterr().err
    assert f"going on after update {update}" in err
    assert read_run(tmp_path / "run").record["train"]["updates"] == update + 2


def test_a_second_signal_leaves_at_once_and_without_damage(model, rows, tmp_path):
    settings = settings_of(model, tmp_path / "run", data=str(rows), epochs=200.0, steps_per_report=1, save_every=2)
    process = started(settings, tmp_path)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (130, 143) and "Traceback" not in said
    found, damaged = newest(tmp_path / "run", lambda _: None)
    assert found is not None and not damaged


class Signalled(Breaking):
    """A signal in the middle of update number `at`, or of the validation that follows it."""

    def advance(self, name: str, done: int = 1, **shown: Any) -> None:
        self.done += done if name == "training" else 0
        if name == "training" and done == 1 and self.done == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("at", [3, 5])
def test_a_stopped_run_goes_on_as_it_would_have(model, straight, tmp_path, at):
    """Also where the signal comes before the validation that is due: it is made after the resume."""
    settings = settings_of(model, tmp_path / "run", save_every=0)
    handler, said = signal.getsignal(signal.SIGINT), Signalled(at)
    with pytest.raises(KeyboardInterrupt):
        train(settings, data(), progress=said)
    assert signal.getsignal(signal.SIGINT) is handler
    assert read_checkpoint(folders(tmp_path / "run")[-1]).update == at
    assert any("the same call goes on" in text for text in said.said)
    run = train(settings, data())
    assert same_bits(weights(run), weights(straight)) and story(run) == story(straight)


def test_a_signal_that_is_ignored_stays_ignored():
    from calltune.platform.stopping import Stop

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGINT)
            stop.check()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ---- one process a run ------------------------------------------------------------------------------------------


def test_two_processes_in_one_folder_the_second_is_refused(model, rows, tmp_path, capsys):
    settings = settings_of(model, tmp_path / "run", data=str(rows), epochs=200.0, steps_per_report=1)
    process = started(settings, tmp_path)
    try:
        assert owner_of(tmp_path / "run")["pid"] == process.pid
        assert main(command(settings, tmp_path)[3:]) == 2
        said = capsys.readouterr().err
        assert f"process {process.pid} on" in said and "is in use" in said and " s" in said
        with pytest.raises(InputError, match="is in use"):
            train(replace(settings, overwrite=True))
    finally:
        process.kill()
        process.communicate()
    # Killed: its lock is there, and stale.
    assert (tmp_path / "run" / NAME).exists() and not owner_of(tmp_path / "run")
    progress = Breaking()
    train(replace(settings, iters=max(reported(tmp_path / "run"), 1), force=True, overwrite=True), progress=progress)
    assert any(f"the lock of process {process.pid}, which is gone, is taken over" in text for text in progress.said)


def test_a_lock_of_another_machine_counts_while_it_shows_life(tmp_path):
    (tmp_path / NAME).write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": time.time() - 9000}))
    with pytest.raises(InputError, match="process 1 on elsewhere has been training there for 150 min"):
        check_unlocked(tmp_path)
    old = time.time() - 3600
    os.utime(tmp_path / NAME, (old, old))
    said: list[str] = []
    with locked(tmp_path, said.append):
        assert owner_of(tmp_path)["pid"] == os.getpid()
    assert "taken over" in said[0] and not (tmp_path / NAME).exists()


def test_a_lock_makes_no_folder_that_stays(tmp_path):
    with locked(tmp_path / "a" / "b", lambda _: None):
        assert (tmp_path / "a" / "b" / NAME).exists()
    assert not (tmp_path / "a").exists()


# ---- a full disk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [9, 20, 33])
def test_a_full_disk_ends_with_exit_2_and_a_good_checkpoint(
    model, rows, straight_of_files, tmp_path, monkeypatch, capsys, after
):
    """ENOSPC at one of the flushes, so in the middle of what is written; then there is room again."""
    out = tmp_path / "run"
    settings = settings_of(model, out, data=str(rows))
    left, plain = [after], os.fsync

    def full(handle: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(handle)

    with monkeypatch.context() as patch:
        patch.setattr(paths.os, "fsync", full)
        assert main(command(settings, tmp_path)[3:]) == 2
    said = capsys.readouterr().err
    assert "no disk space left" in said and "Traceback" not in said
    assert [path.name for path in out.rglob(".*")] == []
    found, damaged = newest(out, lambda _: None)
    assert not damaged and (found is not None or after == 9)
    run = train(settings)
    assert same_bits(weights(run), weights(straight_of_files)) and story(run) == story(straight_of_files)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or os.geteuid() != 0
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
        ).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_real_full_disk(model, rows, straight_of_files, small_disk, tmp_path, capsys):
    settings = settings_of(model, small_disk / "run", data=str(rows), keep_checkpoints=100)
    assert main(command(settings, tmp_path)[3:]) == 2
    assert "no disk space left" in capsys.readouterr().err
    found, damaged = newest(small_disk / "run", lambda _: None)
    assert found is not None and found.update > 1 and not damaged
    kept = folders(small_disk / "run")
    for folder in kept[:-1]:  # room is made
        shutil.rmtree(folder)
    run = train(replace(settings, keep_checkpoints=1))
    assert same_bits(weights(run), weights(straight_of_files)) and run.record["resumes"][0]["update"] == found.update


def test_a_disk_that_is_full_from_the_start_is_told_before_training(model, rows, small_disk, tmp_path, capsys):
    handle = os.open(small_disk / "big", os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(handle, 0, os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize)
    os.close(handle)
    settings = settings_of(model, small_disk / "run", data=str(rows))
    assert main(command(settings, tmp_path)[3:]) == 2
    assert "update 1" not in capsys.readouterr().err


# ---- damaged checkpoints ----------------------------------------------------------------------------------------


def cut(file: IO[bytes]) -> None:
    file.truncate(file.seek(0, 2) // 2)


def flip(file: IO[bytes]) -> None:
    file.seek(-3, 2)
    byte = file.read(1)
    file.seek(-3, 2)
    file.write(bytes([byte[0] ^ 1]))


FILES = ("adapters.safetensors", "optimizer.safetensors", "best.safetensors", "state.json")
USUAL = {*((name, cut) for name in FILES), ("adapters.safetensors", flip), ("state.json", None)}


@pytest.mark.parametrize(
    ("name", "harm"),
    [pytest.param(name, harm, marks=() if (name, harm) in USUAL else pytest.mark.slow)
     for name in FILES for harm in (cut, flip, None)],
)  # fmt: skip
def test_trap_t10_a_damaged_checkpoint_falls_back_to_the_one_before(model, broken, tmp_path, name, harm):
    settings = settings_of(model, tmp_path / "run")
    shutil.copytree(broken, tmp_path / "run")
    *_, before, last = folders(tmp_path / "run")
    if harm is None:
        (last / name).unlink()
    else:
        with (last / name).open("r+b") as file:
            harm(file)
    said = Breaking(9)
    with pytest.raises(Exception, match=r"^$"):
        train(settings, data(), progress=said)
    assert any(f"{last.name} is damaged" in text and name in text for text in said.said)
    assert any(f"going on after update {int(before.name[5:])} " in text for text in said.said)


def test_all_checkpoints_damaged_is_an_error(model, tmp_path):
    settings = settings_of(model, tmp_path / "run")
    broken_off(settings, data(), 4)
    for folder in folders(tmp_path / "run"):
        (folder / "state.json").write_text("{")
    with pytest.raises(InputError, match="every checkpoint"):
        train(settings, data())


def test_the_run_after_a_fallback_has_the_same_bits(model, straight, broken, tmp_path):
    settings = settings_of(model, tmp_path / "run")
    shutil.copytree(broken, tmp_path / "run")
    with (folders(tmp_path / "run")[-1] / "adapters.safetensors").open("r+b") as file:
        cut(file)
    run = train(settings, data())
    assert same_bits(weights(run), weights(straight)) and story(run) == story(straight)


def test_old_checkpoints_are_pruned_and_one_is_there_at_every_moment(model, tmp_path, monkeypatch):
    from calltune import checkpoints

    seen = []

    def watched(run: Path, keep: int) -> None:
        seen.append(len([folder for folder in folders(run) if read_checkpoint(folder)]))
        plain(run, keep)
        assert [read_checkpoint(folder).update for folder in folders(run)]

    plain = checkpoints.prune
    monkeypatch.setattr(checkpoints, "prune", watched)
    run = train(settings_of(model, tmp_path / "run", keep_checkpoints=3, iters=6), data())
    assert seen[0] == 1 and max(seen) == 4
    assert [folder.name for folder in folders(run.folder)] == ["step-0000004", "step-0000005", "step-0000006"]
