"""What binds one reply to a grammar while it is decoded: which tokens may come, and which must."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calltune.errors import CannotFinish, InputError
from calltune.formats.literals import MAX_DEPTH
from calltune.grammar import Grammar
from calltune.guarding import guard
from calltune.tokenizer import Tokenizer

# A string, a bracket, a comma, a number with an exponent or of many digits.
PART = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*"|[{}\[\],:]|-?\d[\d.]*(?:[eE][+-]?\d+)?', re.DOTALL)


class GrammarGuide:
    """One reply under a grammar. The methods are those that the engine's decoding asks for."""

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer, stop_ids: frozenset[int]) -> None:
        self.tokenizer, self.grammar = tokenizer, grammar
        vocabulary = ll_tokenizer(tokenizer, stop_ids)
        self.matcher = _matcher(vocabulary, grammar.text).deep_copy()
        self.size: int = vocabulary.vocab_size
        self.ids: list[int] = []
        if self.matcher.is_error():
            raise InputError(f"the tools' schemas are too large to decode by: {self.matcher.get_error()[:300]}",
                             next_step="offer fewer tools, or simpler schemas")  # fmt: skip

    @property
    def finished(self) -> bool:
        """Whether nothing but the end can come."""
        return bool(self.matcher.is_stopped())

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may come next, one by one of the vocabulary."""
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        if self.matcher.is_error():
            raise CannotFinish(f"the grammar cannot go on: {self.matcher.get_error()[:300]}",
                               next_step="decode freely, or simplify the tools' schemas")  # fmt: skip
        return np.unpackbits(bits, bitorder="little")[: self.size].view(np.bool_)

    def takes(self, token: int) -> bool:
        """Goes on with a token that the mask allows; False, and nothing has changed, where the call could then not
        be read any more (a key given twice, a number too large)."""
        if self.grammar.watched and unreadable(self._watched([*self.ids, token])):
            return False
        self.ids.append(token)
        return bool(self.matcher.consume_token(token))

    def _watched(self, ids: list[int]) -> str:
        """The text from the last call's beginning on, its strings in quotes."""
        text = self.tokenizer.decode(ids)
        start = max((match.start() for match in re.finditer(self.grammar.begins, text)), default=0)
        text = text[start:]
        mark = self.grammar.strings
        return "".join(text.split(mark)[::2]) if mark else text  # what its own strings hold is nothing to look at

    def forced(self) -> list[int]:
        """The tokens that must come next, which it goes on with; none where there is a choice."""
        tokens: list[int] = list(self.matcher.compute_ff_tokens())
        marks = self.tokenizer.marker_texts
        if marks and tokens and self.matcher.validate_tokens(tokens) < len(tokens):
            # a schema's text looks like a control token, and was taken for it: it stays text
            text = self.matcher.compute_ff_bytes().decode("utf-8", "ignore")
            tokens = self.tokenizer.encode(guard(text, marks))
        self.matcher.consume_tokens(tokens)
        self.ids += tokens
        return tokens


@lru_cache(maxsize=16)
def _matcher(vocabulary: Any, grammar: str) -> Any:
    """llguidance's reading of a grammar, made once (milliseconds to a second): each reply goes on from a copy."""
    from llguidance import LLMatcher

    return LLMatcher(vocabulary, LLMatcher.grammar_from_lark(grammar), log_level=0)


_VOCABULARIES: dict[tuple[int, frozenset[int]], tuple[Any, Any]] = {}  # with the tokenizer, so that its id stays


def ll_tokenizer(tokenizer: Tokenizer, stop_ids: frozenset[int]) -> Any:
    """llguidance's form of a tokenizer, made once (0.3 s)."""
    from llguidance import LLTokenizer

    key = (id(tokenizer.inner), stop_ids)
    if key not in _VOCABULARIES:
        text = tokenizer.inner.backend_tokenizer.to_str()
        _VOCABULARIES[key] = (tokenizer.inner, LLTokenizer(text, eos_token=sorted(stop_ids)))
    return _VOCABULARIES[key][1]


def unreadable(text: str) -> bool:
    """Whether the last JSON value of a text, however far it is written, cannot be read whatever follows."""
    keys: list[set[str] | None] = []  # of each open bracket; None: a list
    before = ""
    for match in PART.finditer(text):
        part = match[0]
        if part in "{[":
            keys.append(set() if part == "{" else None)
            if len(keys) > MAX_DEPTH - 4:
                return True
        elif part in "}]":
            if keys:
                keys.pop()
        elif part[0] == '"' and before in ("{", ",") and keys and (seen := keys[-1]) is not None:
            if part in seen:
                return True
            seen.add(part)
        elif part[0] not in '",:' and _too_large(part):
            return True
        before = part
    return False


def _too_large(number: str) -> bool:
    try:
        return len(number) > 400 or not math.isfinite(float(number))
    except ValueError:
        return False
