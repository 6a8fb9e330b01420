"""Plans that name functions for which nothing was said: what they go on with, alone, under a grammar and in a run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import tiny_model

from calltune.caller import Caller, load
from calltune.copying import vocabulary_of
from calltune.data.plans import ask_plan, call_plan
from calltune.frames import Frame, frame_of
from calltune.grammar import Rules, grammar_of
from calltune.grounded import Grounded
from calltune.guide import GrammarGuide
from calltune.schema import Message, Tool, ToolCall
from calltune.template import Template
from calltune.tokenizer import Tokenizer

NAMES = ["set_timer", "set", "play", "plan_day", "timer"]
LACKING = {"set_timer": "minutes", "play": "song"}
TOOLS = [
    Tool(name, name, {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]})
    for name in NAMES
]


@pytest.fixture(scope="module")
def frame(template) -> Frame:
    return frame_of(template)


@pytest.fixture(scope="module")
def mark(frame) -> str:
    return frame.think[0]


def guide(tokenizer: Tokenizer, frame: Frame, inner: GrammarGuide | None = None) -> Grounded:
    return Grounded(LACKING, NAMES, frame, tokenizer, vocabulary_of(tokenizer, tokenizer.stop_ids), inner)


def written(text: str, bound: Grounded, tokenizer: Tokenizer) -> str:
    """The text as it comes, with what is forced; up to the first token that may not come."""
    tokens = bound.forced()
    done = list(tokens)
    for token in tokenizer.encode(text):
        mask = bound.mask()
        if mask is not None and not mask[token]:
            return tokenizer.decode(done)
        assert bound.takes(token)
        more = bound.forced()
        done += [token, *more]
        if more:
            break
    return tokenizer.decode(done)


@pytest.mark.parametrize("begin", ["{mark}\n", "{mark}", "\n{mark} "])
@pytest.mark.parametrize("name", LACKING)
def test_a_plan_that_settles_on_a_function_that_lacks_a_value_asks(begin, name, tokenizer, mark, frame):
    begun = begin.format(mark=mark) + call_plan([ToolCall(name, {})])
    asked = ask_plan(name, LACKING[name])
    assert written(begun, guide(tokenizer, frame), tokenizer) == f"{begun}\n{asked}"


@pytest.mark.parametrize(
    "text",
    [
        "One call: set.", "One call: timer.", "No call: no tool fits.", ask_plan("play", "song"),
        "I call set_timer. One call: set_timer.", "</think>One call: play.", "One call: set_timer, please.",
    ],
)  # fmt: skip
def test_all_other_plans_stay_as_they_are(text, tokenizer, mark, frame):
    assert written(f"{mark}\n{text}\n", guide(tokenizer, frame), tokenizer) == f"{mark}\n{text}\n"


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("One call: tim.", False), ("One call: Timer.", False), ("Two calls: timer, tim.", False),
        ("Two calls: set, timer.\n", True), ("Three calls: set, plan_day, set.\n", True),
        ("Two calls: plan_day, play.\n", False), ("Two calls: set_timer, set.\n", False),
        ("Two calls: set, set_timer.\n", False),
    ],
)  # fmt: skip
def test_of_several_functions_only_those_are_named_that_can_be_called(text, stays, tokenizer, mark, frame):
    begun = written(f"{mark}\n{text}", guide(tokenizer, frame), tokenizer)
    assert (begun == f"{mark}\n{text}") == stays
    assert begun.startswith(
        (f"{mark}\nTwo calls:", f"{mark}\nThree calls:", f"{mark}\nOne call:")
    )  # only a name is refused


def test_where_nothing_can_be_called_several_names_are_free(tokenizer, mark, frame):
    bound = Grounded(LACKING, list(LACKING), frame, tokenizer, vocabulary_of(tokenizer, tokenizer.stop_ids))
    text = "Two calls: set_timer, play.\n"
    assert written(text, bound, tokenizer) == text


def test_under_a_grammar_both_hold(tokenizer, template: Template, mark, frame):
    thinking = replace(template, think_instruction="Think.")
    grammar = grammar_of(TOOLS, Rules(), thinking, tokenizer)
    for begun, asked in (("One call: play.", "\n" + ask_plan("play", "song")), ("Two calls: timer, set.", "")):
        inner = GrammarGuide(grammar, tokenizer, tokenizer.stop_ids)
        bound = guide(tokenizer, frame, inner)
        assert written(f"{mark}\n{begun}", bound, tokenizer) == f"{mark}\n{begun}{asked}"
        end = frame_of(thinking).think[1]
        assert all(bound.takes(token) for token in tokenizer.encode(f"\n{end}\nWhich one?"))
        assert bound.mask()[sorted(tokenizer.stop_ids)[0]]  # it may end as a question


@pytest.mark.parametrize("grammar", [False, True])
def test_what_is_to_be_asked_is_not_called(grammar, tokenizer, template: Template, mark, frame):
    thinking = replace(template, think_instruction="Think.")
    made = grammar_of(TOOLS, Rules(), thinking, tokenizer)
    for plan, refused in (("One call: play.", True), ("One call: timer.", False), ("No call: no tool fits.", False)):
        bound = guide(tokenizer, frame, GrammarGuide(made, tokenizer, tokenizer.stop_ids) if grammar else None)
        written(f"{mark}\n{plan}", bound, tokenizer)
        assert all(bound.takes(token) for token in tokenizer.encode(f"\n{frame.think[1]}\n"))
        assert bound.takes(tokenizer.encode(frame.mark)[0]) != refused


def test_no_call_is_begun_behind_a_plan_to_ask(tokenizer, frame, mark):
    for behind in ("\n", f"\n{frame.think[1]}\nWhich one? "):
        bound = guide(tokenizer, frame)
        written(f"{mark}\nOne call: play.", bound, tokenizer)
        assert all(bound.takes(token) for token in tokenizer.encode(behind))
        assert not all(bound.takes(token) for token in tokenizer.encode(f"{frame.mark}\n"))
        assert frame.mark.strip().encode() not in bound.written


@pytest.mark.parametrize("names", [["fs", "fs.read"], ["a,b", "fs"]])
def test_names_that_cannot_be_told_from_the_plan_are_left_alone(names, tokenizer, frame, mark):
    vocabulary = vocabulary_of(tokenizer, tokenizer.stop_ids)
    text = f"{mark}\nOne call: fs.read.\n"
    assert written(text, Grounded({"fs": "n"}, names, frame, tokenizer, vocabulary), tokenizer) == text


# ---- a caller ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def caller(tmp_path_factory) -> Caller:
    said = {name: {"minutes": "number"} for name in NAMES}
    return replace(load(tiny_model(tmp_path_factory.mktemp("model"))), said=said)


def test_a_request_decides_which_functions_lack_a_value(caller):
    def lacking(text: str) -> dict[str, str]:
        guide = caller.guide(None, ((Message("user", text),), TOOLS))
        assert isinstance(guide, Grounded)
        return dict(guide.lacking)

    assert (
        lacking("Please wake me up") == dict.fromkeys(NAMES, "minutes") and lacking("Wake me up in ten minutes") == {}
    )
    must = caller.grammar(TOOLS, Rules("required"))
    guide = caller.guide(must, ((Message("user", "Please wake me up"),), TOOLS))
    assert must and must.must and isinstance(guide, Grounded) and guide.lacking == {}
    plain = replace(caller, template=replace(caller.template, think_instruction=None))
    assert not isinstance(plain.guide(None, ((Message("user", "Please wake me up"),), TOOLS)), Grounded)
    assert caller.freed().guide(None, ((Message("user", "Wake me up"),), TOOLS)) is None


def test_side_by_side_as_one_by_one(caller):
    requests = [((Message("user", text),), TOOLS) for text in ("Wake me", "Play 3 songs", "")]
    together = [reply.raw for reply in caller.batch(requests, max_tokens=20)]
    assert together == [caller(m, t, max_tokens=20).raw for m, t in requests]
    assert together == ["".join(caller.stream(m, t, max_tokens=20)) for m, t in requests]
