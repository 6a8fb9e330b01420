"""Rows that are looked at in several processes: the same report, and plain words when a process fails."""

import contextlib
import ctypes
import gzip
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from check_rows import CALLED, TOOL, command, row, say
from test_fuzz_rows import broken_file

from calltune.cli import check
from calltune.data import findings, pool, sources
from calltune.data.check import Checker
from calltune.data.files import MAX_ROW
from calltune.data.pool import AHEAD, FEW, Pool, Worker
from calltune.data.sources import Source
from calltune.errors import CannotFinish, InputError

DATA = Path(__file__).parent / "data"
SHARED = Path(os.environ.get("CALLTUNE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
QUESTION = "Find the area of a triangle of base 10."


@pytest.fixture
def started(monkeypatch):
    """The processes that were started; few rows are enough for it."""
    monkeypatch.setattr(pool, "FEW", 2)
    monkeypatch.setattr(findings, "PIECE_ROWS", 7)
    made = []

    class Counted(Worker):
        def __init__(self):
            super().__init__()
            made.append(self.process)

    monkeypatch.setattr(pool, "Worker", Counted)
    yield made
    assert all(process.poll() is not None for process in made)  # none outlives its pool


def lines(folder: Path) -> list[bytes]:
    """Lines with every kind of problem: of the tests' files, damaged ones, and such as only other rows show."""
    broken_file(folder / "broken.jsonl", 3, 120)
    text = (folder / "broken.jsonl").read_bytes()
    for name in ("seal_invalid_rows", "seal_train_rows", "seal_hermes_rows", "seal_train_rows"):
        text += (DATA / f"{name}.jsonl").read_bytes()
    asked, refuse = say("user", QUESTION), say("assistant", "I cannot.")
    rows = [
        row(), row(id="a"), row(id="a"), row(id="b"),
        row(messages=[asked, refuse]),
        row(messages=[say("user", "x y"), refuse]), row(messages=[say("user", "y x"), refuse]),
        row(tools=[TOOL.to_openai(), TOOL.to_openai()]),
        row(tools=[{"name": "f", "parameters": {"type": "object", "properties": {"n": None}}}]),
        row(messages=[say("user", "x"), say("tool", "7"), CALLED]),
        {"text": "as it stands"}, {"prompt": "x", "completion": "y"}, {"rows": 1},
    ]  # fmt: skip
    made = [json.dumps(item).encode() for item in rows]
    made += [
        repr(row(id="python")).encode(),
        json.dumps(row(meta={"x": "\ud800"})).encode(),
        b"",
        b"{" + b"x" * (MAX_ROW + 9),
    ]
    return [*text.splitlines(), *made, made[0]]


def both(capsys, tmp_path: Path, *words: str) -> list[str]:
    """What the command says and writes with one process and with two."""
    said = []
    for count in (1, 2):
        out = tmp_path / f"out{count}.jsonl"
        extra = ["--repair", str(out)] if "--repair" in words else []
        given = [word for word in words if word != "--repair"]
        code, text = command(capsys, check, *given, *extra, "--workers", str(count))
        written = [path.read_bytes() for path in (out, tmp_path / f"out{count}.rejected.jsonl") if path.exists()]
        said.append((code, text.replace(out.stem, "out"), written))
    assert said[0] == said[1]
    return said[0]


@pytest.mark.parametrize("flags", [["--json"], [], ["--repair"], ["--json", "--strict", "--repair"]], ids=" ".join)
def test_two_processes_say_and_write_what_one_does(tmp_path, capsys, started, flags):
    path, asked = tmp_path / "rows.jsonl", tmp_path / "asked.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines(tmp_path)))
    asked.write_text(json.dumps({"question": [[say("user", QUESTION)]]}))
    code, text, written = both(capsys, tmp_path, str(path), *flags, "--benchmark", str(asked))
    assert code == 1 and len(started) == 2
    assert len(written) == (2 if "--repair" in flags else 0) and all(written)
    if flags == ["--json"]:
        kinds = set(json.loads(text)["kinds"])
        assert {"bad_json", "bad_encoding", "bad_text", "too_large", "duplicate_id", "near_duplicate", "not_json",
                "benchmark_question", "unknown_function", "wrong_type", "orphan_result", "duplicate_tool",
                "no_messages", "null_in_schema", "value_not_in_dialogue"} <= kinds  # fmt: skip


def test_other_files_and_several_sources_are_told_the_same(tmp_path, capsys, started):
    many = lines(tmp_path)
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(b"\n".join(many)))
    good = [json.loads(line) for name in ("train", "hermes") for line in (DATA / f"seal_{name}_rows.jsonl").open()]
    (folder / "valid.json").write_text(json.dumps([*good, 1, {"messages": 1}], indent=1) + "x")
    (folder / "test.jsonl").write_bytes(many[-1])  # too little for other processes, and a copy of a row of train
    _, text, _ = both(capsys, tmp_path, str(folder), "--json")
    assert {"near_duplicate"} == {p["kind"] for p in json.loads(text)["problems"]
                                  if p.get("file") == "test.jsonl" and "of train" in p["found"]}  # fmt: skip
    mixed = tmp_path / "mix.yaml"
    mixed.write_text(
        "sources:\n  - {data: parts, limit: 150}\n  - {data: parts/valid.json, columns: {tools: none}}\n"
    )
    both(capsys, tmp_path, str(mixed), "--json")
    assert len(started) == 4


def test_rows_that_are_no_text_are_told_the_same(tmp_path, capsys, monkeypatch, started):
    values = [row(id=f"row {i % 60}", when=i, meta=float("nan") if i % 9 == 0 else {}) for i in range(90)]
    monkeypatch.setattr(sources, "parquet_rows", lambda path: iter(values))  # which pyarrow would read
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    code, text, written = both(capsys, tmp_path, str(tmp_path / "rows.parquet"), "--repair", "--json")
    assert code == 1 and len(started) == 2 and all(written)
    assert {"bad_json": 10, "duplicate_id": 23}.items() <= json.loads(text)["kinds"].items()


@pytest.mark.parametrize(
    "name", ["seal_invalid", *(pytest.param(name, marks=pytest.mark.slow) for name in ("seal_train", "seal_hermes"))]
)
@pytest.mark.skipif(not (SHARED / "seal_invalid.jsonl").is_file(), reason="no data")
def test_whole_files_are_told_the_same(tmp_path, capsys, started, name):
    both(capsys, tmp_path, str(SHARED / f"{name}.jsonl"), "--json", "--repair")
    assert len(started) == 2


def test_a_file_that_breaks_in_the_middle_leaves_no_half_output_and_no_process(tmp_path, capsys, started):
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(row()) + "\n").encode() * 5000)[:-200])
    with pytest.raises(InputError, match="cannot be read"):
        command(capsys, check, str(path), "--repair", str(tmp_path / "clean.jsonl"), "--workers", "2")
    assert [p.name for p in tmp_path.iterdir()] == ["d.jsonl.gz"] and len(started) == 2


