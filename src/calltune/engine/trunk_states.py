"""Rows through the frozen trunk, once a row: many together before they are needed, their states kept in the store
(engine/trunk.py) and computed again where a resumed run had them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from calltune.batching import Batch, make_batch, slices
from calltune.conversations import parted
from calltune.engine.compiled import WIDTH_STEP
from calltune.engine.parts import Parts, run_trunk
from calltune.engine.plan import Plan
from calltune.engine.prefix import Attached, Standing
from calltune.engine.tree import tree_states
from calltune.engine.trunk import Piece
from calltune.render import Example

TRUNK_SLICE_TOKENS = 2048  # of rows that run together, which keep no graph
GPU_TRUNK_SLICE_TOKENS = 8192


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
            for rows, states in tree_states(plan.parts, tree, own, plan.cut, trunk_cache(plan), split=plan.splits):
                keys = [(part, own.indices[row]) for row in rows]
                ran = Piece(part, own.indices, own.ids.shape[1], True)
                plan.store.put(keys, states, (own.ids[rows] >= 0).sum(axis=1).tolist(), ran)
    for piece in slices(rest, tokens) if rest else ():
        if not plan.store.full:
            trunk_states(plan, piece, part)


def follow_trunk(
    plan: Plan, held: Mapping[str, Any], parts: Mapping[str, Sequence[Example]], states: Mapping[str, mx.array],
    groups: Sequence[int] | None = None,
) -> None:  # fmt: skip
    """Have the store hold what it held when a run was saved; `parts` are the examples by part, `states` what was
    saved of it, `groups` the conversations of those that are trained."""

    def recompute(piece: Piece) -> Iterator[tuple[Sequence[int], mx.array]]:
        batch = make_batch(parts[piece.part], piece.indices, len(plan.prefix), groups if piece.tree else None)
        if not piece.tree or plan.parts is None:
            missing = piece.width - batch.ids.shape[1]
            ids = np.pad(batch.ids, ((0, 0), (0, missing)), constant_values=-1)
            yield piece.indices, _run_rows(plan, replace(batch, ids=ids))
            return
        for own, tree in parted(batch)[0]:
            for rows, found in tree_states(plan.parts, tree, own, plan.cut, trunk_cache(plan), split=plan.splits):
                yield [own.indices[row] for row in rows], found

    plan.store.follow(held, recompute, states)


def forget_trunk(plan: Plan, indices: Sequence[int], part: str = "train") -> None:
    """Free the stored states of rows that are not needed again."""
    plan.store.forget((part, index) for index in indices)


def trunk_states(plan: Plan, batch: Batch, part: str) -> mx.array:
    """What enters the lowest trained layer, (B, T, D): from the store, computed first where it is missing.

    Padding is zeros there; no real token sees it, since it stands at the end.
    """
    keys = [(part, index) for index in batch.indices]
    if (kept := plan.store.get(keys, batch.ids.shape[1])) is not None:
        return kept
    states = _run_rows(plan, batch)
    plan.store.put(keys, states, (batch.ids >= 0).sum(axis=1).tolist())
    return states


def _run_rows(plan: Plan, batch: Batch) -> mx.array:
    """Rows through the frozen trunk: the states (B, T, D) behind it."""
    parts, ids = plan.parts, input_ids(batch)
    assert parts is not None
    if plan.compiles and not plan.prefix:
        states = _compiled(plan, parts)(mx.pad(ids, ((0, 0), (0, -ids.shape[1] % WIDTH_STEP))))[:, : ids.shape[1]]
    else:
        states = run_trunk(parts, ids, plan.cut, trunk_cache(plan))
    states = mx.stop_gradient(states)
    mx.eval(states)
    return states


def _compiled(plan: Plan, parts: Parts) -> Callable[[mx.array], mx.array]:
    """The frozen layers as one function of ids, traced once a shape: an H100's first epoch is 1.08 times as quick."""
    if plan.compiled_trunk is None:
        plan.compiled_trunk = mx.compile(lambda ids: run_trunk(parts, ids, plan.cut))
    return plan.compiled_trunk


def trunk_cache(plan: Plan) -> list[Attached] | None:
    """Caches through which rows in the trunk see the prefix."""
    if plan.parts is None or not plan.prefix:
        return None
    above = [Standing(len(plan.prefix))] * (len(plan.parts.layers) - plan.cut)
    return [*(Attached(*pair, split=plan.splits) for pair in plan.prefix_keys), *above]


def input_ids(batch: Batch) -> mx.array:
    """Ids (B, T), zeros where padding stands."""
    return mx.maximum(mx.array(batch.ids), 0)
