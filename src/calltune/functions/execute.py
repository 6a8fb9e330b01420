"""Running a call that a model made: only what was registered, only with arguments that fit, within limits.

    registered? -> arguments valid? -> made into the declared types -> run, within a time -> JSON text, cut

Whatever goes wrong on that way is the call's result, in words that a model can read; nothing is raised for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import inspect
import json
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from calltune.errors import CalltuneError
from calltune.functions.hints import coerce, to_json
from calltune.functions.read import Function, type_hints
from calltune.schema import Message, ToolCall, validate_call

TIMEOUT = 30.0  # seconds a call
MAX_OUTPUT = 10_000  # characters of a result
MOST_LEFT = 16  # threads of calls that were given up and still run
GRACE = 0.5  # seconds that a cancelled coroutine has for closing what it opened

Kind = Literal["ok", "unknown_function", "bad_arguments", "no_code", "refused", "failed", "timeout"]


@dataclass(frozen=True)
class Outcome:
    """What came of a call. `content` is JSON text for the tool message: the result, or `{"error": "..."}`.

    `kind` says what went wrong ("ok": nothing), `cut` how many characters of the result were left out.
    """

    content: str
    kind: Kind = "ok"
    cut: int = 0

    @property
    def error(self) -> bool:
        return self.kind != "ok"

    def message(self, call: ToolCall, index: int = 0) -> Message:
        """The tool message that answers `call`, the `index`-th of its reply."""
        return Message("tool", self.content, name=call.name, call_id=call.id or f"call_{index}")


def execute(
    call: ToolCall, functions: Sequence[Function], *, timeout: float | None = TIMEOUT,
    max_output: int | None = MAX_OUTPUT,
) -> Outcome:  # fmt: skip
    """Runs a call of one of `functions`. Never raises for what a model or a function did.

    `timeout`: seconds. The function runs in a thread of its own then, since Python cannot stop one that does not
    come back: **such a thread is left behind and may still act**, its result is thrown away, and the outcome says so.
    It does not keep the process from ending. While MOST_LEFT of them run, no other call is started. A coroutine is
    cancelled. None: no limit, and the function runs in this thread. `max_output`: characters of the result; what is
    longer is cut, and the content says how much.
    """
    ready = prepare(call, functions)
    if isinstance(ready, Outcome):
        return _limited(ready, max_output)
    if timeout is None:
        return _limited(ready.run(None), max_output)
    if _left_behind() >= MOST_LEFT:
        return _full()
    box: list[Outcome] = []
    thread = _start(lambda: box.append(ready.run(timeout)), call.name)
    thread.join(timeout + (GRACE if ready.is_async else 0))
    return _limited(box[0] if box else _given_up(thread, timeout), max_output)


async def execute_async(
    call: ToolCall, functions: Sequence[Function], *, timeout: float | None = TIMEOUT,
    max_output: int | None = MAX_OUTPUT,
) -> Outcome:  # fmt: skip
    """As `execute`, without blocking the loop: an `async def` runs in this loop, all else in a thread of its own.
    When it is cancelled, a coroutine is cancelled with it and a thread is left behind."""
    ready = prepare(call, functions)
    if isinstance(ready, Outcome):
        return _limited(ready, max_output)
    if ready.is_async:
        return _limited(await _in_loop(ready, timeout), max_output)
    if _left_behind() >= MOST_LEFT:
        return _full()
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Outcome] = loop.create_future()

    def work() -> None:
        outcome = ready.run(timeout)
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, done, outcome)

    thread = _start(work, call.name)
    try:
        return _limited(await asyncio.wait_for(done, timeout), max_output)
    except TimeoutError:
        return _given_up(thread, timeout)
    except asyncio.CancelledError:
        _remember(thread)
        raise


def refused(why: str) -> Outcome:
    """The outcome of a call that somebody did not let run."""
    return _error(why, "refused")


@dataclass(frozen=True)
class Ready:
    """A call that may run: its function, and the arguments as the types that it declares."""

    function: Callable[..., Any]
    positional: list[Any] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    def run(self, timeout: float | None) -> Outcome:
        """Runs it in this thread, a coroutine in a loop of its own; what it raises becomes an outcome."""
        try:
            result = self.function(*self.positional, **self.named)
            if inspect.isawaitable(result):
                return _own_loop(_finish(result, timeout))
            return Outcome(as_text(result))
        except KeyboardInterrupt:
            if threading.current_thread() is threading.main_thread():
                raise  # the user's own, not the function's
            return _error("KeyboardInterrupt", "failed")
        except BaseException as error:  # also SystemExit: a function does not end the program
            return _failed(error)


def prepare(call: ToolCall, functions: Sequence[Function]) -> Ready | Outcome:
    """Everything before running: is it registered, do its arguments fit, are they of the declared types."""
    found = validate_call(call, [function.tool for function in functions], bounded=True)
    problems = [problem for problem in found if problem.severity == "error"]
    if problems:
        unknown = any(problem.kind == "unknown_function" for problem in problems)
        words = "; ".join(str(problem) for problem in problems)
        return _error(words, "unknown_function" if unknown else "bad_arguments")
    for problem in found:
        if problem.kind == "not_judged":  # no pattern alone, which the function judges
            return _error(f"not run, as its arguments cannot be checked: {problem.found}", "bad_arguments")
    function = next(f for f in functions if f.name == call.name)
    if function.call is None:
        return _error(f"{call.name} has a schema but no code here", "no_code")
    arguments = copy.deepcopy(dict(call.arguments))  # what a function does to them must not change the call
    if function.untyped:
        return Ready(function.call, [], arguments)
    try:
        return Ready(function.call, *_typed(function.call, arguments))
    except Exception as error:
        return _error(f"invalid argument: {_words(error)}", "bad_arguments")


def _typed(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments in the declared types. Raises what making them raises."""
    hints = type_hints(function)
    values = {name: coerce(value, hints[name]) for name, value in arguments.items()}
    positional: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_ONLY:
            break
        # what was left out is given as its default, so that those after it keep their places
        positional.append(values.pop(parameter.name, parameter.default))
    return positional, values


