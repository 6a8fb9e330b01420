"""An agent on your functions: generate, validate, ask, run, feed back, until the model answers in words.

The loop is a generator that says what it wants done next (a reply, a consent, a call run) and is told what came of
it, so that `run` and `arun` are the same loop, one doing these things and the other awaiting them.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calltune.consent import Confirm, confirm_of, reason_of
from calltune.errors import InputError, TooLong
from calltune.functions import MAX_OUTPUT, TIMEOUT, Function, Outcome, execute, execute_async, refused
from calltune.functions.execute import Ready, prepare
from calltune.grammar import Rules
from calltune.offered import check_executable, offered
from calltune.schema import Message, Reply, Tool, ToolCall, numbered, shorten
from calltune.trace import MAX_STEPS, Result, Step, result_of

MAX_TOKENS = 512
SAME_FAILURE = 2  # times that the same call may fail in the same way
SAME_RESULT = 3  # times that the same call may have the same result
KEPT = 2000  # characters of a reply that could not be read, for the model to see

Caller = Callable[..., Reply]  # as calltune.caller.Caller: (messages, tools, *, max_tokens, sampling, rules)
_generating = threading.Lock()  # a model in memory has one cache: one reply at a time


@dataclass(frozen=True)
class _Generate:
    messages: tuple[Message, ...]
    rules: Rules | None


@dataclass(frozen=True)
class _Allow:
    call: ToolCall
    function: Function


@dataclass(frozen=True)
class _Run:
    call: ToolCall


_Wish = _Generate | _Allow | _Run
_Loop = Generator[_Wish, Any, Result]


class Agent:
    """A model with functions that it may call. `Agent("runs/mine", "my_tools.py").run("...").answer`

    `run`: a run's folder or a model's name, which is loaded; or a caller: what `calltune.load` gives, or any
    function `(messages, tools, *, max_tokens, sampling, rules) -> Reply`. `tools`: functions, a Python file, an MCP
    server, or a list of these (None: the built-in ones, for a run that was trained on them).

    `confirm(call, function)` is asked before a function runs that is not marked `@tool(pure=True)`: True lets it
    run, False or a text (the reason, for the model) does not; it may be async for `arun`. Instead of a hook True
    allows everything, False nothing, None asks in the terminal and allows nothing where there is none.

    Replies are bound by `rules` to calls that fit the tools (None: not bound). Limits: `max_steps` replies of
    `max_tokens` tokens, `timeout` seconds and `max_output` characters a call. `on_reply(reply)` and
    `on_outcome(call, outcome)` are told what happens while it happens.

    Raises InputError: the model or the tools cannot be read, or the tools have no code.
    """

    def __init__(
        self,
        run: Any,
        tools: Any = None,
        *,
        confirm: Confirm | bool | None = None,
        rules: Rules | None = Rules(),  # noqa: B008  (frozen)
        system: str | None = None,
        max_steps: int = MAX_STEPS,
        max_tokens: int = MAX_TOKENS,
        timeout: float | None = TIMEOUT,
        max_output: int | None = MAX_OUTPUT,
        sampling: Any = None,
        on_reply: Callable[[Reply], object] | None = None,
        on_outcome: Callable[[ToolCall, Outcome], object] | None = None,
    ) -> None:
        _check_limits(max_steps=max_steps, max_tokens=max_tokens, timeout=timeout, max_output=max_output)
        self.functions, self.caller = _functions_and_caller(run, tools)
        self.tools: tuple[Tool, ...] = tuple(function.tool for function in self.functions)
        self.confirm, self.rules, self.system = confirm_of(confirm), rules, system
        self.max_steps, self.max_tokens, self.sampling = max_steps, max_tokens, sampling
        self.timeout, self.max_output = timeout, max_output
        self.on_reply, self.on_outcome = on_reply, on_outcome

    def run(self, request: str, *, history: Sequence[Message] = ()) -> Result:
        """Works on a request until the model answers or a limit is reached (`Result.ended`); never raises for what
        the model or a function did. `history`: the messages of an earlier result, to go on from there."""
        loop = self._loop(request, history)
        told: Any = None
        try:
            while True:
                told = self._do(loop.send(told))
        except StopIteration as stop:
            result: Result = stop.value
            return result

    async def arun(self, request: str, *, history: Sequence[Message] = ()) -> Result:
        """As `run`, without blocking the event loop. Async functions and hooks run in this loop."""
        loop = self._loop(request, history)
        told: Any = None
        try:
            while True:
                told = await self._ado(loop.send(told))
        except StopIteration as stop:
            result: Result = stop.value
            return result

    # ---- doing what the loop wants --------------------------------------------------------------------------------

    def _do(self, wish: _Wish) -> Any:
        match wish:
            case _Generate():
                return self._generate(wish)
            case _Allow(call, function):
                answer = self.confirm(call, function)
                if inspect.isawaitable(answer):
                    getattr(answer, "close", str)()
                    raise InputError("the hook `confirm` is async", next_step="use `await agent.arun(...)`")
                return reason_of(answer)
            case _Run(call):
                return execute(call, self.functions, timeout=self.timeout, max_output=self.max_output)

    async def _ado(self, wish: _Wish) -> Any:
        match wish:
            case _Generate():
                return await asyncio.to_thread(self._generate, wish)
            case _Allow(call, function):
                answer = self.confirm(call, function)
                return reason_of(await answer if inspect.isawaitable(answer) else answer)
            case _Run(call):
                return await execute_async(call, self.functions, timeout=self.timeout,
                                           max_output=self.max_output)  # fmt: skip

    def _generate(self, wish: _Generate) -> Reply | TooLong:
        with _generating if hasattr(self.caller, "decoder") else nullcontext():
            try:
                return self.caller(wish.messages, self.tools, max_tokens=self.max_tokens, sampling=self.sampling,
                                   rules=wish.rules)  # fmt: skip
            except TooLong as error:
                return error

    # ---- the loop -------------------------------------------------------------------------------------------------

    def _loop(self, request: str, history: Sequence[Message]) -> _Loop:
        if not request.strip():
            raise InputError("the request is empty", next_step="say what is to be done")
        start = (Message("system", self.system),) if self.system and not history else ()
        messages: tuple[Message, ...] = (*start, *history, Message("user", request))
        steps: list[Step] = []
        seen: Counter[tuple[str, ...]] = Counter()
        rules = self.rules
        while len(steps) < self.max_steps:
            made: Reply | TooLong = yield _Generate(messages, rules)
            if isinstance(made, TooLong):
                return result_of("too_long", made.message, messages, self.tools, steps)
            reply = numbered(made, messages)
            if self.on_reply:
                self.on_reply(reply)
            if wrong := unreadable(reply, self.max_tokens):
                steps.append(Step(reply))
                messages = (*messages, *_told_back(reply, wrong))
                seen[(reply.raw,)] += 1
                if seen[(reply.raw,)] >= SAME_FAILURE:
                    return result_of("repeated", f"the same reply could not be read again: {wrong}", messages,
                                     self.tools, steps)  # fmt: skip
                continue
            messages = (*messages, reply.to_message())
            if not reply.calls:
                return self._answered(reply, messages, [*steps, Step(reply)])
            outcomes = yield from self._run_calls(reply.calls)
            steps.append(Step(reply, tuple(outcomes)))
            messages += tuple(o.message(c, i) for i, (c, o) in enumerate(zip(reply.calls, outcomes, strict=True)))
            if stop := _repeated(reply.calls, outcomes, seen):
                return result_of("repeated", stop, messages, self.tools, steps)
            if rules is not None and rules.choice != "auto":
                rules = replace(rules, choice="auto", named=False)  # the call that was asked for has been made
        return result_of("max_steps", f"no answer after {self.max_steps} replies", messages, self.tools, steps)

    def _run_calls(self, calls: Sequence[ToolCall]) -> Generator[_Wish, Any, list[Outcome]]:
        """The calls in their order, each asked for if it has to be. A call that is not valid is not asked for."""
        outcomes: list[Outcome] = []
        for call in calls:
            function = next((f for f in self.functions if f.name == call.name), None)
            asks = function and not function.pure and isinstance(prepare(call, self.functions), Ready)
            why = (yield _Allow(call, function)) if function and asks else None
            outcome = refused(why) if why else (yield _Run(call))
            outcomes.append(outcome)
            if self.on_outcome:
                self.on_outcome(call, outcome)
        return outcomes

    def _answered(self, reply: Reply, messages: tuple[Message, ...], steps: list[Step]) -> Result:
        if not reply.content.strip():
            return result_of("empty", "the model neither called a function nor answered", messages, self.tools, steps)
        if reply.truncated:
            why = f"the answer was cut at {limit_words(self.max_tokens)}"
            return result_of("cut", why, messages, self.tools, steps)
        return result_of("answer", "", messages, self.tools, steps)


def unreadable(reply: Reply, max_tokens: int) -> str:
    """Why nothing of a reply can be run: a call in it that could not be read, or markup without anything else."""
    broken = [call.error for call in reply.calls if call.error]
    if not broken and (reply.calls or reply.content.strip()):
        return ""
    if reply.truncated and (broken or reply.errors):
        return f"it was cut at {limit_words(max_tokens)}"
    return "; ".join(dict.fromkeys([*broken, *reply.errors]))


def limit_words(max_tokens: int) -> str:
    return f"the limit of {max_tokens} tokens, or at the end of the model's context"


def _told_back(reply: Reply, wrong: str) -> Iterator[Message]:
    """A reply that could not be read, as the model wrote it, and what was wrong with it."""
    yield Message("assistant", reply.raw[:KEPT])
    yield Message("user", f"Your reply could not be read: {wrong}. No function was run. Write the call again, whole, "
                          "or answer in words.")  # fmt: skip


def _repeated(calls: Sequence[ToolCall], outcomes: Sequence[Outcome], seen: Counter[tuple[str, ...]]) -> str:
    """Why to stop: a call that failed, or gave a result, again and again in the same way. "" to go on."""
    for call, outcome in zip(calls, outcomes, strict=True):
        key = (call.name, json.dumps(dict(call.arguments), sort_keys=True, default=str), outcome.content)
        seen[key] += 1
        if seen[key] >= (SAME_FAILURE if outcome.error else SAME_RESULT):
            what = "failed in the same way" if outcome.error else "gave the same result"
            return f"the same call of {call.name} {what} {seen[key]} times: {shorten(outcome.content, 200)}"
    return ""


def _functions_and_caller(run: Any, tools: Any) -> tuple[tuple[Function, ...], Caller]:
    """The functions are read first: a mistake in them shows before a model is loaded."""
    from calltune.runs import Run

    if callable(run):
        own = getattr(run, "run", None)
        own = own if isinstance(own, Run) else None
        functions = offered(tools, own)
        check_executable(functions, own)
        return tuple(functions), run
    from calltune.caller import find_run, load

    if not isinstance(run, (str, Path, Run)):
        raise InputError(f"an agent cannot work with {shorten(run)}",
                         next_step="give a run's folder, a model's name, or what calltune.load gave")  # fmt: skip
    found = run if isinstance(run, Run) else find_run(run)
    functions = offered(tools, found)
    check_executable(functions, found)
    return tuple(functions), load(found or run)


def _check_limits(**limits: float | None) -> None:
    wrong = [f"{name} is {value}" for name, value in limits.items() if value is not None and not value > 0]
    if wrong:
        raise InputError("; ".join(wrong), next_step="every limit is a number above 0")
