"""A model's replies under a grammar: one by one, streamed and side by side, cut, and asked for by the command."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny import TOOLS, WEATHER, tiny_model

from calltune.caller import Caller, load
from calltune.cli import main
from calltune.errors import InputError
from calltune.grammar import Rules
from calltune.schema import Message, Tool, validate_call

HELLO = (Message("user", "Hello"),)


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Caller:
    return load(tiny_model(tmp_path_factory.mktemp("model")), think=False)


def test_bad_rules_are_told(caller):
    for tools, rules, words in [
        ([], Rules("required"), "no tools were given"),
        (TOOLS, Rules("fly", named=True), "not offered"),
        ((WEATHER, WEATHER), Rules(), "same name"),
    ]:
        with pytest.raises(InputError, match=words):
            caller("Hello", tools, rules=rules)
    with pytest.raises(InputError, match="tool_choice"):
        Rules.of({"type": "function"})
    assert Rules.of({"type": "function", "function": {"name": "auto"}}) == Rules("auto", named=True)
    assert Rules.of("required", False) == Rules("required", False)


def test_single_streamed_and_batched_replies_are_one_and_valid(caller):
    """The random model, left alone, writes no call at all."""
    requests = [
        ((Message("user", text),), TOOLS) for text in ("Hello", "What is the weather in Paris?", "Who are you?")
    ]
    for rules in (Rules("required", False), Rules("get_time", named=True), Rules("none"), Rules()):
        batch = caller.batch(requests, max_tokens=60, rules=rules)
        for (messages, tools), reply in zip(requests, batch, strict=True):
            assert caller(messages, tools, max_tokens=60, rules=rules) == reply
            assert "".join(caller.stream(messages, tools, max_tokens=60, rules=rules)) == reply.raw
            assert rules.choice != "none" or not reply.calls
            if rules.choice == "required" and not reply.truncated:
                assert not validate_call(reply.calls[0], TOOLS) and not reply.errors


def test_rows_that_are_cut_in_the_middle_of_forced_tokens_say_so(caller):
    tool = Tool("only_one", "", {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]})
    whole = caller(HELLO, [tool], rules=Rules("required", False), max_tokens=80)
    length = len(caller.loaded.tokenizer.encode(whole.raw))
    assert whole.calls and not whole.truncated and length < 80
    for limit in range(1, length + 2):  # at the end, all that is missing was forced
        reply = caller(HELLO, [tool], rules=Rules("required", False), max_tokens=limit)
        assert reply.truncated == (limit < length)
        assert len(caller.loaded.tokenizer.encode(reply.raw)) <= limit
        assert reply.truncated or not reply.errors


def test_models_with_other_caches_are_bound_too(caller):
    plain = replace(caller, decoder=replace(caller.decoder, sharing=False))
    rules = Rules("required", False)
    assert plain(HELLO, TOOLS, rules=rules, max_tokens=60).raw == caller(HELLO, TOOLS, rules=rules, max_tokens=60).raw
    assert plain.batch([(HELLO, TOOLS)], rules=rules, max_tokens=60)[0].raw


def test_forced_tokens_take_no_run_of_the_model(caller, monkeypatch):
    from calltune.engine.decoder import Decoder

    steps = []
    run = Decoder.run
    monkeypatch.setattr(Decoder, "run", lambda *a: steps.append(a[1].shape) or run(*a))
    tool = Tool("only_one", "", {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]})
    reply = caller(HELLO, [tool], rules=Rules("required", False), max_tokens=80)
    assert not reply.errors and reply.calls[0].name == "only_one"
    assert len(steps) < len(caller.loaded.tokenizer.encode(reply.raw)) / 3


def test_the_commands_flags(tmp_path, capsys):
    model, tools = str(tiny_model(tmp_path / "m")), tmp_path / "tools.json"
    tools.write_text(json.dumps([tool.to_openai() for tool in TOOLS]))
    call = ["call", model, "Hello", "--tools", str(tools), "--max-tokens", "40"]
    assert main([*call, "--tool-choice", "get_time"]) == 0
    assert "get_time" in "".join(capsys.readouterr())
    assert main([*call, "--tool-choice", "fly"]) == 2
    assert "not offered" in capsys.readouterr().err
