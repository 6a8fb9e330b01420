"""Prompts in pieces: the replies are the same, others go on between the pieces, and what nobody waits for stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from heard import OTHERS, Heard, alone, together, work
from test_decode import prompts, reference, same
from tiny import ARCHS, CITIES, TOOLS, WINDOW, tiny_model

from calltune.caller import Caller
from calltune.caller import load as load_caller
from calltune.engine.batch import Batch
from calltune.engine.decode import Decoder, generate_batch
from calltune.engine.load import LoadedModel, load
from calltune.engine.pieces import PIECE
from calltune.engine.running import Joining, Running
from calltune.engine.writing import Writing
from calltune.grammar import Rules
from calltune.serve.work import Counts, Stopped
from calltune.serve.worker import ModelWorker

TOKENS = 8
NONE: frozenset[int] = frozenset()


@pytest.fixture(scope="module", params=ARCHS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny(tmp_path_factory.mktemp("model"), "llama")


def tiny(folder: Path, arch: str) -> LoadedModel:
    return load(str(tiny_model(folder, arch, "gemma" if arch.startswith("gemma") else "chatml")))


def asked(prompt: Sequence[int], prefix: int = 0, limit: int = TOKENS) -> Joining:
    return Joining(Writing(NONE, limit), prompt, tuple(prompt[:prefix]))


def end(running: Running) -> None:
    """Turns as the server's thread takes them, until all have ended."""
    for _ in range(1000):
        if not running.fillings and not running.batches:
            return
        running.fill()
        running.step()
        running.leave()
        running.release()
    raise AssertionError("it does not come to an end")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the runs over prompts."""
    shapes: list[tuple[int, ...]] = []
    plain = Decoder.run

    def run(self: Decoder, ids: Any, caches: Any) -> Any:
        shapes.append(tuple(ids.shape))
        return plain(self, ids, caches)

    monkeypatch.setattr(Decoder, "run", run)
    return shapes


# ---- the same replies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("piece", "fast"),
    [(7, True), (WINDOW, False), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        (7, False), (WINDOW, True), (64, True), (64, False)))],
)  # fmt: skip
def test_replies_are_those_of_prompts_in_one_run(loaded, piece, fast):
    """Prompts that share a prefix, others that share parts, and alone; of 1 to 150 tokens; some come later."""
    shared, parts, single = prompts(40, (1, 100, 90, 3)), prompts(60, (50, 52, 5), 1), prompts(0, (150, 3, 33, 1), 2)
    joining = [*(asked(prompt, 40) for prompt in shared), *map(asked, [*parts, *single])]
    running = Running(Decoder(loaded.model, NONE), piece, fast)
    later = joining[2::3]
    running.admit([one for one in joining if one not in later])
    for one in later:
        running.fill()
        running.step()
        running.admit([one])
    end(running)
    for one in joining:
        same(loaded, one.prompt, one.writing.finish().ids, reference(loaded, one.prompt, TOKENS))


@pytest.mark.parametrize("piece", [7, pytest.param(WINDOW, marks=pytest.mark.slow)])
def test_bound_replies_are_as_alone(loaded, tmp_path, monkeypatch, piece):
    """In the server, with two sets of tools and none, free and bound."""
    for kind in PIECE:
        monkeypatch.setitem(PIECE, kind, piece)
    folder = tiny_model(
        tmp_path, loaded.model.model_type, "gemma" if "gemma" in loaded.model.model_type else "chatml"
    )
    rules, offered = (None, Rules(), Rules("required")), (TOOLS, OTHERS, ())
    works = [work(f"Is it cold in {city} now? {'Or warm? ' * (20 * i % 50)}", offered[i % 3],
                  rules=rules[i // 3 % (3 if offered[i % 3] else 2)]) for i, city in enumerate(CITIES)]  # fmt: skip
    worker = ModelWorker(load_caller(folder), "tiny")
    made = together(worker, works)
    worker.close()
    caller = load_caller(folder)
    assert [one.text for one in made] == [alone(caller, one) for one in works]


def test_models_that_cannot_share_run_in_pieces_too(llama):
    for prompt in prompts(0, (50, 7, 64)):
        one = asked(prompt)
        running = Running(Decoder(llama.model, NONE, sharing=False), 16)
        running.admit([one])
        while not one.writing.ended:
            running.step()
        assert one.writing.ids == reference(llama, prompt, TOKENS)


# ---- what is run over when --------------------------------------------------------------------------------------


def test_each_fill_is_one_run_of_a_piece(llama, runs):
    running = Running(Decoder(llama.model, NONE), 16)
    one = asked(prompts(0, (70,))[0], 40)
    running.admit([one])
    assert not runs
    for done in ([16], [16], [8], [16], [14]):  # the prefix, and the rest
        assert running.fillings and not one.writing.ids
        runs.clear()
        running.fill()
        assert [width for _, width in runs] == done
    assert not running.fillings and len(one.writing.ids) == 1


def test_a_batch_of_evaluation_is_one_run(llama, runs):
    generate_batch(Decoder(llama.model, NONE), prompts(0, (700, 700)), max_tokens=1)
    assert runs == [(2, 700)]


def test_replies_go_on_between_the_pieces(llama):
    running, short, long = Running(Decoder(llama.model, NONE), 16), asked([5, 6, 7], limit=99), prompts(0, (160,))[0]
    running.admit([short])
    running.fill()
    running.admit([asked(long)])
    for count in range(1, 11):
        assert running.fillings and len(short.writing.ids) == count
        running.fill()
        running.step()
    assert not running.fillings


def test_short_prompts_do_not_wait_for_long_ones(llama, runs):
    """Of the same turn, or of a later one, whether their prefix is computed already or not."""
    running = Running(Decoder(llama.model, NONE), 16)
    long, beside, after, other = (asked(prompt, prefix) for prompt, prefix in zip(
        prompts(0, (800, 5, 6, 60), 3), (0, 0, 0, 40), strict=True))  # fmt: skip
    running.admit([long, beside])
    running.fill()
    assert beside.writing.joined
    running.fill()
    running.admit([after])
    running.admit([other])
    for _ in range(3 * 5):
        running.fill()
    assert after.writing.joined and other.writing.joined and not long.writing.joined
    end(running)
    for one in (long, beside, after, other):
        same(llama, one.prompt, one.writing.finish().ids, reference(llama, one.prompt, TOKENS))


def test_a_prefix_that_several_need_is_computed_once(llama, runs):
    first, second = (asked(prompt, 160) for prompt in prompts(160, (5, 6)))
    running = Running(Decoder(llama.model, NONE), 16)
    running.admit([first])
    running.fill()
    running.admit([second])
    end(running)
    assert sum(rows * width for rows, width in runs) == 160 + 5 + 6
    for one in (first, second):
        same(llama, one.prompt, one.writing.finish().ids, reference(llama, one.prompt, TOKENS))


# ---- what nobody waits for --------------------------------------------------------------------------------------


def left_after_cancel(running: Running, runs: list[tuple[int, ...]], row: Writing) -> None:
    """Ends a row as the server's thread does; nothing of it may be run or be in memory afterwards."""
    row.ended = True
    running.leave()
    running.release()
    before = len(runs)
    running.fill()
    assert len(runs) == before
    assert not running.fillings and not running.prefixes and not running.batches and running.prefix == ()


