"""Training: rows to an adapter, in the order in which things happen.

    settings -> rows -> template -> examples -> plan of the step -> batches -> updates -> run folder

One trainer. What the loss computes stands in engine/step.py, what a batch is in batching.py; the command hands
in what belongs above (callbacks, progress).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from calltune.batching import KINDS, Batch, common_prefix, make_batch, plan_epoch, plan_training
from calltune.conversations import conversation_groups
from calltune.engine import optim, ranks
from calltune.engine.adapter import AdapterSettings, add_adapter, save_adapter, trainable_count
from calltune.engine.footprint import shape_of
from calltune.engine.load import LoadedModel, load
from calltune.engine.probe import on_gpu
from calltune.engine.step import Plan, Speed, forget_trunk, pieces_of, plan_step, store_trunk
from calltune.engine.trunk import trunk_note
from calltune.errors import CannotFinish, InputError
from calltune.fit import batching, memory_line, predict_run
from calltune.platform.process_memory import process_bytes
from calltune.prepare import Prepared, prepare
from calltune.progress import Progress, Silent
from calltune.render import Example
from calltune.runs import Run, RunWriter
from calltune.settings import TrainSettings

LOOK_AHEAD = 8  # updates whose rows go through the frozen trunk together


class Callback(Protocol):
    """mlx-lm's `TrainingCallback` (mlx_lm/tuner/callbacks.py); a subclass of it works unchanged."""

    def on_train_loss_report(self, train_info: dict[str, Any]) -> Any: ...
    def on_val_loss_report(self, val_info: dict[str, Any]) -> Any: ...


class Examples(Protocol):
    """What is trained and validated; `Prepared` has them."""

    @property
    def train(self) -> list[Example]: ...
    @property
    def valid(self) -> list[Example]: ...


class Writer(Protocol):
    """Where reports and adapters on the way go; `RunWriter` writes them into the run's folder."""

    def metrics(self, row: dict[str, Any]) -> None: ...
    def save_step(self, update: int, arrays: dict[str, Any]) -> None: ...


def train(
    settings: TrainSettings,
    data: Any = None,
    *,
    callback: Callback | None = None,
    progress: Progress | None = None,
    loaded: LoadedModel | None = None,
) -> Run:
    """Train an adapter and write the run folder `settings.out`.

    `data` may be rows, conversations, splits or a data set in memory, instead of `settings.data`; `loaded` a
    base model that is in memory already (it is changed). Raises InputError for bad settings or data before
    anything is trained, CannotFinish when the numbers break. Started by `mlx.launch`, all processes train one model
    together, and the first one tells and writes.
    """
    if ranks.rank():  # rank 0 tells and writes; what the others write is thrown away
        with tempfile.TemporaryDirectory() as folder:
            return _train(replace(settings, out=folder), data, None, Silent(), loaded)
    return _train(settings, data, callback, progress or Silent(), loaded)


def _train(
    settings: TrainSettings, data: Any, callback: Callback | None, progress: Progress, loaded: LoadedModel | None
) -> Run:
    writer = RunWriter(Path(settings.out), overwrite=settings.overwrite)
    loaded = loaded or load(settings.model, settings.dtype)
    progress.say(f"model {settings.model or loaded.name}: {loaded.dtype} ({loaded.note})")
    prepared = prepare(settings, loaded.tokenizer, data)
    for note in (*prepared.notes, *_memory(loaded, prepared, settings)):
        progress.say(note)
    adapter = adapter_settings(settings)
    keys = add_adapter(loaded.model, adapter, settings.seed)
    if ranks.size() > 1:
        progress.say(f"{ranks.size()} processes train together, each its share of every batch")
    progress.say(f"trainable parameters: {trainable_count(loaded.model):,} ({settings.fine_tune})")
    plan = make_plan(loaded, prepared, settings)
    for note in plan.notes:
        progress.say(note)
    with writer:
        writer.begin(settings, prepared, loaded)
        loop = Loop(plan, prepared, settings, writer, callback, progress)
        loop.run()
        save_adapter(writer.folder, loop.best_arrays, adapter, keys, loaded.folder, len(loaded.model.layers))
        restore(loaded, loop.best_arrays)
        return writer.finish(prepared, loop.summary())


def _memory(loaded: LoadedModel, prepared: Prepared, settings: TrainSettings) -> list[str]:
    """What the run will need, in words; nothing for a model whose memory cannot be predicted."""
    try:
        shape = shape_of(loaded.model, loaded.dtype)
    except InputError:
        return []
    base = max(process_bytes() - shape.weight_bytes, 0)
    return memory_line(predict_run(shape, settings, prepared.train, prepared.valid, base))


def adapter_settings(settings: TrainSettings) -> AdapterSettings:
    return AdapterSettings(
        kind=settings.fine_tune, num_layers=settings.num_layers, rank=settings.rank, scale=settings.scale,
        dropout=settings.dropout, keys=settings.keys, alpha=settings.alpha,
    )  # fmt: skip


