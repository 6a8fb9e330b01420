"""Conversations to token ids with loss spans, and prompts for inference from the same code.

One assistant turn is composed of two texts: the prompt that the template gives for everything before it, and
the reply that the format writes, with the stop token. Both are tokenised apart, exactly as they meet at
inference, so that training ids equal inference ids, and nothing needs to be searched for in a finished text
(trap T20). Turns share one example as long as the template renders earlier turns the way that they were
trained; where it changes them (drops their thinking, T08), the conversation becomes one example a turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

from calltune.data.messages import raw_text
from calltune.formats import Piece, join
from calltune.guarding import guarded
from calltune.schema import GUARD, Conversation, Message, Tool
from calltune.template import Template
from calltune.tokenizer import Encoded, Tokenizer

THINK_OPEN = "<think>"
CHUNK = 64  # rows that are tokenised together


@dataclass(frozen=True)
class Span:
    """Tokens `[start, end)` of an example that carry loss. `kind`: think, name, arguments, syntax, answer."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Example:
    """Token ids of one training text and the spans of it that are trained; `id` names the row it is from."""

    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    id: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def trained(self) -> int:
        """How many tokens carry loss."""
        return sum(span.end - span.start for span in self.spans)

    @property
    def first_loss(self) -> int:
        return self.spans[0].start if self.spans else len(self.ids)


def prompt_text(
    messages: Sequence[Message], tools: Sequence[Tool], template: Template, *, open_thinking: bool = False
) -> str:
    """The prompt for the next assistant turn; `open_thinking` writes the opening `<think>` for the model."""
    return template.text(messages, tools, prompt=True) + (THINK_OPEN if open_thinking else "")


def prompt_ids(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    template: Template,
    tokenizer: Tokenizer,
    *,
    open_thinking: bool = False,
) -> list[int]:
    """`prompt_text` as ids, tokenised as `render` does it: text in messages that looks like a control token is none
    (guarding.py)."""
    messages, tools = guarded(messages, tools, tokenizer)
    return tokenizer.encode(prompt_text(messages, tools, template, open_thinking=open_thinking))


def render(conversation: Conversation, template: Template, tokenizer: Tokenizer) -> list[Example]:
    """Every assistant turn of a conversation as examples with loss spans; usually one example.

    A conversation without an assistant turn gives none, a raw text (`raw_text`) one without the template.
    Source of the composed form: see the module.
    """
    if (text := raw_text(conversation)) is not None:
        return [_text_example(text, conversation.id, tokenizer)]
    turns = _turns(conversation, template, tokenizer)
    befores = [tokenizer.encode(turn.prompt) for turn in turns]
    replies = [tokenizer.encode_with_offsets(turn.text) for turn in turns]
    return _joined(conversation.id, turns, befores, replies, tokenizer)


@dataclass(frozen=True)
class _Turn:
    """One assistant turn as text: the prompt for it, and the pieces of the reply, which joined are `text` without
    GUARD."""

    prompt: str
    pieces: tuple[Piece, ...]
    text: str


def _turns(conversation: Conversation, template: Template, tokenizer: Tokenizer) -> list[_Turn]:
    messages, tools = guarded(conversation.messages, conversation.tools, tokenizer)
    turns = []
    for i, message in enumerate(messages):
        if message.role != "assistant" or i == 0:  # a greeting answers nothing: there is no prompt to learn it from
            continue
        pieces = (*template.reply(message), Piece(template.stop, "syntax"))
        text = join(pieces)
        if GUARD in text:
            pieces = tuple(Piece(piece.text.replace(GUARD, ""), piece.kind) for piece in pieces)
        turns.append(_Turn(prompt_text(messages[:i], tools, template), pieces, text))
    return turns


def _joined(
    id: str | None,
    turns: Sequence[_Turn],
    befores: Sequence[list[int]],
    replies: Sequence[Encoded],
    tokenizer: Tokenizer,
) -> list[Example]:
    """The examples of one conversation from the ids of its prompts and replies."""
    examples: list[Example] = []
    for turn, before, encoded in zip(turns, befores, replies, strict=True):
        reply, spans = _reply_ids(turn, encoded, tokenizer, before)
        trained = tuple(Span(s.start + len(before), s.end + len(before), s.kind) for s in spans)
        if examples and tuple(before[: len(examples[-1])]) == examples[-1].ids:
            trained = examples.pop().spans + trained
        examples.append(Example((*before, *reply), trained, id))
    return examples