def test_little_data_and_one_worker_start_no_process(tmp_path, capsys, started):
    path = tmp_path / "d.jsonl"
    path.write_text((json.dumps(row()) + "\n") * 7)
    assert command(capsys, check, str(path), "--workers", "4")[0] == 0
    path.write_text((json.dumps(row()) + "\n") * 100)
    assert command(capsys, check, str(path), "--workers", "1")[0] == 0
    assert started == []
    with pytest.raises(InputError, match="at least one"):
        command(capsys, check, str(path), "--workers", "0")


def test_no_more_processes_start_than_there_are_pieces(started):
    with Pool(9) as several:
        assert [made for _, made in several.map(int, ["1", "2", "3"])] == [1, 2, 3]
        assert len(started) == 3
        assert [made for _, made in several.map(str, range(5))] == list("01234")
        assert len(started) == 5


def test_results_come_in_order_and_few_pieces_are_read_ahead(started):
    drawn = []

    def numbers(stop):
        for i in range(stop):
            drawn.append(i)
            yield i

    with Pool(3) as several:
        for expected, (piece, result) in enumerate(several.map(str, numbers(200))):
            assert (piece, result) == (expected, str(expected))
            assert len(drawn) <= expected + AHEAD * 3 + FEW
        assert expected == 199
        left = several.map(str, numbers(50))  # whoever stops asking gets no stale results afterwards
        assert next(left) == (0, "0")
        left.close()
        assert list(several.map(partial(int, base=2), ["1", "10", "11"] * 5))[1::3] == [("10", 2)] * 5