def as_text(result: Any) -> str:
    """A result as JSON text that any file and tokenizer takes (no half of a surrogate pair)."""
    text = json.dumps(to_json(result), ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


# ---- running ----------------------------------------------------------------------------------------------------

_left: list[threading.Thread] = []
_left_lock = threading.Lock()


def _start(work: Callable[[], None], name: str) -> threading.Thread:
    """A daemon thread: one that never ends does not keep the process from ending."""
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name=f"call {name}", daemon=True)
    thread.start()
    return thread


def _left_behind() -> int:
    """How many threads of calls that were given up still run."""
    with _left_lock:
        _left[:] = [thread for thread in _left if thread.is_alive()]
        return len(_left)


def _remember(thread: threading.Thread) -> None:
    with _left_lock:
        _left.append(thread)


def _given_up(thread: threading.Thread, timeout: float | None) -> Outcome:
    _remember(thread)
    return _error(f"no result after {timeout:g} seconds; it was given up, but may still be running", "timeout")


def _full() -> Outcome:
    return _error(f"not run: {MOST_LEFT} earlier calls that were given up still run", "failed")


def _own_loop(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Runs a coroutine to its end, in a thread of its own where a loop runs in this one (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    box: list[Outcome] = []
    _start(lambda: box.append(asyncio.run(work)), "coroutine").join()
    return box[0]


def _tell(waiting: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not waiting.done():
        waiting.set_result(outcome)


async def _in_loop(ready: Ready, timeout: float | None) -> Outcome:
    """A coroutine in the running loop; one that does not heed its cancellation is not waited for."""
    try:
        coroutine = ready.function(*ready.positional, **ready.named)
    except Exception as error:  # of a decorator
        return _failed(error)
    task = asyncio.ensure_future(_finish(coroutine, timeout))
    try:
        await asyncio.wait({task}, timeout=None if timeout is None else timeout + GRACE)
    finally:
        task.cancel()  # where it is done this does nothing
    return task.result() if task.done() else _cancelled(timeout)


async def _finish(awaitable: Any, timeout: float | None) -> Outcome:
    try:
        async with asyncio.timeout(timeout) as limit:
            return Outcome(as_text(await awaitable))
    except TimeoutError as error:
        return _cancelled(timeout) if limit.expired() else _failed(error)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return _failed(error)  # the function's own
    except BaseException as error:
        return _failed(error)


def _cancelled(timeout: float | None) -> Outcome:
    return _error(f"no result after {timeout:g} seconds; it was cancelled", "timeout")


# ---- words ------------------------------------------------------------------------------------------------------


def _failed(error: BaseException) -> Outcome:
    return _error(_words(error), "failed")


def _words(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # of an exception whose own words fail
        text = ""
    if isinstance(error, CalltuneError):
        return text  # words of ours, made to be read
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _error(text: str, kind: Kind) -> Outcome:
    return Outcome(as_text({"error": text}), kind)


def _limited(outcome: Outcome, limit: int | None) -> Outcome:
    """The outcome with at most about `limit` characters of content; of a longer one the beginning is kept as text,
    in an object that says how much was cut."""
    length = len(outcome.content)
    if limit is None or length <= limit:
        return outcome
    value = json.loads(outcome.content)
    key = "error" if outcome.error else "beginning"
    whole = value["error"] if outcome.error else value if isinstance(value, str) else outcome.content
    kept = whole[:limit]
    while len(json.dumps(kept, ensure_ascii=False)) > limit + 2:  # quotes and line breaks take two characters
        kept = kept[: len(kept) * limit // (len(json.dumps(kept, ensure_ascii=False)) + 1)]
    cut = len(whole) - len(kept)
    note = f"the last {cut} of {len(whole)} characters were cut"
    return replace(outcome, content=json.dumps({key: kept, "cut": note}, ensure_ascii=False), cut=cut)
