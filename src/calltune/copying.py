"""Keeps values that a model was taught to copy to the words of the conversation, while a reply is made.

A small model learns to copy a name into a call and still spells a rare one wrong, since the tokens behind a quote are
others than behind a space. Where every training row took a parameter's text from what was said (data/copied.py), a
reply's text for it can be nothing else: only tokens may come that go on with words of the conversation. All else
stays free.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calltune.data.copied import Copied, spoken, word_edge
from calltune.errors import InputError
from calltune.frames import Frame, frame_of
from calltune.guide import GrammarGuide, ll_tokenizer
from calltune.schema import Message
from calltune.template import Template
from calltune.tokenizer import Tokenizer

# A piece of JSON; a text may be open to the end.
PIECE = re.compile(r'"((?:[^"\\]|\\(?:.|\Z))*+)("?)|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
JSON_HEAD = r'\{\s*"name"\s*:\s*"([^"]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*'


def copies(template: Template) -> bool:
    """Whether calls in this template's format have their arguments in JSON, in which copied values are found."""
    try:
        return not frame_of(template).form
    except InputError:
        return False


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by their bytes; `closers`: those with a quote, by the bytes before it; `longest` in bytes."""

    texts: Sequence[bytes]
    ids: Mapping[bytes, Sequence[int]]
    closers: Mapping[bytes, Sequence[int]]
    longest: int

    @staticmethod
    def of(texts: Sequence[bytes]) -> Vocabulary:
        ids: dict[bytes, list[int]] = {}
        closers: dict[bytes, list[int]] = {}
        for i, text in enumerate(texts):
            ids.setdefault(text, []).append(i)
            before, quote, _ = text.partition(b'"')
            if quote and not before.endswith(b"\\"):
                closers.setdefault(before, []).append(i)
        return Vocabulary(texts, ids, closers, max(map(len, texts)))


def vocabulary_of(tokenizer: Tokenizer, stop_ids: frozenset[int]) -> Vocabulary:
    """The bytes of every token, made once (20 ms for 49,000)."""
    return _vocabulary(tokenizer.inner, ll_tokenizer(tokenizer, stop_ids))


@lru_cache(maxsize=4)
def _vocabulary(inner: Any, ll: Any) -> Vocabulary:
    added = {i: str(token.content).encode() for i, token in inner.added_tokens_decoder.items()}
    return Vocabulary.of([added[i] if i in added else ll.decode_bytes([i]) for i in range(ll.vocab_size)])


@dataclass(frozen=True)
class Source:
    """A text as it stands between JSON's quotes, in bytes, and where in it a value may begin and end."""

    text: bytes
    starts: Sequence[int]
    ends: frozenset[int]

    @staticmethod
    def said(text: str) -> Source:
        """Any words of the text, one or more."""
        written, starts, ends = b"", list[int](), set[int]()
        for at, letter in enumerate(text):
            edge = word_edge(text, at)
            if edge and at and not text[at - 1].isspace():
                ends.add(len(written))
            if edge and not letter.isspace():
                starts.append(len(written))
            written += _in_json(letter)
        return Source(written, starts, frozenset({*ends, len(written)}))

    @staticmethod
    def whole(text: str) -> Source:
        """The text as it is."""
        written = _in_json(text)
        return Source(written, [0], frozenset({len(written)}))

    def holds(self, start: int, value: bytes) -> bool:
        """Whether a value that stands there may end where it does."""
        return start + len(value) in self.ends and (value != b"" or self.text == b"")


def _in_json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Text:
    """A text in a call's arguments: of which parameter, what stands between its quotes, where it ends, whether its
    last quote is still to come."""

    parameter: str
    written: str
    end: int
    open: bool

    @property
    def bytes(self) -> bytes:
        return self.written.encode("utf-8", "surrogateescape")


