"""The server's addresses, guards and metrics: each answer an OpenAI error, and the server goes on."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from serve_place import CHAT, USER, F, add, body, error_of, send
from serving import serving, worker_of
from tiny import tiny_model

from calltune.caller import load
from calltune.functions import functions_from
from calltune.serve import reader as reader_module
from calltune.serve.app import Options
from calltune.serve.guards import Guards
from calltune.serve.running import open_port


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    return load(tiny_model(tmp_path_factory.mktemp("m") / "model", layers=2), think=False)


@pytest.fixture(scope="module")
def server(caller):
    options = Options(Guards(max_body=100_000))
    with serving(worker_of(caller), functions_from([add, send]), options) as found:
        yield found


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.address, timeout=30) as client:
        yield client


def test_addresses_that_are_not_there_name_those_that_are(http):
    for method, path, words in [
        ("POST", "/v1/responses", "nothing at /v1/responses; this server has POST /v1/chat/completions"),
        ("POST", "/v1/embeddings", "POST /v1/chat/completions and GET /v1/models"),
        ("GET", "/v1/models/other", "there is no model other; there are: tiny"),
        ("GET", "/v1/models/", "wants a name; there are: tiny"),
        ("GET", CHAT, f"{CHAT} is asked with POST, not with GET"),
    ]:
        assert words in error_of(http.request(method, path))["message"]
    for path in ("/health", "/v1/models", "/v1/models/tiny"):
        answer = http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_the_server_answers_while_a_schema_is_checked(caller, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()

    def slow(schema: Any, path: str) -> None:
        reached.set()
        assert go_on.wait(60)

    monkeypatch.setattr(reader_module, "schema_problem", slow)
    with serving(worker_of(caller)) as found, ThreadPoolExecutor() as pool:
        asked = pool.submit(httpx.post, found.address + CHAT, json=body(tools=[F]), timeout=60)
        try:
            assert reached.wait(60)
            assert httpx.get(found.address + "/health").status_code == 200
            assert httpx.post(found.address + CHAT, json=body(), timeout=60).status_code == 200
            assert not asked.done()
        finally:
            go_on.set()
        assert asked.result().status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/nothing", {}, 404),
        ("GET", "/v1/models/other", {}, 404),
        ("GET", "/v1/models/", {}, 404),
        ("POST", "/v1/responses", {}, 404),
        ("GET", "/../../etc/passwd", {}, 404),
        ("GET", CHAT, {}, 405),
        ("DELETE", "/v1/models", {}, 405),
        ("POST", CHAT, {"Content-Type": "text/plain"}, 415),
        ("POST", CHAT, {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", CHAT, {"Content-Type": "application/json; charset=utf-16"}, 415),
        ("POST", CHAT, {"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ("POST", CHAT, {"Host": "evil.example"}, 403),
        ("GET", "/v1/models", {"Host": "evil.example:8080"}, 403),
        ("GET", "/", {"Host": "127.0.0.1.evil.example"}, 403),
        ("POST", CHAT, {"Origin": "https://evil.example"}, 403),
        ("POST", CHAT, {"Origin": "null"}, 403),
        ("POST", "/api/execute", {"Origin": "http://127.0.0.1:1"}, 403),
        ("GET", "/health", {"X-Long": "x" * 40_000}, 431),
    ],
)
def test_statuses_and_guards(http, method, path, headers, status):
    answer = http.request(method, path, headers=headers, content=b"{}" if method == "POST" else None)
    assert answer.status_code == status
    error_of(answer)
    assert "access-control-allow-origin" not in answer.headers


def test_the_pages_own_origin_and_names_of_this_machine_are_let_in(server, http):
    for name in ("localhost", "127.0.0.1", "LOCALHOST."):
        assert http.get("/health", headers={"Host": f"{name}:{server.address.rpartition(':')[2]}"}).status_code == 200
    own = {"Origin": server.address}
    assert http.post(CHAT, json=body(), headers=own).status_code == 200


def test_a_large_body_is_refused_also_where_its_size_is_not_said(http):
    large = json.dumps(body(messages=[USER | {"content": "x" * 200_000}])).encode()
    headers = {"Content-Type": "application/json"}
    for content in (large, iter([large[:50_000], large[50_000:]])):
        answer = http.post(CHAT, content=content, headers=headers)
        assert answer.status_code == 413
        assert error_of(answer)["code"] == "too_large"
    assert http.get("/health").status_code == 200


def test_origins_that_are_allowed(caller):
    with serving(worker_of(caller), options=Options(Guards(origins=("https://a.example",)))) as found:
        headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST",
                   "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
        allowed = httpx.options(found.address + CHAT, headers=headers)
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        answer = httpx.post(found.address + CHAT, json=body(), headers={"Origin": "https://a.example"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        refused = httpx.post(found.address + CHAT, json=body(), headers={"Origin": "https://b.example"})
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers


def test_the_key_is_needed_where_one_is_set(caller):
    with (
        serving(worker_of(caller), options=Options(Guards(api_key="s3cret"))) as found,
        httpx.Client(base_url=found.address) as http,
    ):
        for given in ("", "Bearer", "Bearer wrong", "Basic s3cret", "s3cret", "Bearer s3cre", "Bearer s3crét"):
            headers = {"Authorization": given.encode()} if given else {}
            for method, path in (
                ("POST", CHAT),
                ("GET", "/v1/models"),
                ("GET", "/api/tools"),
                ("POST", "/api/execute"),
            ):
                answer = http.request(method, path, headers=headers)
                assert answer.status_code == 401, given
                assert error_of(answer)["type"] == "authentication_error"
        assert http.get("/health").status_code == 200
        assert http.get("/v1/models", headers={"Authorization": "bearer s3cret"}).status_code == 200


def test_another_machines_names_are_let_in_where_the_key_keeps_strangers_out(caller):
    with serving(worker_of(caller), options=Options(Guards((), api_key="k"))) as found:
        headers = {"Host": "my-server.lan", "Authorization": "Bearer k"}
        assert httpx.get(found.address + "/v1/models", headers=headers).status_code == 200


def test_tools_are_listed_and_run(http):
    listed = http.get("/api/tools").json()["tools"]
    assert [(tool["function"]["name"], tool["pure"]) for tool in listed] == [("add", True), ("send", False)]
    run = lambda **call: http.post("/api/execute", json=call)  # noqa: E731
    assert run(name="add", arguments={"a": 1, "b": 2}).json() == {"content": "3", "error": False}
    for call, status, param in [
        ({"name": "other", "arguments": {}}, 404, "name"),
        ({"name": "add", "arguments": {"a": "x", "b": 2}}, 400, "arguments"),
        ({"name": "add", "arguments": "{}"}, 400, "arguments"),
        ({"name": "send", "arguments": {"text": "a"}}, 403, "confirmed"),
        ({"arguments": {}}, 400, "name"),
    ]:
        answer = run(**call)
        assert (answer.status_code, error_of(answer)["param"]) == (status, param)
    failed = run(name="send", arguments={"text": "a"}, confirmed=True)
    assert failed.json() == {"content": '{"error": "ValueError: no line for a"}', "error": True}


def test_metrics(http):
    def value(name: str) -> float:
        return float(re.search(rf"^{re.escape(name)} (\S+)$", http.get("/metrics").text, re.MULTILINE)[1])

    http.post(CHAT, json=body())
    http.post(CHAT, json=body(n=2, model="<script>"))
    before = value("calltune_completion_tokens_total"), value('calltune_requests_total{status="400"}')
    made = http.post(CHAT, json=body(max_tokens=5)).json()["usage"]
    http.post(CHAT, json=body(n=2))
    assert value("calltune_completion_tokens_total") == before[0] + made["completion_tokens"]
    assert value('calltune_requests_total{status="400"}') == before[1] + 1
    assert value("calltune_running") == value("calltune_waiting") == 0
    assert value("calltune_reply_seconds_count") >= value("calltune_first_token_seconds_count") > 0
    assert "script" not in http.get("/metrics").text


def test_the_description_names_every_address(http):
    found = http.get("/openapi.json").json()
    assert {CHAT, "/v1/models", "/health", "/metrics", "/api/tools", "/api/execute"} <= set(found["paths"])
    assert "tool_choice" in found["components"]["schemas"]["ChatRequest"]["properties"]
    assert "422" not in json.dumps(found)


def test_a_stream_that_waits_is_kept_alive(caller):
    long = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {
        "x": {"type": "string", "minLength": 50_000}}, "required": ["x"]}}}  # fmt: skip
    with (
        serving(worker_of(caller, batch=1), options=Options(patience=0.1)) as found,
        httpx.Client(base_url=found.address, timeout=20) as http,
        http.stream("POST", CHAT, json=body(response_format=long, max_tokens=3500, stream=True)) as first,
    ):
        lines = first.iter_lines()
        next(lines)
        with http.stream("POST", CHAT, json=body(stream=True)) as second:
            coming = second.iter_lines()
            assert any(line == ": waiting" for line in coming)
            first.close()
            assert any(line == "data: [DONE]" for line in coming)


def test_a_failure_of_ours_is_told_as_such_and_nothing_of_it(caller, monkeypatch):
    worker = worker_of(caller)
    with serving(worker) as found:
        monkeypatch.setattr(worker, "submit", lambda *_: 1 / 0)
        for stream in (False, True):
            answer = httpx.post(found.address + CHAT, json=body(stream=stream))
            assert answer.status_code == 500
            assert "division" not in answer.text
            assert error_of(answer)["type"] == "server_error"


def test_long_headers_are_told_also_where_they_come_in_parts(server):
    place = server.address.removeprefix("http://").split(":")
    with socket.create_connection((place[0], int(place[1]))) as connection:
        connection.settimeout(10)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 20_000)
        time.sleep(0.2)
        connection.sendall(b"x" * 20_000 + b"\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 431")


def test_what_is_no_http_does_not_end_the_server(server, http):
    place = server.address.removeprefix("http://").split(":")
    for raw in (b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: -5\r\n\r\n", b"x" * 100_000):  # fmt: skip
        with socket.create_connection((place[0], int(place[1]))) as connection:
            connection.settimeout(10)
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1000).startswith(b"HTTP/1.1 4")
    with socket.create_connection((place[0], int(place[1]))) as connection:  # leaves in the middle of a body
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           "Content-Length: 100\r\n\r\n{".encode())  # fmt: skip
    assert http.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}


def test_an_answers_second_part_waits_for_no_word_of_the_first():
    """Each answer over a connection that is kept took 44 ms, of which 43 were this wait."""
    with open_port("127.0.0.1", 0) as port, socket.create_connection(port.getsockname()):
        connection, _ = port.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
