"""Requests to the server's model thread, and what is heard of their replies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tiny import TIME, TOOLS

from calltune.caller import Caller, load
from calltune.engine.decode import Sampling
from calltune.schema import Message, Tool
from calltune.serve.work import Made, Work
from calltune.serve.worker import Limits, ModelWorker

GREEDY = Sampling()
THING = {"type": "object", "properties": {"thing": {"type": "string"}}, "required": ["thing"]}
OTHERS = (Tool("add_to_list", "Adds a thing to a list.", THING), TIME)


class Heard:
    """Listens to one reply. `at`: what to do when so many pieces have come (0: when the prompt is known)."""

    def __init__(self, at: dict[int, Callable[[], Any]] | None = None) -> None:
        self.at, self.pieces, self.tokens = at or {}, list[str](), 0
        self.made: Made | None = None
        self.error: Exception | None = None
        self.ended, self.times = threading.Event(), 0

    def prompt(self, tokens: int, opened: bool = False, distinct: bool = False) -> None:
        self.tokens = tokens
        self.at.get(0, lambda: None)()

    def piece(self, text: str) -> None:
        self.pieces.append(text)
        self.at.get(len(self.pieces), lambda: None)()

    def done(self, made: Made) -> None:
        self.made, self.times = made, self.times + 1
        self.ended.set()

    def failed(self, error: Exception) -> None:
        self.error, self.times = error, self.times + 1
        self.ended.set()

    def wait(self) -> Made:
        assert self.ended.wait(60)
        if self.error:
            raise self.error
        assert self.made
        assert "".join(self.pieces) == self.made.text
        return self.made


def work(text: str = "Hello", tools: tuple[Tool, ...] = TOOLS, **more: Any) -> Work:
    values = {"model": "tiny", "sampling": GREEDY, "max_tokens": 16} | more
    return Work(messages=(Message("user", text),), tools=tools, **values)


def together(worker: ModelWorker, works: list[Work]) -> list[Made]:
    """The replies to requests that join in one turn."""
    heard = [Heard() for _ in works]
    first = Heard({0: lambda: [worker.submit(w, h) for w, h in zip(works[1:], heard[1:], strict=True)]})
    worker.submit(works[0], first)
    return [h.wait() for h in (first, *heard[1:])]


def alone(caller: Caller, asked: Work) -> str:
    reply = caller(
        asked.messages, asked.tools, rules=asked.rules, max_tokens=asked.max_tokens, sampling=asked.sampling
    )
    return reply.raw


def started(folder: Path) -> Iterator[Callable[..., ModelWorker]]:
    """For a fixture: starts workers of the model in `folder`, and closes them after the test."""
    workers = []

    def make(caller: Caller | None = None, name: str = "tiny", **limits: int) -> ModelWorker:
        workers.append(ModelWorker(caller or load(folder), name, limits=Limits(**limits)))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()
