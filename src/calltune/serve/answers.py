"""Answering a chat request: as one object, or as a stream of server-sent events.

Source of the forms: https://platform.openai.com/docs/api-reference/chat/object and .../chat-streaming
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response

from calltune.errors import CalltuneError
from calltune.serve.errors import api_error
from calltune.serve.metrics import Metrics
from calltune.serve.parts import Delta
from calltune.serve.reader import Asked
from calltune.serve.stream import Deltas, deltas_of, message_of
from calltune.serve.waiting import Event, Gone, Prompt, events
from calltune.serve.work import Made, QueueFull, Stopped, Worker

log = logging.getLogger("calltune.serve")
CLOSED = 499  # the client went away (nginx's number); nobody reads it


@dataclass
class Exchange:
    """One request and its reply."""

    asked: Asked
    format: str
    metrics: Metrics
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    begun: float = field(default_factory=time.perf_counter)
    created: int = field(default_factory=lambda: int(time.time()))
    first: bool = True

    def __post_init__(self) -> None:
        self.deltas: Deltas = deltas_of(self.asked.work, self.format, False)

    def begin(self, prompt: Prompt) -> None:
        """Before any text; where the request waited in the queue, maybe after the answer has begun."""
        self.deltas = deltas_of(self.asked.work, self.format, prompt.opened, prompt.distinct)

    def feed(self, text: str) -> list[Delta]:
        if self.first and text:
            self.first = False
            self.metrics.first.observe(time.perf_counter() - self.begun)
        return self.deltas.feed(text)

    def end(self, made: Made) -> list[Delta]:
        self.metrics.duration.observe(time.perf_counter() - self.begun)
        self.metrics.prompt_tokens.inc(made.prompt_tokens)
        self.metrics.completion_tokens.inc(made.completion_tokens)
        return self.feed(made.text[self.deltas.fed :]) + self.deltas.close()

    def finish(self, made: Made) -> str:
        finish = "stop" if self.deltas.stopped else made.finish
        return "tool_calls" if finish == "stop" and self.deltas.called else finish

    def completion(self, made: Made, message: dict[str, Any]) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": message | {"refusal": None},
            "logprobs": None,
            "finish_reason": self.finish(made),
        }
        return self._head("chat.completion") | {"choices": [choice], "usage": usage_of(made)} | notes_of(made)

    def chunk(self, delta: Delta, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        nothing = {"usage": None} if self.asked.usage else {}
        return self._head("chat.completion.chunk") | {"choices": [choice]} | nothing

    def last_chunk(self, made: Made) -> dict[str, Any]:
        return self._head("chat.completion.chunk") | {"choices": [], "usage": usage_of(made)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.asked.work.model}


def notes_of(made: Made) -> dict[str, Any]:
    """What decoding could not enforce of the tools' schemas: a field of ours, left out where there is nothing."""
    return {"notes": list(made.reply.notes)} if made.reply.notes else {}


def usage_of(made: Made) -> dict[str, int]:
    total = made.prompt_tokens + made.completion_tokens
    return {"prompt_tokens": made.prompt_tokens, "completion_tokens": made.completion_tokens, "total_tokens": total}


@dataclass(frozen=True)
class Answering:
    """Answers over one worker, whose replies are written in `format`."""

    worker: Worker
    metrics: Metrics
    format: str
    patience: float = 10.0  # seconds

    async def answer(self, asked: Asked, receive: Any) -> Response:
        """Raises what ends a request before its answer begins."""
        work = asked.work
        exchange = Exchange(asked, self.format, self.metrics)
        coming = events(self.worker, work, receive, self.patience)
        streams = False
        try:
            first = await anext(coming)
            while isinstance(first, Prompt):  # a failure before the first text still has a status of its own
                exchange.begin(first)
                first = await anext(coming)
            if isinstance(first, Exception):
                raise first
            streams = asked.stream
            if streams:
                return EventStream(self._events(exchange, first, coming))
            return await self._whole(exchange, first, coming)
        except Gone:
            self.metrics.cancelled.inc()
            return Response(status_code=CLOSED)
        except (QueueFull, Stopped, CalltuneError) as error:
            raise api_error(error) from None
        finally:
            if not streams:
                await coming.aclose()

    async def _whole(self, exchange: Exchange, first: Event | None, coming: AsyncGenerator[Event | None]) -> Response:
        deltas: list[Delta] = []
        event = first
        while True:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Prompt):
                exchange.begin(event)
            if isinstance(event, str):
                deltas += exchange.feed(event)
            if isinstance(event, Made):
                deltas += exchange.end(event)
                return JSONResponse(exchange.completion(event, message_of(deltas)))
            event = await anext(coming)

    async def _events(
        self, exchange: Exchange, first: Event | None, coming: AsyncGenerator[Event | None]
    ) -> AsyncGenerator[bytes]:
        """The lines of the stream. A failure in its middle is an event with an error, and no [DONE] follows."""
        event = first
        try:
            yield _line(exchange.chunk({"role": "assistant", "content": ""}))
            while True:
                if event is None:
                    yield b": waiting\n\n"
                elif isinstance(event, Exception):
                    yield _failed(event)
                    return
                elif isinstance(event, Prompt):
                    exchange.begin(event)
                else:
                    found = exchange.end(event) if isinstance(event, Made) else exchange.feed(event)
                    if found:
                        yield b"".join(_line(exchange.chunk(delta)) for delta in found)
                if isinstance(event, Made):
                    yield _line(exchange.chunk({}, exchange.finish(event)) | notes_of(event))
                    if exchange.asked.usage:
                        yield _line(exchange.last_chunk(event))
                    yield b"data: [DONE]\n\n"
                    return
                event = await anext(coming)
        except Gone:
            self.metrics.cancelled.inc()
        except Exception as error:  # the answer has begun, so that nobody else can tell it
            yield _failed(error)
        finally:
            await coming.aclose()


def _failed(error: Exception) -> bytes:
    found = api_error(error)
    if found.status >= 500 and not isinstance(error, Stopped):
        log.error("a reply failed", exc_info=error)
    body = found.body
    body["error"]["status"] = found.status
    return _line(body)


def _line(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class EventStream(Response):
    """Server-sent events. Its lines end by themselves when the client goes, since they wait for both."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncGenerator[bytes]) -> None:
        self.lines = lines
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for line in self.lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})
        finally:
            await self.lines.aclose()
        await send({"type": "http.response.body", "body": b""})
