"""mlx-lm's own trainer on the rows of a bench: `mlx_lm.tuner.trainer.train` as it is, timed from outside."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train

from calltune.batching import make_batch
from calltune.engine import optim
from calltune.engine.load import LoadedModel
from calltune.engine.measured import Measured, Update
from calltune.engine.plan import Speed, plan_step
from calltune.render import Example


class Rows:
    """A data set as mlx-lm's `ChatDataset` with `mask_prompt`: a row is a dictionary until it is processed.

    Its length as mlx-lm's batches see it is the number of that dictionary's keys (trap T01).
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self._data = [{"messages": example.ids, "tools": example.first_loss} for example in examples]

    def process(self, row: dict[str, Any]) -> tuple[list[int], int]:
        return list(row["messages"]), row["tools"]

    def __getitem__(self, index: int) -> Any:
        return self._data[index]

    def __len__(self) -> int:
        return len(self._data)


class Recorder:
    """Watches the batches and the reports of every update; the clock stands while validation runs."""

    def __init__(self, validate: Any, every: int, total: int) -> None:
        self.measured = Measured()
        self.validate, self.every, self.total = validate, every, total
        self.batch = (0, 0, 0)
        self.started = 0.0

    def batches(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        self.started = time.perf_counter()
        for batch, lengths in iterate_batches(*args, **kwargs):
            real = int(np.array(lengths)[:, 1].sum())
            self.batch = (batch.shape[0], real, batch.shape[0] * (batch.shape[1] - 1))
            yield batch, lengths

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        rows, tokens, cells = self.batch
        seconds = time.perf_counter() - self.started
        self.measured.updates.append(Update(seconds, rows, tokens, tokens - rows, cells))
        done = len(self.measured.updates)
        if done == self.total or (self.every and done % self.every == 0):
            self.note(done)
        self.started = time.perf_counter()

    def on_val_loss_report(self, info: dict[str, Any]) -> None:
        """Never called: mlx-lm is given no validation rows."""

    def note(self, done: int) -> None:
        if (loss := self.validate()) is not None:
            self.measured.curve.append((done, sum(u.seconds for u in self.measured.updates), loss))


def run_mlx_lm(
    loaded: LoadedModel, examples: Sequence[Example], valid: Sequence[Example], settings: Any, *, updates: int,
    every: int, sort: bool = False,
) -> Measured:  # fmt: skip
    """`updates` updates of mlx-lm's trainer. `sort`: with batches by true length, which mlx-lm means to have and
    its command line has not (T01)."""
    model = loaded.model
    optimizer = optim.make(settings.optimizer, settings.weight_decay)
    optimizer.learning_rate = settings.learning_rate
    rows: Any = CacheDataset(Rows(examples))
    if sort:
        rows = [(list(example.ids), example.first_loss) for example in examples]
    recorder = Recorder(_validation(loaded, valid, settings), every, updates)
    recorder.note(0)
    model.train()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArgs(
            batch_size=settings.batch_size, iters=updates, val_batches=0, steps_per_report=1,
            steps_per_eval=updates + 1, steps_per_save=updates + 1, max_seq_length=settings.max_seq_length,
            adapter_file=str(Path(folder) / "adapters.safetensors"), grad_checkpoint=settings.grad_checkpoint,
        )  # fmt: skip
        np.random.seed(settings.seed)
        train(model, optimizer, rows, None, args, iterate_batches=recorder.batches, training_callback=recorder)
    return recorder.measured


def _validation(loaded: LoadedModel, valid: Sequence[Example], settings: Any) -> Any:
    """A function that gives the mean loss a trained token of the validation rows, or None without rows."""
    plan = plan_step(loaded.model, (), Speed(shared_prefix=False, frozen_trunk=False), loaded.vocabulary, dropout=0.0)
    size = settings.batch_size
    order = sorted(range(len(valid)), key=lambda i: len(valid[i]))
    batches = [make_batch(valid, order[k : k + size]) for k in range(0, len(order), size)]
    stepper = optim.Stepper(plan, None, 0.0)

    def validate() -> float | None:
        if not batches:
            return None
        with plan.context():
            loss = stepper.evaluate(batches)
        loaded.model.train()
        mx.clear_cache()
        return loss

    return validate
