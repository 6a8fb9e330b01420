"""Call accuracy while training: a fixed, small part of the validation rows is answered; the best weights go by it.

The loss can fall on while calls get worse, and the other way round; what users see is whether the call is right.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calltune.caller import Caller, make_caller
from calltune.engine.decode import forget_prefixes
from calltune.engine.load import LoadedModel
from calltune.errors import InputError
from calltune.render import Example
from calltune.schema import Conversation, Reply
from calltune.score import aggregate
from calltune.settings import TrainSettings
from calltune.tasks.questions import Question, questions_of
from calltune.template import Template

ROOM = 1.25  # times the longest right reply: what an untrained model may ramble
SHARE = 0.1  # of the time, by the estimate in `accuracy_every`
# What a written token costs against one that is only read. About 3 was measured on 2 cores (SmolLM2, 16 rows side by
# side); on a GPU it is a guess from the speeds of training and decoding.
WRITING_ON_CPU, WRITING_ON_GPU = 5.0, 24.0
MOST = 256  # tokens of a reply, however long the right ones are


@dataclass(frozen=True)
class Selector:
    """Asks `questions` of the model as it is; `limit` is the longest reply in tokens."""

    caller: Caller
    questions: tuple[Question, ...]
    limit: int

    @property
    def replies(self) -> int:
        """The most tokens that a measurement writes."""
        return len(self.questions) * self.limit

    def __call__(self, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Shares in 0..1: `exact_match` over all, `call_exact_match`, `name_match` and `arguments_match` (of those
        with the right names) over those that need a call, `no_call_accuracy` over the others; None for a share of
        nothing. `check` is called for each reply, and may raise to leave."""
        started = time.perf_counter()
        forget_prefixes(self.caller.decoder)  # made by other weights
        self.caller.loaded.model.eval()
        requests = [(q.messages, q.tools) for q in self.questions]
        replies = self.caller.batch(requests, max_tokens=self.limit, batch_size=len(requests),
                                    on_reply=lambda *_: check())  # fmt: skip
        forget_prefixes(self.caller.decoder)  # and their memory is free
        return figures(self.questions, replies) | {"accuracy_seconds": time.perf_counter() - started}


def make_selector(
    loaded: LoadedModel, template: Template, rows: Sequence[Conversation], examples: Sequence[Example], count: int
) -> Selector | None:
    """At most `count` decisions, spread evenly over those of `rows`; None where the rows have none. `examples` are
    these rows rendered, and tell which rows are not too long, and how long replies are."""
    kept = {example.id for example in examples}
    try:
        questions = questions_of([row for row in rows if row.id in kept])
    except InputError:
        return None
    count = min(count, len(questions))
    chosen = tuple(questions[len(questions) * k // count] for k in range(count))
    longest = max((span_tokens(example) for example in examples), default=0)
    loaded.model.eval()  # what is probed there must not drop out anything
    return Selector(replace(make_caller(loaded, template), trained=True), chosen, min(int(longest * ROOM) + 8, MOST))


def span_tokens(example: Example) -> int:
    """Tokens of the longest run of trained ones: a reply."""
    longest = current = 0
    end = -1
    for span in example.spans:
        size = span.end - span.start
        current = current + size if span.start == end else size
        longest, end = max(longest, current), span.end
    return longest


def figures(questions: Sequence[Question], replies: Sequence[Reply]) -> dict[str, Any]:
    verdicts = [q.verdict(reply) for q, reply in zip(questions, replies, strict=True)]
    all_ = aggregate(verdicts)
    need = [(q, reply, v) for q, reply, v in zip(questions, replies, verdicts, strict=True) if q.expected]
    named = [v for q, reply, v in need if names(q.expected) == names(reply.calls) and not reply.errors]
    exact = sum(verdict.exact for verdict in named)
    return {
        "exact_match": all_["exact_match"], "call_exact_match": all_["call_exact_match"],
        "name_match": len(named) / len(need) if need else None,
        "arguments_match": exact / len(named) if named else None, "no_call_accuracy": all_["no_call_accuracy"],
    }  # fmt: skip


def names(calls: Sequence[Any]) -> list[str]:
    return sorted(call.name for call in calls)


def is_asked(settings: TrainSettings) -> bool:
    """Whether accuracy is to be measured at all."""
    return bool(settings.steps_per_eval if settings.steps_per_accuracy is None else settings.steps_per_accuracy)


def accuracy_every(settings: TrainSettings, replies: int, reading: float, training: float, *, gpu: bool) -> int:
    """Updates between measurements: as asked, else so many that they take about a tenth of the time.

    All costs are in tokens that run once through all layers: `replies` tokens are written, `reading` is what prompts
    cost and `training` an update. An estimate from shapes, not from a clock, so that a run and its resumed twin
    measure at the same updates and keep the same weights.
    """
    if settings.steps_per_accuracy is not None:
        return settings.steps_per_accuracy
    cost = replies * (WRITING_ON_GPU if gpu else WRITING_ON_CPU) + reading
    return max(settings.steps_per_eval, math.ceil(cost / (SHARE * max(training, 1.0))))


def accuracy_points(total: int, every: int) -> frozenset[int]:
    """The updates after which accuracy is measured: as many as fit `every` apart, spread evenly, so that
    the last one is the end; none in a shorter run. They follow from the settings, so a resumed run has the same."""
    count = total // every if every else 0
    return frozenset(round(total * k / count) for k in range(1, count + 1))
