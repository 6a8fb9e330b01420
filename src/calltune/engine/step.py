"""The loss of a batch and its gradient, by the plan of a run (engine/plan.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten, tree_unflatten

from calltune.batching import LENGTH_STEP, Batch, slices
from calltune.conversations import Node, cells, parted, target_order
from calltune.engine.compiled import WIDTH_STEP, compiled_gradient, piece_arrays
from calltune.engine.cpu import is_fast
from calltune.engine.losses import token_losses
from calltune.engine.parts import run_body, run_head, run_top
from calltune.engine.plan import Plan, prefix_cache
from calltune.engine.prefix import Attached
from calltune.engine.tree import extend, tree_losses
from calltune.engine.trunk_states import input_ids, trunk_states

SLICE_TOKENS = 4096  # cells of rows that run together
COMPILED_GAIN = 2 / 3  # of the cells may be left where conversations share, else the compiled step goes on
CPU_SLICE_TOKENS = 768  # on a CPU, where a slice's whole graph stays in memory until its gradient is done


@dataclass(frozen=True)
class Piece:
    """Rows that run together: a slice of a batch, or the examples of one conversation with what they share."""

    batch: Batch
    tree: Node | None = None

    def cells(self) -> tuple[int, int]:
        """How many cells run, and how many of them are real tokens."""
        return cells(self.batch, self.tree, LENGTH_STEP) if self.tree else (self.batch.ids.size, self.batch.real)


def pieces_of(plan: Plan, batch: Batch) -> list[Piece]:
    """How the batch runs now: conversations of which tokens are shared, and slices of the other rows, smaller ones
    while the fast CPU path is active."""
    if is_fast():
        size, step = CPU_SLICE_TOKENS, LENGTH_STEP
    else:
        size, step = SLICE_TOKENS, WIDTH_STEP if plan.compiles else LENGTH_STEP
    found, rest = parted(batch) if plan.trees else ([], batch)
    pieces = [Piece(part, tree) for part, tree in found]
    if plan.compiles and found:
        # Each conversation has shapes of its own, so none is compiled: it must be worth that.
        run = sum(piece.cells()[0] for piece in pieces) + (rest.ids.size if rest else 0)
        if run > COMPILED_GAIN * batch.ids.size:
            pieces, rest = [], batch
    return pieces + ([Piece(piece) for piece in slices(rest, size, step)] if rest else [])


def batch_losses(plan: Plan, batch: Batch, part: str = "train") -> mx.array:
    """Losses (N,) float32 of the batch's targets, differentiable in the trained parameters.

    `part` names the set that the batch's indices count in (the trunk's states are kept by it). The order is
    that of the batch's targets.
    """
    cache, pieces = prefix_cache(plan), pieces_of(plan, batch)
    order = target_order(batch, [piece.batch for piece in pieces])
    losses = mx.concatenate([_row_losses(plan, piece, cache, part) for piece in pieces])
    return losses if order is None else losses[mx.array(order)]


def _row_losses(plan: Plan, piece: Piece, cache: list[Attached] | None, part: str) -> mx.array:
    """`batch_losses` of rows that see the prefix through `cache`."""
    batch, parts = piece.batch, plan.parts
    if piece.tree and parts:
        return tree_losses(
            piece.tree, batch, _entering(plan, batch, part), cache,
            lambda entering, cache: extend(parts, entering, plan.cut, cache, split=plan.splits,
                                           checkpoint=plan.checkpoint),
            lambda leaves, cache: _losses_at(plan, leaves, cache),
        )  # fmt: skip
    if plan.parts is None:
        logits = plan.model(input_ids(batch))[mx.array(batch.rows), mx.array(batch.columns)].astype(mx.float32)
        return nn.losses.cross_entropy(logits, mx.array(batch.targets))
    places = {"rows": mx.array(batch.rows), "columns": mx.array(batch.columns), "targets": mx.array(batch.targets)}
    return _losses_at(plan, places | {"entering": _entering(plan, batch, part)}, cache)


def _entering(plan: Plan, batch: Batch, part: str) -> mx.array:
    """What the rows' layers start from: ids (B, T), or the states (B, T, D) above the frozen trunk."""
    return trunk_states(plan, batch, part) if plan.cut else input_ids(batch)


def _losses_at(plan: Plan, piece: dict[str, mx.array], cache: list[Attached] | None) -> mx.array:
    """Losses (N,) at the `rows` and `columns` of what layers and norm make of `entering`."""
    parts = plan.parts
    assert parts is not None
    if plan.cut:
        hidden = run_top(parts, piece["entering"], plan.cut, cache, checkpoint=plan.checkpoint)
    else:
        hidden = run_body(parts, piece["entering"], cache, checkpoint=plan.checkpoint)
    hidden = hidden[piece["rows"], piece["columns"]]
    return token_losses(
        hidden, piece["targets"], lambda h: run_head(parts, h), chunked=plan.head_frozen, limit=plan.speed.logit_bytes
    )


