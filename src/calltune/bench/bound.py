"""Calls drawn at random under the schemas of BFCL: how many are valid, and how fast they come."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calltune.caller import Caller, Request
from calltune.data.bfcl import LIVE, NON_LIVE, read_cases
from calltune.schema import Reply, Tool, validate_call
from calltune.tasks.questions import bfcl_questions


@dataclass(frozen=True)
class Validity:
    """What became of replies that had to be calls. `cut`: the limit of tokens ended them; `unenforced`: they break a
    part of a schema that the grammar could not hold, as their notes say; `invalid`: one that it should have held."""

    valid: int
    cut: int
    unenforced: int
    invalid: tuple[str, ...]  # what is wrong, with the raw text

    def __str__(self) -> str:
        said = f"{self.valid} valid, {self.cut} cut by the limit, {self.unenforced} unenforced"
        return f"{said}, {len(self.invalid)} invalid"


def bfcl_requests(count: int, seed: int, place: Path | None = None, each: int = 1) -> list[Request]:
    """That many requests of BFCL in a random order, each of them `each` times, and over and over where there are
    fewer. `place`: a folder of its files (None: the cache, into which they are fetched). Raises InputError."""
    questions = [q for q in bfcl_questions(read_cases(NON_LIVE + LIVE, place)) if q.tools]
    random.Random(seed).shuffle(questions)
    chosen = [questions[i // each % len(questions)] for i in range(count)]
    return [(question.messages, question.tools) for question in chosen]


def validity(replies: Sequence[Reply], tools: Sequence[Sequence[Tool]]) -> Validity:
    """Of replies that had to be calls of these tools."""
    counted, invalid = Counter[str](), []
    for reply, offered in zip(replies, tools, strict=True):
        wrong = list(reply.errors) + [p for call in reply.calls for p in validate_call(call, offered)]
        if reply.truncated:
            counted["cut"] += 1
        elif reply.calls and not wrong:
            counted["valid"] += 1
        elif reply.notes:
            counted["unenforced"] += 1
        else:
            invalid.append(f"{'; '.join(map(str, wrong)) or 'no call'}: {reply.raw!r}")
    return Validity(counted["valid"], counted["cut"], counted["unenforced"], tuple(invalid))


def tokens_of(caller: Caller, replies: Sequence[Reply]) -> int:
    """How many tokens the replies have, their ends not counted."""
    return sum(map(len, caller.loaded.tokenizer.encode_many([reply.raw for reply in replies])))
