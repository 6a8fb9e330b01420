"""From the model's thread to the loop that a client's request waits in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from calltune.serve.work import Made, Ticket, Work, Worker

Receive = Any


@dataclass(frozen=True)
class Prompt:
    """The reply has begun: the prompt's tokens were counted. `opened`: the prompt begins the plan; `distinct`: a call
    that comes again is made once."""

    tokens: int
    opened: bool = False
    distinct: bool = False


Event = Prompt | str | Made | Exception  # a text is a piece of the reply; the last two end it


@dataclass
class Inbox:
    """The `Listener` of one reply. Its events are taken in the loop in which it was made."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    def prompt(self, tokens: int, opened: bool = False, distinct: bool = False) -> None:
        self._put(Prompt(tokens, opened, distinct))

    def piece(self, text: str) -> None:
        self._put(text)

    def done(self, made: Made) -> None:
        self._put(made)

    def failed(self, error: Exception) -> None:
        self._put(error)

    def _put(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class Gone(Exception):
    """The client went away."""


async def events(worker: Worker, work: Work, receive: Receive, patience: float) -> AsyncGenerator[Event | None]:
    """The events of one reply up to its end; None where nothing came for `patience` seconds. Raises QueueFull, and
    Gone when the client leaves. However it ends, the reply is not made any further."""
    inbox = Inbox()
    ticket: Ticket = worker.submit(work, inbox)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        while True:
            event = await _next(inbox, leaving, patience)
            yield event
            if isinstance(event, (Made, Exception)):
                return
    finally:
        leaving.cancel()
        ticket.cancel()


async def _next(inbox: Inbox, leaving: asyncio.Future[None], patience: float) -> Event | None:
    if not inbox.events.empty():
        return inbox.events.get_nowait()
    coming = asyncio.ensure_future(inbox.events.get())
    try:
        both: set[asyncio.Future[Any]] = {coming, leaving}
        await asyncio.wait(both, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            return coming.result()
        if leaving.done():
            raise Gone
        return None
    finally:
        coming.cancel()


async def _gone(receive: Receive) -> None:
    """Returns when the client has left. The body was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
