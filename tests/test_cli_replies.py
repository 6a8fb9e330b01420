"""`calltune call`, `chat` and `preview` as a user types them."""

from __future__ import annotations

import io
import json
import sys

import pytest
from cli_place import told

from calltune.cli import main
from calltune.errors import TooLong


@pytest.fixture
def answers(monkeypatch):
    """Makes every model answer the given texts in turn: what the commands do with a reply is what is tested."""
    import calltune.caller
    from calltune.engine.decode import Generated

    def use(*texts: str):
        left = list(texts)

        def generate(decoder, prompt, *, max_tokens=512, sampling=None, guide=None, on_done=None):
            ids = decoder.test_tokenizer.encode(left.pop(0))
            yield from ids
            if on_done:
                on_done(Generated(tuple(ids), len(ids) >= max_tokens))

        real = calltune.caller.make_caller

        def make(loaded, template, run=None):
            caller = real(loaded, template, run)
            caller.decoder.test_tokenizer = loaded.tokenizer
            return caller

        monkeypatch.setattr(calltune.caller, "generate_stream", generate)
        monkeypatch.setattr(calltune.caller, "make_caller", make)
        return left

    return use


PARIS = (
    "<think>\nget_weather\n</think>\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
)


def test_call_shows_plan_and_call(place, capsys, answers):
    answers(PARIS)
    assert main(["call", place.run, "Weather in Paris?"]) == 0
    assert capsys.readouterr().out == 'plan: get_weather\ncall: get_weather(city="Paris")\n'


def test_call_json_is_the_openai_message(place, capsys, answers):
    answers(PARIS)
    assert main(["call", place.run, "Weather in Paris?", "--json"]) == 0
    message = json.loads(capsys.readouterr().out)
    assert message["role"] == "assistant"
    assert message["content"] is None
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris"}


def test_call_names_what_is_wrong_with_a_call(place, capsys, answers):
    answers('<tool_call>\n{"name": "get_weather", "arguments": {"town": 1}}\n</tool_call>')
    assert main(["call", place.run, "Weather?"]) == 0
    out = capsys.readouterr()
    assert "unknown_argument: get_weather.town" in out.err
    assert "missing_argument" in out.err
    answers('<tool_call>\n{"name": get_weather\n</tool_call>')
    assert main(["call", place.run, "Weather?"]) == 0
    out = capsys.readouterr()
    assert 'unreadable call: {"name": get_weather' in out.out
    assert "error: " in out.err


def test_call_executes_and_feeds_the_result_back(place, capsys, answers):
    left = answers(PARIS, "It is 21 degrees.")
    assert main(["call", place.run, "Weather?", "--tools", place.py, "--execute", "--yes"]) == 0
    out = capsys.readouterr().out
    assert 'result: {"city": "Paris", "degrees": 21}' in out
    assert out.endswith("It is 21 degrees.\n")
    assert left == []


def test_call_execute_json_has_all_messages(place, capsys, answers):
    answers(PARIS, "21 degrees.")
    assert main(["call", place.run, "Weather?", "--tools", place.py, "--execute", "--yes", "--json"]) == 0
    messages = json.loads(capsys.readouterr().out)["messages"]
    assert [m["role"] for m in messages] == ["assistant", "tool", "assistant"]
    assert messages[1]["tool_call_id"] == messages[0]["tool_calls"][0]["id"]


def test_every_call_of_a_conversation_has_an_id_of_its_own(place, capsys, answers):
    answers(PARIS, PARIS.replace("Paris", "Oslo"), "21 degrees.")
    assert main(["call", place.run, "Weather?", "--tools", place.py, "--execute", "--yes", "--json"]) == 0
    messages = json.loads(capsys.readouterr().out)["messages"]
    ids = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    assert ids == ["call_0", "call_1"]
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == ids


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_call_execute_asks(place, capsys, answers, monkeypatch):
    left = answers(PARIS, "never")
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert main(["call", place.run, "Weather?", "--tools", place.py, "--execute"]) == 0
    out = capsys.readouterr()
    assert 'run get_weather(city="Paris")? [Y/n]' in out.err
    assert "result" not in out.out
    assert left == ["never"]


