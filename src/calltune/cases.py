"""Questions with the answers to them, as the cases of a report; and which tools training had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calltune.report import Answer, Case
from calltune.runs import Run
from calltune.tasks.questions import Question, question_hash, request_of


def make_cases(
    questions: Sequence[Question],
    after: Sequence[Answer],
    before: Sequence[Answer] | None = None,
    lengths: Sequence[int] | None = None,
    trained: Trained | None = None,
) -> tuple[Case, ...]:
    """Questions with the answers after and, on the same cases, before. `lengths`: of the prompts in tokens."""
    return tuple(
        Case(q.id, q.category, request_of(q), q.expected, a, before[i] if before else None, len(q.tools),
             lengths[i] if lengths else None, trained.had(q) if trained else None, question_hash(q))
        for i, (q, a) in enumerate(zip(questions, after, strict=True))
    )  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """Which tools training had: those that all its rows offered, or all but those that were held out."""

    names: frozenset[str] = frozenset()
    held_out: frozenset[str] = frozenset()

    @staticmethod
    def of(run: Run | None) -> Trained | None:
        if run is None:
            return None
        manifest = run.record.get("data", {}).get("manifest") or {}
        found = Trained(frozenset(tool.name for tool in run.tools()), frozenset(manifest.get("held_out_tools", ())))
        return found if found.names or found.held_out else None

    def had(self, question: Question) -> bool | None:
        """Whether training had all tools that are right; None where no call is, or where it cannot be known."""
        names = {call.name for call in question.expected}
        if not names or (question.case is not None and not self.names):
            return None
        return not names & self.held_out if self.held_out else names <= self.names
