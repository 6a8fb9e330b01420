"""The server's model thread: whoever comes and goes meanwhile, each reply is the one that it would be alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tiny import ARCHS, CITIES, TIME, TOOLS, WEATHER, tiny_model, weather_rows

from calltune.caller import Caller, load, make_caller
from calltune.engine.batch import Batch
from calltune.engine.decode import Sampling
from calltune.errors import InputError
from calltune.grammar import Rules
from calltune.platform.process_memory import process_bytes
from calltune.schema import Message, Tool
from calltune.serve import served
from calltune.serve.work import Counts, Made, QueueFull, Stopped, Work
from calltune.serve.worker import Limits, ModelWorker
from calltune.settings import TrainSettings
from calltune.train import train

GREEDY = Sampling()
THING = {"type": "object", "properties": {"thing": {"type": "string"}}, "required": ["thing"]}
OTHERS = (Tool("add_to_list", "Adds a thing to a list.", THING), TIME)


class Heard:
    """Listens to one reply. `at`: what to do when so many pieces have come (0: when the prompt is known)."""

    def __init__(self, at: dict[int, Callable[[], Any]] | None = None) -> None:
        self.at, self.pieces, self.tokens = at or {}, list[str](), 0
        self.made: Made | None = None
        self.error: Exception | None = None
        self.ended, self.times = threading.Event(), 0

    def prompt(self, tokens: int, opened: bool = False) -> None:
        self.tokens = tokens
        self.at.get(0, lambda: None)()

    def piece(self, text: str) -> None:
        self.pieces.append(text)
        self.at.get(len(self.pieces), lambda: None)()

    def done(self, made: Made) -> None:
        self.made, self.times = made, self.times + 1
        self.ended.set()

    def failed(self, error: Exception) -> None:
        self.error, self.times = error, self.times + 1
        self.ended.set()

    def wait(self) -> Made:
        assert self.ended.wait(60)
        if self.error:
            raise self.error
        assert self.made
        assert "".join(self.pieces) == self.made.text
        return self.made


def work(text: str = "Hello", tools: tuple[Tool, ...] = TOOLS, **more: Any) -> Work:
    values = {"model": "tiny", "sampling": GREEDY, "max_tokens": 16} | more
    return Work(messages=(Message("user", text),), tools=tools, **values)


def together(worker: ModelWorker, works: list[Work]) -> list[Made]:
    """The replies to requests that join in one turn."""
    heard = [Heard() for _ in works]
    first = Heard({0: lambda: [worker.submit(w, h) for w, h in zip(works[1:], heard[1:], strict=True)]})
    worker.submit(works[0], first)
    return [h.wait() for h in (first, *heard[1:])]


def alone(caller: Caller, asked: Work) -> str:
    reply = caller(
        asked.messages, asked.tools, rules=asked.rules, max_tokens=asked.max_tokens, sampling=asked.sampling
    )
    return reply.raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def caller(folder):
    return load(folder)


@pytest.fixture
def start(folder):
    """Starts workers, and closes them after the test."""
    workers = []

    def make(caller: Caller | None = None, name: str = "tiny", **limits: int) -> ModelWorker:
        workers.append(ModelWorker(caller or load(folder), name, limits=Limits(**limits)))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


@pytest.mark.parametrize("arch", ARCHS)
def test_together_is_as_alone(arch, tmp_path, start):
    """Two sets of tools and none, free and bound, in one turn: one batch that shares, one that does not."""
    model = tiny_model(tmp_path, arch, "gemma" if arch.startswith("gemma") else "chatml")
    caller = load(model)
    rules, offered = (None, Rules(), Rules("required")), (TOOLS, OTHERS, ())
    works = [work(f"Is it cold in {city} now?", offered[i % 3], rules=rules[i // 3 % (3 if offered[i % 3] else 2)])
             for i, city in enumerate(CITIES)]  # fmt: skip
    for asked, made in zip(works, together(start(load(model)), works), strict=True):
        reply = caller(asked.messages, asked.tools, rules=asked.rules, max_tokens=asked.max_tokens)
        assert made.text == reply.raw
        assert made.reply == reply
        assert made.finish == ("length" if reply.truncated else "stop")


def test_requests_join_in_the_middle(caller, start):
    worker = start(batch=3)
    works = [work(f"Is it cold in {city} now?", OTHERS if i in (2, 3) else TOOLS, rules=Rules() if i % 2 else None,
                  max_tokens=10 + 5 * (i % 3)) for i, city in enumerate(CITIES[:7])]  # fmt: skip
    heard: list[Heard] = []

    def ask(i: int) -> None:
        follows = {2: lambda: ask(2 * i + 1), 4: lambda: ask(2 * i + 2)} if i < 3 else {}
        heard.append(Heard(follows))
        worker.submit(works[i], heard[-1])

    ask(0)
    answers = set()
    for _ in works:
        while len(heard) <= len(answers):
            heard[-1].ended.wait(0.01)
        answers.add(heard[len(answers)].wait().text)
    assert answers == {alone(caller, asked) for asked in works}


def test_a_seed_gives_the_same_beside_others(start):
    worker = start()
    drawn = Sampling(temperature=0.9, top_p=0.95, top_k=50, seed=7)
    first = together(worker, [work(sampling=drawn)])[0]
    rest = [work(city, rules=Rules(), sampling=Sampling(temperature=1.3)) for city in CITIES]
    beside = together(worker, [*rest, work(sampling=drawn), work(sampling=replace(drawn, seed=8)), work()])
    assert beside[-3].text == first.text
    assert len({made.text for made in beside[-3:]}) == 3


def test_stop_texts(caller, start):
    """Split over tokens. The raw text ends with the token that ends the stop text."""
    whole = alone(caller, work(max_tokens=40))
    worker = start()
    for begin, length in ((3, 5), (11, 2), (17, 9)):
        stop = whole[begin : begin + length]
        heard = Heard()
        worker.submit(work(max_tokens=40, stop=("\x00never", stop), calls=False), heard)
        made = heard.wait()
        assert made.text == whole[: len(made.text)]
        assert whole.index(stop) + len(stop) <= len(made.text) < whole.index(stop) + len(stop) + 16
        assert made.finish == "stop"
        assert not made.reply.truncated
        assert made.completion_tokens < 40
    assert together(worker, [work(max_tokens=40, stop=(whole[-1] + "\x00",))])[0].text == whole


def test_stop_texts_cut_no_call_and_no_plan(start):
    """They stand in every call, and end the model's reply only where they stand in its content."""
    worker = start()
    bound = {"rules": Rules("required", parallel=False), "max_tokens": 200}
    plain, stopped = together(worker, [work(**bound), work(**bound, stop=("city", "\n", "}", "<think>"))])
    assert stopped.text == plain.text
    assert [call.name for call in stopped.reply.calls] == [call.name for call in plain.reply.calls] != []