def make_plan(loaded: LoadedModel, prepared: Prepared, settings: TrainSettings) -> Plan:
    """How the loss is computed for these examples: what all of them share, and the speed switches."""
    prefix = common_prefix([*prepared.train, *prepared.valid])
    trees = conversation_groups(prepared.train, len(prefix)) is not None
    return plan_step(
        loaded.model, prefix, speed_of(settings), loaded.vocabulary, dropout=settings.dropout, trees=trees
    )


def speed_of(settings: TrainSettings) -> Speed:
    """The switches of the step that the settings hold."""
    memory = settings.trunk_memory_gb
    return Speed(
        selecting_head=settings.selecting_head, shared_prefix=settings.shared_prefix,
        frozen_trunk=settings.frozen_trunk, fast_cpu=settings.fast_cpu, checkpoint=settings.grad_checkpoint,
        cpu_layers=settings.cpu_layers, compile=settings.compile and on_gpu(), logit_bytes=settings.logits_mb << 20,
        trunk_bytes=None if memory is None else int(memory * 1e9),
        trunk_disk_bytes=int(settings.trunk_disk_gb * 1e9),
    )  # fmt: skip


def trunk_plan(plan: Plan, examples: Examples, epochs: float) -> str:
    """What the frozen trunk will keep, in words."""
    layers, width, itemsize = plan.dimensions()
    rows = [*examples.train, *examples.valid]
    return trunk_note(plan.store, plan.cut, layers, width, itemsize, len(plan.prefix), rows, epochs)


def restore(loaded: LoadedModel, arrays: dict[str, Any]) -> None:
    """The model with these trained arrays, ready to generate."""
    loaded.model.load_weights(list(arrays.items()), strict=False)
    loaded.model.eval()