def _text_example(text: str, id: str | None, tokenizer: Tokenizer) -> Example:
    """Raw text, trained whole: the ids of mlx-lm's TextDataset (with the BOS that the tokenizer adds, and EOS at
    the end), except that a text which begins with BOS itself does not get a second one (trap T02)."""
    inner = tokenizer.inner
    ids: list[int] = inner.encode(text)
    if ids[:2] == [inner.bos_token_id] * 2:
        ids = ids[1:]
    if inner.eos_token_id is not None and ids[-1:] != [inner.eos_token_id]:
        ids = [*ids, inner.eos_token_id]
    return Example(tuple(ids), (Span(1, len(ids), "answer"),) if len(ids) > 1 else (), id)


def render_all(conversations: Iterable[Conversation], template: Template, tokenizer: Tokenizer) -> list[Example]:
    """The examples of `render` for many rows; tokenised CHUNK rows at a time, which uses all cores."""
    rows, examples = iter(conversations), list[Example]()
    while chunk := list(islice(rows, CHUNK)):
        turns = [[] if raw_text(row) is not None else _turns(row, template, tokenizer) for row in chunk]
        befores = iter(tokenizer.encode_many([turn.prompt for row in turns for turn in row]))
        replies = iter(tokenizer.encode_many_with_offsets([turn.text for row in turns for turn in row]))
        for row, own in zip(chunk, turns, strict=True):
            if (text := raw_text(row)) is not None:
                examples.append(_text_example(text, row.id, tokenizer))
                continue
            ids = [next(befores) for _ in own], [next(replies) for _ in own]
            examples += _joined(row.id, own, *ids, tokenizer)
    return examples


def limit_length(examples: Sequence[Example], limit: int) -> tuple[list[Example], list[Example]]:
    """Examples that fit and those that do not. The rule is to drop, never to cut: a cut row would train a
    prompt without its target (trap T05). The caller counts and names what was dropped."""
    kept = [e for e in examples if len(e) <= limit and e.spans]
    return kept, [e for e in examples if len(e) > limit or not e.spans]


def _reply_ids(
    turn: _Turn, encoded: Encoded, tokenizer: Tokenizer, before: list[int]
) -> tuple[list[int], list[Span]]:
    """The reply's ids after the prompt `before`, with spans counted from the reply's start."""
    ids, offsets = encoded
    if tokenizer.decode(ids) != turn.text.replace(GUARD, ""):  # some tokenizers put a space before every text
        prompt = tokenizer.decode(before)
        ids, offsets = tokenizer.encode_with_offsets(prompt + turn.text)
        ids, offsets = ids[len(before) :], offsets[len(before) :]
        offsets = [(start - len(prompt), end - len(prompt)) for start, end in offsets]
    return ids, _token_spans(turn.pieces, offsets)


def _token_spans(pieces: Sequence[Piece], offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Runs of tokens of one kind. A token that covers two pieces belongs to the piece of its last character
    that is not white space: `" Paris` is an argument, not the quote before it."""
    text = join(tuple(pieces))
    ends = list(accumulate(len(piece.text) for piece in pieces))
    runs: list[tuple[str, int]] = []  # kind and first token
    piece, final = 0, len(pieces) - 1
    for i, (start, end) in enumerate(offsets):
        last = end - 1
        if last > start and text[last].isspace():
            last = max(start + len(text[start:end].rstrip()) - 1, start)
        while piece < final and ends[piece] <= last:
            piece += 1
        while piece and ends[piece - 1] > last:  # a byte of a character that began before
            piece -= 1
        kind = pieces[piece].kind
        if not runs or runs[-1][0] != kind:
            runs.append((kind, i))
    stops = [first for _, first in runs[1:]] + [len(offsets)]
    return [Span(first, stop, kind) for (kind, first), stop in zip(runs, stops, strict=True)]
