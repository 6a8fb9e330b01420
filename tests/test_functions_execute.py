"""Calls executed: declared types made of JSON, results and errors as text."""

import asyncio
import contextlib
import json
import threading
import time
from datetime import date
from typing import Any

import pytest
from function_types import Point, Unit

from calltune.functions import Function, Outcome, execute, execute_async, functions_from, refused
from calltune.functions.execute import MOST_LEFT
from calltune.schema import Message, Tool, ToolCall


def plan(day: date, unit: Unit, at: Point | None = None, points: list[Point] | None = None, size: float = 1) -> dict:
    """Everything that needs making from JSON."""
    return {"day": day, "weekday": day.weekday(), "unit": unit, "at": at, "points": points, "size": size}


def fail(a: int) -> int:
    raise RuntimeError(f"no {a}")


async def later(a: int, /, b: int = 2) -> int:
    return a + b


FUNCTIONS = functions_from([plan, fail, later])


def test_execution_makes_the_declared_types():
    call = ToolCall("plan", {"day": "2026-03-01", "unit": "celsius", "points": [{"x": 1}], "size": 2})
    assert json.loads(execute(call, FUNCTIONS).content) == {
        "day": "2026-03-01",
        "weekday": 6,
        "unit": "celsius",
        "at": None,
        "points": [{"x": 1.0, "y": 0.0}],
        "size": 2.0,
    }


@pytest.mark.parametrize(
    ("pattern", "text", "content"),
    [
        ("^(a+)+$", "a" * 40 + "!", "schema_pattern"),
        ("^(a+)+$", "aaa", "3"),
        (r"^(?=.*\d)[a-z\d]+$", "abc", "schema_pattern"),
        ("(?<!b)(a+)+$", "a" * 40 + "!", "41"),  # what cannot be tried in bounded time is the function's to judge
    ],
)
def test_a_slow_pattern_of_a_tool_stops_nobody(pattern, text, content):
    def length(text: str) -> int:
        return len(text)

    schema = {"type": "object", "properties": {"text": {"type": "string", "pattern": pattern}}, "required": ["text"]}
    [function] = functions_from([length])
    function = Function(Tool("length", "", schema), function.call)
    assert content in execute(ToolCall("length", {"text": text}), [function]).content
    assert "missing_argument" in execute(ToolCall("length", {}), [function]).content


def test_execution_of_async_functions_and_positional_parameters():
    assert execute(ToolCall("later", {"a": 1}), FUNCTIONS).content == "3"
    assert execute(ToolCall("later", {"a": 1, "b": 5}), FUNCTIONS).content == "6"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (ToolCall("fail", {"a": 3}), "RuntimeError: no 3"),
        (ToolCall("fail", {"a": "3"}), "wrong_type"),
        (ToolCall("fail", {"a": 3, "b": 4}), "unknown_argument"),
        (ToolCall("plan", {"day": "2026-02-30", "unit": "celsius"}), "invalid argument"),
        (ToolCall("plan", {"unit": "kelvin", "day": "2026-02-03"}), "not_in_enum"),
        (ToolCall("eval", {"code": "1"}), "eval"),
        (ToolCall("", raw="{", error="not complete"), "not complete"),
    ],
)
def test_what_goes_wrong_comes_back_as_text(call, words):
    assert words in json.loads(execute(call, FUNCTIONS).content)["error"]


def test_results_that_json_has_no_form_for():
    def odd() -> Any:
        return {"set": {2, 1}, "nan": float("nan"), "object": Point, 3: (1, 2)}

    result = json.loads(execute(ToolCall("odd"), functions_from(odd)).content)
    assert result["set"] == [1, 2]
    assert result["nan"] == "nan"
    assert result["3"] == [1, 2]


# ---- limits -----------------------------------------------------------------------------------------------------

GO = threading.Event()


def wait_for_go() -> str:
    GO.wait(20)
    return "done"


async def sleep_long() -> str:
    await asyncio.sleep(20)
    return "done"


async def deaf() -> str:
    """Does not heed that it is cancelled."""
    for _ in range(400):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.005)
    return "done"


async def own_timeout() -> str:
    raise TimeoutError("the other side was slow")


def leave() -> str:
    raise SystemExit(3)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def mute() -> str:
    raise Mute


def letters(n: int, breaks: bool = False) -> str:
    return ("\n" if breaks else "x") * n


def numbers(n: int) -> list[int]:
    return list(range(n))


def half_a_pair() -> str:
    return "a\ud83d"


def round_and_round() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def keep(items: list[Any]) -> int:
    items.append("more")
    return len(items)


LIMITS = functions_from(
    [wait_for_go, sleep_long, deaf, own_timeout, leave, mute, letters, numbers, half_a_pair, round_and_round, keep]
)


def run_both(name: str, arguments: dict[str, Any] | None = None, **limits: Any) -> list[Outcome]:
    call = ToolCall(name, arguments or {})
    return [execute(call, LIMITS, **limits), asyncio.run(execute_async(call, LIMITS, **limits))]


def test_a_thread_that_does_not_end_is_left_behind_and_said_so():
    GO.clear()
    begun = time.monotonic()
    for outcome in run_both("wait_for_go", timeout=0.05):
        assert (outcome.kind, outcome.error) == ("timeout", True)
        assert "0.05 seconds" in outcome.content and "may still be running" in outcome.content
    assert time.monotonic() - begun < 5
    GO.set()


