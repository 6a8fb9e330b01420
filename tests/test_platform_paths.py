"""Writing whole or not at all, and the disk's errors in plain words."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calltune.errors import InputError
from calltune.platform import machine, paths


def test_the_cache_folder_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "here"))
    assert paths.cache_dir() == tmp_path / "here"
    monkeypatch.delenv("CALLTUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(paths.sys, "platform", "darwin")
    assert paths.cache_dir() == tmp_path / "Library" / "Caches" / "calltune"
    monkeypatch.setattr(paths.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert paths.cache_dir() == tmp_path / "xdg" / "calltune"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # invalid, to be ignored
    assert paths.cache_dir() == tmp_path / ".cache" / "calltune"


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    paths.atomic_write(path, "grün")
    assert path.read_bytes() == "grün".encode()
    paths.atomic_write(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~paths._umask()


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(paths.os, "fsync", full)
    with pytest.raises(InputError, match="no disk space left"):
        paths.atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "step-1"
    with paths.atomic_folder(target) as work:
        (work / "sub").mkdir()
        (work / "sub" / "a").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "1"
    with paths.atomic_folder(target) as work:
        (work / "b").write_text("2")
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_a_block_that_fails_leaves_the_old_folder(tmp_path):
    target = tmp_path / "step-1"
    target.mkdir()
    (target / "a").write_text("old")

    def fail_after_writing():
        with paths.atomic_folder(target) as work:
            (work / "a").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_writing()
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_trap_t10_a_kill_during_a_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "adapter"
    path.write_bytes(b"old" * 1000)
    code = (
        "import sys; from calltune.platform.paths import atomic_write\n"
        "print('go', flush=True)\n"
        "while True: atomic_write(sys.argv[1], b'new' * 2_000_000)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    child.stdout.readline()
    time.sleep(0.15)
    child.kill()
    child.wait()
    content = path.read_bytes()
    assert content in (b"old" * 1000, b"new" * 2_000_000)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError) as caught:
        paths.check_writable(tmp_path / "out" / "run")
    assert str(tmp_path / "out" / "run") in caught.value.message
    assert caught.value.next_step


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="no permission"):
            paths.check_writable(tmp_path)
    finally:
        tmp_path.chmod(0o755)


def test_a_file_system_that_takes_no_folder():
    if not Path("/proc").is_dir():
        pytest.skip("needs a /proc")
    with pytest.raises(InputError, match="/proc/calltune"):
        paths.check_writable(Path("/proc/calltune"))


def test_too_little_space_is_told_before_the_work(tmp_path):
    with pytest.raises(InputError, match=r"no disk space: .* MB needed, .* MB free"):
        paths.check_writable(tmp_path, need_bytes=1 << 60)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no disk space left"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EDQUOT, "quota"),
    ],
)
def test_the_disks_errors_in_plain_words(code, words, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path))
    problem = paths.disk_problem(OSError(code, os.strerror(code)), tmp_path / "models" / "m.gguf")
    assert words in problem.message
    assert str(tmp_path / "models" / "m.gguf") in problem.message
    assert "CALLTUNE_CACHE=FOLDER" in problem.next_step
    assert "CALLTUNE_CACHE" not in paths.disk_problem(OSError(code, ""), "/elsewhere/x").next_step


@pytest.mark.parametrize(
    ("system", "arch", "glibc", "python", "words"),
    [
        ("Linux", "x86_64", "2.35", (3, 11), None),
        ("Linux", "aarch64", "2.41", (3, 13), None),
        ("Darwin", "arm64", None, (3, 12), None),
        ("Windows", "AMD64", None, (3, 12), "WSL2"),
        ("Darwin", "x86_64", None, (3, 12), "Linux container"),
        ("Linux", "x86_64", "2.31", (3, 11), "glibc 2.31 is older than 2.35: use a newer distribution"),
        ("Linux", "x86_64", "2.9", (3, 11), "glibc 2.9 is older"),
        ("Linux", "x86_64", None, (3, 11), "glibc"),
        ("Linux", "riscv64", "2.39", (3, 11), "not supported"),
        ("Linux", "x86_64", "2.39", (3, 10), "Python 3.10 is too old"),
    ],
)
def test_an_unsupported_machine_gets_one_line_with_the_way_out(system, arch, glibc, python, words):
    text = machine._unsupported(system, arch, glibc, python)
    if words is None:
        assert text is None
    else:
        assert words in text
        assert "\n" not in text


def test_cores_follow_affinity_and_quota(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_cgroup_cpu_quota", lambda: None)
    assert machine.usable_cores() == 8
    monkeypatch.setattr(machine, "_cgroup_cpu_quota", lambda: 2.5)
    assert machine.usable_cores() == 3
    monkeypatch.setattr(machine, "_cgroup_cpu_quota", lambda: 0.2)
    assert machine.usable_cores() == 1


def test_a_containers_quota_is_read(monkeypatch, tmp_path):
    own = tmp_path / "a" / "b"
    own.mkdir(parents=True)
    (own / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(machine, "_cgroup_folders", lambda name: [own, own.parent] if not name else [])
    assert machine._cgroup_cpu_quota() == 1.5
