"""The loss of a batch and its gradient: only what the loss needs is computed, and each saving has a switch.

- selecting head: logits at the positions that carry loss only (engine/losses.py)
- shared prefix: tokens with which every row starts run once a step, with gradients through them; so do those that
  the examples of one conversation share (conversations.py)
- frozen trunk: layers below the trained ones run once a row, not once an epoch
- fast CPU: attention and element-wise functions on NumPy (engine/cpu.py)

Each is exact; each that a model does not allow is left out, and `Plan.notes` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten, tree_unflatten

from calltune.batching import LENGTH_STEP, Batch, make_batch, slices
from calltune.conversations import Node, cells, parted, target_order
from calltune.engine.compiled import WIDTH_STEP, compiled_gradient, piece_arrays
from calltune.engine.cpu import fast_cpu, is_fast
from calltune.engine.losses import token_losses
from calltune.engine.parts import (
    Parts,
    attention_tolerance,
    check_parts,
    find_parts,
    logit_difference,
    run_body,
    run_head,
    run_top,
    run_trunk,
)
from calltune.engine.prefix import Attached, Recorder, Standing, supports_sharing
from calltune.engine.tree import extend, tree_losses, tree_states
from calltune.engine.trunk import Piece as RanPiece
from calltune.engine.trunk import TrunkStore, auto_device_memory, auto_memory
from calltune.render import Example

SLICE_TOKENS = 4096  # cells of rows that run together
TRUNK_SLICE_TOKENS = 2048  # of rows in the frozen trunk, which keeps no graph
GPU_TRUNK_SLICE_TOKENS = 8192
COMPILED_GAIN = 2 / 3  # of the cells may be left where conversations share, else the compiled step goes on
CPU_SLICE_TOKENS = 768  # on a CPU, where a slice's whole graph stays in memory until its gradient is done


@dataclass(frozen=True)
class Speed:
    """The switches. All off is the plain way: every token, every layer, every logit."""

    selecting_head: bool = True
    shared_prefix: bool = True
    frozen_trunk: bool = True
    fast_cpu: bool = True
    cpu_layers: bool = False  # norms, positions, SiLU and LoRA on NumPy too
    trunk_bytes: int | None = None  # of trunk states in memory (None: a quarter of it); what has no room runs anew
    trunk_disk_bytes: int = 0  # and on disk
    logit_bytes: int = 0  # of float32 logits at a time; 0: 64 MiB on a CPU, 256 on a GPU
    compile: bool = False  # the step as one compiled function, where attention is MLX's own
    checkpoint: bool = False  # activations inside the trained layers are computed again in the backward pass


@dataclass
class Plan:
    """How one run computes its loss. Made by `plan_step`; holds the states of the frozen trunk."""

    model: nn.Module
    parts: Parts | None
    cut: int  # layers [0, cut) are a frozen trunk; 0: none
    prefix: tuple[int, ...]
    head_frozen: bool
    speed: Speed
    trees: bool = False  # examples of one conversation share what they have in common
    notes: list[str] = field(default_factory=list)
    store: TrunkStore = field(default_factory=lambda: TrunkStore(0))
    prefix_states: mx.array | None = None  # (1, P, D)
    prefix_keys: list[tuple[mx.array, mx.array]] = field(default_factory=list)
    split: bool = True  # whether the model's attention takes `Split` keys where they are quicker

    def dimensions(self) -> tuple[int, int, int]:
        """Layers, width of the hidden states, and bytes a number of them."""
        assert self.parts is not None
        states = run_trunk(self.parts, mx.zeros((1, 1), mx.int32), 0)  # lazy: only its shape is looked at
        return len(self.parts.layers), states.shape[-1], states.itemsize

    @property
    def compiles(self) -> bool:
        return self.speed.compile and self.parts is not None and not is_fast()

    @property
    def checkpoint(self) -> bool:
        return self.speed.checkpoint and self.model.training

    def context(self) -> AbstractContextManager[None]:
        return fast_cpu(self.speed.fast_cpu, layers=self.speed.cpu_layers)


@dataclass(frozen=True)
class Piece:
    """Rows that run together: a slice of a batch, or the examples of one conversation with what they share."""

    batch: Batch
    tree: Node | None = None

    def cells(self) -> tuple[int, int]:
        """How many cells run, and how many of them are real tokens."""
        return cells(self.batch, self.tree, LENGTH_STEP) if self.tree else (self.batch.ids.size, self.batch.real)


def plan_step(
    model: nn.Module, prefix: tuple[int, ...], speed: Speed, vocabulary: int, *, dropout: float, trees: bool = False
) -> Plan:
    """Decide what can be saved for this model, checking each saving against the plain logits first. `trees`: some
    examples are turns of one conversation."""
    if any(value.dtype != mx.float32 for _, value in tree_flatten(model.parameters())):
        speed = replace(speed, fast_cpu=False)  # NumPy has no bfloat16, and gains nothing for float16
    parts = find_parts(model) if speed.selecting_head else None
    plan = Plan(model, parts, 0, (), True, speed)
    memory = auto_memory() if speed.trunk_bytes is None else speed.trunk_bytes
    plan.store = TrunkStore(memory, speed.trunk_disk_bytes, min(memory, auto_device_memory()))
    trained = [name for name, _ in tree_flatten(model.trainable_parameters())]
    plan.head_frozen = all(".layers." in f".{name}" for name in trained)
    if parts is None:
        plan.notes.append("selecting head off" if not speed.selecting_head else
                          f"plain loss: the parts of {type(model).__name__} were not found")  # fmt: skip
        return plan
    with plan.context():
        if reason := check_parts(model, parts, 0, vocabulary):
            plan.parts = None
            plan.notes.append(f"plain loss: the model run in parts {reason}")
            return plan
        if speed.frozen_trunk and plan.head_frozen:
            cut = first_trained_layer(parts)
            if cut and not (reason := check_parts(model, parts, cut, vocabulary)):
                plan.cut = cut
            elif cut:
                plan.notes.append(f"no frozen trunk: {reason}")
        if (prefix or trees) and speed.shared_prefix:
            if dropout:
                plan.notes.append("no shared prefix: dropout would be the same for all rows")
            elif reason := _share_prefix(plan, vocabulary):
                plan.notes.append(f"no shared prefix: {reason}")
            else:
                plan.prefix, plan.trees = prefix, trees
        if plan.cut and plan.prefix:
            _run_prefix_trunk(plan)
    return plan


def _share_prefix(plan: Plan, vocabulary: int) -> str | None:
    """None when sharing works, with `Split` keys or, for models that attend by hand, with joined ones."""
    for plan.split in (True, False):
        reason = check_prefix(plan, vocabulary)
        if reason is None:
            return None
    return reason


def first_trained_layer(parts: Parts) -> int:
    """Index of the lowest layer with trainable parameters."""
    return next((i for i, layer in enumerate(parts.layers) if tree_flatten(layer.trainable_parameters())), 0)


def check_prefix(plan: Plan, vocabulary: int) -> str | None:
    """None when 2 rows after a shared prefix of 8 tokens give the plain logits, else how they differ."""
    model, parts = plan.model, plan.parts
    if parts is None or not supports_sharing(model):
        return "the model's layers keep more than keys and values"
    ids = mx.random.randint(0, vocabulary, (2, 14), key=mx.random.key(1))
    ids = mx.concatenate([mx.broadcast_to(ids[:1, :8], (2, 8)), ids[:, 8:]], axis=1)
    plain = model(ids)[:, 8:]
    try:
        split = _splits(plan)
        caches = extend(parts, ids[:1, :5], 0, None, split=split)
        caches = extend(parts, ids[:1, 5:8], 0, caches, split=split)  # as the turns of a conversation do
        worst = logit_difference(plain, run_head(parts, run_body(parts, ids[:, 8:], caches)))
    except Exception as error:  # an architecture that is built otherwise may fail anywhere
        return f"{type(error).__name__}: {error}"
    return None if worst <= attention_tolerance(plain) else f"logits differ by {worst:.2g}"


def batch_losses(plan: Plan, batch: Batch, part: str = "train") -> mx.array:
    """Losses (N,) float32 of the batch's targets, differentiable in the trained parameters.

    `part` names the set that the batch's indices count in (the trunk's states are kept by it). The order is
    that of the batch's targets.
    """
    cache, pieces = _prefix_cache(plan), pieces_of(plan, batch)
    order = target_order(batch, [piece.batch for piece in pieces])
    losses = mx.concatenate([_row_losses(plan, piece, cache, part) for piece in pieces])
    return losses if order is None else losses[mx.array(order)]


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


def _ids(batch: Batch) -> mx.array:
    return mx.maximum(mx.array(batch.ids), 0)


def _row_losses(plan: Plan, piece: Piece, cache: list[Attached] | None, part: str) -> mx.array:
    """`batch_losses` of rows that see the prefix through `cache`."""
    batch, parts = piece.batch, plan.parts
    if piece.tree and parts:
        return tree_losses(
            piece.tree, batch, _entering(plan, batch, part), cache,
            lambda entering, cache: extend(parts, entering, plan.cut, cache, split=_splits(plan),
                                           checkpoint=plan.checkpoint),
            lambda leaves, cache: _losses_at(plan, leaves, cache),
        )  # fmt: skip
    if plan.parts is None:
        logits = plan.model(_ids(batch))[mx.array(batch.rows), mx.array(batch.columns)].astype(mx.float32)
        return nn.losses.cross_entropy(logits, mx.array(batch.targets))
    places = {"rows": mx.array(batch.rows), "columns": mx.array(batch.columns), "targets": mx.array(batch.targets)}
    return _losses_at(plan, places | {"entering": _entering(plan, batch, part)}, cache)


def _entering(plan: Plan, batch: Batch, part: str) -> mx.array:
    """What the rows' layers start from: ids (B, T), or the states (B, T, D) above the frozen trunk."""
    return _trunk_states(plan, batch, part) if plan.cut else _ids(batch)


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
        plan.model, lambda: _prefix_cache(plan), lambda piece, cache: _losses_at(plan, piece, cache)
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
    cache = _prefix_cache(plan)
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


