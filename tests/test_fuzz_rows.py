"""Rows changed in every way: `check` raises nothing, loses no row, and what it passes trains.

The default suite runs the short form; `slow` runs more than 10,000 rows.
"""

import copy
import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_forms import ROWS
from tiny import long_row, tiny_model, tiny_tokenizer, weather_rows

from calltune.cli import main
from calltune.data.check import Checker
from calltune.data.files import MAX_ROW, file_rows
from calltune.data.sources import Source
from calltune.render import limit_length, render
from calltune.template import choose_template
from calltune.tokenizer import load_tokenizer

SEEDS = [
    *ROWS.values(),
    long_row().to_openai(),
    *(row.to_openai() for row in weather_rows(2)),
    {"prompt": "a", "completion": "<think>p</think>b"},
    {"text": "Good morning."},
]
TEXTS = [
    "", " ", "\x00", "\ud800", "a" * 5000, "\u202e", "🙂", "</tool_call>", "<think>", "</think>", "<tools>[",
    "<|im_end|>", "<tool_response>", "{", "{'a': 1}", '{"a": NaN}', "[f(", "[f(x=1)]", "get_weather", "function_call",
    "system", "tool", "user", "assistant",
]  # fmt: skip
OBJECTS = [
    {}, {"": None}, {"name": "get_weather"}, {"$ref": "#"}, {"$ref": "http://example.com/x"}, {"type": "object"},
    {"type": ["string", "null"]}, {"anyOf": [{"$ref": "#"}]}, {"role": "assistant", "content": None},
    {"role": "tool", "content": "x", "tool_call_id": "zz"},
]  # fmt: skip
NASTY = [None, True, 0, -1, 1e308, 2**70, float("nan"), float("inf"), [], [None], *TEXTS, *OBJECTS]
JSON = st.recursive(
    st.sampled_from(NASTY) | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
CHANGES = ("replace", "delete", "rename", "duplicate", "shuffle", "wrap", "text", "add", "cut", "swap")


def places(value):
    """Every place in a row: (container, key)."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def change(row, kind, rng, other):
    """One change at a random place; returns the row."""
    found = list(places(row))
    if not found:
        return row
    container, key = rng.choice(found)
    value = container[key]
    if kind == "replace":
        container[key] = other
    elif kind == "delete":
        del container[key]
    elif kind == "rename" and isinstance(container, dict):
        container[rng.choice(["x", "", "role", "content", "name", "type", "tools", "text"])] = container.pop(key)
    elif kind == "duplicate" and isinstance(container, list):
        container.insert(key, copy.deepcopy(value))
    elif kind == "shuffle" and isinstance(container, list):
        rng.shuffle(container)
    elif kind == "wrap":
        container[key] = rng.choice([[value], {"a": value}, {"function": value}])
    elif kind == "text":
        container[key] = rng.choice([json.dumps(value, default=str), str(value)])
    elif kind == "add" and isinstance(container, dict):
        container[rng.choice(["enum", "format", "$ref", "required", "properties", "from", "meta", "id"])] = other
    elif kind == "cut" and isinstance(value, str):
        container[key] = value[: rng.randrange(len(value) + 1)]
    elif kind == "swap":
        second, name = rng.choice(found)
        if isinstance(second, dict):
            second[name] = copy.deepcopy(value)
    return row


@st.composite
def mutated(draw):
    row = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        kind, seed = draw(st.sampled_from(CHANGES)), draw(st.integers(0, 10**6))
        row = change(row, kind, random.Random(seed), copy.deepcopy(draw(JSON)))
    return row


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    tiny_tokenizer(folder, "chatml")
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def template(tokenizer):
    return choose_template(tokenizer)


def judged(rows):
    """The verdicts on rows from memory and, where JSON can write them, from a file's lines: the same ones."""
    return list(Checker().check(Source("memory", rows)))


def examine(row, template, tokenizer):
    (found,) = judged([row])
    assert found.status in ("ok", "repaired", "rejected")
    errors = [p for p in found.problems if p.severity == "error"]
    assert (found.conversation is None) == (found.status == "rejected")
    assert bool(errors) == (found.status != "ok")
    assert all(p.kind and p.row == 1 and p.path[:1] in ("", "/") for p in found.problems)
    json.dumps([p.to_dict() for p in found.problems], default=str)
    if found.conversation is not None:
        written = json.dumps(found.conversation.to_openai(), ensure_ascii=False, default=str).encode()
        (again,) = judged([json.loads(written)])
        assert again.status == "ok", (again.problems, written)  # what was repaired needs no second repair
        examples = render(found.conversation, template, tokenizer)
        assert examples and all(e.trained for e in examples if found.form != "text")  # a text may be one token
        assert all(len(e) <= 100_000 for e in examples)
        return examples
    return []


FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=500, **FUZZ)
@given(mutated())
def test_mutated_rows_are_judged_counted_and_render(template, tokenizer, row):
    examine(row, template, tokenizer)


