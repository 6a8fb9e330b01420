"""How a request is worded, apart from the values in it; and keys of rows that stay the same when rows are added."""

from __future__ import annotations

import hashlib
import json
import re

from calltune.data.likeness import words
from calltune.data.spoken import values_of_calls
from calltune.schema import Conversation

NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")


def phrasing(conversation: Conversation) -> str:
    """The wording of a row's requests: the template that made it, where its maker says so (`meta.template`), else its
    words with the values of its calls and all numbers taken out. Rows that differ in values alone share it."""
    made = conversation.meta.get("template")
    if isinstance(made, str) and made:
        return made
    text = " ".join(m.content for m in conversation.messages if m.role == "user").casefold()
    texts = [value for value in values_of_calls(conversation) if isinstance(value, str) and len(value) > 1]
    spoken = sorted({text.casefold() for text in texts}, key=lambda v: (-len(v), v))
    for value in spoken:
        if value in text:
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", " _ ", text)
    return " ".join(words(NUMBER.sub(" _ ", text)))


def content_key(conversation: Conversation) -> str:
    """What a row says, whatever its id and place: the same row has the same key in every file and every run."""
    said = [[m.role, m.content, [call.to_dict() for call in m.calls]] for m in conversation.messages]
    return json.dumps(said or conversation.meta.get("text"), ensure_ascii=False, sort_keys=True, default=str)


def rank(seed: int, key: str) -> float:
    """A number in [0, 1) that the seed and the key alone decide, the same on every machine."""
    digest = hashlib.blake2b(f"{seed}/{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