# ---- the prefix and the trunk ---------------------------------------------------------------------------------


def _record(parts: Parts, run: Callable[[list[Recorder]], Any]) -> list[Recorder]:
    caches = [Recorder() for _ in parts.layers]
    run(caches)
    return caches


def _splits(plan: Plan) -> bool:
    return plan.split and is_fast()


def _attach(caches: Sequence[Recorder], plan: Plan) -> list[Attached]:
    split = _splits(plan)
    return [Attached(*cache.keys_values, split=split) for cache in caches if cache.keys_values]


def _run_prefix_trunk(plan: Plan) -> None:
    """The prefix through the frozen layers, once a run: its states and its keys and values there."""
    parts = plan.parts
    assert parts is not None
    caches = [Recorder() for _ in parts.layers]
    plan.prefix_states = run_trunk(parts, mx.array([plan.prefix]), plan.cut, caches)
    plan.prefix_keys = [cache.keys_values for cache in caches[: plan.cut] if cache.keys_values]
    mx.eval(plan.prefix_states, plan.prefix_keys)


def _prefix_cache(plan: Plan) -> list[Attached] | None:
    """Caches through which the rows see the prefix, differentiable in the trained layers."""
    parts = plan.parts
    if parts is None or not plan.prefix:
        return None
    if plan.prefix_states is None:
        return _attach(
            _record(parts, lambda c: run_body(parts, mx.array([plan.prefix]), c, checkpoint=plan.checkpoint)), plan
        )
    states = plan.prefix_states
    caches = _record(parts, lambda c: run_top(parts, states, plan.cut, c, checkpoint=plan.checkpoint))
    for cache, pair in zip(caches, plan.prefix_keys, strict=False):
        cache.keys_values = pair
    return _attach(caches, plan)


