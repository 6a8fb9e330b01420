"""Copied values from training to the reply: the run's record, replies one by one, side by side and served."""

from __future__ import annotations

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from heard import started, together, work
from tiny import TOOLS, tiny_model, weather_rows

from calltune.answers import answer_key
from calltune.caller import Caller, load
from calltune.data.copied import stands_in
from calltune.engine.decode import Sampling
from calltune.engine.writing import Writing, choose
from calltune.errors import CannotFinish
from calltune.evaluate import evaluate
from calltune.grammar import Rules
from calltune.runs import LEARNT
from calltune.schema import Message
from calltune.settings import TrainSettings
from calltune.train import train

ASKED = ["How warm is Paris or Oslo now?", "Weather in São Paulo, please", 'The time in "New York"', "Lima?"]
COPIED = {"get_weather": ("city",), "get_time": ("city",)}
REQUESTS = [((Message("user", text),), TOOLS) for text in ASKED]
SAID = {"get_weather": {"days": "number"}}
REQUIRED = Rules("required", parallel=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def caller(folder) -> Caller:
    return replace(load(folder, think=False), copied=COPIED)


def cities(replies) -> list[str]:
    return [call.arguments["city"] for reply in replies for call in reply.calls if "city" in call.arguments]


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.0, seed=3)])
def test_a_model_that_knows_nothing_still_says_words_of_the_request(caller, sampling):
    bound = caller.batch(REQUESTS, rules=REQUIRED, max_tokens=80, sampling=sampling)
    found = [(text, city) for text, reply in zip(ASKED, bound, strict=True) for city in cities([reply])]
    assert len(found) >= 2 and [(text, city) for text, city in found if not stands_in(city, [text])] == []
    free = replace(caller, copied={}).batch(REQUESTS, rules=REQUIRED, max_tokens=80, sampling=sampling)
    assert not all(stands_in(city, ASKED) for city in cities(free)) or not cities(free)


def test_side_by_side_as_one_by_one(caller):
    together_ = [reply.raw for reply in caller.batch(REQUESTS, rules=REQUIRED, max_tokens=60)]
    assert together_ == [caller(m, t, rules=REQUIRED, max_tokens=60).raw for m, t in REQUESTS]
    assert together_ == ["".join(caller.stream(m, t, rules=REQUIRED, max_tokens=60)) for m, t in REQUESTS]


@pytest.fixture
def start(folder):
    yield from started(folder)


def test_served_replies_keep_to_the_words_too(caller, start):
    worker = start(caller)
    works = [work(text, rules=REQUIRED, max_tokens=60) for text in ASKED]
    assert [made.text for made in together(worker, works)] == [
        caller(w.messages, w.tools, rules=REQUIRED, max_tokens=60).raw for w in works
    ]


class Refusing:
    """A guide without a mask that will not go on with one token."""

    finished = False

    def __init__(self, token: int) -> None:
        self.token, self.told = token, list[int]()

    def mask(self) -> None:
        return None

    def takes(self, token: int) -> bool:
        self.told.append(token)
        return token != self.token

    def forced(self) -> list[int]:
        return []


def test_a_guide_without_a_mask_is_asked_about_each_token():
    logits = mx.array(np.array([[0.0, 3.0, 2.0, 1.0]] * 2, np.float32))
    guide = Refusing(1)
    rows = [Writing(frozenset({9}), 8, guide), Writing(frozenset({9}), 8)]
    assert choose(logits, rows) == [2, 1] and guide.told == [1, 2]


def test_a_guide_that_refuses_every_token_ends_its_reply_with_an_error():
    guide = Refusing(1)
    guide.takes = lambda token: False  # type: ignore[method-assign]
    rows = [Writing(frozenset({9}), 8, guide), Writing(frozenset({9}), 8)]
    tokens = choose(mx.zeros((2, 4)), rows)
    for writing, token in zip(rows, tokens, strict=True):
        writing.add(token)
    assert rows[0].ended and rows[0].ids == [] and rows[1].ids == [0]
    with pytest.raises(CannotFinish, match="no token can follow"):
        rows[0].finish()


# ---- the run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    settings = TrainSettings(model=str(folder), out=str(tmp_path_factory.mktemp("run") / "run"), epochs=1,
                             batch_size=4, num_layers=1, val_batches=1)  # fmt: skip
    rows = weather_rows(12)
    return train(settings, {"train": rows, "test": rows[:4]})


def test_a_run_records_them_and_its_caller_keeps_to_them(run):
    assert run.record["copied"] == {"get_weather": ["city"]}
    assert json.loads((run.folder / "calltune.json").read_text())["copied"] == {"get_weather": ["city"]}
    assert load(run).copied == {"get_weather": ["city"]}
    assert run.record["said"] == {} and run.record["distinct"] is False  # no number, no reply with several calls
    assert load(replace(run, record=run.record | {"said": SAID, "distinct": True})).said == SAID
    free = load(replace(run, record=run.record | {"said": SAID, "distinct": True}), copying=False)
    assert (free.copied, free.said, free.distinct) == ({}, {}, False)
    old = load(replace(run, record={key: value for key, value in run.record.items() if key not in LEARNT}))
    assert (old.copied, old.said, old.distinct) == ({}, {}, False)  # of an older version


def test_a_call_that_comes_again_is_made_once_wherever_a_reply_is_read(caller):
    call = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'
    assert len(caller.parse_text(call + call, tools=TOOLS).calls) == 2
    once = replace(caller, distinct=True).parse_text(call + call, tools=TOOLS)
    assert len(once.calls) == 1 and once.notes == ("get_weather: the same call came again and is made once",)
    assert once.raw == call + call


def test_an_evaluation_says_so_and_does_without(run, tmp_path):
    bound, free = (
        evaluate(run, copying=copying, max_tokens=8, out=tmp_path / str(copying)) for copying in (True, False)
    )
    assert [note for note in bound.method if "For 1 parameter every" in note]
    assert not [note for note in free.method if "parameter" in note]
    caller = load(run)
    others = [{"copied": {}}, {"said": SAID}, {"distinct": True}]  # no answer is taken from another
    keys = [json.dumps(answer_key(caller, 8)), *(json.dumps(answer_key(replace(caller, **o), 8)) for o in others)]
    assert len(set(keys)) == 4