def test_a_failing_task_is_told_with_its_piece():
    with Pool(2) as several, pytest.raises(CannotFinish, match="x: a bug of ours: ValueError"):
        list(several.map(int, [*"1234567890", "x", *"12345"]))


def test_a_process_that_is_ended_is_told_with_its_lines(tmp_path, started):
    path = tmp_path / "d.jsonl"
    path.write_text((json.dumps(row()) + "\n") * 500)
    with Pool(2) as several:
        verdicts = Checker(pool=several).check(Source("d.jsonl", path))
        next(verdicts)
        os.kill(started[1].pid, signal.SIGKILL)
        with pytest.raises(CannotFinish, match=r"lines \d+ to \d+ of d.jsonl: .* ended by signal 9"):
            list(verdicts)


@pytest.mark.parametrize("left", [0, 3, 500])
def test_a_process_ends_with_the_pipe(left):
    """Also in the middle of a piece, where this process was killed while it wrote one."""
    worker = Worker()
    worker.process.stdin.write(pickle.dumps((None, b"x" * 9999), pickle.HIGHEST_PROTOCOL)[:left])
    worker.process.stdin.close()
    assert worker.process.wait(timeout=60) == 0
    worker.close()


# A script without `if __name__ == "__main__"`, whose processes can be stopped as soon as they are there.
SCRIPT = """
import os, signal, sys
from calltune.cli import main
from calltune.data import pool
made = []
class Stopped(pool.Worker):
    def __init__(self):
        super().__init__()
        made.append(self.process.pid)
    def receive(self, piece):
        while made:
            pid = made.pop(0)  # the first is the one that is waited for
            if "stop" in sys.argv:
                os.kill(pid, signal.SIGSTOP)
            print(pid, file=sys.stderr, flush=True)
        return super().receive(piece)
pool.Worker = Stopped
sys.exit(main(["check", sys.argv[1], "--workers", "2"]))
"""


def run_script(folder: Path, *words: str) -> subprocess.Popen:
    (folder / "script.py").write_text(SCRIPT)
    (folder / "d.jsonl").write_text((json.dumps(row()) + "\n") * 3000)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(folder / "script.py"), str(folder / "d.jsonl"), *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_script_without_a_main_guard_works(tmp_path):
    done = run_script(tmp_path)
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0 and "3000 rows: 3000 ok" in out
    assert len(err.split()) == 2 and all(map(str.isdigit, err.split()))


@pytest.mark.parametrize(
    ("sent", "to_worker", "code", "words"),
    [
        (signal.SIGINT, False, 130, "interrupted"),
        (signal.SIGTERM, False, 143, "terminated"),
        (signal.SIGKILL, True, 3, "next: `--workers 1`"),
    ],
)
def test_an_ended_command_says_so_and_leaves_no_process(tmp_path, sent, to_worker, code, words):
    done = run_script(tmp_path, "stop")
    workers = [int(done.stderr.readline()) for _ in range(2)]
    os.kill(workers[0] if to_worker else done.pid, sent)
    out, err = done.communicate(timeout=120)
    assert (done.returncode, out) == (code, "") and words in err and "Traceback" not in err
    deadline = time.monotonic() + 60
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(pid, 0)
                time.sleep(0.01)
            pytest.fail(f"process {pid} is still there")


def started_and_asked(timers, worker):
    for timer in timers:
        timer.start()
    worker.receive("a piece")


def test_a_process_that_hangs_keeps_no_signal_waiting():
    """Not even one that comes just before this process begins to wait: what is thrown here at a thread is likewise
    heard only when Python code runs again."""
    worker, here = Worker(), ctypes.c_ulong(threading.get_ident())
    os.kill(worker.process.pid, signal.SIGSTOP)
    throw = lambda: ctypes.pythonapi.PyThreadState_SetAsyncExc(here, ctypes.py_object(KeyboardInterrupt))  # noqa: E731
    timers = [threading.Timer(0.2, throw), threading.Timer(30, worker.process.kill)]
    try:
        with pytest.raises(KeyboardInterrupt):
            started_and_asked(timers, worker)
        assert worker.process.poll() is None  # nobody had to end it for that
    finally:
        for timer in timers:
            timer.cancel()
        worker.close()