def test_pieces_are_whole_characters(start):
    worker, heard = start(), Heard()
    worker.submit(work("Bonjour", max_tokens=200), heard)
    made = heard.wait()
    assert "\ufffd" in made.text or not made.text.isascii()  # a random model writes random bytes
    assert not any(piece.endswith("\ufffd") for piece in heard.pieces[:-1])
    assert heard.tokens == made.prompt_tokens
    assert made.completion_tokens == 200


def test_prompts_and_replies_fit_the_context(folder, tmp_path, start):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 240}))
    worker = start(load(tmp_path))
    made = together(worker, [work(max_tokens=512)])[0]
    assert made.prompt_tokens + made.completion_tokens == 240
    assert made.finish == "length"
    with pytest.raises(InputError, match=r"maximum context length is 240 tokens .* have \d+"):
        together(worker, [work("word " * 100)])


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
    monkeypatch.setattr(Caller, "guide",
                        lambda self, grammar: Failing(place, after) if grammar else plain(self, grammar))  # fmt: skip
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


def test_long_requests_wait_for_room(caller, start):
    """A bound on the tokens side by side: two of these replies fit, not three."""
    worker = start(tokens=2 * 100)
    most: list[int] = []
    works = [work(name, max_tokens=70) for name in "abcd"]
    heard = [Heard({1: lambda: most.append(worker.counts().running)}) for _ in works]
    heard[0] = Heard({0: lambda: [worker.submit(w, h) for w, h in zip(works[1:], heard[1:], strict=True)]})
    worker.submit(works[0], heard[0])
    assert [h.wait().text for h in heard] == [alone(caller, w) for w in works]
    assert max(most) == 2


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


