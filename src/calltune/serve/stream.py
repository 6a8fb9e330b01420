"""The raw text of a reply, as it comes, as the deltas of OpenAI's stream: reasoning, content, calls.

Nothing is sent that the whole text could take back. A text that may be the beginning of a mark is held until that is
known, and after the first mark of a call, what is not a call waits for the end. The answer without streaming is made
of the same deltas, so both are the same.

`bound`: decoding follows a grammar, so that what begins as a call is one. Then a call's arguments are sent as they
are written, where the format writes them as JSON. Else a call is sent when it is whole, since only then is it known
that it can be read.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from calltune.formats import get_format
from calltune.schema import Reply, Tool, ToolCall, find_tool

Delta = dict[str, Any]
Marks = tuple[str, ...]
THINKS: dict[str, tuple[Marks, Marks]] = {
    "mistral": (("[THINK]", "<think>"), ("[/THINK]", "</think>")),
    "gemma4": (("<|channel>thought", "<think>"), ("<channel|>", "</think>")),
}  # fmt: skip
THINKS["mistral-list"] = THINKS["mistral"]
PLAIN: tuple[Marks, Marks] = (("<think>",), ("</think>",))
# Where a call may begin (or what belongs to one stands alone), and what ends a call.
TAGS = (("<tool_call>", "</tool_call>"), ("</tool_call>",))
LISTS = (
    ("[", "<|tool_call_start|>", "<|tool_call_end|>", "<|python_start|>", "<|python_end|>"),
    ("]", "<|tool_call_end|>"),
)
JSONS = (("[", "{", "```", "<|python_tag|>"), ("}", "]", "```"))
CALLS: dict[str, tuple[Marks, Marks]] = {
    "hermes": TAGS, "python-hermes": TAGS,
    "qwen3-coder": (("<tool_call>", "</tool_call>", "<function=", "</function>", "</parameter>"), ("</tool_call>",)),
    "mistral": (("[TOOL_CALLS]",), ("}", "]")), "mistral-list": (("[TOOL_CALLS]",), ("}", "]")),
    "gemma4": (("<|tool_call>", "<tool_call|>"), ("<tool_call|>",)),
    "functiongemma": (("<start_function_call>", "<end_function_call>"), ("<end_function_call>",)),
    "lfm2": LISTS, "pythonic": LISTS, "json": JSONS, "llama3": JSONS,
}  # fmt: skip
HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
NAMED = re.compile(r'(?:\[TOOL_CALLS\])?\s*([^\s\[\]{}"]+)\[ARGS\]\s*(?=\{)')
HEADS = {"hermes": HEAD, "json": HEAD, "llama3": HEAD, "mistral-list": HEAD, "mistral": NAMED}


FREE_TRIES = 64  # readings of a call that is not whole yet, before they become rare


@dataclass
class Part:
    """Text of a reply (plan or content) that grows: no white space at its ends, as formats read it."""

    key: Literal["reasoning_content", "content"]
    sent: str = ""
    space: str = ""  # white space that is sent if something follows it
    begins: bool = True

    def begin(self) -> None:
        """A further plan: on a line of its own."""
        self.begins, self.space = True, "\n" if self.sent else ""

    def add(self, text: str) -> list[Delta]:
        if self.begins:
            text = text.lstrip()
        if not text:
            return []
        self.begins = False
        text = self.space + text
        kept = text.rstrip()
        self.space = text[len(kept) :]
        self.sent += kept
        return [{self.key: kept}] if kept else []


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
    new_id: Callable[[], str] = lambda: f"call_{secrets.token_hex(12)}"
    text: str = ""
    fed: int = 0  # characters
    begun: int = 0  # calls that were sent, also the one that is being written

    def __post_init__(self) -> None:
        self.begins, self.ends = THINKS.get(self.format, PLAIN)
        self.opens, self.closes = CALLS[self.format] if self.calls and not self.json else ((), ())
        self.plan, self.content = Part("reasoning_content"), Part("content")
        self.state: Literal["content", "plan", "calls"] = "plan" if self.opened else "content"
        self.planned = self.opened
        self.again = self.begins if self.opened else ()  # marks of a plan's beginning that may stand again
        self.at = 0  # up to where the text is done with
        self.writing = Arguments() if self.bound and self.format in HEADS else None
        self.tries, self.tried = 0, 0
        self.held = False  # a plan that may have no end

    def feed(self, piece: str) -> list[Delta]:
        self.text += piece
        self.fed += len(piece)
        return self._go(False)

    def close(self) -> list[Delta]:
        """What was held back."""
        deltas = self._go(True)
        return deltas + self._rest() if self.held or self.state == "calls" else deltas

    @property
    def called(self) -> bool:
        """Whether the reply holds calls, all of them whole."""
        return self.begun > 0 and not (self.writing and self.writing.depth)

    # ---- plan and content ---------------------------------------------------------------------------------------

    def _go(self, last: bool) -> list[Delta]:
        deltas: list[Delta] = []
        while self.state != "calls" and self._past_beginnings(last):
            marks = self._marks()
            found, start = _first(self.text, self.at, marks)
            end = start if found or last else _safe_end(self.text, self.at, marks)
            deltas += self._say(self.text[self.at : end])
            self.at = end
            if not found:
                return deltas
            if self.state == "plan" and found in self.opens:
                # Text of the plan if the plan's end comes. Without it the plan ends here.
                found, end = _first(self.text, self.at, self.ends)
                self.held = not found
                if not found:
                    return deltas
                deltas += self._say(self.text[self.at : end])
                self.at = end
            self._mark(found)
        return deltas + (self._calls() if self.state == "calls" else [])

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
                head = HEADS[self.format].search(self.text, self.at)
                if not head:
                    return deltas
                name = json.loads(head[1], strict=False) if self.format != "mistral" else head[1]
                if find_tool(self.tools, name) is None:
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
        return get_format(self.format).parse(text, thinking_open=self.opened, tools=self.tools)

    def _rest(self) -> list[Delta]:
        """All that waited for the whole text: further calls, and as content what is none or cannot be read."""
        reply = self._parse(self.text)
        if not reply.content.startswith(self.content.sent):
            # the end of a plan without its beginning: see `_mark`
            reply = self._parse(self.text[: self.at] + _without(self.text[self.at :], self.ends))
        deltas: list[Delta] = []
        if (reply.thinking or "").startswith(self.plan.sent):
            self.plan.begins, self.plan.space = not self.plan.sent, ""
            deltas += self.plan.add((reply.thinking or "")[len(self.plan.sent) :])
        unread = []
        for call in reply.calls[self.begun :]:
            if call.error or find_tool(self.tools, call.name) is None:
                unread.append(call.raw or json.dumps(call.to_dict(), ensure_ascii=False))
            else:
                deltas += self._whole(call)
        content = reply.content
        if not content.startswith(self.content.sent):
            content = self.content.sent + self.text[self.at :]
        self.content.space = ""
        deltas += self.content.add(content[len(self.content.sent) :])
        for raw in unread:
            deltas += self.content.add(f"\n{raw}")
        if reply.errors and not self.begun and not self.content.sent:
            deltas += self.content.add(self.text)  # an empty message would pass for an answer
        return deltas


@dataclass
class Arguments:
    """Reads a JSON object in pieces up to its end. `depth`: open brackets; 0 outside of an object."""

    depth: int = 0
    quoted: bool = False
    escaped: bool = False

    def read(self, text: str, start: int) -> int:
        """The index after the object, or the text's end. Strings are passed over, so marks in them do not count."""
        for i in range(start, len(text)):
            character = text[i]
            if self.escaped:
                self.escaped = False
            elif self.quoted:
                self.escaped, self.quoted = character == "\\", character != '"'
            elif character == '"':
                self.quoted = True
            elif character in "{[":
                self.depth += 1
            elif character in "}]":
                self.depth -= 1
                if not self.depth:
                    return i + 1
        return len(text)


def begins_plan(format: str, prompt: str) -> bool:
    """Whether a prompt ends with the mark that begins a plan."""
    return prompt.rstrip().endswith(THINKS.get(format, PLAIN)[0])


def _first(text: str, start: int, marks: Sequence[str]) -> tuple[str, int]:
    """The mark that stands first from `start` on, and where; '' and the end of the text where none does."""
    found = [(i, mark) for mark in marks if (i := text.find(mark, start)) >= 0]
    place, mark = min(found, default=(len(text), ""))
    return mark, place


def _safe_end(text: str, start: int, marks: Sequence[str]) -> int:
    """Up to where no mark can begin that is not whole yet."""
    longest = max(map(len, marks), default=1) - 1
    for i in range(max(start, len(text) - longest), len(text)):
        if any(mark.startswith(text[i:]) for mark in marks):
            return i
    return len(text)


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
