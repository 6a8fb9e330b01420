"""The server's model thread in trouble: who fails, leaves or waits disturbs nobody, and what is kept is bounded."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest
from heard import Heard, alone, started, together, work
from serving import serving
from tiny import TIME, TOOLS, WEATHER, tiny_model

from calltune.caller import Caller, load
from calltune.engine.batch import Batch
from calltune.errors import InputError, TooLong
from calltune.grammar import Rules
from calltune.platform.process_memory import process_bytes
from calltune.serve import served
from calltune.serve.stream import Deltas
from calltune.serve.work import Counts, Made, QueueFull, Stopped
from calltune.serve.worker import ModelWorker


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def caller(folder):
    return load(folder)


@pytest.fixture
def start(folder):
    yield from started(folder)


def test_what_a_request_gets_wrong_is_told_to_it_alone(caller, start):
    wrong = [
        (work(model="other"), "no such model"),
        (work(rules=Rules("fly", named=True)), "not offered"),
        (work(tools=(WEATHER, WEATHER), rules=Rules()), "same name"),
        (work(schema={}, tools=TOOLS), "cannot be asked for together"),
        (work(tools=(), schema={"type": "no such type"}), "not a JSON Schema"),
    ]
    worker, good = start(), Heard()
    worker.submit(work(), good)
    for asked, said in wrong:
        with pytest.raises(InputError, match=said):
            together(worker, [asked])
    assert good.wait().text == alone(caller, work())


class Failing:
    """A guide that allows a few tokens, then fails."""

    finished = False

    def __init__(self, place: str, left: int) -> None:
        self.place, self.left = place, left

    def _ask(self, place: str, answer: Any) -> Any:
        self.left -= place == self.place
        if self.left < 0:
            raise RuntimeError("the guide is broken")
        return answer

    def mask(self) -> Any:
        import numpy as np

        return self._ask("mask", np.ones(5000, np.bool_))

    def takes(self, token: int) -> bool:
        return self._ask("takes", True)

    def forced(self) -> list[int]:
        return self._ask("forced", [])


@pytest.mark.parametrize("place", ["mask", "takes", "forced"])
@pytest.mark.parametrize("after", [0, 3])
def test_a_guide_that_fails_ends_its_own_reply(caller, start, monkeypatch, place, after):
    worker = start()
    plain = Caller.guide
    monkeypatch.setattr(
        Caller, "guide",
        lambda self, grammar, request: Failing(place, after) if grammar else plain(self, grammar, request),
    )  # fmt: skip
    bad, good = [Heard(), Heard()], [Heard(), Heard()]
    works = [work(text, rules=rules) for text, rules in zip("bcde", (None, Rules(), None, Rules()), strict=True)]
    heard_by = zip(works, (good[0], bad[0], good[1], bad[1]), strict=True)
    worker.submit(work("a"), Heard({0: lambda: [worker.submit(w, h) for w, h in heard_by]}))
    assert [h.wait().text for h in good] == [alone(caller, work(text)) for text in "bd"]
    for heard in bad:
        with pytest.raises(RuntimeError, match="the guide is broken"):
            heard.wait()


@pytest.mark.parametrize("name", ["step", "admit"])
def test_the_worker_goes_on_after_a_step_that_fails(caller, start, monkeypatch, name):
    worker, times, plain = start(), [], getattr(Batch, name)

    def broken(self: Batch, *args: Any) -> Any:
        times.append(1)
        if len(times) == 2:
            raise MemoryError("no room")
        return plain(self, *args)

    monkeypatch.setattr(Batch, name, broken)
    heard = [Heard(), Heard()]
    first = Heard({2: lambda: worker.submit(work("x"), heard[1])})
    worker.submit(work("y"), first)
    if name == "step":
        with pytest.raises(MemoryError):
            first.wait()
        heard[1].ended.wait(0)
    else:  # those that joined before go on
        assert first.wait().text == alone(caller, work("y"))
        with pytest.raises(MemoryError):
            heard[1].wait()
    assert together(worker, [work("z")])[0].text == alone(caller, work("z"))


def test_a_text_that_cannot_be_looked_through_ends_its_own_reply(caller, start, monkeypatch):
    """Stop texts are looked for in the model's thread, beside the others' replies."""
    monkeypatch.setattr(Deltas, "feed", lambda *_: 1 / 0)
    worker, good, bad = start(), Heard(), Heard()
    first = Heard({2: lambda: [worker.submit(work("b", stop=("x",)), bad), worker.submit(work("c"), good)]})
    worker.submit(work("a"), first)
    with pytest.raises(ZeroDivisionError):
        bad.wait()
    assert bad.times == 1
    for heard, text in ((first, "a"), (good, "c")):
        assert heard.wait().text == alone(caller, work(text))


def test_cancelled_replies_leave_the_queue_and_the_batch(caller, start):
    worker = start(batch=2)
    tickets: dict[str, Any] = {}
    heard = {name: Heard() for name in "abcd"}

    def others() -> None:
        for name in "bcd":
            tickets[name] = worker.submit(work(name, max_tokens=64), heard[name])

    def cancel() -> None:
        assert worker.counts() == Counts(2, 2)
        tickets["b"].cancel()  # runs
        tickets["c"].cancel()  # waits
        assert worker.counts().waiting == 1

    heard["a"] = Heard({0: others, 3: cancel})
    tickets["a"] = worker.submit(work("a", max_tokens=64), heard["a"])
    assert heard["d"].wait().text == alone(caller, work("d", max_tokens=64))
    assert heard["a"].wait().text == alone(caller, work("a", max_tokens=64))
    assert not heard["b"].ended.is_set() and not heard["c"].ended.is_set()
    assert 0 < len(heard["b"].pieces) < len(heard["a"].pieces)
    assert not heard["c"].pieces
    tickets["a"].cancel()  # over: nothing happens
    assert worker.counts() == Counts(0, 0)


def test_a_full_queue_refuses(start):
    worker = start(batch=1, queue=2)
    heard, refused = [Heard(), Heard()], []

    def more() -> None:
        for h in heard:
            worker.submit(work(), h)
        with pytest.raises(QueueFull) as error:
            worker.submit(work(), Heard())
        refused.append(error)

    first = Heard({1: more})
    worker.submit(work(), first)
    assert len({h.wait().text for h in (first, *heard)}) == 1
    assert refused


def test_closing_tells_those_under_way(start):
    worker, waiting = start(batch=1), Heard()
    closing = threading.Event()
    first = Heard({1: lambda: (worker.submit(work(), waiting), closing.set())})
    worker.submit(work(max_tokens=5000), first)
    assert closing.wait(60)
    worker.close()
    for heard in (first, waiting):
        assert isinstance(heard.error, Stopped)
        assert heard.times == 1
    with pytest.raises(Stopped):
        worker.submit(work(), Heard())


def test_a_listener_that_fails_disturbs_nobody(caller, start):
    worker, good = start(), Heard()
    bad = Heard({0: lambda: worker.submit(work("b"), good), 2: lambda: 1 / 0})
    worker.submit(work("a"), bad)
    assert good.wait().text == alone(caller, work("b"))
    assert len(bad.pieces) == 2 and not bad.ended.is_set()


def many(worker: ModelWorker, count: int, sets: int) -> None:
    """Requests, some at a time, of so many sets of tools."""
    room = threading.Semaphore(16)

    class Next(Heard):
        def done(self, made: Made) -> None:
            super().done(made)
            room.release()

        def failed(self, error: Exception) -> None:
            super().failed(error)
            room.release()

    heard = []
    for i in range(count):
        assert room.acquire(timeout=60)
        tools = (replace(WEATHER, description=f"The weather, {i % sets}."), TIME)
        heard.append(Next())
        schema = {"enum": [f"answer {i % sets}"]} if i % 7 == 0 else None
        worker.submit(
            work(f"Request {i}", () if schema else tools, rules=Rules(), schema=schema, max_tokens=3), heard[-1]
        )
    assert all(h.wait() for h in heard)


def test_what_is_kept_is_bounded(folder, start, monkeypatch):
    monkeypatch.setattr(served, "PREFIX_MEMORY", 1 << 20)
    caller = load(folder)
    worker = start(caller)
    many(worker, 100, 100)
    model = worker._models["tiny"]
    for kept in (caller.kept, caller.beginnings, model.tools, model.schemas):
        assert 0 < len(kept) <= 64
    prefixes = list(caller.decoder.kept.entries.values())
    assert 1 < len(prefixes) < 30
    assert sum(k.nbytes + v.nbytes for layers in prefixes for k, v in layers) <= 1 << 20
    worker.close()
    assert not worker._running and not worker._waiting and not model.running.batches


@pytest.mark.slow
def test_memory_does_not_grow_over_2000_requests(folder, start, monkeypatch):
    monkeypatch.setattr(served, "PREFIX_MEMORY", 4 << 20)
    worker = start()
    many(worker, 500, 80)
    before = process_bytes()
    many(worker, 2000, 80)
    assert process_bytes() - before < 30 << 20


def test_a_thread_that_cannot_go_on_says_so(caller, monkeypatch):
    """Nobody waits for a reply that is never made, and /health tells."""
    worker, first = ModelWorker(caller, "tiny"), Heard()
    monkeypatch.setattr(worker._models["tiny"].running, "leave", lambda: 1 / 0)
    worker.submit(work(max_tokens=3), first)
    with pytest.raises((Stopped, ZeroDivisionError)):
        first.wait()
    worker._thread.join(30)
    assert not worker._thread.is_alive() and worker.counts() == Counts(0, 0, stopped=True)
    with pytest.raises(Stopped):
        worker.submit(work(), Heard())
    with serving(worker) as found:
        answer = httpx.get(f"{found.address}/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "stopped")


def test_what_no_context_can_hold_does_not_wait(caller):
    worker = ModelWorker(caller, "tiny")
    with pytest.raises(TooLong, match="at least"):
        worker.submit(work("x" * 10_000_000), Heard())
    worker.close()
