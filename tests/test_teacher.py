"""The teacher against a stub of an OpenAI-compatible endpoint on this machine."""

import json
import threading
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from calltune.data.check import Checker
from calltune.data.sources import Source
from calltune.data.teacher import EACH, KEY, Teacher, read_answer, teach
from calltune.errors import InputError
from calltune.schema import Tool

UNIT = {"type": "string", "enum": ["C", "F"]}
WEATHER = Tool("get_weather", "The weather.", {"type": "object", "required": ["city"], "properties": {
    "city": {"type": "string"}, "days": {"type": "integer"}, "unit": UNIT}})  # fmt: skip
NOTE = Tool("send_note", "Sends a note.", {"type": "object", "properties": {"text": {"type": "string"}}})
CITIES = ["Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Quito", "Bern", "Kyiv", "Riga", "Lyon", "Nice"]


class Stub:
    """Answers with what `reply(number, body)` gives: a text, a status code, or None for
    what is no HTTP."""

    def __init__(self, reply):
        self.bodies, self.keys = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.keys.append(self.headers.get("Authorization"))
                given = reply(len(outer.bodies) - 1, body)
                if given is None:
                    self.wfile.write(b"what is this\r\n\r\n")
                    return
                status = given if isinstance(given, int) else 200
                text = json.dumps({"choices": [{"message": {"content": given}}]}) if status == 200 else "busy"
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def stub():
    made = []

    def start(reply):
        made.append(Stub(reply))
        return made[-1]

    yield start
    for one in made:
        one.server.shutdown()
        one.server.server_close()


def good(number, body):
    """Good requests for the tool that is asked for, other ones at every call."""
    text = body["messages"][0]["content"]
    begin = number * 4
    if '"send_note"' in text:
        items = [{"request": f"Tell them that item {i} is {c}", "arguments": {"text": f"item {i} is {c}"}}
                 for i, c in enumerate(CITIES[:4], begin)]  # fmt: skip
    else:
        items = [{"request": f"How warm is {c} for the next {i} days", "arguments": {"city": c, "days": str(i)}}
                 for i, c in enumerate(CITIES[4:8], begin + 2)]  # fmt: skip
    return f"Here you are:\n```json\n{json.dumps(items)}\n```"


