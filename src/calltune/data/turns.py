"""The order of turns: what cannot be (errors) and what teaches a habit that nobody wants (warnings)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from calltune.data.hermes_rows import TOOLS_BLOCK
from calltune.data.messages import raw_text
from calltune.errors import Problem
from calltune.formats import hermes
from calltune.schema import Conversation, Message, shorten


def turn_problems(conversation: Conversation, path: Callable[[int], str]) -> list[Problem]:
    """Results that answer no call, system texts after the beginning, turns with nothing to learn from; of raw
    text nothing. `path`: the JSON pointer of a message by its index."""
    if raw_text(conversation) is not None:
        return []
    messages = conversation.messages
    return [*_results(messages, path), *_order(messages, path), *_targets(messages, path)]


def _results(messages: Sequence[Message], path: Callable[[int], str]) -> Iterator[Problem]:
    """Every tool message against the calls of the assistant's turn before it."""
    open_calls = 0
    ids: set[str] = set()  # of all calls so far
    for i, message in enumerate(messages):
        if message.role == "tool":
            if not open_calls:
                yield Problem("orphan_result", shorten(message.content, 40), "a call before it", path(i))
            elif message.call_id and ids and message.call_id not in ids:
                expected = f"the id of a call: {shorten(', '.join(sorted(ids)), 60)}"
                yield Problem("orphan_result", message.call_id, expected, f"{path(i)}/tool_call_id")
            open_calls = max(0, open_calls - 1)
            continue
        if open_calls and message.role in ("user", "assistant"):
            yield Problem("missing_result", f"{open_calls} calls without a result", "a result for each call",
                          path(i), severity="warning")  # fmt: skip
        open_calls = len(message.calls)
        ids |= {call.id for call in message.calls if call.id}


def _order(messages: Sequence[Message], path: Callable[[int], str]) -> Iterator[Problem]:
    begun = False
    before = ""
    for i, message in enumerate(messages):
        if message.role == "system" and TOOLS_BLOCK.search(message.content):
            yield Problem("bad_markup", "<tools> in a system text", "tools in `tools` alone", path(i))
        if message.role == "system" and begun:
            yield Problem("turn_order", "a system text in the middle", "system texts first", path(i))
        elif message.role == "assistant" and not begun:
            yield Problem("turn_order", "the assistant begins", "a user's turn first", path(i),
                          severity="warning")  # fmt: skip
        elif message.role == before and message.role in ("user", "assistant"):
            yield Problem("turn_order", f"two {before} turns in a row", "turns that take turns", path(i),
                          severity="warning")  # fmt: skip
        begun = begun or message.role != "system"
        before = message.role


def _targets(messages: Sequence[Message], path: Callable[[int], str]) -> Iterator[Problem]:
    """What the model is to say: at least one turn, and none that is empty."""
    answers = [(i, m) for i, m in enumerate(messages) if m.role == "assistant"]
    empty = [i for i, m in answers if not (m.content.strip() or m.calls or (m.thinking or "").strip())]
    begins = bool(messages) and messages[0].role == "assistant"  # which no prompt asks for
    if len(empty) == len(answers) or (begins and len(answers) == 1):
        found = "every assistant message is empty" if empty else "no assistant message after another one"
        yield Problem("no_target", found, "an answer or a call", path(0).rpartition("/")[0])
        return
    for i in empty:
        yield Problem("empty_target", "an empty assistant message", "an answer or a call", path(i))
    for i, message in answers:
        if found_marker := hermes.MARKER.search(f"{message.content}\n{message.thinking or ''}"):
            expected = "a plan and content without marks of the format, which are read back as such"
            yield Problem("bad_markup", found_marker[0], expected, path(i))
    if messages[-1].role != "assistant":
        found = f"the last turn is the {messages[-1].role}'s"
        yield Problem("unanswered", found, "the assistant's answer at the end",
                      path(len(messages) - 1), severity="warning")  # fmt: skip