@dataclass
class Loop:
    """The updates of one run. All counts are optimizer updates, whatever the accumulation (trap T17)."""

    plan: Plan
    prepared: Examples
    settings: TrainSettings
    writer: Writer
    callback: Callback | None
    progress: Progress
    update: int = 0
    best_loss: float = math.inf
    best_update: int = 0
    best_arrays: dict[str, Any] = field(default_factory=dict)
    trained_tokens: int = 0
    tokens: int = 0
    train_seconds: float = 0.0
    groups_of: tuple[int, ...] | None = None  # which training examples are of one conversation

    def run(self) -> None:
        self.groups_of = conversation_groups(self.prepared.train, len(self.plan.prefix)) if self.plan.trees else None
        how = batching(self.settings) | {"groups": self.groups_of}
        self.per_epoch = len(plan_epoch(self.lengths(), **how, seed=0))
        self.total = total_updates(len(self.prepared.train), self.settings, self.per_epoch)
        self.optimizer = optim.make(self.settings.optimizer, self.settings.weight_decay)
        self.step = optim.Stepper(self.plan, self.optimizer, clip=self.settings.clip)
        window = Window()
        if self.groups_of:
            several = sum(count > 1 for count in Counter(self.groups_of).values())
            self.progress.say(f"{several} conversations have several examples: what these share runs once a step")
        if self.plan.cut:
            self.progress.say(trunk_plan(self.plan, self.prepared, self.epochs()))
        self.progress.start("training", self.total)
        with self.plan.context():
            self.validate()
            started = time.perf_counter()
            for batches in self.groups():
                rate = learning_rate(self.update, self.total, self.settings)
                result = self.step(batches, rate)
                self.update += 1
                window.add(self.plan, batches, result, time.perf_counter() - started)
                self.check(result)
                self.progress.advance("training", loss=f"{window.loss:.3f}", lr=f"{rate:.1e}")
                if self.update % self.settings.steps_per_report == 0 or self.update == self.total:
                    self.report(window, rate)
                    window = Window()
                every = self.settings.steps_per_eval
                if self.update == self.total or (every and self.update % every == 0):
                    self.validate()
                save = self.settings.save_every
                if save and self.update % save == 0:
                    self.writer.save_step(self.update, optim.snapshot(self.plan.model))
                started = time.perf_counter()
        self.progress.finish("training")
        if not self.prepared.valid:
            self.best_arrays, self.best_update = optim.snapshot(self.plan.model), self.update

    def lengths(self) -> list[int]:
        """Of the rows behind the prefix: what runs of them."""
        return [len(e) - len(self.plan.prefix) - 1 for e in self.prepared.train]

    def groups(self) -> Iterator[list[Batch]]:
        """The batches of each update: `grad_accumulation` of them, fewer at the end of the run only."""
        examples = self.prepared.train
        how = batching(self.settings) | {"groups": self.groups_of}
        cursor = plan_training(self.lengths(), **how, seed=self.settings.seed)
        groups = [[next(cursor)[1] for _ in range(self.settings.grad_accumulation)] for _ in range(self.total)]
        last_use = {i: update for update, group in enumerate(groups) for batch in group for i in batch}
        for update, group in enumerate(groups):
            if update % LOOK_AHEAD == 0:
                ahead = [i for other in groups[update : update + LOOK_AHEAD]
                         for batch in other for i in ranks.own_rows(batch, self.groups_of)]  # fmt: skip
                store_trunk(self.plan, examples, ahead, groups=self.groups_of)
            yield [make_batch(examples, indices, len(self.plan.prefix), self.groups_of) for indices in group]
            forget_trunk(self.plan, [i for batch in group for i in batch if last_use[i] == update])

    def check(self, result: optim.Result) -> None:
        if not math.isfinite(result.loss):
            rows = [self.prepared.train[i].id for i in result.indices]
            raise CannotFinish(
                f"the loss of update {self.update} is not a finite number (rows {', '.join(map(str, rows[:8]))})",
                next_step="lower the learning rate, and look at these rows with `calltune preview`",
            )

    def report(self, window: Window, rate: float) -> None:
        self.trained_tokens += window.trained
        self.tokens += window.tokens
        self.train_seconds += window.seconds
        row = window.row() | {
            "step": self.update, "learning_rate": rate, "epoch": round(self.epoch(), 3),
            "trained_tokens": self.trained_tokens, "peak_memory_gb": optim.peak_memory_gb(),
        }  # fmt: skip
        self.writer.metrics(row)
        if self.callback:
            self.callback.on_train_loss_report({
                "iteration": self.update, "train_loss": row["train_loss"], "learning_rate": rate,
                "iterations_per_second": row["updates_per_second"], "tokens_per_second": row["tokens_per_second"],
                "trained_tokens": self.trained_tokens, "peak_memory": row["peak_memory_gb"],
            })  # fmt: skip

    def validate(self) -> None:
        """Loss on the same validation rows every time, each token with the same weight (trap T07)."""
        examples = self.prepared.valid
        if not examples:
            return
        started = time.perf_counter()
        loss = self.step.evaluate(valid_batches(examples, self.settings, len(self.plan.prefix)))
        seconds = time.perf_counter() - started
        if not math.isfinite(loss):
            raise CannotFinish(f"the validation loss after update {self.update} is not a finite number",
                               next_step="lower the learning rate")  # fmt: skip
        self.writer.metrics({"step": self.update, "valid_loss": loss, "valid_seconds": seconds})
        if self.callback:
            info = {"iteration": self.update, "val_loss": loss, "val_time": seconds}
            self.callback.on_val_loss_report(info)
        if self.update and loss < self.best_loss:
            self.best_loss, self.best_update = loss, self.update
            self.best_arrays = optim.snapshot(self.plan.model)

    def epoch(self) -> float:
        return self.epochs(self.update)

    def epochs(self, updates: int | None = None) -> float:
        """Passes over the rows that so many updates make; all of them, if not said."""
        return (self.total if updates is None else updates) * self.settings.grad_accumulation / self.per_epoch

    def summary(self) -> dict[str, Any]:
        seconds = self.train_seconds
        return {
            "updates": self.update, "epochs": round(self.epoch(), 3), "best_update": self.best_update,
            "valid_loss": self.best_loss if self.best_update and self.prepared.valid else None,
            "tokens": self.tokens, "trained_tokens": self.trained_tokens, "seconds": round(seconds, 2),
            "tokens_per_second": round(self.tokens / seconds, 1) if seconds else 0.0,
            "peak_memory_gb": optim.peak_memory_gb(),
        }  # fmt: skip


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

    def add(self, plan: Plan, batches: Sequence[Batch], result: optim.Result, seconds: float) -> None:
        self.updates += 1
        self.seconds += seconds
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


def total_updates(rows: int, settings: TrainSettings, per_epoch: int | None = None) -> int:
    """`per_epoch`: batches an epoch, where that is not rows by batch size."""
    if settings.iters is not None:
        if settings.iters < 1:
            raise InputError(f"--iters is {settings.iters}", next_step="give at least 1")
        return settings.iters
    batches = settings.epochs * (per_epoch or math.ceil(rows / settings.batch_size))
    return max(1, math.ceil(batches / settings.grad_accumulation - 1e-9))


def learning_rate(update: int, total: int, settings: TrainSettings) -> float:
    """Rate of update number `update` (from 0): linear warm-up, then the schedule down to a tenth of a percent."""
    warm = round(settings.warmup * total)
    if update < warm:
        return settings.learning_rate * (update + 1) / (warm + 1)
    done = (update - warm) / max(total - warm, 1)
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return settings.learning_rate * max(factor[settings.schedule], 1e-3)


def valid_batches(examples: Sequence[Example], settings: TrainSettings, prefix: int) -> Iterator[Batch]:
    plan = plan_epoch([len(e) for e in examples], settings.batch_size, seed=0)
    chosen = plan if settings.val_batches < 0 else plan[: settings.val_batches]
    return (make_batch(examples, indices, prefix) for indices in chosen)