@pytest.mark.slow
@settings(max_examples=12_000, **FUZZ)
@given(mutated())
def test_ten_thousand_mutated_rows(template, tokenizer, row):
    examine(row, template, tokenizer)


@pytest.mark.nightly
@settings(max_examples=60_000, derandomize=False, **FUZZ)
@given(mutated())
def test_sixty_thousand_mutated_rows(template, tokenizer, row):
    examine(row, template, tokenizer)


def broken_file(path: Path, seed: int, count: int) -> int:
    """Lines of good rows with bytes changed; returns how many are not blank."""
    rng = random.Random(seed)
    lines = []
    pieces = [
        b"",
        b"\xff",
        b"\x00",
        b",",
        b"}",
        b"{",
        b'"',
        b"NaN",
        b"'",
        b"\\ud800",
        b"]",
        b"\xef\xbb\xbf",
        b"\\",
        b"1e999",
    ]
    for _ in range(count):
        line = json.dumps(rng.choice(SEEDS)).encode()
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(line))
            line = line[:at] + rng.choice(pieces) + line[at + rng.choice((0, 1, 5)) :]
        lines.append(line)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return sum(bool(line.strip()) for line in lines)


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_line_of_a_broken_file_is_lost(tmp_path, capsys, count):
    path, out = tmp_path / "rows.jsonl", tmp_path / "clean.jsonl"
    lines = broken_file(path, 7, count)
    assert main(["check", str(path), "--json", "--repair", str(out)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == lines == report["ok"] + report["repaired"] + report["rejected"]
    assert len(out.read_bytes().splitlines()) == report["ok"] + report["repaired"]
    side = (tmp_path / "clean.rejected.jsonl").read_text().split("\n")[:-1]
    assert len(side) == report["rejected"]
    assert all(json.loads(line)["problems"] for line in side)
    main(["check", str(out), "--json"])
    again = json.loads(capsys.readouterr().out)
    assert {p["kind"] for p in again["problems"] if p["severity"] == "error"} <= {"duplicate_id"}


@pytest.mark.parametrize("text", ['[{"a": 1}}, {"b": 2}]', "[1, 2}", "[}"])
def test_a_bracket_too_many_ends_a_list(tmp_path, text):
    (tmp_path / "rows.json").write_text(text)
    rows = list(itertools.islice(file_rows(tmp_path / "rows.json"), 20))
    assert len(rows) <= 3
    assert rows[-1].problem.kind == "bad_json" and "what follows cannot be read" in rows[-1].problem.expected


def test_every_broken_list_comes_to_an_end(tmp_path):
    rng = random.Random(11)
    whole = json.dumps([{"a": [1, {"b": "c"}]}, {"d": None}, 7, "e"]).encode()
    for _ in range(1500):
        text = whole
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text))
            text = (
                text[:at]
                + rng.choice([b"", *(bytes([c]) for c in b'}]{[,"\\ \xff')])
                + text[at + rng.choice((0, 1, 5)) :]
            )
        (tmp_path / "rows.json").write_bytes(b"[" + text[1:])
        assert len(list(itertools.islice(file_rows(tmp_path / "rows.json"), 60))) < 60, text


