"""Rows that say the same: memory of what was seen in a few bytes a row, and keys under which like rows meet."""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from calltune.schema import Conversation

WORD = re.compile(r"[^\W_]+")
FILLER = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "can",
        "could",
        "do",
        "does",
        "for",
        "hey",
        "hi",
        "i",
        "i'd",
        "is",
        "it",
        "like",
        "me",
        "my",
        "need",
        "of",
        "ok",
        "please",
        "s",
        "tell",
        "thank",
        "thanks",
        "that",
        "the",
        "this",
        "to",
        "want",
        "what",
        "would",
        "you",
        "your",
    ]
)
SKETCH = 3  # words of a sketch: of two requests that share nine words of ten, three in four pairs meet at a key


class Lines:
    """64-bit keys and the line that had each first: an open hash table in two arrays, 24 to 48 bytes a key
    (a dictionary needs about 150)."""

    def __init__(self, slots: int = 1024) -> None:
        self.keys = array("Q", bytes(8 * slots))  # 0: free
        self.lines = array("Q", bytes(8 * slots))
        self.used = 0

    def first(self, key: int, line: int) -> int:
        """The line that had the key first; `line` itself, now noted, where it is new."""
        if self.used * 3 >= len(self.keys) * 2:
            self._grow()
        key = key & 0xFFFF_FFFF_FFFF_FFFF or 1
        slot = self._slot(key)
        if self.keys[slot]:
            return self.lines[slot]
        self.keys[slot], self.lines[slot] = key, line
        self.used += 1
        return line

    def _slot(self, key: int) -> int:
        """Where the key is, or the free place where it belongs."""
        keys, mask = self.keys, len(self.keys) - 1
        slot = key & mask
        while keys[slot] and keys[slot] != key:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        old = zip(self.keys, self.lines, strict=True)
        self.keys, self.lines = array("Q", bytes(16 * len(self.keys))), array("Q", bytes(16 * len(self.lines)))
        for key, line in old:
            if key:
                slot = self._slot(key)
                self.keys[slot], self.lines[slot] = key, line

    @property
    def nbytes(self) -> int:
        return len(self.keys) * 16


def words(text: str) -> list[str]:
    """The words that carry a request: without case, marks, and words of politeness."""
    return [word for word in WORD.findall(text.casefold()) if word not in FILLER]


def request_words(conversation: Conversation) -> list[str]:
    return [word for m in conversation.messages if m.role == "user" for word in words(m.content)]


def like_keys(conversation: Conversation, asked: list[str]) -> list[int]:
    """Keys of which near-duplicates share at least one, mostly: the same calls with the same values, and requests
    whose words mostly agree; without a call the words must all agree. `asked`: the words of the request. They are the
    same in every process (Python's `hash` of a text is not)."""
    if not asked:
        return []
    calls = [(c.name, _ordered(c.arguments)) for m in conversation.messages for c in m.calls]
    if not calls:
        answers = [m.content.strip().casefold() for m in conversation.messages if m.role == "assistant"]
        return [text_key(repr((sorted(set(asked)), answers)))]
    target = text_key(repr(calls))
    sketch = sorted([zlib.crc32(word.encode()) for word in set(asked)])
    return [hash((target, *sketch[:SKETCH])), hash((target, 1, *sketch[-SKETCH:]))]


def text_key(text: str) -> int:
    """64 bits that stand for a text, the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _ordered(value: Any) -> Any:
    """Arguments with their keys in order, which is of no account."""
    if type(value) is dict or isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value, key=str)}
    return list(map(_ordered, value)) if isinstance(value, list | tuple) else value
