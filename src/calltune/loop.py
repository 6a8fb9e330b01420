"""The updates of one run: batches, reports, validations, checkpoints, and what may go wrong on the way."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from calltune.batching import Batch, make_batch, plan_epoch, plan_training
from calltune.conversations import conversation_groups
from calltune.engine import optim, ranks
from calltune.engine.plan import Plan
from calltune.engine.probe import on_gpu
from calltune.engine.trunk import trunk_note
from calltune.engine.trunk_states import follow_trunk, forget_trunk, store_trunk
from calltune.errors import CannotFinish
from calltune.fit import batching
from calltune.platform.stopping import Stop, Stopped
from calltune.progress import Progress
from calltune.quarantine import Health, rows_to_blame
from calltune.render import Example
from calltune.schedule import learning_rate, schedule_words, total_updates, valid_groups
from calltune.selecting import Selector, accuracy_every, accuracy_points
from calltune.settings import TrainSettings
from calltune.starting import Start
from calltune.window import Saving, Window

TRUNK_BYTES = 64 << 20  # of states of the frozen trunk, the most that a checkpoint holds
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
    """Where reports and checkpoints go; `RunWriter` writes them into the run's folder."""

    def metrics(self, row: dict[str, Any]) -> None: ...
    def save(self, update: int, state: dict[str, Any], arrays: dict[str, Any]) -> None: ...
    def drop_from(self, update: int) -> None: ...