def test_no_more_threads_than_a_few_are_left_behind():
    GO.clear()
    call = ToolCall("wait_for_go", {})
    kinds = [execute(call, LIMITS, timeout=0.005).kind for _ in range(MOST_LEFT + 2)]
    assert kinds[0] == "timeout" and kinds[-1] == "failed"
    assert "still run" in execute(call, LIMITS, timeout=0.005).content
    GO.set()
    for _ in range(200):
        if execute(ToolCall("letters", {"n": 1}), LIMITS).kind == "ok":
            return
        time.sleep(0.01)
    raise AssertionError("threads that have ended still count")


@pytest.mark.parametrize(("name", "words"), [("sleep_long", "it was cancelled"), ("deaf", "0.05 seconds")])
def test_a_coroutine_is_cancelled(name, words):
    begun = time.monotonic()
    for outcome in run_both(name, timeout=0.05):
        assert outcome.kind == "timeout" and words in outcome.content
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_what_a_function_raises_is_its_result(timeout):
    for name, words in [
        ("own_timeout", "TimeoutError: the other side was slow"),
        ("leave", "SystemExit: 3"),
        ("mute", "Mute"),
        ("round_and_round", "RecursionError"),
    ]:
        for outcome in run_both(name, timeout=timeout):
            assert outcome.kind == "failed" and words in json.loads(outcome.content)["error"]


def test_without_a_time_limit_a_function_runs_in_this_thread():
    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert execute(ToolCall("where"), functions_from(where), timeout=None).content == "true"
    assert execute(ToolCall("where"), functions_from(where)).content == "false"


def test_a_long_result_is_cut_and_says_how_much():
    for name, arguments, whole in [
        ("letters", {"n": 1000}, 1000),
        ("letters", {"n": 1000, "breaks": True}, 1000),
        ("numbers", {"n": 500}, len(json.dumps(list(range(500))))),
    ]:
        for outcome in run_both(name, arguments, max_output=100):
            value = json.loads(outcome.content)
            assert value["cut"] == f"the last {outcome.cut} of {whole} characters were cut"
            assert len(value["beginning"]) + outcome.cut == whole
            assert 40 < len(json.dumps(value["beginning"])) <= 102
            assert not outcome.error
    assert execute(ToolCall("letters", {"n": 98}), LIMITS, max_output=100).cut == 0


def test_half_of_a_pair_can_be_written_to_a_file():
    for outcome in run_both("half_a_pair"):
        assert outcome.content.encode() == b'"a?"'


def test_a_function_cannot_change_the_call():
    call = ToolCall("keep", {"items": [1]})
    assert execute(call, LIMITS).content == "2"
    assert call.arguments == {"items": [1]}


def test_kinds_of_refusal():
    schema_only = Function(Tool("no_code"))
    kinds = [
        execute(ToolCall(name, arguments), [*LIMITS, schema_only]).kind
        for name, arguments in [("nothing", {}), ("letters", {"n": "x"}), ("no_code", {}), ("letters", {"n": 1})]
    ]
    assert kinds == ["unknown_function", "bad_arguments", "no_code", "ok"]


def test_an_outcome_answers_its_call():
    call = ToolCall("letters", {"n": 2}, id="abc")
    assert execute(call, LIMITS).message(call) == Message("tool", '"xx"', name="letters", call_id="abc")
    assert refused("no").message(ToolCall("letters"), 3).call_id == "call_3"


def test_an_untyped_function_gets_the_arguments_as_they_are():
    function = Function(Tool("f", "", {"type": "object", "properties": {"a-b": {}}}), lambda **a: a, untyped=True)
    assert execute(ToolCall("f", {"a-b": [1]}), [function]).content == '{"a-b": [1]}'


def test_async_functions_run_in_the_loop_of_the_caller():
    async def main() -> Outcome:
        loop = asyncio.get_running_loop()

        async def same() -> bool:
            return asyncio.get_running_loop() is loop

        return await execute_async(ToolCall("same"), functions_from(same))

    assert asyncio.run(main()).content == "true"


def test_a_cancelled_execution_cancels_its_coroutine():
    async def main() -> bool:
        seen = asyncio.Event()
        cancelled = asyncio.Event()

        async def long() -> None:
            seen.set()
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        task = asyncio.create_task(execute_async(ToolCall("long"), functions_from(long)))
        await seen.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        return cancelled.is_set()

    assert asyncio.run(main())


UNJUDGED = [
    ({"n": {"type": "integer", "$id": "Num"}}, True), ({"n": {"type": "integer", "examples": [{"$id": "x"}]}}, True),
    ({"n": {"type": "integer"}, "a": {"type": "string", "pattern": "(?<=a)b"}}, True),
    ({"n": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}, False),
    ({"n": {"$id": "Num", "$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}}, False),
]  # fmt: skip


@pytest.mark.parametrize(("properties", "judged"), UNJUDGED)
def test_nothing_runs_with_arguments_that_were_not_checked(properties, judged):
    """What cannot be judged in bounded time is refused, but for a pattern, which the function judges."""
    ran = []
    schema = {"type": "object", "properties": properties | {"path": {"type": "string"}}, "required": ["n", "path"],
              "additionalProperties": False}  # fmt: skip
    function = Function(Tool("f", "", schema), lambda **arguments: ran.append(arguments), untyped=True)
    for wrong in ({"n": "x", "path": ""}, {"n": 1}, {"n": 1, "path": "", "evil": 1}):
        outcome = execute(ToolCall("f", {"a": "b"} | wrong if "a" in properties else wrong), [function])
        assert outcome.kind == "bad_arguments" and not ran, wrong
    outcome = execute(ToolCall("f", {"n": 1, "path": ""}), [function])
    assert judged is (not outcome.error) is bool(ran)
    assert judged or "not run, as its arguments cannot be checked: f: it has" in outcome.content
