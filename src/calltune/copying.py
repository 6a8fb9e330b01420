"""Keeps values that a model was taught to copy to the words of the conversation, while a reply is made.

A small model learns to copy a name into a call and still spells a rare one wrong, since the tokens behind a quote are
others than behind a space. Where every training row took a parameter's text from what was said (data/copied.py), a
reply's text for it can be nothing else: only tokens may come that go on with words of the conversation. All else
stays free, and so does a value whose schema the words do not fit: a reply has to come to its end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calltune.data.copied import BETWEEN_EDGES, Copied, spoken
from calltune.errors import InputError
from calltune.frames import Frame, frame_of
from calltune.guide import GrammarGuide, ll_tokenizer
from calltune.schema import Message
from calltune.template import Template
from calltune.tokenizer import Tokenizer

# A piece of JSON; a text may be open to the end.
PIECE = re.compile(r'"((?:[^"\\]++|\\(?:.|\Z))*)("?)|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
JSON_HEAD = r'\{\s*"name"\s*:\s*"([^"]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*'
NAME = r"(?<![^\s\[\](){}])([^\s\[\](){}]+)"  # from its first letter only: not once more from each of a long text
SPACE = "\u2581"
SHORT = 3


def copies(template: Template) -> bool:
    """Whether calls in this template's format have their arguments in JSON, in which copied values are found."""
    try:
        return not frame_of(template).form
    except InputError:
        return False


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by their bytes; `closers`: those with a quote, by the bytes before it; `longest`: of those that begin
    with the same SHORT bytes, in bytes. Tokens that steer have a text and stand for none."""

    texts: Sequence[bytes]
    ids: Mapping[bytes, Sequence[int]]
    closers: Mapping[bytes, Sequence[int]]
    longest: Mapping[bytes, int]

    @staticmethod
    def of(texts: Sequence[bytes], steering: Collection[int] = ()) -> Vocabulary:
        ids: dict[bytes, list[int]] = {}
        closers: dict[bytes, list[int]] = {}
        longest: dict[bytes, int] = {}
        for i, text in enumerate(texts):
            if i in steering:
                continue
            ids.setdefault(text, []).append(i)
            parts, at = [text], text.find(b'"')
            while at >= 0:  # each may be the last, those before it a value's own behind a backslash
                closers.setdefault(text[:at], []).append(i)
                parts.append(text[:at])
                at = text.find(b'"', at + 1)
            for part in parts:
                if len(part) > longest.get(part[:SHORT], 0):
                    longest[part[:SHORT]] = len(part)
        return Vocabulary(texts, ids, closers, longest)

    def text(self, token: int) -> bytes:
        """Nothing for the rows of a model's head that stand for no token."""
        return self.texts[token] if token < len(self.texts) else b""

    def reach(self, text: bytes, at: int) -> int:
        """Where the longest token may end that stands there."""
        return min(at + max(SHORT, self.longest.get(text[at : at + SHORT], 0)), len(text))


def vocabulary_of(tokenizer: Tokenizer, stop_ids: frozenset[int]) -> Vocabulary:
    """The bytes of every token, made once (20 ms for 49,000)."""
    return _vocabulary(tokenizer, stop_ids, ll_tokenizer(tokenizer, stop_ids))


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer, stop_ids: frozenset[int], ll: Any) -> Vocabulary:
    added = {i: str(token.content) for i, token in tokenizer.inner.added_tokens_decoder.items()}
    marks = tokenizer.marker_texts
    steering = stop_ids | {i for i, text in added.items() if marks and marks.fullmatch(text)}
    texts = [_added(added[i], i, tokenizer) if i in added else ll.decode_bytes([i]) for i in range(ll.vocab_size)]
    return Vocabulary.of(texts, steering)


def _added(text: str, token: int, tokenizer: Tokenizer) -> bytes:
    """What an added token writes: SentencePiece's sign for a space may stand in its name (Gemma's runs of spaces)."""
    spaced = SPACE in text and SPACE not in tokenizer.decode([token])
    return (text.replace(SPACE, " ") if spaced else text).encode()