class Copying:
    """A guide that keeps copied values to the words of the conversation, and else leaves all to `inner`, if any."""

    def __init__(
        self, copied: Copied, messages: Sequence[Message], frame: Frame, vocabulary: Vocabulary,
        inner: GrammarGuide | None = None,
    ) -> None:  # fmt: skip
        self.copied, self.vocabulary, self.inner = copied, vocabulary, inner
        self.said = [Source.said(text) for text in spoken(messages)]
        name = r"([^\s\[\](){}]+)"
        self.head = re.compile(JSON_HEAD if frame.quoted else re.escape(frame.before) + name + re.escape(frame.after))
        self.written = b""

    @property
    def finished(self) -> bool:
        return self.inner is not None and self.inner.finished

    def mask(self) -> NDArray[np.bool_] | None:
        """Which tokens may come next; None: any."""
        given = self.inner.mask() if self.inner else None
        own = self._own()
        if given is None or own is None:
            return own if given is None else given
        both = own[: len(given)] & given[: len(own)]
        return both if both.any() else given

    def takes(self, token: int) -> bool:
        """Goes on with a token; False, and nothing has changed, where what it writes stands nowhere (a quote and more
        in one token), or the grammar refuses it."""
        written = self.written + self.vocabulary.texts[token]
        if any(not any(self._found(sources, text)) for text, sources in self._copied(written, len(self.written))):
            return False
        if self.inner and not self.inner.takes(token):
            return False
        self.written = written
        return True

    def forced(self) -> list[int]:
        tokens = self.inner.forced() if self.inner else []
        self.written += b"".join(self.vocabulary.texts[token] for token in tokens)
        return tokens

    def _own(self) -> NDArray[np.bool_] | None:
        """The tokens that go on with words of the conversation, where a copied value is under way."""
        tokens = set[int]()
        for text, sources in self._copied(self.written, len(self.written) - 1):
            for source, start in self._found(sources, text) if text.open else ():
                tokens.update(self._going_on(source, start, start + len(text.bytes)))
        if not tokens:
            return None
        allowed = np.zeros(len(self.vocabulary.texts), np.bool_)
        allowed[list(tokens)] = True
        return allowed

    def _copied(self, written: bytes, beyond: int) -> Iterator[tuple[Text, list[Source]]]:
        """The copied values of the last call that end beyond a number of bytes, and what they may be taken from."""
        heads = list(self.head.finditer(written.decode("utf-8", "surrogateescape")))
        if not heads or heads[-1][1] not in self.copied:
            return
        parameters, arguments = self.copied[heads[-1][1]], heads[-1].string[heads[-1].end() :]
        for text in texts_in(arguments):
            after = len(arguments[text.end :].encode("utf-8", "surrogateescape"))
            if text.parameter in parameters and len(written) - after > beyond:
                sources = [*self.said, *map(Source.whole, parameters[text.parameter])]
                if any(source.starts for source in sources):
                    yield text, sources

    def _found(self, sources: Sequence[Source], text: Text) -> Iterator[tuple[Source, int]]:
        """Where in the sources a value may begin as it does, and end where it has."""
        for source in sources:
            for start in source.starts:
                if source.text.startswith(text.bytes, start) and (text.open or source.holds(start, text.bytes)):
                    yield source, start

    def _going_on(self, source: Source, start: int, at: int) -> Iterator[int]:
        """The tokens that go on from there with a value that began at `start`, or end it where it may end."""
        for stop in range(at, min(at + self.vocabulary.longest, len(source.text)) + 1):
            part = source.text[at:stop]
            if part:
                yield from self.vocabulary.ids.get(part, ())
            if source.holds(start, source.text[start:stop]):
                yield from self.vocabulary.closers.get(part, ())


def texts_in(arguments: str) -> Iterator[Text]:
    """The values of a call's arguments that are texts, and texts in lists, as far as they are written."""
    brackets, name, before = "", "", ""
    for piece in PIECE.finditer(arguments):
        text = piece[0]
        if text in "{[":
            brackets += text
        elif text in "}]":
            brackets = brackets[:-1]
            if not brackets:
                return
        elif text[0] == '"' and brackets == "{" and before in ("{", ","):
            name = piece[1]
        elif text[0] == '"' and brackets in ("{", "{["):
            yield Text(name, piece[1], piece.end(), not piece[2])
        before = text
