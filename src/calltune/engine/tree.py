"""One conversation's examples as a tree: tokens that several of them share run once, with gradients through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from calltune.batching import LENGTH_STEP, Batch
from calltune.conversations import Node
from calltune.engine.parts import Parts, run_body, run_top, run_trunk
from calltune.engine.prefix import Attached, Extending, Recorder, Standing

Cache = list[Attached] | None


def extend(
    parts: Parts, entering: mx.array, cut: int, cache: Cache, *, split: bool, checkpoint: bool = False
) -> list[Attached]:
    """Caches of a prefix that goes on with `entering`: ids (1, n), or states (1, n, D) above the frozen layers.
    `cache`: of what stands before it, None for nothing."""
    before = cache[0].offset if cache else 0
    running: list[Any] = [Recorder() for _ in parts.layers]
    if cache:
        trained = [Extending(*c.prefix, split=c.split) for c in cache[cut:]]
        running = [*cache[:cut], *trained]
    if cut:
        run_top(parts, entering, cut, running, checkpoint=checkpoint)
    else:
        run_body(parts, entering, running, checkpoint=checkpoint)
    standing = [Standing(before + entering.shape[1])] * cut
    return [*standing, *(Attached(*c.keys_values, split=split) for c in running[cut:])]


def tree_losses(
    tree: Node, batch: Batch, entering: mx.array, cache: Cache,
    grown: Callable[[mx.array, Cache], list[Attached]],
    losses_at: Callable[[dict[str, mx.array], Cache], mx.array],
) -> mx.array:  # fmt: skip
    """Losses (N,) of a conversation's targets in the batch's order. `entering` (B, T, ...) is what its rows start
    from, `grown` makes caches of a prefix that goes on, `losses_at` gives the losses of rows behind one."""
    places: list[Any] = []
    losses: list[mx.array] = []

    def run(node: Node, cache: Cache) -> None:
        if node.stop > node.start:
            row = node.rows[0]
            cache = grown(entering[row : row + 1, node.start : node.stop], cache)
        if node.leaves:
            where, piece = _leaves(batch, node, entering)
            places.append(where)
            losses.append(losses_at(piece, cache))
        for child in node.children:
            run(child, cache)

    run(tree, cache)
    order = mx.array(np.argsort(np.concatenate(places)))
    return mx.concatenate(losses)[order]


def tree_states(
    parts: Parts, tree: Node, batch: Batch, cut: int, cache: Cache, *, split: bool
) -> Iterator[tuple[list[int], mx.array]]:
    """States (L, T, D) above the frozen layers [0, cut) of some of a conversation's rows at a time, with these rows'
    places in the batch; evaluated, and without gradients."""
    count = len(parts.layers)

    def run(node: Node, cache: Cache, before: list[mx.array]) -> Iterator[tuple[list[int], mx.array]]:
        if node.stop > node.start:
            offset = (cache[0].offset if cache else 0) + node.stop - node.start
            running: list[Any] = [Recorder() for _ in range(count)]
            if cache:
                running = [*(Extending(*c.prefix, split=c.split) for c in cache[:cut]), *cache[cut:]]
            ids = mx.array(batch.ids[list(node.rows[:1]), node.start : node.stop])
            before = [*before, run_trunk(parts, ids, cut, running)]
            below = [Attached(*c.keys_values, split=split) for c in running[:cut]]
            cache = [*below, *[Standing(offset)] * (count - cut)]
        if node.leaves:
            leaves = list(node.leaves)
            width = int((batch.ids[leaves] >= 0).sum(axis=1).max())
            own = run_trunk(parts, mx.maximum(mx.array(batch.ids[leaves, node.stop : width]), 0), cut, cache)
            shared = [mx.broadcast_to(part, (len(leaves), *part.shape[1:])) for part in before]
            states = mx.stop_gradient(mx.concatenate([*shared, own], axis=1))
            mx.eval(states)
            yield leaves, states
        for child in node.children:
            yield from run(child, cache, before)

    yield from run(tree, cache, [])


def _leaves(batch: Batch, node: Node, entering: mx.array) -> tuple[Any, dict[str, mx.array]]:
    """The places of the leaves' targets in the batch, and the rows from the node's end on."""
    leaves = list(node.leaves)
    new = np.full(len(batch.indices), -1, np.int32)
    new[leaves] = np.arange(len(leaves))
    where = np.flatnonzero(new[batch.rows] >= 0)
    longest = int((batch.ids[leaves] >= 0).sum(axis=1).max()) - node.stop
    stop = min(node.stop + -(-longest // LENGTH_STEP) * LENGTH_STEP, batch.ids.shape[1])
    return where, {
        "rows": mx.array(new[batch.rows[where]]), "columns": mx.array(batch.columns[where] - node.stop),
        "targets": mx.array(batch.targets[where]), "entering": _rows(entering, leaves)[:, node.stop : stop],
    }  # fmt: skip


def _rows(array: mx.array, rows: Sequence[int]) -> mx.array:
    return array if list(rows) == list(range(array.shape[0])) else array[mx.array(list(rows))]
