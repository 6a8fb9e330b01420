"""Requests that people wrote in docstrings, in more than one dress: with a greeting, a reason or thanks around them,
as clauses of longer sentences, or two of them one after the other.

Openers, closers and links stand in one part each (train, valid or test).
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping

from calltune.data.parts import Part

_OPENERS = """
Hi! | Hello! | Hey, | Hi there, | Good morning. | Good evening! | Hey there! | Okay, | Ok so, | So, | Right, | Well,
Listen, | Quick question: | Quick one: | One more thing: | Next: | Now: | Sorry to bother you. | I'm in a hurry. | Um,
The plumber is here. | My boss just called. | I just got home. | We have guests tonight. | I nearly forgot.
I'm cooking. | The kids are asking. | It is late already. | I have no time for this. | Great.
It's urgent. | Before I forget: | I need your help. | My colleague is ill today. | I have been waiting all day.
Somebody just asked me. | I can't do it myself right now. | Could you help me? | I'm driving. | Thanks for that.
We talked about it yesterday. | My neighbour wants to know. | Oh, | Ah, | Phew. | Ugh, | Wow. | Hm, | First of all,
This is important. | I've got a question. | The customer is standing here. | I am new here. | Good news!
"""
_CLOSERS = """
Thanks! | Thank you. | Thanks a lot. | Please. | That would be great. | That's all. | It's urgent. | No hurry.
As soon as you can. | I'd appreciate it. | Cheers | thx | Let me know. | You're the best. | Many thanks!
I'll be back soon. | That's it for now. | Tell me when it's done. | I really need it. | Sorry for the trouble.
"""
# Between two requests that are sentences of their own.
_LINKS = """
{s} | And {c} | Also, {c} | Also: {c} | Apart from that, {c} | In addition, {c} | Likewise, {c}
Then {c} | And then {c} | One more thing: {c} | Oh, and {c} | Next, {c}
After that, {c} | Besides, {c} | And another thing: {c} | Plus, {c} | Ah, and {c} | I have a second wish: {c}
While you are at it, {c} | Another question: {s} | Secondly, {c} | On top of that, {c} | By the way, {c}
"""


def _by_part(text: str) -> Mapping[Part, tuple[str, ...]]:
    """Dealt in the order of their hashes, so that the short lists fill every part too."""
    found = [item.strip() for item in re.split(r"[|\n]", text) if item.strip()]
    found.sort(key=lambda item: zlib.crc32(item.encode()))
    train, valid = round(len(found) * 0.65), round(len(found) * 0.77)
    return {"train": tuple(found[:train]), "valid": tuple(found[train:valid]), "test": tuple(found[valid:])}


OPENERS, CLOSERS, LINKS = map(_by_part, (_OPENERS, _CLOSERS, _LINKS))
OPENED, CLOSED = 0.25, 0.12  # share of the requests

_ASKING = re.compile(
    r"^(?:please |kindly |(?:can|could|would|will) you (?:please )?|i(?: need|'d like| would like| want) you to )",
    re.I,
)
_VERBS = """
add ask book bring call cancel change charge check close collect convert create delete fetch find get give have heat
hold keep let list look make mark move notify open order pay pick play print put record refund remind remove reorder
report reserve run save schedule search send set show sign start stop subscribe switch take tell track turn update
write
"""
_OTHERS = """
a an any are can could did do does has how is it my on our please the there this we what when where which who will
with would
"""
IMPERATIVES = frozenset(_VERBS.split())
STARTS = IMPERATIVES | frozenset(_OTHERS.split())  # plain words that begin a sentence, no names


def clause_of(text: str, verb: str = "") -> str | None:
    """What a request asks to do, as a clause that begins with a verb: `Can you track {id}?` gives `track {id}`. None
    for questions, statements and more than one sentence. `verb`: one that certainly is one, of the description."""
    body, asked = _ASKING.subn("", text.strip())
    body = re.sub(r"(?:,? please| for me|, thanks)$", "", body.rstrip(".?!").rstrip())
    first = body.split(" ")[0].lower() if body else ""
    if re.search(r"[.?!:;]\s", body) or not (asked or first in IMPERATIVES or first == verb) or not first.isalpha():
        return None
    return f"{first}{body[len(first) :]}"


def dressed(text: str, part: Part, rng: random.Random) -> str:
    """Sometimes with words in front or after it that change nothing."""
    if rng.random() < OPENED:
        opener = rng.choice(OPENERS[part])
        text = f"{opener} {text if opener[-1] in '.!?:' else _lower(text)}"
    if rng.random() < CLOSED:
        text = f"{_ended(text)} {rng.choice(CLOSERS[part])}"
    return text


def linked(first: str, second: str, link: str) -> str:
    """Two requests, the second as a sentence of its own after the first."""
    return f"{_ended(first)} {link.format(s=second, c=_lower(second))}"


def _ended(text: str) -> str:
    return text if text[-1] in ".?!" else f"{text}."


def _lower(text: str) -> str:
    """With a small first letter, where the first word is a plain one and no name or value."""
    return text[0].lower() + text[1:] if text.split(" ")[0].lower() in STARTS else text