@pytest.mark.parametrize("prefix", [0, 120], ids=["prompt", "prefix"])
@pytest.mark.parametrize("done", [0, 1, 3])
def test_the_work_for_a_prompt_stops_with_it(llama, runs, prefix, done):
    running, one = Running(Decoder(llama.model, NONE), 16), asked(prompts(0, (200,))[0], prefix)
    running.admit([one])
    for _ in range(done):
        running.fill()
    left_after_cancel(running, runs, one.writing)
    assert len(runs) == done and not one.writing.ids


STOPS = [  # every architecture in one case, the others of one architecture; all in `make test-all`
    pytest.param(arch, gone, done, marks=() if (gone, done) == (1, 1) or (arch, done) in usual else pytest.mark.slow)
    for usual in ({("llama", 0), ("llama", 8)},) for arch in ARCHS for gone in (0, 1, 2) for done in (0, 1, 3, 8)
]  # fmt: skip


@pytest.mark.parametrize(("loaded", "gone", "done"), STOPS, indirect=["loaded"])
def test_of_prompts_run_over_together_one_may_stop(loaded, runs, gone, done):
    """The others' runs are narrower by it, and their replies the same."""
    joining = [asked(prompt) for prompt in prompts(0, (150, 140, 135))]
    running = Running(Decoder(loaded.model, NONE), 30)
    running.admit(joining)
    for _ in range(done):
        running.fill()
    assert all(rows == 3 for rows, _ in runs)
    joining[gone].writing.ended = True
    running.leave()
    end(running)
    assert all(rows == 2 for rows, _ in runs[done:])
    for one in joining[:gone] + joining[gone + 1 :]:
        same(loaded, one.prompt, one.writing.finish().ids, reference(loaded, one.prompt, TOKENS))
    assert not joining[gone].writing.ids


def test_a_prompt_that_fails_takes_no_other_with_it(llama, monkeypatch):
    good, bad, beside = (asked(prompt) for prompt in prompts(0, (9, 100, 5)))
    running = Running(Decoder(llama.model, NONE), 16)
    running.admit([good])
    running.fill()
    running.admit([bad, beside])
    running.fill()
    assert beside.writing.joined and not bad.writing.joined
    with monkeypatch.context() as broken:
        broken.setattr("calltune.engine.decoder.run_body", lambda *_: 1 / 0)
        running.fill()
    assert isinstance(bad.writing.error, ZeroDivisionError)
    end(running)
    for one in (good, beside):
        same(llama, one.prompt, one.writing.finish().ids, reference(llama, one.prompt, TOKENS))


