"""What a grammar lets a reply be, token by token: of a text written in a test, or drawn at random."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from calltune.engine.writing import Guide, Writing
from calltune.formats import FORMATS, get_format
from calltune.grammar import Grammar
from calltune.guide import GrammarGuide
from calltune.schema import Reply, Tool
from calltune.tokenizer import Tokenizer

FORMS = [name for name in FORMATS if name not in ("hermes", "python-hermes")]
ODD = {
    "type": "object",
    "$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
                       "required": ["v"]}},
    "properties": {
        "a": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 9}, "minItems": 1, "maxItems": 3},
        "b": {"type": ["string", "null"]}, "c": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "d": {"type": "object", "additionalProperties": {"type": "boolean"}}, "e": {}, "f": {"$ref": "#/$defs/node"},
        "g": {"enum": ["1", 1, "true", True, None, "a<b", "say \"x\"", "</parameter>", '<|"|>']},
        "h": {"type": "string", "minLength": 2, "maxLength": 4}, "i": {"type": "string"}, "j": {"const": "x"},
        "k": {"type": "object", "properties": {"odd key!": {"type": "boolean"}, "p": {"type": "string"}},
              "required": ["p"]},
        "l": {"type": "array", "items": {"type": "array"}}, "m": {"type": "boolean"},
    },
    "required": ["b", "c", "g", "h", "k", "m"],
}  # fmt: skip


def allowed(text: str, grammar: Grammar, tokenizer: Tokenizer) -> tuple[bool, bool]:
    """Whether a reply may begin with this text, and whether it may end there."""
    guide = GrammarGuide(grammar, tokenizer, tokenizer.stop_ids)
    for token in tokenizer.encode(text):
        if not guide.mask()[token]:
            return False, False
        guide.takes(token)
    return True, bool(guide.finished or any(guide.mask()[stop] for stop in tokenizer.stop_ids))


# Ends of texts that are several tokens here: a walk would hardly ever find them.
ENDS = {"gemma4": '<|"|>', "functiongemma": "<escape>", "qwen3-coder": "\n</parameter>\n"}


def walk(
    grammar: Grammar, tokenizer: Tokenizer, rng: random.Random, tools: Sequence[Tool], form: str = "hermes"
) -> Reply:
    """A reply of tokens drawn from those that are allowed, those that end something more often."""
    return walk_under(GrammarGuide(grammar, tokenizer, tokenizer.stop_ids), tokenizer, rng, tools, form)


def walk_under(
    guide: Guide, tokenizer: Tokenizer, rng: random.Random, tools: Sequence[Tool], form: str = "hermes"
) -> Reply:
    """The same under any guide that always says which tokens may come."""
    stop = frozenset(tokenizer.stop_ids)
    writing = Writing(stop, 400, guide)
    writing.begin([])
    ends = [
        i for i in range(tokenizer.inner.vocab_size) if tokenizer.decode([i])[:1] in ('"', "}", "]", ",", "<", ")")
    ]
    while not writing.ended:
        assert writing.guide
        mask = writing.guide.mask()
        assert mask is not None
        some = [i for i in ends if mask[i]] if rng.random() < 0.4 else []
        several = tokenizer.encode(ENDS[form]) if form in ENDS and rng.random() < 0.2 else []
        for token in several or [rng.choice(some or np.flatnonzero(mask).tolist())]:
            if writing.ended or not (writing.guide.mask()[token] if several else True):
                break
            if token in stop or writing.guide.takes(token):
                writing.add(token)
    made = writing.finish()
    return replace(get_format(form).parse(tokenizer.decode(made.ids), tools=tools), truncated=made.truncated)
