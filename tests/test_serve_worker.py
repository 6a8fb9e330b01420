"""The server's model thread: whoever comes and goes meanwhile, each reply is the one that it would be alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from heard import OTHERS, Heard, alone, started, together, work
from tiny import ARCHS, CITIES, TOOLS, tiny_model, weather_rows

from calltune.caller import load, make_caller
from calltune.engine.decode import Sampling
from calltune.errors import InputError
from calltune.grammar import Rules
from calltune.schema import Tool
from calltune.settings import TrainSettings
from calltune.train import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def caller(folder):
    return load(folder)


@pytest.fixture
def start(folder):
    yield from started(folder)


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


def test_a_model_that_cannot_share_runs_one_by_one(folder, caller, start):
    single = load(folder)
    single.decoder.sharing = False
    worker = start(single)
    works = [work(city, rules=Rules() if i % 2 else None) for i, city in enumerate(CITIES[:4])]
    assert [made.text for made in together(worker, works)] == [alone(caller, asked) for asked in works]


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
