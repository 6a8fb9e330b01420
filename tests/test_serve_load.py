"""The server under load and under bodies that make no sense: no request is lost, no answer is a failure of ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Serving, serving, worker_of
from test_serve_cli import start
from tiny import CITIES, TOOLS, tiny_model

from calltune.caller import load
from calltune.functions import functions_from, tool
from calltune.schema import Tool
from calltune.serve.app import Options
from calltune.serve.guards import Guards

CHAT = "/v1/chat/completions"
SKY = Tool("set_sky", "Sets the sky.", {"type": "object", "properties": {"colour": {"enum": ["blue", "grey"]}},
                                        "required": ["colour"]}).to_openai()  # fmt: skip
OFFERED = [tool.to_openai() for tool in TOOLS]


@tool(pure=True)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    caller = load(tiny_model(tmp_path_factory.mktemp("m") / "model", layers=1), think=False)
    with serving(worker_of(caller), functions_from([add]), Options(Guards(max_body=100_000), max_tokens=4)) as found:
        yield found


# ---- bodies that make no sense ----------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "model": "tiny", "max_tokens": 2, "stream": False, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["x"],
    "messages": [{"role": "system", "content": "Be brief."},
                 {"role": "user", "content": [{"type": "text", "text": "a"}]},
                 {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {
                     "name": "set_sky", "arguments": '{"colour": "blue"}'}}]},
                 {"role": "tool", "tool_call_id": "c", "content": "ok"}],
    "tools": [SKY, *OFFERED], "tool_choice": "auto", "parallel_tool_calls": True, "constrained": True,
    "response_format": {"type": "text"}, "stream_options": {"include_usage": True},
}  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8),
    st.sampled_from(["", "tiny", "required", "auto", "<tool_call>", "</think>", "<|im_end|>", "\x00",
                     "\u2028", "string", "object", "#/$defs/x", "(", "[", 10**400, -1, 0, 1e308, "😀"]),
)  # fmt: skip
SLOW, SLOW_TEXT = "^(a+)+$", "a" * 40 + "!"  # Python's `re` takes more than a day for the two
REFERENCES = st.sampled_from(["#", "#/$defs/a", "#/$defs/none", "#q", "http://127.0.0.1:9/x"])
# What no grammar enforces, so that it is checked afterwards.
LOOSE = st.sampled_from([
    {"const": SLOW_TEXT, "not": {"pattern": SLOW}}, {"const": SLOW_TEXT, "if": {"pattern": SLOW}, "then": False},
    {"type": "object", "properties": {SLOW_TEXT: {"const": 1}}, "required": [SLOW_TEXT],
     "not": {"patternProperties": {SLOW: False}, "additionalProperties": True}},
    {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False,
     "not": {"unevaluatedProperties": False, "patternProperties": {SLOW: {}}}},
    {"const": 1, "not": {"$ref": "#"}}, {"const": 1, "allOf": [{"not": {"$dynamicRef": "#q"}}]},
])  # fmt: skip
SCHEMAS = LOOSE | st.recursive(
    st.fixed_dictionaries({}, optional={
        "type": st.sampled_from(["object", "string", "integer", "number", "array", "boolean", "null", "none", 5]),
        "enum": st.lists(SCALARS, max_size=3),
        "pattern": st.sampled_from(["^a+$", "(", "(?<=a)b", "^(?=a)b", "[a-z]{3}", "a" * 50, SLOW, "a{9999}"]),
        "minimum": st.integers(-5, 5), "maximum": st.integers(-5, 5), "minLength": st.integers(-1, 5),
        "$ref": REFERENCES, "not": st.sampled_from([{}, {"type": "string"}, {"pattern": SLOW}, {"$ref": "#"}]),
        "format": st.sampled_from(["date", "email", "nothing"]), "const": SCALARS, "default": SCALARS,
    }),
    lambda inner: st.fixed_dictionaries({"type": st.just("object")}, optional={
        "properties": st.dictionaries(st.text(max_size=5), inner, max_size=3), "items": inner,
        "anyOf": st.lists(inner, max_size=2), "required": st.lists(st.text(max_size=5), max_size=2),
        "additionalProperties": inner | st.booleans(), "not": inner, "if": inner, "then": inner | st.just(False),
        "dependentSchemas": st.dictionaries(st.text(max_size=5), inner, max_size=2),
        "unevaluatedProperties": inner | st.booleans(), "patternProperties": st.dictionaries(
            st.sampled_from(["^a", SLOW, "(?!a)"]), inner, max_size=2),
        "$defs": st.fixed_dictionaries({"a": st.builds(lambda ref: {"anyOf": [{"$ref": ref}]}, REFERENCES) | inner}),
        "$dynamicRef": REFERENCES,
    }), max_leaves=4,
)  # fmt: skip
VALUES = st.recursive(
    SCALARS | SCHEMAS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=5,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in items for found in places(item, (*path, key)))]


PLACES = [path for path in places(GOOD) if path]
MOST_LIKELY = [("tools", 0, "function", "parameters"), ("tools", 0, "function", "name"), ("messages", 1, "content")]
WHERE = st.sampled_from(PLACES) | st.sampled_from(MOST_LIKELY)
CHANGES = st.lists(st.tuples(WHERE, st.sampled_from(["set", "drop"]), VALUES), max_size=3)
WITH_SCHEMA = SCHEMAS.map(lambda schema: {"type": "function", "function": {"name": "f", "parameters": schema}})


def bound_to(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"schema": schema}}


MORE = st.fixed_dictionaries({}, optional={
    "response_format": SCHEMAS.map(bound_to),
    "tools": st.lists(WITH_SCHEMA, max_size=2) | st.none(),
    "tool_choice": st.sampled_from(["none", "required", {"type": "function", "function": {"name": "f"}}]),
    "stream": st.booleans(), "max_tokens": st.just(80), "n": st.integers(0, 2), "logit_bias": VALUES, "x": VALUES,
}) | st.fixed_dictionaries({  # response_format goes with no tools
    "response_format": SCHEMAS.map(bound_to), "tools": st.none(), "tool_choice": st.just("none"),
    "max_tokens": st.just(80), "stream": st.booleans(),
})  # fmt: skip


def changed(changes: list[tuple[tuple[Any, ...], str, Any]], more: dict[str, Any]) -> dict[str, Any]:
    body = json.loads(json.dumps(GOOD)) | more
    for path, kind, value in changes:
        try:
            place = body
            for key in path[:-1]:
                place = place[key]
            if kind == "set":
                place[path[-1]] = value
            else:
                del place[path[-1]]
        except (KeyError, IndexError, TypeError):
            pass  # an earlier change took the place away
    return body


def check_body(http: httpx.Client, body: Any, path: str = CHAT) -> int:
    raw = json.dumps(body).encode()
    answer = http.post(path, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 403, 404), (answer.status_code, answer.text, body)
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"] and set(error) == {"message", "type", "param", "code"}
    elif answer.headers["content-type"].startswith("text/event-stream"):
        last = answer.text.strip().rpartition("data: ")[2]
        assert last == "[DONE]" or json.loads(last)["error"]["status"] == 400, (answer.text, body)
    else:
        choice = answer.json().get("choices", [{}])[0]
        assert choice.get("finish_reason") != "tool_calls" or choice["message"]["tool_calls"]
    return answer.status_code


def fuzz(server: Serving, count: int) -> None:
    statuses: Counter[int] = Counter()
    with httpx.Client(base_url=server.address, timeout=60) as http:

        @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(CHANGES, MORE)
        def one(changes, more):
            statuses[check_body(http, changed(changes, more))] += 1

        one()
        assert http.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    print(dict(statuses))
    assert statuses[200] > count / 20 and statuses[400] > count / 20


def test_changed_bodies_are_answered(server):
    fuzz(server, 100)


@pytest.mark.parametrize("count", [pytest.param(700, marks=pytest.mark.slow),
                                   pytest.param(2500, marks=pytest.mark.nightly)])  # fmt: skip
def test_many_changed_bodies_are_answered(server, count):
    fuzz(server, count)


@pytest.mark.parametrize("seed", range(40))
def test_cut_and_mixed_bytes_are_answered(server, seed):
    chance = random.Random(seed)
    raw = bytearray(json.dumps(GOOD).encode())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(raw))
        raw[at : at + chance.randint(0, 9)] = chance.randbytes(chance.randint(0, 5))
    answer = httpx.post(server.address + CHAT, content=bytes(raw), headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 404), answer.text


@pytest.mark.parametrize("most", [pytest.param(500, marks=pytest.mark.slow),
                                  pytest.param(2200, marks=pytest.mark.nightly)])  # fmt: skip
def test_what_schemathesis_sends_is_answered(server, most):
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis import checks

    wanted = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    description = httpx.get(f"{server.address}/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description)
    count: Counter[int] = Counter()
    with httpx.Client(base_url=server.address, timeout=60) as http:
        for found in schema.get_all_operations():
            operation = found.ok()
            cases = most if "chat" in operation.path else most // 7 if operation.method.upper() == "POST" else 20

            @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy())
            def one(case):
                arguments = case.as_transport_kwargs(base_url=server.address)
                answer = http.request(
                    arguments["method"], arguments["url"], params=arguments.get("params"), headers={
                        name: value for name, value in (arguments.get("headers") or {}).items() if value is not None},
                    **({"json": arguments["json"]} if "json" in arguments else {"content": arguments.get("data")}),
                )  # fmt: skip
                assert answer.status_code < 500, (answer.text, arguments)
                case.validate_response(answer, checks=wanted)  # it is what /openapi.json says
                if answer.status_code >= 400:
                    assert answer.json()["error"]["message"]
                count[answer.status_code] += 1

            one()
    print(dict(count))
    assert sum(count.values()) >= most
    assert httpx.get(f"{server.address}/health").json()["running"] == 0


# ---- many ---------------------------------------------------------------------------------------------------------


def request(i: int) -> dict[str, Any]:
    """Requests of every kind by turns; a reply is a call in each but one of them."""
    body: dict[str, Any] = {"model": "tiny", "max_tokens": 60, "tools": [SKY], "tool_choice": "required",
                            "messages": [{"role": "user", "content": f"{CITIES[i % len(CITIES)]} {i}"}],
                            "parallel_tool_calls": False}  # fmt: skip
    kinds: list[dict[str, Any]] = [
        {}, {"stream": True}, {"tool_choice": "auto", "max_tokens": 8}, {"temperature": 1, "seed": i}]  # fmt: skip
    return body | kinds[i % 4]


def checked(i: int, answer: httpx.Response) -> str:
    """How the reply ended; raises for one that is lost or whose calls are empty."""
    assert answer.status_code == 200, answer.text
    if i % 4 == 1:
        assert answer.text.endswith("data: [DONE]\n\n")
        chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        arguments = "".join(c["function"]["arguments"] for d in deltas for c in d.get("tool_calls", []))
        finish: str = chunks[-1]["choices"][0]["finish_reason"]
    else:
        choice = answer.json()["choices"][0]
        finish = choice["finish_reason"]
        arguments = "".join(c["function"]["arguments"] for c in choice["message"].get("tool_calls", []))
    if finish == "tool_calls":
        assert json.loads(arguments)["colour"] in ("blue", "grey")
    if i % 4 in (0, 1):
        assert finish == "tool_calls"
    return finish


async def load_of(server: Serving, clients: int, requests: int) -> Counter[str]:
    ends: Counter[str] = Counter()
    numbers = iter(range(requests))

    async def client() -> None:
        async with httpx.AsyncClient(base_url=server.address, timeout=120) as http:
            for i in numbers:
                ends[checked(i, await http.post(CHAT, json=request(i)))] += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return ends


def test_32_clients(server):
    ends = asyncio.run(load_of(server, 32, 200))
    assert ends.total() == 200
    assert ends["tool_calls"] >= 100


@pytest.mark.slow
def test_32_clients_and_2000_requests_lose_nothing(server):
    ends = asyncio.run(load_of(server, 32, 2000))
    print(dict(ends))
    assert ends.total() == 2000
    assert httpx.get(f"{server.address}/health").json() == {"status": "ok", "running": 0, "waiting": 0}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="another process's memory is read from /proc")
def test_the_memory_of_a_server_does_not_grow_over_2000_requests(tmp_path):
    async def ask(address: str) -> None:
        numbers = iter(range(2000))

        async def client() -> None:
            for i in numbers:
                body = request(i) | {"model": "model"}
                assert (await http.post(address + CHAT, json=body)).status_code == 200

        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=32)) as http:
            await asyncio.gather(*(client() for _ in range(32)))

    process, address, _ = start(str(tiny_model(tmp_path / "model", layers=1)))
    try:
        asyncio.run(ask(address))  # caches and the allocator are full
        before = resident(process.pid)
        asyncio.run(ask(address))
        grown = resident(process.pid) - before
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    print(f"{before / 1e6:.1f} MB, and {grown / 1e6:.1f} MB more")
    assert grown < 10e6


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def test_200_connections_at_once(server):
    body = {"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}

    async def run() -> Counter[int]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=server.address, timeout=120, limits=limits) as http:
            answers = await asyncio.gather(*(http.post(CHAT, json=body) for _ in range(200)))
        return Counter(answer.status_code for answer in answers)

    assert asyncio.run(run()) == {200: 200}


def test_clients_that_come_and_go(server):
    async def one(http: httpx.AsyncClient, i: int) -> None:
        body = request(i) | {"max_tokens": 200, "stream": i % 2 == 0}
        with contextlib.suppress(httpx.TimeoutException):
            await http.post(CHAT, json=body, timeout=0.01 * (i % 7) + 0.005)

    async def run() -> None:
        async with httpx.AsyncClient(base_url=server.address) as http:
            for _ in range(3):
                await asyncio.gather(*(one(http, i) for i in range(30)))
            for _ in range(500):
                health = (await http.get("/health")).json()
                if health == {"status": "ok", "running": 0, "waiting": 0}:
                    return
                await asyncio.sleep(0.02)
            raise AssertionError(health)

    asyncio.run(run())
    assert httpx.post(server.address + CHAT, json=request(0), timeout=30).status_code == 200