def store_trunk(
    plan: Plan, examples: Sequence[Example], indices: Sequence[int], part: str = "train",
    groups: Sequence[int] | None = None,
) -> None:  # fmt: skip
    """Run the frozen trunk for those of the examples at `indices` whose states are not stored yet.

    Many rows at once, sorted by length, run in slices with less padding and larger matrix products than the
    rows of one batch do; conversations of `groups` as trees.
    """
    missing = [i for i in dict.fromkeys(indices) if not plan.store.holds((part, i))]
    if not plan.cut or not missing:
        return
    order = sorted(missing, key=lambda i: len(examples[i]))
    tokens = TRUNK_SLICE_TOKENS if mx.default_device() == mx.cpu else GPU_TRUNK_SLICE_TOKENS
    batch = make_batch(examples, order, len(plan.prefix), groups)
    trees, rest = parted(batch) if plan.trees else ([], batch)
    for own, tree in trees:
        if not plan.store.full and plan.parts:
            for rows, states in tree_states(plan.parts, tree, own, plan.cut, _trunk_cache(plan), split=_splits(plan)):
                keys = [(part, own.indices[row]) for row in rows]
                ran = RanPiece(part, own.indices, own.ids.shape[1], True)
                plan.store.put(keys, states, (own.ids[rows] >= 0).sum(axis=1).tolist(), ran)
    for piece in slices(rest, tokens) if rest else ():
        if not plan.store.full:
            _trunk_states(plan, piece, part)


