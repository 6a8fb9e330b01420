"""A server whose model says what a test wants, and the page in a browser (page_browser.py)."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from calltune.formats.hermes import HERMES
from calltune.functions import Function, functions_from, tool
from calltune.serve.app import Options, make_app
from calltune.serve.guards import Guards
from calltune.serve.running import Server, open_port
from calltune.serve.work import Counts, Listener, Made, QueueFull, Work

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
BIT = 5  # characters of a streamed piece, so that markers, words and numbers are cut anywhere

booked: list[str] = []


@tool(pure=True)
def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> dict[str, Any]:
    """The weather in a city."""
    return {"city": city, "degrees": 21, "unit": unit}


@tool(pure=True)
def order_status(number: int) -> dict[str, Any]:
    """Where an order is."""
    return {"number": number, "state": "sent"}


@tool
def book_table(name: str, guests: int) -> str:
    """Book a table <b>now</b>."""
    booked.append(name)
    return f"<i>booked</i> for {guests}"


def functions() -> list[Function]:
    return functions_from([get_weather, order_status, book_table])


def call_text(name: str, arguments: str, plan: str = "") -> str:
    """A reply in the Hermes form; `arguments` is JSON text and stays as it is written here."""
    plan = f"<think>\n{plan}\n</think>\n" if plan else ""
    return f'{plan}<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


class Gate(threading.Event):
    """In a script: the model writes no further until the test opens it."""


Script = Sequence["str | Gate | Exception"] | str | type[QueueFull]


@dataclass
class Scripted:
    """A worker (serve.work.Worker) whose replies are written in the test: `script(work)` gives the raw text."""

    script: Callable[[Work], Script]
    models: tuple[str, ...] = ("assistant", "assistant:base")
    asked: list[Work] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def submit(self, work: Work, listener: Listener) -> Scripted:
        parts = self.script(work)
        if parts is QueueFull:
            raise QueueFull
        self.asked.append(work)
        parts = [parts] if isinstance(parts, str) else parts
        threading.Thread(target=self._write, args=(work, listener, parts), daemon=True).start()
        return self

    def _write(self, work: Work, listener: Listener, parts: Sequence[str | Gate | Exception]) -> None:
        listener.prompt(123)
        text = ""
        for part in parts:
            if isinstance(part, Gate):
                part.wait(30)
            elif isinstance(part, Exception):
                return listener.failed(part)
            else:
                for at in range(0, len(part), BIT):
                    listener.piece(part[at : at + BIT])
                text += part
        reply = HERMES.parse(text, tools=work.tools)
        finish: Literal["stop", "length"] = "length" if work.max_tokens == 1 else "stop"
        return listener.done(Made(text, reply, finish, 123, len(text) // BIT))

    def cancel(self) -> None:
        self.cancelled.set()

    def counts(self) -> Counts:
        return Counts(0, 0)

    def close(self) -> None:
        pass


def chromium() -> str | None:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    return found or (MAC if Path(MAC).exists() else None)


@dataclass
class Running:
    """A server on a free port. `stop` ends it as Ctrl-C would."""

    url: str
    stop: Callable[[], None]


def start(worker: Any, functions: Sequence[Function], key: str | None = None) -> Running:
    """The real app over a worker, in a thread."""
    port = open_port("127.0.0.1", 0)
    server = Server(make_app(worker, functions, Options(Guards(api_key=key))), worker)
    thread = threading.Thread(target=server.run_until_stopped, args=(port,), daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(20)
        port.close()

    return Running(f"http://127.0.0.1:{port.getsockname()[1]}/", stop)
