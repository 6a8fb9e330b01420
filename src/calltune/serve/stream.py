"""The raw text of a reply, as it comes, as the deltas of OpenAI's stream: reasoning, content, calls.

Nothing is sent that the whole text could take back. A text that may be the beginning of a mark is held until that is
known, and after the first mark of a call, what is not a call waits for the end. The answer without streaming is made
of the same deltas, so both are the same.

`bound`: decoding follows a grammar, so that what begins as a call is one. Then a call's arguments are sent as they
are written, where the format writes them as JSON. Else a call is sent when it is whole, since only then is it known
that it can be read.

`stops` end the content where they stand in it; plan and calls are not looked at. What follows a call is known only at
the end, and so are stop texts in it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from calltune.formats import get_format
from calltune.formats.marks import CALLS, HEADS, first_mark, plan_marks, safe_end
from calltune.schema import Reply, Tool, ToolCall, find_tool, without_repeats
from calltune.serve.parts import Arguments, Delta, Part
from calltune.serve.work import Work

FREE_TRIES = 64  # readings of a call that is not whole yet, before they become rare


@dataclass
class Deltas:
    """Feed it pieces, then `close` it; both give deltas. `calls`: whether calls may come; `opened`: the prompt ends
    with the mark that begins the plan; `json`: after the plan comes a JSON value, in whose texts no mark counts."""

    format: str
    tools: Sequence[Tool] = ()
    calls: bool = True
    bound: bool = True
    opened: bool = False
    json: bool = False
    stops: tuple[str, ...] = ()
    tell_unread: bool = True  # a call that cannot be read is content
    distinct: bool = False  # a call that comes again is made once, so only the first is sent before it is whole
    new_id: Callable[[], str] = lambda: f"call_{secrets.token_hex(12)}"
    text: str = ""
    fed: int = 0  # characters
    begun: int = 0  # calls that were sent, also the one that is being written

    def __post_init__(self) -> None:
        self.begins, self.ends = plan_marks(self.format)
        self.opens, self.closes = CALLS[self.format] if self.calls and not self.json else ((), ())
        self.plan, self.content = Part("reasoning_content"), Part("content", self.stops, not self.opens)
        self.state: Literal["content", "plan", "calls"] = "plan" if self.opened else "content"
        self.planned = self.opened
        self.again = self.begins if self.opened else ()  # marks of a plan's beginning that may stand again
        self.at = 0  # up to where the text is done with
        self.writing = Arguments() if self.bound and self.format in HEADS else None
        self.tries, self.tried = 0, 0
        self.held = False  # a plan that may have no end

    def feed(self, piece: str) -> list[Delta]:
        self.fed += len(piece)
        if self.stopped:
            return []
        self.text += piece
        return self._go(False)

    def close(self) -> list[Delta]:
        """What was held back."""
        if self.stopped:
            return []
        deltas = self._go(True)
        if not self.stopped and (self.held or self.state == "calls"):
            deltas += self._rest()
        return deltas + self.content.end()

    @property
    def stopped(self) -> bool:
        """Whether a stop text stood in the content: nothing after it counts."""
        return self.content.stopped

    @property
    def called(self) -> bool:
        """Whether the reply holds calls, all of them whole."""
        return self.begun > 0 and not (self.writing and self.writing.depth)

    # ---- plan and content ---------------------------------------------------------------------------------------

    def _go(self, last: bool) -> list[Delta]:
        deltas: list[Delta] = []
        while self.state != "calls" and self._past_beginnings(last):
            marks = self._marks()
            found, start = first_mark(self.text, self.at, marks)
            end = start if found or last else safe_end(self.text, self.at, marks)
            deltas += self._say(self.text[self.at : end])
            self.at = end
            if not found or self.stopped:
                return deltas
            if self.state == "plan" and found in self.opens:
                # Text of the plan if the plan's end comes. Without it the plan ends here.
                found, end = first_mark(self.text, self.at, self.ends)
                self.held = not found
                if not found:
                    return deltas
                deltas += self._say(self.text[self.at : end])
                self.at = end
            self._mark(found)
        calls = self._calls() if self.state == "calls" else []
        return deltas + (self.content.end() if calls else []) + calls

    def _marks(self) -> tuple[str, ...]:
        """What counts as a mark from here on."""
        if self.state == "plan":
            return (*self.ends, *self.opens)
        if not self.json:
            return (*self.begins, *self.ends, *self.opens)
        begun = self.text[self.at :].lstrip()
        plan = not self.planned and self.content.begins and any(m.startswith(begun[: len(m)]) for m in self.begins)
        return self.begins if plan else ()

    def _say(self, text: str) -> list[Delta]:
        return (self.plan if self.state == "plan" else self.content).add(text)

    def _mark(self, mark: str) -> None:
        if mark in self.opens:
            self.state = "calls"
            return
        self.at += len(mark)
        if self.state == "plan":
            self.state = "content"
        elif mark in self.begins:
            self.state, self.planned, self.again = "plan", True, self.begins
            self.plan.begin()
        elif not self.planned:
            # The end of a plan without its beginning. The text before it was sent as content, and stays that.
            self.text = self.text[: self.at - len(mark)] + self.text[self.at :]
            self.at -= len(mark)

    def _past_beginnings(self, last: bool) -> bool:
        """Passes over marks that the template wrote and the model again; False where that is not known yet."""
        while self.again:
            left = self.text[self.at :]
            if not last and len(left) < len(self.again[0]) and self.again[0].startswith(left):
                return False
            if left.startswith(self.again[0]):
                self.at += len(self.again[0])
            self.again = self.again[1:]
        return True

    # ---- calls --------------------------------------------------------------------------------------------------

    def _calls(self) -> list[Delta]:
        return self._pieces() if self.writing else self._wholes()

    def _pieces(self) -> list[Delta]:
        """Calls that a grammar makes sure of, as they are written."""
        assert self.writing
        deltas: list[Delta] = []
        while True:
            if not self.writing.depth:
                if self.distinct and self.begun:
                    self.writing = None
                    return deltas + self._wholes()
                head = HEADS[self.format].search(self.text, self.at)
                if not head:
                    return deltas
                name = _name(head[1]) if self.format != "mistral" else head[1]
                if name is None or find_tool(self.tools, name) is None:
                    self.writing = None
                    return deltas
                self.at = head.end()
                deltas.append(self._head(name))
            end = self.writing.read(self.text, self.at)
            if end > self.at:
                deltas.append(self._arguments(self.text[self.at : end]))
            self.at = end
            if self.writing.depth or end == len(self.text):
                return deltas

    def _wholes(self) -> list[Delta]:
        """Calls that are whole and can be read."""
        end = max(self.text.rfind(mark, self.at) + len(mark) if mark in self.text[self.at :] else 0
                  for mark in self.closes)  # fmt: skip
        wait = 0 if self.tries < FREE_TRIES else (len(self.text) - self.at) // 8
        if end <= self.tried + wait:
            return []
        self.tries, self.tried = self.tries + 1, end
        reply = self._parse(f"{self.text[:end]}\n.")  # a word after it: a call that is one only alone has to wait
        if reply.errors or not all(find_tool(self.tools, call.name) for call in reply.calls):
            return []
        return [delta for call in reply.calls[self.begun :] for delta in self._whole(call)]

    def _whole(self, call: ToolCall) -> list[Delta]:
        arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
        return [self._head(call.name), self._arguments(arguments)]

    def _head(self, name: str) -> Delta:
        self.begun += 1
        call = {"index": self.begun - 1, "id": self.new_id(), "type": "function",
                "function": {"name": name, "arguments": ""}}  # fmt: skip
        return {"tool_calls": [call]}

    def _arguments(self, text: str) -> Delta:
        return {"tool_calls": [{"index": self.begun - 1, "function": {"arguments": text}}]}

    # ---- the end ------------------------------------------------------------------------------------------------

    def _parse(self, text: str) -> Reply:
        reply = get_format(self.format).parse(text, thinking_open=self.opened, tools=self.tools)
        return without_repeats(reply) if self.distinct else reply

    def _rest(self) -> list[Delta]:
        """All that waited for the whole text: further calls, and as content what is none or cannot be read."""
        reply = self._parse(self.text)
        if not reply.content.startswith(self.content.sent):
            # the end of a plan without its beginning: see `_mark`
            reply = self._parse(self.text[: self.at] + _without(self.text[self.at :], self.ends))
        deltas: list[Delta] = []
        if (reply.thinking or "").startswith(self.plan.sent):
            self.plan.begins, self.plan.waits = not self.plan.sent, ""
            deltas += self.plan.add((reply.thinking or "")[len(self.plan.sent) :])
        unread: list[str] = []
        for call in reply.calls[self.begun :]:
            if call.error or find_tool(self.tools, call.name) is None:
                unread.append(call.raw or json.dumps(call.to_dict(), ensure_ascii=False))
            else:
                deltas += self._whole(call)
        content = reply.content
        if not content.startswith(self.content.sent):
            content = self.content.sent + self.text[self.at :]
        self.content.waits = ""
        deltas += self.content.add(content[len(self.content.sent) :])
        half = self.distinct and self.bound and self.begun  # a call that the limit cut
        for raw in unread if self.tell_unread and not half else ():
            deltas += self.content.add(f"\n{raw}")
        deltas += self.content.end()
        empty = not self.begun and not self.content.sent and not self.stopped
        if reply.errors and empty and self.tell_unread:
            deltas += self.content.add(self.text)  # an empty message would pass for an answer
        return deltas


def deltas_of(work: Work, format: str, opened: bool, distinct: bool = False) -> Deltas:
    """Those of the reply to a request. `opened`: its prompt ends with the mark that begins a plan; `distinct`: a call
    that comes again is made once."""
    bare = work.schema is not None  # then nothing but JSON comes, also after such a mark
    return Deltas(format, work.tools, work.calls, work.rules is not None, opened and not bare, bare, work.stop,
                  distinct=distinct)  # fmt: skip


def _name(written: str) -> str | None:
    """A name as JSON writes it; None where words only look like a call."""
    try:
        name: str = json.loads(written, strict=False)
    except ValueError:
        return None
    return name


def _without(text: str, marks: Sequence[str]) -> str:
    for mark in marks:
        text = text.replace(mark, "")
    return text


def message_of(deltas: Sequence[Delta]) -> dict[str, Any]:
    """The message that a client makes of the deltas of a stream."""
    texts: dict[str, str] = {}
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        for key in ("reasoning_content", "content"):
            if key in delta:
                texts[key] = texts.get(key, "") + delta[key]
        for part in delta.get("tool_calls", ()):
            if part["index"] == len(calls):
                calls.append({"id": part["id"], "type": "function", "function": dict(part["function"])})
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    message: dict[str, Any] = {"role": "assistant", "content": texts.get("content") or (None if calls else "")}
    if "reasoning_content" in texts:
        message["reasoning_content"] = texts["reasoning_content"]
    return message | ({"tool_calls": calls} if calls else {})