def test_call_mistakes(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    (tmp_path / "broken.py").write_text("def f(x): pass\n")
    cases = [
        (("call", place.run, "x", "--execute", "--tools", place.py), "add --yes"),
        (("call", place.run, "x", "--execute", "--yes"), "not their code"),
        (("call", place.run, "x", "--execute", "--yes", "--tools", place.json), "not their code"),
        (("call", place.model, "x"), "add --tools FILE"),
        (("call", place.run, "x", "--tools", str(tmp_path / "none.json")), "next: check the path"),
        (("call", place.run, "x", "--tool-choice", "nope"), "next: name one that is offered"),
        (("call", place.run, "x", "--tools", str(tmp_path / "broken.py")), "no type hint"),
        (("call", place.run, " "), "the request is empty"),
        (("call", place.run), "required: text"),
        (("call", place.run, "two", "words"), "quotes around a text"),
        (("call", place.run, "x", "--max-tokens", "0", "--top-p", "2", "--temperature", "nan"), "--top-p is 2.0"),
        (("call", place.run, "x", "--max-tokens", "many"), "invalid int value"),
        (("chat", place.run, "--top-p", "0"), "--top-p is 0.0"),
        (("chat", place.model), "add --tools FILE"),
    ]
    for arguments, words in cases:
        said = told(capsys, 2, *arguments)
        assert words in said, said


def test_a_demo_folder_names_its_run(place, tmp_path, capsys):
    (tmp_path / "run").symlink_to(place.run)
    assert f"name {tmp_path / 'run'}" in told(capsys, 2, "call", str(tmp_path), "hello")


def test_chat_from_a_pipe(place, capsys, answers, monkeypatch):
    answers("Hello <there>!", PARIS)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n\n/nothing\nWeather?\n/quit\nnot read\n"))
    assert main(["chat", place.run, "--tools", place.py]) == 0
    out = capsys.readouterr()
    assert out.out == 'Hello <there>!\nget_weather\ncall: get_weather(city="Paris")\n'
    assert "there is no /nothing" in out.err


def fills_up(monkeypatch, *rooms):
    """The context as it is for one prompt after the other: False where it is full."""
    left = list(rooms)

    def room(prompt: int, context: int | None) -> int:
        if left and not left.pop(0):
            raise TooLong(prompt, 64)
        return 1000

    monkeypatch.setattr("calltune.caller.room_for", room)


def test_chat_begins_anew_where_the_context_is_full(place, capsys, answers, monkeypatch):
    answers("Hello!", "Hello again!")
    fills_up(monkeypatch, False, True, False, True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("too long\nhi\nonce more\nhi\n"))
    assert main(["chat", place.run, "--tools", place.py]) == 2  # of a pipe, as one request was not answered
    out = capsys.readouterr()
    assert out.out == "Hello!\nHello again!\n"
    assert out.err.count("maximum context length is 64 tokens") == 2
    assert out.err.count("the conversation begins anew") == 1


def test_chat_in_a_terminal_runs_calls_after_asking(place, capsys, answers, monkeypatch):
    left = answers(PARIS, "21 degrees.", "You are welcome.")
    monkeypatch.setattr(sys, "stdin", Terminal("Weather?\ny\nThanks\n/quit\n"))
    assert main(["chat", place.run, "--tools", place.py]) == 0
    out = capsys.readouterr().out
    assert 'result: {"city": "Paris", "degrees": 21}' in out
    assert out.endswith("21 degrees.\nYou are welcome.\n")
    assert left == []


def test_preview_json_marks_exactly_the_reply(place, capsys):
    assert main(["preview", place.data, "--model", place.model, "--json"]) == 0
    tokens = json.loads(capsys.readouterr().out)["tokens"]
    assert all(set(t) == {"id", "text", "loss", "span", "example"} for t in tokens)
    text = "".join(t["text"] for t in tokens if t["loss"])
    assert text == PARIS + "<|im_end|>"
    assert {t["span"] for t in tokens if t["loss"]} == {"think", "name", "arguments", "syntax"}
    assert "What is the weather in Paris?" in "".join(t["text"] for t in tokens if not t["loss"])


def test_preview_with_marks_and_of_a_run(place, capsys):
    assert main(["preview", place.data, "--model", place.run, "--index", "3"]) == 0
    out = capsys.readouterr()
    assert "[answer:Hello!]" in out.out
    assert "\x1b" not in out.out
    assert "trained; template calltune:chatml" in out.err


def test_preview_texts_join_to_the_whole_text(place, tmp_path, capsys):
    row = {"messages": [{"role": "user", "content": "中文 é 🙂 x"}, {"role": "assistant", "content": "🙂é"}]}
    (tmp_path / "u.jsonl").write_text(json.dumps(row))
    assert main(["preview", str(tmp_path / "u.jsonl"), "--model", place.model, "--json"]) == 0
    tokens = json.loads(capsys.readouterr().out)["tokens"]
    assert "中文 é 🙂 x" in "".join(t["text"] for t in tokens)
    assert "".join(t["text"] for t in tokens if t["loss"]) == "🙂é<|im_end|>"


def test_preview_mistakes(place, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"messages": [\n')
    (tmp_path / "user.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    cases = [
        (("preview", place.data), "required: --model"),
        (("preview", place.data, "--model", place.model, "--index", "99"), "no readable row 99"),
        (("preview", place.data, "--model", place.model, "--index", "-1"), "--index is -1"),
        (("preview", str(tmp_path / "none.jsonl"), "--model", place.model), "there is no"),
        (("preview", str(tmp_path / "bad.jsonl"), "--model", place.model), "line 1: bad_json"),
        (("preview", str(tmp_path / "user.jsonl"), "--model", place.model), "no assistant turn"),
    ]
    for arguments, words in cases:
        said = told(capsys, 2, *arguments)
        assert words in said, said


def test_the_message_of_an_unreadable_reply_holds_its_text():
    from calltune.cli.replying import message_of
    from calltune.schema import Reply

    raw = '<tool_call>\n{"name": "f", "arguments": {'
    assert message_of(Reply(raw=raw, errors=("not whole",), truncated=True))["content"] == raw
    assert message_of(Reply(content="Hello", raw="Hello", errors=("odd",)))["content"] == "Hello"