def test_a_failure_while_rows_join_ends_those_that_were_there(llama, monkeypatch):
    first, second = (asked(prompt) for prompt in prompts(0, (9, 30)))
    running = Running(Decoder(llama.model, NONE), 16)
    running.admit([first])
    running.fill()
    running.admit([second])
    with monkeypatch.context() as broken:
        broken.setattr(Batch, "_lengthen", lambda *_: 1 / 0)
        running.fill()
        running.fill()
    assert isinstance(first.writing.error, ZeroDivisionError) and first.writing.error is second.writing.error
    end(running)
    third = asked(first.prompt)
    running.admit([third])
    end(running)
    same(llama, third.prompt, third.writing.finish().ids, reference(llama, third.prompt, TOKENS))


# ---- the server's thread ----------------------------------------------------------------------------------------

LONG = "Is it cold in Oslo now? " * 40


class Turns:
    """A worker whose model runs are told of: "run" over a piece of a prompt, "step" of the replies under way."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, sharing: bool = True) -> None:
        self.told: list[str] = []
        self.at: dict[int, Callable[[], object]] = {}  # what to do when so many pieces have been run over
        run, step = Decoder.run, Batch.step

        def running(decoder: Decoder, ids: Any, caches: Any) -> Any:
            self.told.append("run")
            self.at.get(self.told.count("run"), lambda: None)()
            return run(decoder, ids, caches)

        def stepping(batch: Batch) -> None:
            self.told.append("step")
            step(batch)

        monkeypatch.setattr(Decoder, "run", running)
        monkeypatch.setattr(Batch, "step", stepping)
        for kind in PIECE:
            monkeypatch.setitem(PIECE, kind, 32)
        caller: Caller = load_caller(folder)
        caller.decoder.sharing = sharing
        self.worker = ModelWorker(caller, "tiny")

    @property
    def runs(self) -> int:
        return self.told.count("run")


@pytest.fixture
def turns(llama, monkeypatch):
    made = Turns(llama.folder, monkeypatch)
    yield made
    made.worker.close()


def test_a_short_reply_goes_on_beside_a_long_prompt(llama, turns):
    long = Heard()
    short = Heard({2: lambda: (turns.told.clear(), turns.worker.submit(work(LONG, ()), long))})
    turns.worker.submit(work(tools=(), max_tokens=40), short)
    made = long.wait()
    assert made.prompt_tokens > 8 * 32
    pieces = turns.runs
    assert pieces == -(-made.prompt_tokens // 32)
    first = turns.told.index("run")
    assert turns.told[first : first + 2 * pieces] == ["run", "step"] * pieces
    caller = load_caller(llama.folder)
    assert short.wait().text == alone(caller, work(tools=(), max_tokens=40))
    assert made.text == alone(caller, work(LONG, ()))


@pytest.mark.parametrize("beside", [True, False], ids=["beside another", "alone"])
def test_a_long_prompt_stops_after_the_piece_in_which_its_client_left(turns, beside):
    tickets: list[Any] = []
    long, short, after = Heard(), Heard(), Heard()
    turns.at = {3 + beside: lambda: tickets[0].cancel()}  # the short prompt is a piece of its own
    asking = threading.Event()

    def ask() -> None:
        tickets.append(turns.worker.submit(work(LONG, ()), long))
        asking.set()

    if beside:
        turns.worker.submit(work(tools=(), max_tokens=30), short := Heard({1: ask}))
        short.wait()
    else:
        ask()
    assert asking.wait(60)
    while turns.worker.counts() != Counts(0, 0):
        threading.Event().wait(0.01)
    assert turns.runs == 3 + beside
    assert not long.pieces and not long.ended.is_set()
    running = turns.worker._models["tiny"].running
    assert not running.fillings and not running.batches
    turns.worker.submit(work(tools=()), after)
    assert after.wait().text


def test_closing_ends_a_long_prompt_after_the_piece_at_hand(turns):
    """Also what is to come after it is not begun."""
    ended, long, next_one = threading.Event(), Heard(), Heard()

    def close() -> None:
        threading.Thread(target=lambda: (turns.worker.close(), ended.set())).start()
        while not turns.worker._closing:
            threading.Event().wait(0.001)

    turns.at = {3: close}
    turns.worker.submit(work(LONG, ()), long)
    turns.worker.submit(work(LONG, ()), next_one)
    assert ended.wait(60)
    assert turns.runs == 3
    for heard in (long, next_one):
        assert isinstance(heard.error, Stopped) and heard.times == 1


def test_a_model_that_cannot_share_stops_too(llama, monkeypatch):
    turns = Turns(llama.folder, monkeypatch, sharing=False)
    decoder = turns.worker._models["tiny"].caller.decoder
    model, widths, tickets = decoder.model, list[int](), list[Any]()

    def run(ids: Any, **more: Any) -> Any:
        widths.append(ids.shape[1])
        if len(widths) == 3:
            tickets[0].cancel()
        return model(ids, **more)

    run.layers = model.layers  # type: ignore[attr-defined]
    decoder.model = run  # type: ignore[assignment]
    tickets.append(turns.worker.submit(work(LONG, ()), Heard()))
    while turns.worker.counts() != Counts(0, 0):
        threading.Event().wait(0.01)
    turns.worker.close()
    assert widths == [32, 32, 32]