@dataclass
class Loop:
    """The updates of one run. All counts are optimizer updates, whatever the accumulation (trap T17)."""

    plan: Plan
    prepared: Examples
    settings: TrainSettings
    writer: Writer
    callback: Callback | None
    progress: Progress
    select: Selector | None = None  # measures call accuracy
    again: str = ""  # how to go on when it is stopped, in words
    # What a checkpoint holds (`state`, `restore`):
    update: int = 0
    validated: bool = False  # whether the validation that is due after this update was made
    best_loss: float = math.inf
    best_accuracy: float = -1.0
    best_update: int = 0
    best_arrays: dict[str, Any] = field(default_factory=dict)
    worse: int = 0  # measurements since the best one
    trained_tokens: int = 0
    tokens: int = 0
    train_seconds: float = 0.0
    quarantined: dict[str, list[int]] = field(default_factory=lambda: {"train": [], "valid": []})
    health: Health = field(default_factory=Health)

    def __post_init__(self) -> None:
        self.groups_of = conversation_groups(self.prepared.train, len(self.plan.prefix)) if self.plan.trees else None
        self.how = batching(self.settings) | {"groups": self.groups_of}
        self.per_epoch = len(plan_epoch(self.lengths(), **self.how, seed=0))
        self.total = total_updates(len(self.prepared.train), self.settings, self.per_epoch)
        self.optimizer = optim.make(self.settings.optimizer, self.settings.weight_decay)
        self.step = optim.Stepper(self.plan, self.optimizer, clip=self.settings.clip)
        self.points = accuracy_points(self.total, self.accuracy_every())
        self.window, self.saving, self.stop = Window(), Saving(self.settings.save_every), Stop()
        self.asked = False  # whether one of several processes was asked to stop

    def run(self) -> None:
        if self.groups_of:
            several = sum(count > 1 for count in Counter(self.groups_of).values())
            self.progress.say(f"{several} conversations have several examples: what these share runs once a step")
        if self.plan.cut:
            self.progress.say(trunk_plan(self.plan, self.prepared, self.epochs()))
        self.progress.say(schedule_words(self.total, self.settings))
        if self.points and self.select:
            self.progress.say(f"call accuracy of {len(self.select.questions)} validation requests after "
                              f"{len(self.points)} of the updates; the best weights go by it")  # fmt: skip
        self.progress.start("training", self.total)
        if self.update:
            self.progress.advance("training", self.update)
        with self.stop, self.plan.context():
            try:
                if not self.validated:
                    self.validate()
                if self.update == 0:
                    self.save()  # a disk that is full or read-only is told now, and not after hours
                self.updates()
            except Stopped:
                self.leave()
        self.progress.finish("training")
        if not self.prepared.valid and not self.health.ill:
            self.best_arrays, self.best_update = optim.snapshot(self.plan.model), self.update
        if not self.health.applied or not self.best_arrays:
            raise CannotFinish("no update gave weights that could be used", next_step="lower the learning rate")

    def updates(self) -> None:
        rate = learning_rate(max(self.update - 1, 0), self.total, self.settings)
        started = time.perf_counter()
        for batches in self.groups():
            if self.settings.patience and self.worse >= self.settings.patience:
                self.progress.say(f"stopped after update {self.update}: no better one in {self.worse} measurements")
                break
            rate = learning_rate(self.update, self.total, self.settings)
            made = self.train_on(batches, rate)
            self.update += 1
            self.window.add(self.plan, *made, time.perf_counter() - started)
            self.progress.advance("training", loss=f"{self.window.loss:.3f}", lr=f"{rate:.1e}")
            if self.update % self.settings.steps_per_report == 0 or self.update == self.total:
                self.report(self.window, rate)
                self.window = Window()
            self.validated = not self.is_due()
            if not self.validated:
                self.stop_if_asked()
                self.validate()
            whole = not self.plan.cut or self.update % LOOK_AHEAD == 0
            if self.saving.due(self.update, whole) and not self.health.ill:
                self.save()
            self.stop_if_asked()
            started = time.perf_counter()
        if self.window.updates:
            self.report(self.window, rate)
            self.window = Window()
        if self.saving.update != self.update:
            self.save()

    def accuracy_every(self) -> int:
        """Updates between measurements of call accuracy; 0: none."""
        if self.select is None:
            return 0
        prefix, read = len(self.plan.prefix), [len(e) - len(self.plan.prefix) for e in self.prepared.valid]
        reading = prefix + len(self.select.questions) * sum(read) / max(len(read), 1)
        cells = prefix + sum(self.lengths()) / self.per_epoch * self.settings.grad_accumulation
        layers = len(self.plan.parts.layers) if self.plan.parts else 1
        # Forward and backward above the frozen layers; those run once a row, so in the first epoch only.
        depth = (3 * (layers - self.plan.cut) + self.plan.cut / max(self.epochs(), 1.0)) / layers
        return accuracy_every(self.settings, self.select.replies, reading, cells * depth, gpu=on_gpu())

    def lengths(self) -> list[int]:
        """Of the rows behind the prefix: what runs of them."""
        return [len(e) - len(self.plan.prefix) - 1 for e in self.prepared.train]

    def groups(self) -> Iterator[list[Batch]]:
        """The batches of each update from the present one on: `grad_accumulation` of them, without the rows in
        quarantine."""
        examples = self.prepared.train
        cursor = plan_training(self.lengths(), **self.how, seed=self.settings.seed)
        groups = [[next(cursor)[1] for _ in range(self.settings.grad_accumulation)] for _ in range(self.total)]
        last_use = {i: update for update, group in enumerate(groups) for batch in group for i in batch}
        for update in range(self.update, self.total):
            group = groups[update]
            if update % LOOK_AHEAD == 0 or not self.plan.store.holding:
                block = update - update % LOOK_AHEAD
                ahead = [i for other in groups[update : block + LOOK_AHEAD]
                         for batch in other for i in ranks.own_rows(batch, self.groups_of)]  # fmt: skip
                store_trunk(self.plan, examples, ahead, groups=self.groups_of)
            yield self.batches([[i for i in batch if i not in self.quarantined["train"]] for batch in group])
            forget_trunk(self.plan, [i for batch in group for i in batch if last_use[i] == update])

    def batches(self, groups: Iterable[Sequence[int]], part: str = "train") -> list[Batch]:
        examples, groups_of = (
            (self.prepared.train, self.groups_of) if part == "train" else (self.prepared.valid, None)
        )
        return [make_batch(examples, group, len(self.plan.prefix), groups_of) for group in groups if group]

    # ---- numbers that break ----

    def train_on(self, batches: list[Batch], rate: float) -> tuple[list[Batch], optim.Result | None]:
        """One update; rows that make it impossible are left out of it and of all later ones. Returns what was
        trained: nothing if the update could not be made."""
        while batches:
            optim.seed_update(self.settings.seed, self.update)
            result = self.step(batches, rate, asked=self.stop.asked is not None)
            self.asked = result.asked
            if result.finite:
                if words := self.health.good(self.update + 1, result.loss):
                    self.event("exploded", words)
                return batches, result
            blamed = [] if result.touched else self.blame(result.indices, "train")
            if not blamed:
                self.give_up(result)
                break
            self.set_aside(blamed, "train")
            batches = self.batches([[i for i in b.indices if i not in blamed] for b in batches])
        return [], None

    def blame(self, indices: Sequence[int], part: str) -> list[int]:
        """The rows among these that give numbers which are not finite, whatever runs beside them."""
        examples = self.prepared.train if part == "train" else self.prepared.valid
        aside = {*indices, *self.quarantined[part]}
        witness = next((i for i in range(len(examples)) if i not in aside), None)

        def finite(rows: Sequence[int]) -> bool:
            batches = self.batches([rows], part)
            return self.step.is_finite(batches) if part == "train" else math.isfinite(self.step.evaluate(batches))

        return rows_to_blame(indices, finite, witness)

    def set_aside(self, rows: Sequence[int], part: str) -> None:
        examples = self.prepared.train if part == "train" else self.prepared.valid
        self.quarantined[part] += rows
        what, found = "training" if part == "train" else "validation", named(examples, rows)
        self.event(
            "quarantined", f"{what} rows that give no finite number are left out from now on: {found}",
            rows=[examples[i].id for i in rows], part=part,
        )  # fmt: skip

    def give_up(self, result: optim.Result) -> None:
        """The update is left out, for the weights' or the rate's sake. Raises CannotFinish when it is enough."""
        what = "made weights that are not finite numbers and was taken back" if result.touched else (
            "has a loss or gradient that is not a finite number, and no row of it is to blame")  # fmt: skip
        rows = named(self.prepared.train, result.indices)
        self.event("skipped", f"update {self.update + 1} {what}; it was left out (rows {rows})")
        if not self.health.bad(self.update + 1):
            return
        if not result.touched:  # the weights are: those before the last finite loss were good
            self.writer.drop_from(self.health.sound)
        raise CannotFinish(
            f"{len(self.health.broken)} of the last updates could not be made; the last one, {self.update + 1}, "
            f"{what} (rows {rows})",
            next_step="go on from the last good checkpoint with a lower rate: `calltune train --resume --force "
                      f"--out {self.settings.out} --learning-rate {self.settings.learning_rate / 4:.1e}`",
        )  # fmt: skip

    def event(self, kind: str, words: str, **more: Any) -> None:
        """Something that must not go unseen: said, and a line of the metrics."""
        self.progress.say(words)
        self.writer.metrics({"step": self.update + 1, "event": kind, "text": words} | more)

    # ---- checkpoints ----

    def save(self) -> None:
        if ranks.rank():
            return
        started = time.perf_counter()
        arrays = {"adapters": optim.snapshot(self.plan.model), "optimizer": optim.optimizer_arrays(self.optimizer),
                  "best": self.best_arrays, "trunk": self.plan.store.arrays(TRUNK_BYTES)}  # fmt: skip
        self.writer.save(self.update, self.state(), arrays)
        self.saving.saved(self.update, time.perf_counter() - started)

    def state(self) -> dict[str, Any]:
        """Everything but arrays that decides how the run goes on, as JSON. The random state follows from the seed and
        the update, as does the place in the data."""
        names = ("update", "validated", "best_update", "worse", "trained_tokens", "tokens", "train_seconds")
        trunk = {"prefix": len(self.plan.prefix), "cut": self.plan.cut, "held": self.plan.store.plan()}
        return {name: getattr(self, name) for name in names} | {
            "best_loss": None if math.isinf(self.best_loss) else self.best_loss, "best_accuracy": self.best_accuracy,
            "quarantined": self.quarantined, "health": self.health.to_dict(), "window": asdict(self.window),
            "saving_seconds": self.saving.total, "trunk": trunk,
        }  # fmt: skip

    def restore(self, start: Start) -> None:
        """Take up what `state` and `save` wrote."""
        state, arrays = dict(start.checkpoint.state), start.checkpoint.arrays
        for name in ("update", "validated", "best_update", "best_accuracy", "worse", "trained_tokens", "tokens",
                     "train_seconds", "quarantined"):  # fmt: skip
            setattr(self, name, state[name])
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        self.best_arrays = dict(arrays.get("best", {}))
        self.health, self.window = Health(**state["health"]), Window(**state["window"])
        self.saving.saved(self.update, 0.0, state["saving_seconds"])
        optim.restore_weights(self.plan.model, arrays["adapters"])
        optim.restore_optimizer(self.optimizer, arrays["optimizer"])
        trunk = state["trunk"]
        same = (trunk["prefix"], trunk["cut"]) == (len(self.plan.prefix), self.plan.cut) and not start.changed
        if same and ranks.size() == 1:  # otherwise it begins empty, which costs time and the last bits of equality
            examples = {"train": self.prepared.train, "valid": self.prepared.valid}
            follow_trunk(self.plan, trunk["held"], examples, arrays.get("trunk", {}), self.groups_of)
        if "valid" in start.reset:  # the best of other rows cannot be compared
            self.best_loss, self.best_accuracy, self.best_update, self.best_arrays = math.inf, -1.0, 0, {}
            self.quarantined["valid"] = []
        if not self.points:  # accuracy may have been turned off by force
            self.best_accuracy = -1.0
        if "train" in start.reset:
            self.quarantined["train"] = []

    def stop_if_asked(self) -> None:
        """Several processes leave together, after an update in whose message one of them said that it was asked."""
        if ranks.size() == 1:
            self.stop.check()
        elif self.asked:
            raise Stopped

    def leave(self) -> None:
        """Save, say how to go on, and do what the signal asked for."""
        self.save()
        self.progress.say(f"saved after update {self.update} of {self.total}{self.again}")
        self.stop.pass_on()
        raise KeyboardInterrupt  # another process was asked

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
                **{key: value for key, value in row.items() if key.startswith(("loss_", "padding", "gradient_",
                                                                             "trained_tokens_per", "epoch"))},
            })  # fmt: skip

    def is_due(self) -> bool:
        """Whether a validation comes after this update."""
        every = self.settings.steps_per_eval
        return self.update in self.points or self.update == self.total or bool(every and self.update % every == 0)

    def validate(self) -> None:
        """Loss on the same validation rows every time, each token with the same weight (trap T07); and, where it is
        due, call accuracy on the same few of them."""
        if self.prepared.valid:
            row = {"step": self.update, **self.valid_loss()}
            measured = self.update in self.points and self.select is not None
            if measured and self.select is not None:
                row |= self.select(self.check)
            self.writer.metrics({k: None if isinstance(v, float) and math.isinf(v) else v for k, v in row.items()})
            if self.callback:
                info = {"iteration": self.update, "val_loss": row["valid_loss"], "val_time": row["valid_seconds"]}
                figures = ("exact_match", "call_exact_match", "no_call_accuracy") if measured else ()
                self.callback.on_val_loss_report(info | {key: row[key] for key in figures if row[key] is not None})
            if self.update and (measured or not self.points):
                self.compare(row["valid_loss"], row["exact_match"] if measured else -1.0)
        self.validated = True

    def compare(self, loss: float, accuracy: float) -> None:
        """Keep the weights if they are the best: by accuracy, then by loss."""
        accuracy = ranks.tell(round(accuracy * 1e6)) / 1e6  # all processes must decide alike
        if math.isinf(loss) or self.health.ill or (accuracy, -loss) <= (self.best_accuracy, -self.best_loss):
            self.worse += 1
            return
        self.best_loss, self.best_accuracy, self.best_update, self.worse = loss, accuracy, self.update, 0
        self.best_arrays = optim.snapshot(self.plan.model)

    def valid_loss(self) -> dict[str, float]:
        """`valid_loss` (infinite if it is no number, whoever is to blame) and the seconds that it took."""
        started = time.perf_counter()
        groups = list(valid_groups(self.prepared.valid, self.settings))
        while True:
            kept = self.batches(([i for i in g if i not in self.quarantined["valid"]] for g in groups), "valid")
            loss = self.step.evaluate(self.checked(kept)) if kept else math.inf
            if math.isfinite(loss) or not kept:
                break
            blamed = self.blame([i for batch in kept for i in batch.indices], "valid")
            if not blamed:
                self.event("invalid", f"the validation loss after update {self.update} is not a finite number")
                loss = math.inf
                break
            self.set_aside(blamed, "valid")
        return {"valid_loss": loss, "valid_seconds": time.perf_counter() - started}

    def check(self) -> None:
        """Leave a measurement that a signal asked to stop; it is made again after a resume."""
        if ranks.size() == 1:  # several processes leave together, after it
            self.stop.check()

    def checked(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.check()
            yield batch

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
            "peak_memory_gb": optim.peak_memory_gb(), "saving_seconds": round(self.saving.total, 3),
            "accuracy": self.best_accuracy if self.best_accuracy >= 0 else None,
            "quarantined": [self.prepared.train[i].id for i in self.quarantined["train"]],
        }  # fmt: skip


def trunk_plan(plan: Plan, examples: Examples, epochs: float) -> str:
    """What the frozen trunk will keep, in words."""
    layers, width, itemsize = plan.dimensions()
    rows = [*examples.train, *examples.valid]
    return trunk_note(plan.store, plan.cut, layers, width, itemsize, len(plan.prefix), rows, epochs)


def named(examples: Sequence[Example], rows: Sequence[int]) -> str:
    """The ids of rows, of many the first ones."""
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    return ", ".join(str(examples[i].id) for i in rows[:8]) + more
