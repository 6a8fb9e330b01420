"""Prompts into the caches of a batch: what some of them share is run over once, and little of a run is padding.

A prompt of a thousand tokens costs a CPU two seconds, and as much again where it is padded to its double.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from calltune.batching import MIN_PREFIX
from calltune.engine.prefix import Decoding, KeyValues, Slots

# As many tokens as a run of the model costs beyond its own: on a CPU reading the weights, on a GPU its launches.
RUN_COST = {"cpu": 32, "gpu": 2048}
Caches = Callable[[KeyValues | None, Slots], list[Decoding]]
Run = Callable[[mx.array, list[Decoding]], mx.array]


@dataclass(frozen=True)
class Filled:
    """Rows that were run over: where each was asked for (`places`), the last hidden states (B, 1, D), the keys and
    values (B, G, S, D) of each layer without the common prefix, and which of the S slots are padding (B, S)."""

    places: list[int]
    hidden: mx.array
    keys_values: KeyValues
    padding: npt.NDArray[np.bool_]


@dataclass
class Filler:
    """Fills caches of rows after the `start` tokens of `prefix` that all rows share (none: 0, None).

    `held`: the beginnings that the last rows shared, for those that come next.
    """

    run: Run
    caches: Caches
    prefix: KeyValues | None
    start: int
    cost: int
    held: dict[tuple[int, ...], KeyValues] = field(default_factory=dict)

    def fill(self, rows: Sequence[Sequence[int]]) -> Iterator[Filled]:
        """Runs over the rows, in pieces that are padded little."""
        known, self.held = self.held, {}
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, row in enumerate(rows):
            fitting = [ids for ids in known if len(ids) < len(row) and tuple(row[: len(ids)]) == ids]
            groups.setdefault(max(fitting, key=len, default=()), []).append(place)
        for ids, places in groups.items():
            if ids:
                self.held[ids] = known[ids]
            yield from self._fill(rows, sorted(places, key=lambda i: rows[i]), len(ids), known.get(ids, self.prefix))

    def _fill(
        self, rows: Sequence[Sequence[int]], places: list[int], depth: int, prefix: KeyValues | None
    ) -> Iterator[Filled]:
        """Rows, in order, that share their first `depth` ids, whose keys and values are at the end of `prefix`."""
        alone: list[int] = []
        for cluster in _clusters([rows[i] for i in places], depth):
            inside = [places[i] for i in cluster]
            shared = min(shared_length(rows[inside[0]], rows[inside[-1]]), *(len(rows[i]) - 1 for i in inside))
            if len(inside) == 1 or (len(inside) - 1) * (shared - depth) <= self.cost:
                alone += inside
                continue
            caches = self.caches(prefix, Slots(1, self.start + depth))
            caches[0].slots.extend([0], shared - depth)
            self.run(mx.array([list(rows[inside[0]][depth:shared])]), caches)
            longer = [cache.whole() for cache in caches]
            mx.eval(longer)
            self.held[tuple(rows[inside[0]][:shared])] = longer
            yield from self._fill(rows, inside, shared, longer)
        for bucket in buckets([len(rows[i]) - depth for i in alone], self.cost):
            yield self._run_over(rows, [alone[i] for i in bucket], depth, prefix)

    def _run_over(
        self, rows: Sequence[Sequence[int]], places: list[int], depth: int, prefix: KeyValues | None
    ) -> Filled:
        """One run over what rows have after their first `depth` ids, padded on the left."""
        own = [list(rows[i][depth:]) for i in places]
        width = max(map(len, own))
        pads = [width - len(ids) for ids in own]
        caches = self.caches(prefix, Slots(len(own), self.start + depth))
        slots = caches[0].slots
        slots.extend(pads, width)
        hidden = self.run(mx.array([[0] * pad + ids for pad, ids in zip(pads, own, strict=True)]), caches)[:, -1:]
        keys_values = [cache.whole(self.start) for cache in caches]
        mx.eval(hidden, keys_values)
        padding = np.concatenate([np.zeros((len(own), depth), np.bool_), slots.hidden], axis=1)
        return Filled(places, hidden, keys_values, padding)


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two rows begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _clusters(rows: Sequence[Sequence[int]], depth: int) -> list[list[int]]:
    """Runs of rows, in order, that are alike for MIN_PREFIX ids after the first `depth`."""
    found: list[list[int]] = [[0]] if rows else []
    for i, (before, row) in enumerate(pairwise(rows), 1):
        if shared_length(before, row) >= depth + MIN_PREFIX:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def buckets(lengths: Sequence[int], cost: int) -> list[list[int]]:
    """Which rows to run together so that the runs, each as wide as its longest row, cost the fewest tokens. `cost`:
    of a run itself."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    best, first = [0], [0]  # of the first j rows in order; where the last of their runs begins
    for j in range(1, len(order) + 1):
        width = lengths[order[j - 1]]
        found = min((best[i] + cost + (j - i) * width, i) for i in range(j))
        best.append(found[0])
        first.append(found[1])
    made, j = [], len(order)
    while j:
        made.append(order[first[j] : j])
        j = first[j]
    return made[::-1]


def alike(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """The rows in groups that begin alike for half of their length, those of short rows first."""
    groups: list[list[int]] = []
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    for place, i in enumerate(order):
        before = rows[order[place - 1]] if place else ()
        if place and 2 * shared_length(before, rows[i]) >= max(len(before), len(rows[i])):
            groups[-1].append(i)
        else:
            groups.append([i])
    return sorted(groups, key=lambda group: max(len(rows[i]) for i in group))