def forget_trunk(plan: Plan, indices: Sequence[int], part: str = "train") -> None:
    """Free the stored states of rows that are not needed again."""
    plan.store.forget((part, index) for index in indices)


def _trunk_states(plan: Plan, batch: Batch, part: str) -> mx.array:
    """What enters the lowest trained layer, (B, T, D): from the store, computed first where it is missing.

    Padding is zeros there; no real token sees it, since it stands at the end.
    """
    keys = [(part, index) for index in batch.indices]
    if (kept := plan.store.get(keys, batch.ids.shape[1])) is not None:
        return kept
    states = _run_rows(plan, batch)
    plan.store.put(keys, states, (batch.ids >= 0).sum(axis=1).tolist())
    return states


def follow_trunk(
    plan: Plan, held: Mapping[str, Any], parts: Mapping[str, Sequence[Example]], states: Mapping[str, mx.array],
    groups: Sequence[int] | None = None,
) -> None:  # fmt: skip
    """Have the store hold what it held when a run was saved; `parts` are the examples by part, `states` what was
    saved of it, `groups` the conversations of those that are trained."""

    def recompute(piece: RanPiece) -> Iterator[tuple[Sequence[int], mx.array]]:
        batch = make_batch(parts[piece.part], piece.indices, len(plan.prefix), groups if piece.tree else None)
        if not piece.tree or plan.parts is None:
            missing = piece.width - batch.ids.shape[1]
            ids = np.pad(batch.ids, ((0, 0), (0, missing)), constant_values=-1)
            yield piece.indices, _run_rows(plan, replace(batch, ids=ids))
            return
        for own, tree in parted(batch)[0]:
            for rows, found in tree_states(plan.parts, tree, own, plan.cut, _trunk_cache(plan), split=_splits(plan)):
                yield [own.indices[row] for row in rows], found

    plan.store.follow(held, recompute, states)


def _run_rows(plan: Plan, batch: Batch) -> mx.array:
    """Rows through the frozen trunk: the states (B, T, D) behind it."""
    parts = plan.parts
    assert parts is not None
    states = mx.stop_gradient(run_trunk(parts, _ids(batch), plan.cut, _trunk_cache(plan)))
    mx.eval(states)
    return states


def _trunk_cache(plan: Plan) -> list[Attached] | None:
    """Caches through which rows in the trunk see the prefix."""
    if plan.parts is None or not plan.prefix:
        return None
    above = [Standing(len(plan.prefix))] * (len(plan.parts.layers) - plan.cut)
    return [*(Attached(*pair, split=_splits(plan)) for pair in plan.prefix_keys), *above]
