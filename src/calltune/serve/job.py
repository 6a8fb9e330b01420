"""One request in the model's thread: from messages to a prompt under a grammar, from tokens to pieces of text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from calltune.engine.running import Joining
from calltune.engine.writing import Writing
from calltune.errors import CalltuneError, InputError, Problem, TooLong, room_for
from calltune.grammar import Grammar, check_loose
from calltune.grammar_json import read_json_reply
from calltune.render import prompt_ids
from calltune.schema import Message, Reply, Tool
from calltune.serve.served import Served
from calltune.serve.stream import Deltas, deltas_of
from calltune.serve.work import Listener, Made, Stopped, Work

log = logging.getLogger(__name__)
Value = TypeVar("Value")
NO_GRAMMAR = ("replies cannot be bound to these schemas", "simplify them, or send constrained false")


class Job:
    """A request, waiting or under way. Only `cancelled` is set from other threads."""

    def __init__(self, work: Work, listener: Listener) -> None:
        self.work, self.listener = work, listener
        self.cancelled = False
        self.joining: Joining | None = None
        self.served: Served
        self.tools: tuple[Tool, ...] = ()
        self.grammar: Grammar | None = None
        self.opened = False  # the prompt begins the plan
        self.shown, self.text = "", ""  # what was told, and all of it
        self.seen = 0  # tokens that are in the text
        self.watched: Deltas | None = None  # where there are stop texts: they count in the content alone

    @property
    def writing(self) -> Writing:
        assert self.joining is not None
        return self.joining.writing

    @property
    def size(self) -> int:
        """The tokens that it may take in a batch, beside those that others share."""
        assert self.joining is not None
        shared = len(self.joining.prefix) if self.served.running.shares(self.joining.prefix) else 0
        return len(self.joining.prompt) - shared + self.writing.limit

    def prepare(self, models: dict[str, Served]) -> None:
        """Makes the prompt and what binds the reply. Raises InputError."""
        work = self.work
        self.served = _model(work.model, models)
        caller = self.served.caller
        self.tools = self.served.known(work.tools)
        ids = _told(
            "the model's chat template cannot write these messages",
            "change the order or the roles of the messages",
            lambda: prompt_ids(work.messages, self.tools, caller.template, caller.loaded.tokenizer),
        )
        self.opened = caller.opened(ids)
        self.grammar = _told(*NO_GRAMMAR, self._grammar)
        limit = min(work.max_tokens, room_for(len(ids), self.served.context))
        request = None if work.schema else (work.messages, self.tools)
        guide = _told(*NO_GRAMMAR, lambda: caller.guide(self.grammar, request))
        writing = Writing(caller.decoder.stop_ids, limit, guide, work.sampling.sampler())
        self.joining = Joining(writing, ids, caller.beginning(work.messages, self.tools, ids))
        if work.stop:
            self.watched = deltas_of(work, caller.template.format, self.opened, caller.distinct)
        self._call(lambda: self.listener.prompt(len(ids), self.opened, caller.distinct))

    def _grammar(self) -> Grammar | None:
        rules, schema = self.work.rules, self.work.schema
        if schema is None:
            return self.served.caller.grammar(self.tools, rules, self.opened)
        if self.tools and not (rules and rules.choice == "none" and not rules.named):
            raise InputError("response_format and tools cannot be asked for together: a reply is either calls or "
                             "JSON",
                             next_step="leave one of them out, or set tool_choice to none")  # fmt: skip
        return self.served.schema_grammar(schema)

    def tell(self) -> None:
        """Tells the text that is new and will stay: whole characters. Ends at a stop text. What goes wrong with that
        text is this reply's, not that of those beside it."""
        try:
            self._tell()
        except Exception as error:
            self.writing.fail(error)

    def _tell(self) -> None:
        if len(self.writing.ids) > self.seen and not self.cut:
            self.seen = len(self.writing.ids)
            self.text = self.served.caller.loaded.tokenizer.decode(self.writing.ids)
        text = self.text if self.writing.ended else self.text.rstrip("\ufffd")
        if len(text) > len(self.shown) and not self.writing.error:
            piece, self.shown = text[len(self.shown) :], text
            if self.watched:
                self.watched.feed(piece)
                if self.cut:
                    self.text, self.writing.ended = text, True
            self._call(lambda: self.listener.piece(piece))

    @property
    def cut(self) -> bool:
        """Whether a stop text has come."""
        return self.watched is not None and self.watched.stopped

    def finish(self) -> None:
        """Tells the whole reply, or what went wrong."""
        try:
            truncated = self.writing.finish().truncated and not self.cut
            made = Made(self.text, replace(self._reply(), truncated=truncated), "length" if truncated else "stop",
                        len(self._prompt), len(self.writing.ids))  # fmt: skip
        except Exception as error:
            self.fail(error)
            return
        self._call(lambda: self.listener.done(made))

    def fail(self, error: Exception) -> None:
        if not isinstance(error, (CalltuneError, Stopped)):
            log.error("a reply failed", exc_info=error)
        self._call(lambda: self.listener.failed(error))

    @property
    def _prompt(self) -> Sequence[int]:
        assert self.joining is not None
        return self.joining.prompt

    def _reply(self) -> Reply:
        caller = self.served.caller
        if self.work.schema is not None and self.grammar is not None:
            return read_json_reply(self.text, self.grammar, self.work.schema)
        reply = caller.parse_text(self.text, open_thinking=self.opened, tools=self.tools)
        notes = check_loose(reply, self.grammar, self.tools) if self.grammar else ()
        return replace(reply, notes=(*reply.notes, *notes))

    def _call(self, tell: Callable[[], object]) -> None:
        """Tells a listener; one that fails is told nothing more."""
        if self.cancelled:
            return
        try:
            tell()
        except Exception:
            log.exception("whoever asked could not be told")
            self.cancelled = True


def _model(name: str, models: dict[str, Served]) -> Served:
    if name not in models:
        problem = Problem("unknown_model", name, ", ".join(models))
        raise InputError("there is no such model", problems=[problem], next_step="ask for one of these")
    return models[name]


def check_length(work: Work, served: Served) -> None:
    """Refuses what has more characters than the context could hold, whatever its tokens are: to count those of
    millions of characters would take seconds, and all replies wait for it. Raises TooLong."""
    least = sum(map(_characters, work.messages)) // served.caller.loaded.tokenizer.longest_token
    if served.context is not None and least >= served.context:
        raise TooLong(least, served.context, least=True)


def _characters(message: Message) -> int:
    """Those that every template writes: not the plan, which some leave out."""
    return len(message.content.strip()) + sum(_texts(call.arguments) for call in message.calls)


def _texts(value: Any) -> int:
    """The characters of the texts in a JSON value."""
    if isinstance(value, str):
        return len(value)
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(_texts, items))


def _told(what: str, next_step: str, work: Callable[[], Value]) -> Value:
    """The value; whatever else goes wrong on the way from a client's words is an InputError."""
    try:
        return work()
    except CalltuneError:
        raise
    except Exception as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{what}: {said[:300]}", next_step=next_step) from error
