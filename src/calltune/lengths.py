"""Rows in tokens of a model: what is too long for it, what its template refuses or drops, and how long rows are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from calltune.errors import CalltuneError, Problem
from calltune.render import Example, render
from calltune.schema import Conversation, shorten
from calltune.template import Template, probe_thinking
from calltune.tokenizer import Tokenizer

BINS = 12  # bars of a histogram


@dataclass
class Lengths:
    """Renders rows and counts; calling it with a row gives what is wrong with it. Keeps a number for each example."""

    template: Template
    tokenizer: Tokenizer
    limit: int
    lengths: list[int] = field(default_factory=list)
    trained: int = 0
    dropped_plans: int = 0  # rows with a plan that later turns do not show
    keeps_thinking: bool = True

    def __post_init__(self) -> None:
        self.keeps_thinking = probe_thinking(self.template)

    def start(self) -> None:
        """Begins to count anew."""
        self.lengths, self.trained, self.dropped_plans = [], 0, 0

    def __call__(self, conversation: Conversation) -> list[Problem]:
        try:
            examples = render(conversation, self.template, self.tokenizer)
        except CalltuneError as error:
            return [Problem("template_refuses", shorten(str(error), 160), "a row that the chat template takes")]
        answers = [m for m in conversation.messages if m.role == "assistant"]
        if not self.keeps_thinking and any(m.thinking for m in answers[:-1]):
            self.dropped_plans += 1
        return self.measure(examples)

    def measure(self, examples: Sequence[Example]) -> list[Problem]:
        """Counts the examples of one row; an error for each that is too long to be trained whole."""
        problems = []
        for example in examples:
            if len(example) > self.limit:
                where = "" if example.first_loss < self.limit else "; all of the target lies beyond"
                found = f"{len(example)} tokens{where}"
                problems.append(Problem("too_long", found, f"at most {self.limit}: its target would be cut (T05)"))
            self.lengths.append(len(example))
            self.trained += example.trained
        return problems

    def finish(self) -> list[Problem]:
        """What concerns the set as a whole."""
        if not self.dropped_plans:
            return []
        found = f"{self.dropped_plans} rows with a plan before the last answer"
        expected = "a template that keeps it; training makes an example of each turn, so that nothing is lost (T08)"
        return [Problem("thinking_dropped", found, expected, severity="warning")]

    def summary(self) -> dict[str, Any]:
        return length_summary(self.lengths, self.trained)


def length_summary(lengths: Sequence[int], trained: int) -> dict[str, Any]:
    """p50, p95 and max of the lengths, the share of tokens with loss, and a histogram."""
    ordered = sorted(lengths)
    if not ordered:
        return {"examples": 0}
    tokens = sum(ordered)
    return {
        "examples": len(ordered),
        "p50": ordered[len(ordered) // 2],
        "p95": ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))],
        "max": ordered[-1],
        "tokens": tokens,
        "trained_tokens": trained,
        "loss_share": round(trained / tokens, 4) if tokens else 0.0,
        "histogram": histogram(ordered),
    }


def histogram(ordered: Sequence[int], bins: int = BINS) -> list[list[int]]:
    """`[from, up to, count]` of bars of equal width over sorted lengths."""
    low, high = ordered[0], ordered[-1]
    width = max(1, -(-(high - low + 1) // bins))
    counts: dict[int, int] = {}
    for length in ordered:
        counts[(length - low) // width] = counts.get((length - low) // width, 0) + 1
    last = (high - low) // width
    return [[low + i * width, low + (i + 1) * width - 1, counts.get(i, 0)] for i in range(last + 1)]
