"""train, eval, call, chat and preview on a tiny random model, and a mistake on purpose for each."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import TOOLS, tiny_model, weather_rows

from calltune.cli import main

QUICK = ("--num-layers", "2", "--rank", "2", "--iters", "2", "--batch-size", "4", "--steps-per-report", "1")
SHORT = ("--max-tokens", "4")
TOOL_FILE = '''
from calltune import tool

@tool(pure=True)
def get_weather(city: str, unit: str = "celsius") -> dict:
    """The weather in a city.

    Examples:
        - weather in {city}
    """
    return {"city": city, "degrees": 21}
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> SimpleNamespace:
    """A model, rows, tools and a trained run, made once."""
    root = tmp_path_factory.mktemp("cli")
    model = tiny_model(root / "model")
    data = root / "rows.jsonl"
    data.write_text("".join(json.dumps(row.to_openai()) + "\n" for row in weather_rows(24)))
    (root / "tools.py").write_text(TOOL_FILE)
    (root / "tools.json").write_text(json.dumps([t.to_openai() for t in TOOLS]))
    run = root / "runs" / "one"
    assert main(["train", "--model", str(model), "--data", str(data), "--out", str(run), *QUICK]) == 0
    return SimpleNamespace(root=root, model=str(model), data=str(data), run=str(run), py=str(root / "tools.py"),
                           json=str(root / "tools.json"))  # fmt: skip


def told(capsys, code: int, *arguments: str) -> str:
    """What is said on standard error by a command that must end with `code` and print no result."""
    assert main(list(arguments)) == code
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    assert out.out == ""
    return out.err


# ---- train ----------------------------------------------------------------------------------------------------


def test_train_writes_a_run_and_says_what_it_does(place, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--model", place.model, "--data", place.data, "--out", str(out), *QUICK]) == 0
    said = capsys.readouterr()
    for words in ("trainable parameters: ", "chat template: ", "float32", "update 2: loss", "learning rate", "it/s",
                  "tokens/s", "trained tokens", "peak memory", "validation loss"):  # fmt: skip
        assert words in said.err
    assert said.err.index("trainable parameters") < said.err.index("update 1:")
    assert f"calltune eval {out}" in said.out
    assert "\x1b" not in said.out + said.err
    names = {path.name for path in out.iterdir()}
    assert names == {"adapters.safetensors", "adapter_config.json", "calltune.json", "metrics.jsonl", "test.jsonl",
                     "tools.json"}  # fmt: skip


def test_train_json_and_config(place, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(f"model: {place.model}\ndata: {place.data}\nrank: 3\niters: 1\nnum_layers: 1\n")
    arguments = ["train", "--config", str(tmp_path / "c.yaml"), "--rank", "5", "--out", str(tmp_path / "r"), "--json"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == str(tmp_path / "r")
    assert document["train"]["updates"] == 1
    record = json.loads((tmp_path / "r" / "calltune.json").read_text())
    assert (record["settings"]["rank"], record["settings"]["num_layers"]) == (5, 1)  # flags win over YAML


def test_train_from_functions(place, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["train", "--model", place.model, "--tools", place.py, "--rows", "12", "--out", str(out)]
    assert main([*arguments, *QUICK]) == 0
    assert [t["function"]["name"] for t in json.loads((out / "tools.json").read_text())] == ["get_weather"]


def bad_row(row: object) -> str:
    good = json.dumps(weather_rows(1)[0].to_openai())
    return good + "\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n"


CALL = {"type": "function", "id": "c", "function": {"name": "fly", "arguments": "{}"}}
BAD_ROWS = [
    ("", "is empty"),
    (bad_row('{"messages": ['), "line 2: bad_json"),
    (bad_row({"messages": [{"role": "robot", "content": "x"}]}), "robot"),
    (
        bad_row({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [CALL]}]}),
        "unknown_function: fly",
    ),
]


@pytest.mark.parametrize(("text", "words"), BAD_ROWS)
def test_train_with_bad_rows(place, tmp_path, capsys, text, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    said = told(capsys, 2, "train", "--model", place.model, "--data", str(path), "--out", str(tmp_path / "new"))
    assert words in said
    if text:
        assert "line 2" in said
    assert not (tmp_path / "new").exists()  # nothing half-written


def test_train_mistakes(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bare").mkdir()
    (Path("bare") / "config.json").write_text("{}")
    Path("file").write_text("")
    start = ("train", "--model", place.model, "--data", place.data)
    cases = [
        (("train", "--data", place.data), "no model was named"),
        (("train", "--model", place.model), "neither --data nor --tools"),
        ((*start, "--tools", place.py), "both --data and --tools"),
        (("train", "--model", place.model, "--data", "none.jsonl"), "there is no none.jsonl"),
        (("train", "--model", "nothing", "--data", place.data), "there is no model 'nothing'"),
        (("train", "--model", "bare", "--data", place.data), "has no tokenizer"),
        ((*start, "--learning-rate", "-1", "--batch-size", "0", "--epochs", "nan"), "at least 1"),
        ((*start, "--keys", "no_proj", "--num-layers", "2"), "unknown_key: no_proj"),
        ((*start, "--rank", "2", "--num-layers", "99"), "num_layers: 99"),
        ((*start, "--out", place.run), "--overwrite"),
        ((*start, "--out", "file"), "file is a file"),
        ((*start, "--out", "file/run"), "is a file, not a folder"),
        ((*start, "--config", "none.yaml"), "none.yaml cannot be read"),
        ((*start, "--template", "none.jinja"), "none.jinja cannot be read"),
        ((*start, "--max-seq-length", "9"), "--max-seq-length"),
        (("train", "--model", place.model, "--tools", "none.py"), "there is no such file"),
    ]
    for arguments, words in cases:
        said = told(capsys, 2, *arguments)
        assert words in said, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "file"]  # nothing half-written


def test_train_unknown_yaml_key_suggests_the_near_one(place, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("learnig_rate: 1\n")
    said = told(capsys, 2, "train", "--model", place.model, "--config", str(tmp_path / "c.yaml"))
    assert "learnig_rate (expected learning_rate?)" in said


def test_full_disk_is_told_plainly(place, tmp_path, capsys, monkeypatch):
    from calltune import runs

    def full(self, row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.RunWriter, "metrics", full)
    start = ("train", "--model", place.model, "--data", place.data)
    said = told(capsys, 2, *start, "--out", str(tmp_path / "r"), *QUICK)
    assert "no disk space left" in said
    said = told(capsys, 2, "call", str(tmp_path / "r"), "hello")
    assert "was not finished" in said


# ---- eval -----------------------------------------------------------------------------------------------------


def test_eval_of_a_run_takes_its_held_out_rows(place, capsys):
    assert main(["eval", place.run, "--baseline", "base", *SHORT]) == 0
    out = capsys.readouterr().out
    assert "before" in out
    folder = Path(place.run) / "eval"
    assert {p.name for p in folder.iterdir()} == {
        "predictions.jsonl",
        "predictions.before.jsonl",
        "report.json",
        "report.html",
        "report.md",
    }
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    held = [json.loads(line) for line in (Path(place.run) / "test.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in held]
    assert set(rows[0]) == {"id", "category", "calls", "errors", "thinking", "content", "raw", "truncated"}
    report = json.loads((folder / "report.json").read_text())
    assert report["n"] == len(rows)
    assert report["before"]["n"] == report["after"]["n"]


def test_eval_json_of_a_base_model(place, tmp_path, capsys):
    arguments = ["eval", place.model, "--data", place.data, "--limit", "3", "--out", str(tmp_path), "--json", *SHORT]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["n"] == 3
    assert document["before"] is None
    assert "verdicts" not in document


def test_eval_fails_under_a_threshold(place, tmp_path, capsys):
    arguments = ["eval", place.run, "--out", str(tmp_path), "--fail-under", "call_exact_match=0.9", *SHORT]
    assert main(arguments) == 1
    assert "call_exact_match is 0.0 (wanted 0.9)" in capsys.readouterr().err
    assert (tmp_path / "report.json").exists()  # what was found is kept


def test_eval_mistakes(place, tmp_path, capsys):
    out = ("--out", str(tmp_path / "e"))
    (tmp_path / "empty.jsonl").write_text("")
    cases = [
        (("eval", place.model, *out), "no test rows of its own"),
        (("eval", place.model, "--data", place.data), "add --out DIR"),
        (("eval", place.run, "--fail-under", "accuracy=0.9", *out), "unknown_figure: accuracy"),
        (("eval", place.run, "--fail-under", "call_exact_match=95", *out), "a share from 0 to 1"),
        (("eval", place.run, "--fail-under", "0.9", *out), "name=value"),
        (("eval", place.run, "--limit", "0", *out), "limit: 0"),
        (("eval", place.run, "--data", str(tmp_path / "none.jsonl"), *out), "there is no"),
        (("eval", place.run, "--data", str(tmp_path / "empty.jsonl"), *out), "is empty"),
        (("eval", str(Path(place.run).parent / "two"), *out), "runs there: one"),
        (("eval", place.model, "--data", place.data, "--baseline", "base", *out), "needs a run"),
    ]
    for arguments, words in cases:
        said = told(capsys, 2, *arguments)
        assert words in said, said


# ---- call and chat --------------------------------------------------------------------------------------------


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
        (("call", place.run, "x", "--tools", str(tmp_path / "none.json")), "none.json"),
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


def test_chat_in_a_terminal_runs_calls_after_asking(place, capsys, answers, monkeypatch):
    left = answers(PARIS, "21 degrees.", "You are welcome.")
    monkeypatch.setattr(sys, "stdin", Terminal("Weather?\ny\nThanks\n/quit\n"))
    assert main(["chat", place.run, "--tools", place.py]) == 0
    out = capsys.readouterr().out
    assert 'result: {"city": "Paris", "degrees": 21}' in out
    assert out.endswith("21 degrees.\nYou are welcome.\n")
    assert left == []


# ---- preview --------------------------------------------------------------------------------------------------


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