def loss_and_grad(plan: Plan) -> Callable[[Batch, int], tuple[tuple[mx.array, mx.array], Any]]:
    """A function of (batch, total) that gives ((sum of losses / total, losses (N,)), gradients).

    `total` counts the trained tokens of all micro-batches of an update, so that accumulated gradients weigh
    every token alike (trap T17).
    """

    def loss(model: nn.Module, batch: Batch, total: int) -> tuple[mx.array, mx.array]:
        if is_fast() and plan.parts is not None:
            losses = _losses_in_slices(plan, batch)
        else:
            losses = batch_losses(plan, batch)
        return losses.sum() / total, losses

    function = nn.value_and_grad(plan.model, loss)
    compiled = compiled_gradient(
        plan.model, lambda: prefix_cache(plan), lambda piece, cache: _losses_at(plan, piece, cache)
    )

    def gradient(batch: Batch, total: int) -> tuple[tuple[mx.array, mx.array], Any]:
        whole = pieces_of(plan, batch) if plan.compiles else []
        if not whole or any(piece.tree for piece in whole):
            found: tuple[tuple[mx.array, mx.array], Any] = function(plan.model, batch, total)
            return found
        pieces = [piece.batch for piece in whole]
        arrays = [piece_arrays(piece, _entering(plan, piece, "train")) for piece in pieces]
        (value, losses), grads = compiled(arrays, mx.array(float(total)))
        real = [part[: piece.trained] for part, piece in zip(losses, pieces, strict=True)]
        return (value, mx.concatenate(real)), grads

    return gradient


def _losses_in_slices(plan: Plan, batch: Batch) -> mx.array:
    """`batch_losses`, with the rows taken a few at a time under one run of the prefix.

    Work on NumPy evaluates the graph as it is built, and MLX then holds everything of a batch until its
    gradient is done. So each slice computes its gradient at once, with respect to the trained parameters and
    to the prefix's keys and values, and only those are kept; the prefix's own gradient follows from them.
    """
    cache = prefix_cache(plan)
    shared = [pair for c in (cache or [])[plan.cut :] for pair in c.prefix]
    names, trained = zip(*tree_flatten(plan.model.trainable_parameters()), strict=True)
    kept: list[list[mx.array]] = []
    pieces = pieces_of(plan, batch)
    order = target_order(batch, [piece.batch for piece in pieces])

    @mx.custom_function
    def losses(*inputs: mx.array) -> mx.array:
        leaves = [mx.array(x) for x in _as_numpy(inputs, copy=False)]  # not part of the outer graph
        found: list[npt.NDArray[np.float32]] = []
        grads: list[npt.NDArray[np.float32]] = []
        for piece in pieces:

            def piece_loss(*leaves: mx.array, piece: Piece = piece) -> tuple[mx.array, mx.array]:
                plan.model.update(tree_unflatten(list(zip(names, leaves[len(shared) :], strict=True))))
                held = _with_prefix(cache, plan.cut, leaves[: len(shared)])
                part = _row_losses(plan, piece, held, "train")
                return part.sum(), part

            (_, part), new = mx.value_and_grad(piece_loss, argnums=list(range(len(leaves))))(*leaves)
            # Copies, since an array that MLX made here would keep the whole graph of its slice.
            found += _as_numpy([part])
            grads = [a + b for a, b in zip(grads, _as_numpy(new), strict=True)] if grads else _as_numpy(new)
            del part, new
        plan.model.update(tree_unflatten(list(zip(names, trained, strict=True))))
        kept[:] = [[mx.array(grad) for grad in grads]]
        whole = np.concatenate(found)
        return mx.array(whole if order is None else whole[order])

    @losses.vjp
    def losses_vjp(primals: Any, cotangent: mx.array, output: mx.array) -> Any:
        # The cotangent is the same for every token: the sum of losses is what is differentiated.
        return tuple(cotangent[0] * grad for grad in kept[0])

    result: mx.array = losses(*shared, *trained)
    return result


def _as_numpy(arrays: Sequence[mx.array], *, copy: bool = True) -> list[npt.NDArray[np.float32]]:
    mx.eval(*arrays)
    return [np.array(array, copy=copy or None) for array in arrays]


def _with_prefix(cache: list[Attached] | None, cut: int, leaves: Sequence[mx.array]) -> list[Attached] | None:
    """The caches with other keys and values in the trained layers."""
    if cache is None:
        return None
    pairs = list(zip(leaves[::2], leaves[1::2], strict=True))
    return [*cache[:cut], *(c.holding(pair) for pair, c in zip(pairs, cache[cut:], strict=True))]
