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
from calltune.engine.state import finite, optimizer_arrays, restore_optimizer, restore_weights, seed_update
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
    asked: bool = False  # one of the processes was asked to stop

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
        # Hundreds of small arrays and sums: compiled, an H100 takes 4 ms for what took it 16.
        self.updated = mx.compile(self._updated) if plan.compiles else self._updated

    def __call__(self, batches: Sequence[Batch], rate: float, asked: bool = False) -> Result:
        """One update with the mean gradient over all trained tokens of `batches`. Left out, with a loss of NaN, if
        the loss or gradient is not finite; taken back if it made weights that are not (`touched`). `asked`: this
        process was asked to stop, which the others learn with the gradients."""
        model, optimizer = self.plan.model, self.optimizer
        told = self._gradients(batches, asked)
        weights = model.trainable_parameters()
        optimizer.init(weights)  # changes nothing where it has a state
        before = _copied(optimizer.state)
        after, state, norm, sound = self.updated(told["grads"], weights, _copied(before), mx.array(rate))
        mx.eval(told, after, state, norm, sound)
        losses = _as_numpy(told["losses"])
        mean = _mean(losses)
        finite = bool(np.isfinite(mean) and np.isfinite(norm.item()))
        touched = finite and not bool(sound.item())
        kept = finite and not touched
        optimizer.state = state if kept else before
        if kept:
            model.update(after)
        indices = tuple(i for batch in batches for i in batch.indices)
        asked = bool(told["asked"].item())
        return Result(mean if kept else float("nan"), float(norm.item()), losses, indices, touched, asked)

    def _updated(self, grads: Any, weights: Any, state: Any, rate: mx.array) -> tuple[Any, Any, mx.array, mx.array]:
        """The weights and the optimizer's state after an update, the gradient's norm before clipping, and whether all
        weights are finite."""
        clipped, norm = optimizers.clip_grad_norm(grads, self.clip or float("inf"))
        self.optimizer.state = state
        self.optimizer.learning_rate = rate
        after = self.optimizer.apply_gradients(clipped, weights)
        return after, self.optimizer.state, norm, finite(after)

    def is_finite(self, batches: Sequence[Batch]) -> bool:
        """Whether these batches give a finite loss and gradient. Changes nothing."""
        told = self._gradients(batches)
        return bool(np.isfinite(_mean(_as_numpy(told["losses"])))) and bool(finite(told["grads"]).item())

    def _gradients(self, batches: Sequence[Batch], asked: bool = False) -> dict[str, Any]:
        """`grads`, the mean gradient, `losses` of each batch, and `asked`, how many are, over all processes: one
        message."""
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
                if len(batches) > 1 or not self.plan.compiles:  # elsewhere the GPU goes on with the update at once
                    mx.eval(found, grads)
            losses.append(ranks.spread(batch, found))
        if grads is None:  # more ranks than rows
            grads = tree_map(mx.zeros_like, model.trainable_parameters())
        told: dict[str, Any] = ranks.add_up({"grads": grads, "losses": losses, "asked": mx.array(float(asked))})
        return told

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


def _as_numpy(arrays: Sequence[mx.array]) -> tuple[npt.NDArray[np.float32], ...]:
    return tuple(np.array(array) for array in arrays)


def _mean(losses: Sequence[npt.NDArray[np.float32]]) -> float:
    """The mean loss a trained token."""
    return sum(float(part.sum()) for part in losses) / sum(part.size for part in losses)


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