def test_answers_become_valid_rows_for_every_tool(stub, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    server, waits = stub(good), []
    found = teach(
        Teacher(server.url, "big", per_minute=30), [WEATHER, NOTE], 12, tmp_path / "a.jsonl", sleep=waits.append
    )
    assert len(found.rows) == 12 and found.asked == len(server.bodies) == 4
    assert waits == [2.0] * 3  # 30 a minute
    assert Counter(r.messages[1].calls[0].name for r in found.rows) == {"get_weather": 6, "send_note": 6}
    days = [
        r.messages[1].calls[0].arguments["days"] for r in found.rows if "days" in r.messages[1].calls[0].arguments
    ]
    assert all(isinstance(day, int) for day in days)  # repaired
    assert {c.status for c in Checker().check(Source("x", found.rows))} == {"ok"}
    assert all(r.messages[1].thinking and r.tools == (WEATHER, NOTE) for r in found.rows)
    assert {body["model"] for body in server.bodies} == {"big"} and set(server.keys) == {"Bearer secret"}
    assert "secret" not in (tmp_path / "a.jsonl").read_text()
    assert f"{EACH} different requests" in server.bodies[0]["messages"][0]["content"]


def test_a_broken_run_goes_on_and_asks_nothing_twice(stub, tmp_path):
    record = tmp_path / "a.jsonl"

    def breaks(number, body):
        return 400 if number == 2 else good(number, body)

    first = stub(breaks)
    with pytest.raises(InputError, match=r"gave no answer[\s\S]*status 400[\s\S]*what was answered is kept"):
        teach(Teacher(first.url, "big"), [WEATHER, NOTE], 16, record, sleep=lambda _: None)
    assert len(record.read_text().splitlines()) == 2
    record.write_text(record.read_text() + '{"key": "half')
    second = stub(lambda number, body: good(number + 2, body))
    found = teach(Teacher(second.url, "big"), [WEATHER, NOTE], 16, record, sleep=lambda _: None)
    assert (found.kept, found.asked, len(found.rows)) == (2, 2, 16)
    third = stub(lambda *_: 500)
    again = teach(Teacher(third.url, "big"), [WEATHER, NOTE], 16, record, sleep=lambda _: None)
    assert again.rows == found.rows and third.bodies == []


def test_a_busy_endpoint_is_asked_again_and_the_budget_holds(stub, tmp_path):
    waits = []
    server = stub(lambda number, body: 429 if number in (0, 1) else good(0, body))
    found = teach(Teacher(server.url, "m", budget=3), [WEATHER], 100, tmp_path / "a.jsonl", sleep=waits.append)
    assert (found.asked, len(server.bodies), waits[:2]) == (3, 5, [2.0, 4.0])
    assert len(found.rows) == 4 and found.refused["near_duplicate"] == 8  # the stub repeats itself
    with pytest.raises(InputError, match="gave no answer"):
        teach(Teacher(stub(lambda *_: 503).url, "m"), [WEATHER], 9, tmp_path / "b.jsonl", sleep=waits.append)
    with pytest.raises(InputError, match=r"http://localhost:1/v1 gave no answer"):
        teach(Teacher("http://me:word@localhost:1/v1", "m"), [WEATHER], 9, tmp_path / "b.jsonl", sleep=waits.append)
    with pytest.raises(InputError, match="is no address"):
        teach(Teacher("file:///etc/passwd", "m"), [WEATHER], 9, tmp_path / "b.jsonl", sleep=waits.append)


@pytest.mark.parametrize("url", ["localhost:1/v1", "http://", "http://host:port/v1", "http://ho st/v1", "http://[::1/v1",
                                 "http://me:word@host:x/v1", "http://host/\x01v1"])  # fmt: skip
def test_what_is_no_address_is_told_before_anything_is_asked(url, tmp_path):
    def sleep(_):
        raise AssertionError("it was asked")

    with pytest.raises(InputError, match="is no address") as caught:
        teach(Teacher(url, "m"), [WEATHER], 9, tmp_path / "a.jsonl", sleep=sleep)
    assert "word" not in str(caught.value)


def test_an_endpoint_that_speaks_no_http_is_an_error_of_the_input(stub, tmp_path):
    server = stub(lambda *_: None)
    with pytest.raises(InputError, match=r"gave no answer[\s\S]*BadStatusLine"):
        teach(Teacher(server.url, "m"), [WEATHER], 9, tmp_path / "a.jsonl", sleep=lambda _: None)
    assert len(server.bodies) == 4
    with pytest.raises(InputError, match="http://host/v1 is no address"):  # urllib takes the password for a port
        teach(Teacher("http://me:word@host/v1", "m"), [WEATHER], 9, tmp_path / "a.jsonl", sleep=lambda _: None)


def test_what_was_refused_makes_no_later_row_a_duplicate(stub, tmp_path):
    """The second request is like the first by the key of its last words, the fourth like the second by its first."""
    words = ["amber", "birch", "cedar", "dune", "ember", "fjord", "glade", "heath", "oslo"]
    words.sort(key=lambda word: zlib.crc32(word.encode()))
    low, high, city = words[:6], words[6:], words[6]
    requests = [(low[:3] + high, {"city": city}), (low[3:] + high, {"city": city}),
                (high, {"city": city, "unit": "C"}), (low[3:] + high[:2], {"city": city})]  # fmt: skip
    items = [{"request": " ".join(said), "arguments": arguments} for said, arguments in requests]
    server = stub(lambda *_: json.dumps(items))
    found = teach(Teacher(server.url, "m", budget=1), [WEATHER], 8, tmp_path / "a.jsonl", sleep=lambda _: None)
    assert [row.messages[0].content for row in found.rows] == [items[i]["request"] for i in (0, 2, 3)]
    assert found.refused == {"near_duplicate": 1}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("I cannot do that.", "unreadable_answer"),
        ("[{", "unreadable_answer"),
        ('[{"arguments": {}}]', "no_request"),
        ('[{"request": "x", "arguments": "y"}]', "unreadable_call"),
        ('[{"request": "Weather in Paris", "arguments": {"town": "Paris"}}]', "unknown_argument"),
        ('[{"request": "Weather in Paris", "arguments": {"city": 7}}]', "wrong_type"),
        ('[{"request": "Weather in Paris", "arguments": {"city": "Rome"}}]', "value_not_in_dialogue"),
    ],
)
def test_what_a_teacher_gets_wrong_is_refused_and_counted(answer, kind):
    refused = Counter()
    assert list(read_answer(answer, WEATHER, [WEATHER], True, refused)) == []
    assert refused == {kind: 1}


def test_prepare_adds_what_the_teacher_wrote_to_the_training_rows(stub, tmp_path, capsys):
    from calltune.cli import main

    server = stub(good)
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER.to_openai(), NOTE.to_openai()]))
    (tmp_path / "mix.yaml").write_text("sources:\n  - {tools: tools.json, rows: 30}\n")
    words = ["prepare", str(tmp_path / "mix.yaml"), "--out", str(tmp_path / "out"), "--json", "--teacher", server.url]
    assert main(words) == 2
    assert "--teacher-model" in capsys.readouterr().err
    words += ["--teacher-model", "big", "--teacher-rows", "8", "--teacher-per-minute", "60000"]
    assert main(words) == 0
    (source,) = json.loads(capsys.readouterr().out)["sources"]
    assert any("8 rows from the teacher" in note for note in source["notes"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert sum(r["id"].startswith("teacher:") for r in rows) == 8
    asked = len(server.bodies)
    assert main([*words, "--overwrite"]) == 0 and len(server.bodies) == asked  # out.teacher.jsonl has the answers


def test_a_teacher_without_tools_to_write_for_is_an_error(tmp_path, capsys):
    from calltune.cli import main

    (tmp_path / "mix.yaml").write_text("teacher: http://localhost:1/v1\nsources:\n  - data: builtin:assistant\n")
    assert main(["prepare", str(tmp_path / "mix.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "no source of tools" in capsys.readouterr().err
