"""A model ready to call: one reply, batches and streams give the same; runs restore what they were trained with."""

from __future__ import annotations

import json

import pytest
from tiny import TOOLS, tiny_model, weather_rows

from calltune import caller as caller_module
from calltune.caller import BATCH_TOKENS, groups_of, load
from calltune.errors import InputError, TooLong
from calltune.schema import Message
from calltune.settings import TrainSettings
from calltune.train import train


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    settings = TrainSettings(model=str(model), out=str(out), num_layers=2, rank=2, iters=3, learning_rate=1e-2,
                             keys=("all",), think=False)  # fmt: skip
    return train(settings, weather_rows(24, think=False))


def test_text_and_messages_are_the_same_request(model):
    caller = load(model)
    first = caller("Hello", TOOLS, max_tokens=8)
    second = caller([Message("user", "Hello")], [tool.to_openai() for tool in TOOLS], max_tokens=8)
    assert first == second
    assert first.truncated
    assert first.raw


def test_batch_stream_and_single_agree(model):
    caller = load(model)
    texts = ["Hello", "What is the weather in Paris?", "Good morning."]
    single = [caller(text, TOOLS, max_tokens=6).raw for text in texts]
    batch = caller.batch([((Message("user", t),), TOOLS) for t in texts], max_tokens=6)
    assert [reply.raw for reply in batch] == single
    streamed = ["".join(caller.stream((Message("user", t),), TOOLS, max_tokens=6)) for t in texts]
    assert streamed == single


def test_a_run_brings_template_tools_and_adapter(model, run):
    tuned, base = load(run.folder), load(model)
    assert tuned.template == run.template
    assert tuned.template.think_instruction is None
    assert tuned.tools == TOOLS
    assert base.tools == ()
    prompt = "What is the weather in Paris?"
    assert tuned(prompt, max_tokens=12).raw == tuned(prompt, TOOLS, max_tokens=12).raw
    assert tuned(prompt, TOOLS, max_tokens=12).raw != base(prompt, TOOLS, max_tokens=12).raw
    assert load(run)(prompt, max_tokens=12) == tuned(prompt, max_tokens=12)


def test_open_thinking_is_read_as_a_plan(model):
    reply = load(model)("Hello", TOOLS, max_tokens=4, open_thinking=True)
    assert reply.thinking or reply.errors


def test_missing_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("mine/none", "runs/none", "demo/run", str(tmp_path / "none")):
        with pytest.raises(InputError, match="there is no run or model in"):
            load(name)
    with pytest.raises(InputError, match=r"it has no config\.json"):
        load("mine")


def test_long_prompts_run_in_smaller_batches():
    same = [[7] * 90 + [i] for i in range(5)]
    assert groups_of(same, 32) == [([0, 1, 2, 3, 4], 32)]
    long = [7] * 90 + [9] * (BATCH_TOKENS // 8)
    assert groups_of([*same, long, [7] * 90 + [9] * 2 * BATCH_TOKENS], 32) == [
        ([0, 1, 2, 3, 4], 32),
        ([5], 8),
        ([6], 1),
    ]
    assert groups_of([], 4) == [] and groups_of([[1], [1]], 4) == [([0, 1], 4)]


def test_groups_give_the_same_replies(tmp_path, monkeypatch):
    caller = load(tiny_model(tmp_path))
    requests = [(row.messages[:1], row.tools) for row in weather_rows(6)]
    whole = caller.batch(requests, max_tokens=5)
    seen = []
    monkeypatch.setattr("calltune.caller.BATCH_TOKENS", 40)
    parts = caller.batch(requests, max_tokens=5, on_reply=lambda i, reply: seen.append((i, reply)))
    assert parts == whole and dict(seen) == dict(enumerate(whole))


def test_where_requests_with_the_same_tools_part_is_found_once(model, monkeypatch):
    from calltune import caller as module

    made = []
    render = module.prompt_ids
    monkeypatch.setattr(module, "prompt_ids", lambda *a, **k: made.append(a[0]) or render(*a, **k))
    caller, plain = load(model), load(model)
    texts = ["Hello", "Good morning.", "What is the weather?"]
    for count, text in zip((2, 3, 4), texts, strict=True):
        reply = caller(text, TOOLS, max_tokens=4).raw
        assert len(made) == count
        assert reply == plain.batch([((Message("user", text),), TOOLS)], max_tokens=4)[0].raw
        del made[count:]
    system = (Message("system", "Be brief."), Message("user", "Hello"))
    del made[:]
    for _ in range(2):
        assert caller(system, TOOLS, max_tokens=4).raw == plain.batch([(system, TOOLS)], max_tokens=4)[0].raw


def test_the_tools_prefix_is_computed_once_and_kept(model, monkeypatch, tmp_path):
    """In memory over requests and over other tools in between, on disk for the next process."""
    from calltune.engine.decoder import Decoder

    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path))
    widths = []
    run = Decoder.run
    monkeypatch.setattr(Decoder, "run", lambda *a: widths.append(a[1].shape[1]) or run(*a))

    def longest(caller, text, tools):
        widths.clear()
        reply = caller(text, tools, max_tokens=4)
        return max(widths), reply.raw

    caller = load(model, keep_prefixes=True)
    first, raw = longest(caller, "Hello", TOOLS)
    other = longest(caller, "Hello", TOOLS[:1])[0]
    second = longest(caller, "Good morning.", TOOLS)[0]
    assert second < first / 4 and second < other / 4
    assert raw == load(model)("Hello", TOOLS, max_tokens=4).raw
    files = list((tmp_path / "prefixes").glob("*.safetensors"))
    assert len(files) == 2
    again, same = longest(load(model, keep_prefixes=True), "Hello", TOOLS)
    assert again < first / 4 and same == raw
    for file in files:
        file.write_bytes(b"half a file")
    assert longest(load(model, keep_prefixes=True), "Hello", TOOLS) == (first, raw)


def test_a_prompt_past_the_context_is_refused_and_a_reply_ends_with_it(tmp_path, monkeypatch):
    folder = tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 300}))
    caller = load(folder)
    with pytest.raises(TooLong, match="maximum context length is 300 tokens"):
        caller("word " * 300)
    with pytest.raises(TooLong):
        next(caller.stream([Message("user", "word " * 300)]))
    (used,) = caller.lengths([([Message("user", "Hello")], ())])
    limits, plain = [], caller_module.generate_stream
    monkeypatch.setattr(
        "calltune.caller.generate_stream", lambda *a, **more: limits.append(more["max_tokens"]) or plain(*a, **more)
    )
    caller("Hello", (), max_tokens=10_000)
    caller("Hello", (), max_tokens=5)
    assert limits == [300 - used, 5]
