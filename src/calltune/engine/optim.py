"""An optimizer update over the batches of a group, and the numbers that a report needs of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_map

from calltune.batching import Batch
from calltune.engine import ranks
from calltune.engine.adapter import trained_arrays
from calltune.engine.plan import Plan
from calltune.engine.state import all_finite, optimizer_arrays, restore_optimizer, restore_weights, seed_update
from calltune.engine.step import batch_losses, loss_and_grad

__all__ = ["Muon", "Result", "Stepper", "make", "optimizer_arrays", "peak_memory_gb", "reset_peak_memory",
           "restore_optimizer", "restore_weights", "seed_update", "snapshot"]  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One update: mean loss a trained token, the gradient's norm before clipping, losses of each batch."""

    loss: float
    norm: float
    losses: tuple[npt.NDArray[np.float32], ...]
    indices: tuple[int, ...]
    touched: bool = False  # the update was taken back

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.loss))


class Muon(optimizers.Muon):  # type: ignore[misc]
    """mlx's Muon with every matrix's update as large as Adam's would be at the same rate, whatever its shape: the
    step of Moonlight (Liu et al. 2025, section 2.2), entries of 0.2 in the root mean square."""

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]) -> mx.array:
        state["v"] = self.momentum * state["v"] + (1 - self.momentum) * gradient
        ahead = self.momentum * state["v"] + (1 - self.momentum) * gradient  # Nesterov's momentum
        update = self._zeropower_via_newtonschulz5(ahead, steps=self.ns_steps)
        rate = self.learning_rate.astype(gradient.dtype)
        shrunk: mx.array = parameter * (1 - rate * self.weight_decay)
        return shrunk - rate * 0.2 * max(gradient.shape) ** 0.5 * update


def make(name: str, weight_decay: float) -> optimizers.Optimizer:
    """Adam or AdamW with bias correction (without it the first steps are 3-6 times the rate: trap T21), or Muon for
    matrices with Adam for the rest."""
    if name == "muon":
        rest = optimizers.Adam(learning_rate=0.0, bias_correction=True)
        muon = Muon(learning_rate=0.0, momentum=0.9, weight_decay=weight_decay)
        return optimizers.MultiOptimizer([muon, rest], [lambda _, array: array.ndim == 2])
    if name == "adamw":
        return optimizers.AdamW(learning_rate=0.0, weight_decay=weight_decay, bias_correction=True)
    return optimizers.Adam(learning_rate=0.0, bias_correction=True)


class Stepper:
    """Applies updates to the plan's model."""

    def __init__(self, plan: Plan, optimizer: optimizers.Optimizer | None, clip: float) -> None:
        self.plan, self.optimizer, self.clip = plan, optimizer, clip
        self.gradient = loss_and_grad(plan)

    def __call__(self, batches: Sequence[Batch], rate: float) -> Result:
        """One update with the mean gradient over all trained tokens of `batches`. Left out, with a loss of NaN, if
        the loss or gradient is not finite; taken back if it made weights that are not (`touched`)."""
        model = self.plan.model
        grads, losses, mean = self._gradients(batches)
        grads, norm = optimizers.clip_grad_norm(grads, self.clip or float("inf"))
        touched = False
        if np.isfinite(mean) and np.isfinite(norm.item()):
            before = model.trainable_parameters(), _copied(self.optimizer.state)
            self.optimizer.learning_rate = rate
            self.optimizer.update(model, grads)
            mx.eval(model.trainable_parameters(), self.optimizer.state)
            if touched := not all_finite(model.trainable_parameters()):
                model.update(before[0])
                self.optimizer.state = before[1]
        if touched or not np.isfinite(mean) or not np.isfinite(norm.item()):
            mean = float("nan")
        indices = tuple(i for batch in batches for i in batch.indices)
        return Result(mean, float(norm.item()), tuple(losses), indices, touched)

    def is_finite(self, batches: Sequence[Batch]) -> bool:
        """Whether these batches give a finite loss and gradient. Changes nothing."""
        grads, _, mean = self._gradients(batches)
        return bool(np.isfinite(mean)) and all_finite(grads)

    def _gradients(self, batches: Sequence[Batch]) -> tuple[Any, list[npt.NDArray[np.float32]], float]:
        """The mean gradient, the losses of each batch and their mean, over all processes."""
        model = self.plan.model
        model.train()
        total = sum(batch.trained for batch in batches)
        grads: Any = None
        losses = []
        for batch in batches:
            own, found = ranks.share(batch), None
            if own is not None:
                (_, found), new = self.gradient(own, total)
                grads = new if grads is None else tree_map(mx.add, grads, new)
                mx.eval(found, grads)
            losses.append(ranks.gather_losses(batch, None if found is None else np.array(found)))
        if grads is None:  # more ranks than rows
            grads = tree_map(mx.zeros_like, model.trainable_parameters())
        return ranks.add_up(grads), losses, sum(float(part.sum()) for part in losses) / total

    def evaluate(self, batches: Iterable[Batch]) -> float:
        """Mean loss a trained token."""
        self.plan.model.eval()
        total, count = 0.0, 0
        for batch in batches:
            own = ranks.share(batch)
            if own is not None:
                total += float(batch_losses(self.plan, own, part="valid").sum().item())
            count += batch.trained
        return float(ranks.add_up({"total": mx.array(total)})["total"].item()) / count


def _copied(tree: Any) -> Any:
    """The same arrays in containers of their own, which an update leaves alone."""
    return tree_map(lambda array: array, tree)


def snapshot(model: nn.Module) -> dict[str, mx.array]:
    """A copy of the trained arrays."""
    arrays = {name: mx.array(array) for name, array in trained_arrays(model).items()}
    mx.eval(arrays)
    return arrays


def reset_peak_memory() -> None:
    mx.clear_cache()
    mx.reset_peak_memory()


def peak_memory_gb() -> float:
    return round(mx.get_peak_memory() / 1e9, 3)