def test_what_passes_trains_one_step_on_a_tiny_model(tmp_path, template, tokenizer):
    from calltune.settings import TrainSettings
    from calltune.train import train

    rng = random.Random(3)
    passed = []
    for _ in range(600):
        row = copy.deepcopy(rng.choice(SEEDS))
        row = change(row, rng.choice(CHANGES), rng, copy.deepcopy(rng.choice(NASTY)))
        passed += [c.conversation for c in judged([row]) if c.conversation is not None]
    assert len(passed) > 100
    chosen = [c for c in passed if limit_length(render(c, template, tokenizer), 2000)[0]][:48]
    model = tiny_model(tmp_path / "m", "llama", layers=1, hidden=16)
    run = train(TrainSettings(model=str(model), out=str(tmp_path / "r"), iters=1, batch_size=16, test=0, valid=0,
                              max_seq_length=2000, num_layers=1), chosen)  # fmt: skip
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row.get("train_loss", 0) == row.get("train_loss", 0) for row in rows) and rows


def deep(levels, inner):
    for _ in range(levels):
        inner = [inner]
    return inner


LOOP: dict = {"messages": []}
LOOP["messages"].append(LOOP)
GOOD = ROWS["openai"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[" * 50_000 + "]" * 50_000, "bad_json"),
        ('{"a": ' * 50_000 + "1" + "}" * 50_000, "bad_json"),
        (json.dumps(GOOD | {"meta": deep(101, 1)}), "bad_json"),
        (json.dumps(GOOD)[:-1] + ', "x": NaN}', "bad_json"),
        (json.dumps(GOOD)[:-1] + ', "x": -Infinity}', "bad_json"),
        (json.dumps(GOOD)[:-1] + ', "x": 1e999}', "bad_json"),
        (json.dumps(GOOD)[:-1] + ', "messages": []}', "bad_json"),
        (json.dumps(GOOD)[:-1] + ', "x": "\\ud800"}', "bad_text"),
        (json.dumps(GOOD)[:-1] + ', "x": ' + "9" * 5000 + "}", "bad_json"),
        (json.dumps(GOOD | {"text": "x" * (MAX_ROW + 1)}), "too_large"),
        (json.dumps(GOOD | {"tools": [{"name": "f", "parameters": {"$ref": "https://example.com/x"}}]}),
         "unknown_function"),
    ],
)  # fmt: skip
def test_bad_lines_are_refused_with_words_and_the_next_row_is_read(tmp_path, capsys, text, kind):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{text}\n{json.dumps(GOOD)}\n")
    assert main(["check", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    errors = [p for p in report["problems"] if p["severity"] == "error"]
    assert (report["rows"], report["ok"], errors[0]["kind"], errors[0]["row"]) == (2, 1, kind, 1)
    assert errors[0]["found"] and errors[0]["expected"] and len(errors[0]["found"]) < 400


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (LOOP, "bad_json"),
        (GOOD | {"meta": deep(2000, 1)}, "bad_json"),
        (GOOD | {"meta": float("nan")}, "bad_json"),
        (GOOD | {"meta": "\udfff"}, "bad_text"),
        (GOOD | {"meta": {(1, 2): 3}}, "bad_json"),
        (GOOD | {"meta": "x" * 10_000_000}, "too_large"),
        (GOOD | {"tools": [{"name": "get_weather", "parameters": {"type": "object", "properties": {
            "city": {"$ref": "#/$defs/a"}, "days": {}}, "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}}]},
         "bad_schema"),
        (GOOD | {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [
            {"function": {"name": "get_weather", "arguments": '{"city": "\\ud800"}'}}]}]}, "bad_text"),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value":
            "<tool_call>{'name': 'get_weather', 'arguments': {'city': '\\ud800'}}</tool_call>"}],
          "tools": GOOD["tools"]}, "bad_text"),
    ],
)  # fmt: skip
def test_bad_rows_in_memory_are_refused_with_words(value, kind):
    found, good = judged([value, GOOD])
    assert [p.kind for p in found.problems if p.severity == "error"] == [kind]
    assert good.status == "ok"
