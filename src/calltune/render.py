"""Conversations to token ids with loss spans, and prompts for inference from the same code.

One assistant turn is composed of two texts: the prompt that the template gives for everything before it, and
the reply that the format writes, with the stop token. Both are tokenised apart, exactly as they meet at
inference, so that training ids equal inference ids, and nothing needs to be searched for in a finished text
(trap T20). Turns share one example as long as the template renders earlier turns the way that they were
trained; where it changes them (drops their thinking, T08), the conversation becomes one example a turn.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from calltune.data.messages import raw_text
from calltune.formats import Piece, join
from calltune.schema import Conversation, Message, Tool
from calltune.template import Template
from calltune.tokenizer import Tokenizer

THINK_OPEN = "<think>"


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
    """`prompt_text` as ids, tokenised as `render` does it."""
    return tokenizer.encode(prompt_text(messages, tools, template, open_thinking=open_thinking))


def render(conversation: Conversation, template: Template, tokenizer: Tokenizer) -> list[Example]:
    """Every assistant turn of a conversation as examples with loss spans; usually one example.

    A conversation without an assistant turn gives none, a raw text (`raw_text`) one without the template.
    Source of the composed form: see the module.
    """
    if (text := raw_text(conversation)) is not None:
        return [_text_example(text, conversation.id, tokenizer)]
    examples: list[Example] = []
    messages, tools = conversation.messages, conversation.tools
    for i, message in enumerate(messages):
        if message.role != "assistant" or i == 0:  # a greeting answers nothing: there is no prompt to learn it from
            continue
        before = prompt_ids(messages[:i], tools, template, tokenizer)
        reply, spans = _reply_ids(message, template, tokenizer, before)
        trained = tuple(Span(s.start + len(before), s.end + len(before), s.kind) for s in spans)
        if examples and tuple(before[: len(examples[-1])]) == examples[-1].ids:
            trained = examples.pop().spans + trained
        examples.append(Example((*before, *reply), trained, conversation.id))
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
    return [example for c in conversations for example in render(c, template, tokenizer)]


def limit_length(examples: Sequence[Example], limit: int) -> tuple[list[Example], list[Example]]:
    """Examples that fit and those that do not. The rule is to drop, never to cut: a cut row would train a
    prompt without its target (trap T05). The caller counts and names what was dropped."""
    kept = [e for e in examples if len(e) <= limit and e.spans]
    return kept, [e for e in examples if len(e) > limit or not e.spans]


def _reply_ids(
    message: Message, template: Template, tokenizer: Tokenizer, before: list[int]
) -> tuple[list[int], list[Span]]:
    """The reply's ids after the prompt `before`, with spans counted from the reply's start."""
    pieces = (*template.reply(message), Piece(template.stop, "syntax"))
    text = join(pieces)
    ids, offsets = tokenizer.encode_with_offsets(text)
    if tokenizer.decode(ids) != text:  # some tokenizers put a space in front of every text
        prompt = tokenizer.decode(before)
        ids, offsets = tokenizer.encode_with_offsets(prompt + text)
        ids, offsets = ids[len(before) :], offsets[len(before) :]
        offsets = [(start - len(prompt), end - len(prompt)) for start, end in offsets]
    return ids, _token_spans(pieces, offsets)


def _token_spans(pieces: Sequence[Piece], offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Runs of tokens of one kind. A token that covers two pieces belongs to the piece of its last character
    that is not white space: `" Paris` is an argument, not the quote before it."""
    ends = list(accumulate(len(piece.text) for piece in pieces))
    text = join(tuple(pieces))
    spans: list[Span] = []
    for i, (start, end) in enumerate(offsets):
        inside = text[start:end].rstrip()
        last = max(start + len(inside) - 1, start)
        kind = pieces[min(bisect_right(ends, last), len(pieces) - 1)].kind
        if spans and spans[-1].kind == kind:
            spans[-1] = Span(spans[-1].start, i + 1, kind)
        else:
            spans.append(Span(i, i + 1, kind))
    return spans
