"""How many updates a run has, of which rows, and at which rate: it follows from the settings, so a resumed run has
the same. All counts are optimizer updates, whatever the accumulation (trap T17)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from calltune.batching import plan_epoch
from calltune.errors import InputError
from calltune.render import Example
from calltune.settings import TrainSettings


def total_updates(rows: int, settings: TrainSettings, per_epoch: int | None = None) -> int:
    """`per_epoch`: batches an epoch, where that is not rows by batch size."""
    if settings.iters is not None:
        if settings.iters < 1:
            raise InputError(f"--iters is {settings.iters}", next_step="give at least 1")
        return settings.iters
    batches = settings.epochs * (per_epoch or math.ceil(rows / settings.batch_size))
    return max(1, math.ceil(batches / settings.grad_accumulation - 1e-9))


def schedule_words(total: int, settings: TrainSettings) -> str:
    """The schedule as it will be, in updates."""
    many = f", {settings.grad_accumulation} batches each" if settings.grad_accumulation > 1 else ""
    warm = round(settings.warmup * total)
    return (f"{total} updates{many}: learning rate up to {settings.learning_rate:g} over the first {warm}, then "
            f"{settings.schedule}")  # fmt: skip


def learning_rate(update: int, total: int, settings: TrainSettings) -> float:
    """Rate of update number `update` (from 0): linear warm-up, then the schedule down to a tenth of a percent."""
    warm = round(settings.warmup * total)
    if update < warm:
        return settings.learning_rate * (update + 1) / (warm + 1)
    done = (update - warm) / max(total - warm, 1)
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return settings.learning_rate * max(factor[settings.schedule], 1e-3)


def valid_groups(examples: Sequence[Example], settings: TrainSettings) -> list[tuple[int, ...]]:
    plan = plan_epoch([len(e) for e in examples], settings.batch_size, seed=0)
    return plan if settings.val_batches < 0 else plan[: settings.val_batches]
