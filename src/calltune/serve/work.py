"""What the server's HTTP side and the thread that owns the model say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from calltune.schema import Message, Reply, Tool

if TYPE_CHECKING:
    from calltune.engine.decode import Sampling
    from calltune.grammar import Rules


@dataclass(frozen=True)
class Work:
    """One reply that is asked for. `rules` None: free decoding. `schema`: the reply's text is JSON of this schema
    (`response_format`; {} for any object). `calls`: whether calls may come. `stop`: texts that end the reply where
    they stand in its content; they are left out of that, and stand at the end of the raw text."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    sampling: Sampling
    rules: Rules | None = None
    schema: Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 512
    calls: bool = True


@dataclass(frozen=True)
class Made:
    """A whole reply. `finish`: "length" where a limit cut it. The counts are tokens."""

    text: str
    reply: Reply
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


class Listener(Protocol):
    """Told of one reply, in the model's thread: pieces of raw text, then the whole or what went wrong, once."""

    def prompt(self, tokens: int, opened: bool = False, distinct: bool = False) -> None:
        """The prompt's length, whether it ends with the mark that begins a plan, and whether a call that comes again
        is made once."""

    def piece(self, text: str) -> None: ...

    def done(self, made: Made) -> None: ...

    def failed(self, error: Exception) -> None: ...


class Ticket(Protocol):
    """A reply under way."""

    def cancel(self) -> None:
        """Nobody waits for it any more: it leaves the queue or the batch before the next step."""


@dataclass(frozen=True)
class Counts:
    """How the worker stands."""

    waiting: int
    running: int
    stopped: bool = False  # no more replies are made


class Worker(Protocol):
    """Owns the models; every method may be called from any thread."""

    @property
    def models(self) -> tuple[str, ...]: ...

    def submit(self, work: Work, listener: Listener) -> Ticket:
        """Raises QueueFull, Stopped after `close`, TooLong for what no context could hold. InputError for what the
        tools, the schema or the prompt's length do not allow, and for a model that is not there, is told to the
        listener."""

    def counts(self) -> Counts: ...

    def close(self) -> None:
        """Replies under way are told that the server stops (Stopped)."""


class QueueFull(Exception):
    """As many requests wait as may."""


class Stopped(Exception):
    """The server stops."""