@dataclass(frozen=True)
class Source:
    """A text as it stands between JSON's quotes, in bytes, and where in it a value may begin and end."""

    text: bytes
    starts: frozenset[int]
    ends: frozenset[int]

    @staticmethod
    def said(text: str) -> Source:
        """Any words of the text, one or more."""
        parts, length, starts, ends = list[bytes](), 0, list[int](), list[int]()
        for piece in BETWEEN_EDGES.findall(text.rstrip()):
            parts.append(_in_json(piece))
            if not piece.isspace():
                starts.append(length)
            length += len(parts[-1])
            if not piece.isspace():
                ends.append(length)
        return Source(b"".join(parts), frozenset(starts), frozenset(ends))

    @staticmethod
    def whole(text: str) -> Source:
        """The text as it is."""
        written = _in_json(text)
        return Source(written, frozenset({0}), frozenset({len(written)}))

    def holds(self, start: int, value: bytes) -> bool:
        """Whether a value that stands there may end where it does."""
        return start + len(value) in self.ends and (value != b"" or self.text == b"")

    def places(self, value: bytes) -> Iterator[int]:
        """Where a value may begin that begins so."""
        if not value:
            yield from self.starts
            return
        at = self.text.find(value)
        while at >= 0:
            if at in self.starts:
                yield at
            at = self.text.find(value, at + 1)


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
        inner: GrammarGuide | None = None, listed: Copied | None = None,
    ) -> None:  # fmt: skip
        """`listed`: parameters that can only be one of these texts (data/said.py)."""
        self.vocabulary, self.inner = vocabulary, inner
        said = [Source.said(text) for text in spoken(messages)]
        # tool -> parameter -> what its texts may be taken from
        self.sources = {tool: {name: [*said, *map(Source.whole, others)] for name, others in own.items()}
                        for tool, own in copied.items()}  # fmt: skip
        for tool, own in (listed or {}).items():
            self.sources.setdefault(tool, {}).update({name: [*map(Source.whole, own[name])] for name in own})
        self.head = re.compile(JSON_HEAD if frame.quoted else re.escape(frame.before) + NAME + re.escape(frame.after))
        self.written = b""
        self.freed = -1  # where a value begins that nothing said goes on with
        self.first: dict[tuple[bytes, ...], set[int]] = {}  # tokens that a value may begin with, by its sources

    @property
    def finished(self) -> bool:
        return self.inner is not None and self.inner.finished

    def mask(self) -> NDArray[np.bool_] | None:
        """Which tokens may come next; None: any. Where no token goes on with words, or none that the grammar allows
        too, the value under way is free from then on."""
        given = self.inner.mask() if self.inner else None
        for begin, text, sources in self._copied(self.written, len(self.written) - 1):
            if text.open:
                own = self._own(text, sources)
                both = own if given is None else own[: len(given)] & given[: len(own)]
                if both.any():
                    return both
                self.freed = begin
        return given

    def takes(self, token: int) -> bool:
        """Goes on with a token; False, and nothing has changed, where what it writes stands nowhere (a quote and more
        in one token), or the grammar refuses it."""
        written = self.written + self.vocabulary.text(token)
        for _, text, sources in self._copied(written, len(self.written)):
            if not any(True for _ in self._found(sources, text)):
                return False
        if self.inner and not self.inner.takes(token):
            return False
        self.written = written
        return True

    def forced(self) -> list[int]:
        tokens = self.inner.forced() if self.inner else []
        self.written += b"".join(map(self.vocabulary.text, tokens))
        return tokens

    def _own(self, text: Text, sources: Sequence[Source]) -> NDArray[np.bool_]:
        """The tokens that go on with words of the conversation in a value that is under way."""
        value, key = text.bytes, tuple(source.text for source in sources)
        tokens = None if value else self.first.get(key)
        if tokens is None:
            tokens = set()
            for source, start in self._found(sources, text):
                tokens.update(self._going_on(source, start, start + len(value)))
        if not value:
            self.first[key] = tokens
        allowed = np.zeros(len(self.vocabulary.texts), np.bool_)
        allowed[list(tokens)] = True
        return allowed

    def _copied(self, written: bytes, beyond: int) -> Iterator[tuple[int, Text, list[Source]]]:
        """The copied values of the last call that end beyond a number of bytes: where each begins, and what it may
        be taken from."""
        heads = list(self.head.finditer(written.decode("utf-8", "surrogateescape")))
        if not heads or heads[-1][1] not in self.sources:
            return
        parameters, arguments = self.sources[heads[-1][1]], heads[-1].string[heads[-1].end() :]
        for text in texts_in(arguments):
            if text.parameter not in parameters:
                continue
            end = len(written) - len(arguments[text.end :].encode("utf-8", "surrogateescape"))
            begin = end - len(text.bytes) - (not text.open)
            if end > beyond and begin != self.freed:
                sources = parameters[text.parameter]
                if any(source.starts for source in sources):
                    yield begin, text, sources

    def _found(self, sources: Sequence[Source], text: Text) -> Iterator[tuple[Source, int]]:
        """Where in the sources a value may begin as it does, and end where it has."""
        for source in sources:
            for start in source.places(text.bytes):
                if text.open or source.holds(start, text.bytes):
                    yield source, start

    def _going_on(self, source: Source, start: int, at: int) -> Iterator[int]:
        """The tokens that go on from there with a value that began at `start`, or end it where it may end."""
        for stop in range(at, self.vocabulary.reach(source.text, at) + 1):
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