def test_a_model_that_cannot_share_runs_one_by_one(folder, caller, start):
    single = load(folder)
    single.decoder.sharing = False
    worker = start(single)
    works = [work(city, rules=Rules() if i % 2 else None) for i, city in enumerate(CITIES[:4])]
    assert [made.text for made in together(worker, works)] == [alone(caller, asked) for asked in works]


# ---- the run and its base ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_the_run_and_its_base(kind, folder, tmp_path, start):
    settings = TrainSettings(model=str(folder), out=str(tmp_path / "run"), num_layers=2, rank=2, iters=3,
                             learning_rate=1e-2, keys=("all",), think=False, fine_tune=kind)  # fmt: skip
    run = train(settings, weather_rows(24, think=False))
    worker = start(load(run), "mine")
    if kind == "full":  # its base is not in memory
        assert worker.models == ("mine",)
        return
    assert worker.models == ("mine", "mine:base")
    plain = load(folder)
    alones = {"mine": load(run), "mine:base": make_caller(plain.loaded, run.template)}
    works = [work(f"Is it cold in {city} now?", model=("mine", "mine:base")[i % 2], rules=Rules() if i > 4 else None)
             for i, city in enumerate(CITIES)]  # fmt: skip
    for asked, made in zip(works, together(worker, works), strict=True):
        assert made.text == alone(alones[asked.model], asked)
    same = work(works[0].messages[0].content)
    assert alone(alones["mine"], same) != alone(alones["mine:base"], same)


# ---- response_format --------------------------------------------------------------------------------------------

POINT = {"type": "object", "properties": {"name": {"enum": ["<tool_call>", "</think>"]}, "on": {"type": "boolean"}},
         "required": ["name", "on"], "additionalProperties": False}  # fmt: skip


@pytest.mark.parametrize("think", [True, False])
def test_a_reply_of_a_schema_is_json(folder, start, think):
    worker = start(load(folder, think=think))
    schemas: list[dict[str, Any]] = [POINT, {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
                                     {"enum": ["yes", "no"]}]  # fmt: skip
    works = [work("Say it.", (), schema=schema, max_tokens=400, sampling=Sampling(1.0, seed=i), rules=Rules())
             for i, schema in enumerate(schemas * 3)]  # fmt: skip
    whole = 0
    for asked, made in zip(works, together(worker, works), strict=True):
        assert not made.reply.calls and not made.reply.errors
        if made.finish == "stop":
            whole += 1
            value = json.loads(made.reply.content)
            assert Tool("x", "", {"properties": {"x": asked.schema}}).validator.is_valid({"x": value})
            assert (made.reply.thinking is not None) == made.text.startswith("<think>")
    assert whole >= (1 if think else 6)


def test_a_schema_goes_with_tools_that_may_not_be_called(start):
    asked = work(schema=POINT, rules=Rules("none"), max_tokens=300, sampling=Sampling(1.0, seed=1))
    together(start(), [asked])


def test_what_a_schema_leaves_open_is_checked_afterwards(folder, start):
    loose = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "if": {"required": ["b"]},
             "then": {"required": ["c"]}}  # fmt: skip
    made = together(start(load(folder, think=False)), [work(tools=(), schema=loose)])[0]
    assert json.loads(made.reply.content) == {"a": 1}
    assert "checked afterwards: it fits" in made.reply.notes[0]


# ---- memory -----------------------------------------------------------------------------------------------------


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
