"""What is counted between two reports, and when a checkpoint is due."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from calltune.batching import KINDS, Batch
from calltune.engine import optim
from calltune.engine.plan import Plan
from calltune.engine.step import pieces_of

SAVE_SECONDS = 60.0


@dataclass
class Window:
    """What happened since the last report."""

    updates: int = 0
    loss_sum: float = 0.0
    trained: int = 0
    tokens: int = 0
    rows: int = 0
    cells: int = 0
    padding: int = 0
    seconds: float = 0.0
    norm: float = 0.0
    kinds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, plan: Plan, batches: Sequence[Batch], result: optim.Result | None, seconds: float) -> None:
        self.updates += 1
        self.seconds += seconds
        if result is None:  # the update was left out
            return
        self.norm = result.norm
        for batch, losses in zip(batches, result.losses, strict=True):
            self.loss_sum += float(losses.sum())
            self.trained += batch.trained
            self.rows += len(batch.indices)
            self.tokens += batch.real + len(batch.indices) * (len(plan.prefix) + 1)
            for piece in pieces_of(plan, batch):
                cells, real = piece.cells()
                self.cells += cells
                self.padding += cells - real
            for index in set(batch.kinds.tolist()):
                chosen = losses[batch.kinds == index]
                entry = self.kinds.setdefault(KINDS[index], [0.0, 0.0])
                entry[0], entry[1] = entry[0] + float(chosen.sum()), entry[1] + len(chosen)

    @property
    def loss(self) -> float:
        return self.loss_sum / max(self.trained, 1)

    def row(self) -> dict[str, Any]:
        """A line of metrics. Speeds are over the time that the updates took, however few they are (T19)."""
        seconds = max(self.seconds, 1e-9)
        kinds = {f"loss_{kind}": total / count for kind, (total, count) in sorted(self.kinds.items())}
        return {
            "train_loss": self.loss, **kinds, "gradient_norm": self.norm,
            "tokens_per_second": self.tokens / seconds, "trained_tokens_per_second": self.trained / seconds,
            "updates_per_second": self.updates / seconds, "padding": self.padding / max(self.cells, 1),
            "seconds": self.seconds, "rows": self.rows, "tokens": self.tokens, "cells": self.cells,
        }  # fmt: skip


@dataclass
class Saving:
    """When a checkpoint is due: every so many updates, or about a minute apart and so rarely that saving takes under
    1 % of the time. When it is saved changes nothing about what is trained."""

    every: int | None
    update: int = -1
    total: float = 0.0  # seconds spent on it
    last: float = 0.0
    at: float = field(default_factory=time.perf_counter)

    def due(self, update: int, whole: bool) -> bool:
        """`whole`: nothing that was computed ahead is open, so that a resumed run has nothing to do twice."""
        if self.every is not None:
            return bool(self.every and update % self.every == 0)
        wait = max(SAVE_SECONDS, 100 * self.last)
        return time.perf_counter() - self.at >= (wait if whole else 5 * wait)

    def saved(self, update: int, seconds: float, before: float = 0.0) -> None:
        self.update, self.last, self.total, self.at = (
            update,
            seconds,
            self.total + seconds + before,
            time.perf_counter(),
        )
